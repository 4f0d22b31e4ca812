//! Porter stemmer with the extensions of NLTK.
//!
//! Place: the stem stage of METEOR. Invariant: equals `PorterStemmer(mode=NLTK_EXTENSIONS).stem` on every word.
//! Source: nltk/stem/porter.py; Porter 1980, "An algorithm for suffix stripping".

/// What a rule asks of the stem left after its suffix is taken off.
#[derive(Clone, Copy)]
enum Ask {
    Nothing,
    Measure(usize),
    /// `logi`: the `l` belongs to the stem.
    MeasureWithL,
    /// `ion`: after `s` or `t` only.
    AfterSt,
}

type Rule = (&'static str, &'static str, Ask);

const IRREGULAR: &[(&str, &str)] = &[
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

const STEP_1A: &[Rule] = &[
    ("sses", "ss", Ask::Nothing),
    ("ies", "i", Ask::Nothing),
    ("ss", "ss", Ask::Nothing),
    ("s", "", Ask::Nothing),
];

const STEP_2: &[Rule] = &[
    ("ational", "ate", Ask::Measure(0)),
    ("tional", "tion", Ask::Measure(0)),
    ("enci", "ence", Ask::Measure(0)),
    ("anci", "ance", Ask::Measure(0)),
    ("izer", "ize", Ask::Measure(0)),
    ("bli", "ble", Ask::Measure(0)),
    ("alli", "al", Ask::Measure(0)),
    ("entli", "ent", Ask::Measure(0)),
    ("eli", "e", Ask::Measure(0)),
    ("ousli", "ous", Ask::Measure(0)),
    ("ization", "ize", Ask::Measure(0)),
    ("ation", "ate", Ask::Measure(0)),
    ("ator", "ate", Ask::Measure(0)),
    ("alism", "al", Ask::Measure(0)),
    ("iveness", "ive", Ask::Measure(0)),
    ("fulness", "ful", Ask::Measure(0)),
    ("ousness", "ous", Ask::Measure(0)),
    ("aliti", "al", Ask::Measure(0)),
    ("iviti", "ive", Ask::Measure(0)),
    ("biliti", "ble", Ask::Measure(0)),
    ("fulli", "ful", Ask::Measure(0)),
    ("logi", "log", Ask::MeasureWithL),
];

const STEP_3: &[Rule] = &[
    ("icate", "ic", Ask::Measure(0)),
    ("ative", "", Ask::Measure(0)),
    ("alize", "al", Ask::Measure(0)),
    ("iciti", "ic", Ask::Measure(0)),
    ("ical", "ic", Ask::Measure(0)),
    ("ful", "", Ask::Measure(0)),
    ("ness", "", Ask::Measure(0)),
];

const STEP_4: &[Rule] = &[
    ("al", "", Ask::Measure(1)),
    ("ance", "", Ask::Measure(1)),
    ("ence", "", Ask::Measure(1)),
    ("er", "", Ask::Measure(1)),
    ("ic", "", Ask::Measure(1)),
    ("able", "", Ask::Measure(1)),
    ("ible", "", Ask::Measure(1)),
    ("ant", "", Ask::Measure(1)),
    ("ement", "", Ask::Measure(1)),
    ("ment", "", Ask::Measure(1)),
    ("ent", "", Ask::Measure(1)),
    ("ion", "", Ask::AfterSt),
    ("ou", "", Ask::Measure(1)),
    ("ism", "", Ask::Measure(1)),
    ("ate", "", Ask::Measure(1)),
    ("iti", "", Ask::Measure(1)),
    ("ous", "", Ask::Measure(1)),
    ("ive", "", Ask::Measure(1)),
    ("ize", "", Ask::Measure(1)),
];

/// True for each letter that is a consonant; `y` is one at the start and after a vowel.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::with_capacity(word.len());
    for c in word.chars() {
        let flag = match c {
            'a' | 'e' | 'i' | 'o' | 'u' => false,
            'y' => flags.last().is_none_or(|before| !before),
            _ => true,
        };
        flags.push(flag);
    }
    flags
}

/// Number of vowel to consonant changes.
fn measure(stem: &str) -> usize {
    consonants(stem).windows(2).filter(|pair| !pair[0] && pair[1]).count()
}

fn has_vowel(stem: &str) -> bool {
    consonants(stem).contains(&false)
}

