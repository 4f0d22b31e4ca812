//! Statements of a text that disagree with what was measured.
//!
//! Place: between the device and the draft; the draft carries them beside its text.
//! Invariant: an unknown heart rate contradicts nothing; a hit is a hint to the reader and never changes the text.

use ecg::segment::Measurements;

/// Above it no bradycardia, and below it no normal rate, beats a minute.
const BRADYCARDIA_BPM: f32 = 60.0;
/// Below it no tachycardia, and above it no normal rate, beats a minute.
const TACHYCARDIA_BPM: f32 = 100.0;
/// How far a rate may lie on the wrong side of a limit: readers round, and a rate drifts within ten seconds.
const MARGIN_BPM: f32 = 5.0;
/// How far a stated rate may be from the measured one, beats a minute.
const STATED_MARGIN_BPM: f32 = 10.0;
/// Words that deny what follows.
const DENIALS: [&str; 4] = ["no", "not", "without", "denies"];
/// Words between a denial and what it denies, at most.
const DENIAL_REACH: usize = 2;
/// Words that say a rate, when a number is next to them.
const RATE_UNITS: [&str; 3] = ["bpm", "/min", "beats"];

/// The contradictions between a text and the measured heart rate, each a sentence; none when the rate is unknown.
pub fn contradictions(text: &str, measured: &Measurements) -> Vec<String> {
    let Some(rate) = measured.heart_rate_bpm else {
        return Vec::new();
    };
    let text = text.to_lowercase().replace("/min", " /min");
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || ",;:()".contains(c))
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| !word.is_empty())
        .collect();
    let mut found = Vec::new();
    let mut note = |claim: String| {
        let line = format!("text says {claim}, measured heart rate is {rate:.0} bpm");
        if !found.contains(&line) {
            found.push(line);
        }
    };
    for at in 0..words.len() {
        if let Some(claim) = named_claim(&words, at, rate) {
            note(claim.to_owned());
        }
        if let Some(stated) = stated_rate(&words, at)
            && (stated - rate).abs() > STATED_MARGIN_BPM
        {
            note(format!("a rate of {stated:.0} bpm"));
        }
    }
    found
}

/// The claim of the word at a place that the rate contradicts.
fn named_claim(words: &[&str], at: usize, rate: f32) -> Option<&'static str> {
    if is_denied(words, at) {
        return None;
    }
    let next = words.get(at + 1).copied().unwrap_or_default();
    let claim = match words[at] {
        "bradycardia" | "bradycardic" if rate > BRADYCARDIA_BPM + MARGIN_BPM => "bradycardia",
        "tachycardia" | "tachycardic" if rate < TACHYCARDIA_BPM - MARGIN_BPM => "tachycardia",
        "normal" if next == "rate" || words[at + 1..].starts_with(&["heart", "rate"]) => {
            let normal = BRADYCARDIA_BPM - MARGIN_BPM..=TACHYCARDIA_BPM + MARGIN_BPM;
            return (!normal.contains(&rate)).then_some("a normal rate");
        }
        _ => return None,
    };
    Some(claim)
}

fn is_denied(words: &[&str], at: usize) -> bool {
    let reach = at.saturating_sub(DENIAL_REACH)..at;
    words[reach].iter().any(|word| DENIALS.contains(word))
}

/// The rate that the number at a place states: "rate 72", "rate of 72", "72 bpm", "72/min".
fn stated_rate(words: &[&str], at: usize) -> Option<f32> {
    let number: f32 = words[at]
        .parse()
        .ok()
        .filter(|number: &f32| (10.0..=400.0).contains(number))?;
    let before = |back: usize| at.checked_sub(back).map(|place| words[place]);
    let named = match before(1) {
        Some("rate") => true,
        Some("of" | "is") => before(2) == Some("rate"),
        _ => false,
    };
    let with_unit = words.get(at + 1).is_some_and(|unit| RATE_UNITS.contains(unit));
    (named || with_unit).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, rate: Option<f32>, claims: &[&str]) {
        let measured = Measurements {
            heart_rate_bpm: rate,
            ..Measurements::default()
        };
        let found = contradictions(text, &measured);
        assert_eq!(found.len(), claims.len(), "{text}: {found:?}");
        for (line, claim) in found.iter().zip(claims) {
            assert!(line.starts_with(&format!("text says {claim}, ")), "{line}");
        }
    }

    #[test]
    fn a_named_rate_is_compared_with_the_measured_one() {
        check("Sinus bradycardia.", Some(80.0), &["bradycardia"]);
        check("sinus bradycardia", Some(52.0), &[]);
        check("sinus bradycardia", Some(64.0), &[]);
        check("sinus tachycardia, tachycardia", Some(70.0), &["tachycardia"]);
        check("supraventricular tachycardia", Some(150.0), &[]);
        check("rhythm is regular at a normal rate", Some(130.0), &["a normal rate"]);
        check("normal heart rate", Some(61.0), &[]);
    }

    #[test]
    fn a_stated_rate_is_compared_with_the_measured_one() {
        check("sinus rhythm, rate 72.", Some(75.0), &[]);
        check("ventricular rate of 120", Some(75.0), &["a rate of 120 bpm"]);
        check("sinus rhythm 48/min", Some(75.0), &["a rate of 48 bpm"]);
        check("pr interval 160 ms", Some(75.0), &[]);
    }

    #[test]
    fn a_denied_claim_and_an_unknown_rate_contradict_nothing() {
        check("no sinus tachycardia", Some(70.0), &[]);
        check("sinus bradycardia, rate 40", None, &[]);
    }

    #[test]
    fn the_sentence_names_the_measured_rate() {
        let measured = Measurements {
            heart_rate_bpm: Some(79.6),
            ..Measurements::default()
        };
        let found = contradictions("bradycardia", &measured);
        assert_eq!(found, ["text says bradycardia, measured heart rate is 80 bpm"]);
    }
}
