//! What a text says, word by word: names, denials, stated rates, a call of normal.
//!
//! Place: under `checks`, which holds it against the measurements. Invariant: a denied word says nothing.

/// Words that deny what follows.
const DENIALS: [&str; 5] = ["no", "not", "without", "denies", "absence"];
/// Words between a denial and what it denies, at most.
const DENIAL_REACH: usize = 2;
/// Words that say a rate, when a number is next to them.
const RATE_UNITS: [&str; 3] = ["bpm", "/min", "beats"];
/// How a whole ECG is called normal; the last in PTB-XL's words.
const NORMAL: [&[&str]; 5] = [
    &["normal", "ecg"],
    &["normal", "electrocardiogram"],
    &["normal", "tracing"],
    &["within", "normal", "limits"],
    &["no", "definite", "pathology"],
];

/// The words of a lower-case text without their punctuation.
pub(super) struct Words<'a> {
    words: Vec<&'a str>,
    /// Whether a sentence ends with each.
    ends: Vec<bool>,
}

impl<'a> Words<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let words = text
            .split(|c: char| c.is_whitespace() || ",;:()".contains(c))
            .map(|word| (word.trim_end_matches('.'), word.ends_with('.')))
            .filter(|(word, _)| !word.is_empty());
        let (words, ends) = words.unzip();
        Self { words, ends }
    }

    /// Places of the words.
    pub(super) fn places(&self) -> std::ops::Range<usize> {
        0..self.words.len()
    }

    pub(super) fn at(&self, place: usize) -> &'a str {
        self.words[place]
    }

    /// True when these words stand from a place on.
    pub(super) fn go_on(&self, place: usize, words: &[&str]) -> bool {
        self.words.get(place..).is_some_and(|rest| rest.starts_with(words))
    }

    pub(super) fn is_denied(&self, place: usize) -> bool {
        let reach = place.saturating_sub(DENIAL_REACH)..place;
        let mut before = reach.rev().take_while(|&at| !self.ends[at]);
        before.any(|at| DENIALS.contains(&self.words[at]))
    }

    /// True when one of these words is said; one that ends in a star stands for all that begin so.
    pub(super) fn name(&self, names: &[&str]) -> bool {
        let is = |word: &str, name: &str| match name.strip_suffix('*') {
            Some(stem) => word.starts_with(stem),
            None => word == name,
        };
        let named = |place: usize| names.iter().any(|name| is(self.words[place], name)) && !self.is_denied(place);
        self.places().any(named)
    }

    /// True when the ECG is called normal, if only apart from what is named.
    pub(super) fn call_normal(&self) -> bool {
        let called = |place: usize| NORMAL.iter().any(|words| self.go_on(place, words)) && !self.is_denied(place);
        self.places().any(called)
    }

    pub(super) fn say_sinus_rhythm(&self) -> bool {
        let said = |place: usize| self.go_on(place, &["sinus", "rhythm"]) && !self.is_denied(place);
        self.places().any(said)
    }

    /// True for a block of the atrioventricular node that keeps beats from the ventricles: any but one of the first degree.
    pub(super) fn say_dropped_beats(&self) -> bool {
        let dropped = |place: usize| {
            let is_block = ["av", "a-v", "heart", "atrioventricular"]
                .iter()
                .any(|what| self.go_on(place, &[what, "block"]));
            let is_first = place >= 2 && ["first", "1st"].contains(&self.words[place - 2]);
            is_block && !is_first && !self.is_denied(place)
        };
        self.places().any(dropped)
    }

    /// The rate that the number at a place states: "rate 72", "rate of 72", "72 bpm", "72/min".
    pub(super) fn stated_rate(&self, place: usize) -> Option<f32> {
        let number: f32 = self.words[place]
            .parse()
            .ok()
            .filter(|number: &f32| (10.0..=400.0).contains(number))?;
        let before = |back: usize| place.checked_sub(back).map(|place| self.words[place]);
        let named = match before(1) {
            Some("rate") => true,
            Some("of" | "is") => before(2) == Some("rate"),
            _ => false,
        };
        let with_unit = self.words.get(place + 1).is_some_and(|unit| RATE_UNITS.contains(unit));
        (named || with_unit).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_words_or_stems_and_a_denied_one_says_nothing() {
        for (text, names, said) in [
            ("sinus bradycardia.", &["brady*"][..], true),
            ("no sinus bradycardia.", &["brady*"], false),
            ("no st change. bradycardia.", &["brady*"], true),
            ("widespread st changes", &["wide"], false),
            ("wide (broad) complexes", &["broad"], true),
            ("sinus rhythm", &[], false),
        ] {
            assert_eq!(Words::of(text).name(names), said, "{text}");
        }
    }

    #[test]
    fn an_ecg_is_called_normal_in_several_words() {
        for (text, normal) in [
            ("sinus rhythm. normal ecg.", true),
            ("sinus bradycardia. otherwise normal ecg.", true),
            ("sinus rhythm. no definite pathology.", true),
            ("ecg within normal limits", true),
            ("sinus rhythm. normal axis.", false),
            ("abnormal ecg", false),
            ("this is not a normal ecg", false),
        ] {
            assert_eq!(Words::of(text).call_normal(), normal, "{text}");
        }
    }
}