/// The doubled consonant at the end, if there is one.
fn double_consonant(word: &str) -> Option<char> {
    let mut back = word.chars().rev();
    let (last, before) = (back.next()?, back.next()?);
    (last == before && consonants(word).last() == Some(&true)).then_some(last)
}

/// Ends consonant, vowel, consonant other than w, x, y; or is just vowel, consonant.
fn ends_cvc(word: &str) -> bool {
    let flags = consonants(word);
    if let [false, true] = flags[..] {
        return true;
    }
    flags.ends_with(&[true, false, true]) && !word.ends_with(['w', 'x', 'y'])
}

fn holds(ask: Ask, stem: &str) -> bool {
    match ask {
        Ask::Nothing => true,
        Ask::Measure(above) => measure(stem) > above,
        Ask::MeasureWithL => measure(&format!("{stem}l")) > 0,
        Ask::AfterSt => measure(stem) > 1 && stem.ends_with(['s', 't']),
    }
}

/// Applies the first rule whose suffix fits, if its condition holds.
fn apply(word: String, rules: &[Rule]) -> String {
    for (suffix, replacement, ask) in rules {
        if let Some(stem) = word.strip_suffix(suffix) {
            return if holds(*ask, stem) {
                format!("{stem}{replacement}")
            } else {
                word
            };
        }
    }
    word
}

fn step_1a(word: String) -> String {
    match word.strip_suffix("ies") {
        Some(stem) if stem.chars().count() == 1 => format!("{stem}ie"),
        _ => apply(word, STEP_1A),
    }
}

fn step_1b(word: String) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return if stem.chars().count() == 1 {
            format!("{stem}ie")
        } else {
            format!("{stem}i")
        };
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 { format!("{stem}ee") } else { word };
    }
    match word.strip_suffix("ed").or_else(|| word.strip_suffix("ing")) {
        Some(stem) if has_vowel(stem) => mend(stem.to_owned()),
        _ => word,
    }
}

/// Gives back what `ed` or `ing` had changed in the stem.
fn mend(mut stem: String) -> String {
    if ["at", "bl", "iz"].iter().any(|end| stem.ends_with(end)) {
        stem.push('e');
    } else if let Some(last) = double_consonant(&stem) {
        if !matches!(last, 'l' | 's' | 'z') {
            stem.pop();
        }
    } else if measure(&stem) == 1 && ends_cvc(&stem) {
        stem.push('e');
    }
    stem
}

fn step_1c(word: String) -> String {
    match word.strip_suffix('y') {
        Some(stem) if stem.chars().count() > 1 && consonants(stem).last() == Some(&true) => format!("{stem}i"),
        _ => word,
    }
}

fn step_2(word: String) -> String {
    match word.strip_suffix("alli") {
        Some(stem) if measure(stem) > 0 => step_2(format!("{stem}al")),
        _ => apply(word, STEP_2),
    }
}

fn step_5(word: String) -> String {
    let mut word = word;
    if let Some(stem) = word.strip_suffix('e') {
        let m = measure(stem);
        if m > 1 || (m == 1 && !ends_cvc(stem)) {
            word.pop();
        }
    }
    if word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1 {
        word.pop();
    }
    word
}

/// Stem of a word, lower-cased.
pub fn stem(word: &str) -> String {
    let lower = word.to_lowercase();
    if let Some((_, stem)) = IRREGULAR.iter().find(|(form, _)| *form == lower) {
        return (*stem).to_owned();
    }
    if word.chars().count() <= 2 {
        return lower;
    }
    let word = step_2(step_1c(step_1b(step_1a(lower))));
    step_5(apply(apply(word, STEP_3), STEP_4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_get_the_stems_of_nltk() {
        let known = [
            ("caresses", "caress"),
            ("flies", "fli"),
            ("dies", "die"),
            ("died", "die"),
            ("agreed", "agre"),
            ("hopping", "hop"),
            ("falling", "fall"),
            ("filing", "file"),
            ("enjoy", "enjoy"),
            ("happy", "happi"),
            ("ischaemia", "ischaemia"),
            ("flattened", "flatten"),
            ("probable", "probabl"),
            ("controlling", "control"),
            ("geology", "geolog"),
            ("news", "news"),
            ("is", "is"),
        ];
        for (word, expected) in known {
            assert_eq!(stem(word), expected, "{word}");
        }
    }
}
