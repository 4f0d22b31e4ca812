//! Statements of a text that disagree with what was measured, and what a text leaves out that a measurement demands.
//!
//! Place: between the device and the draft; the draft carries them beside its text.
//! Invariant: what is not measured contradicts nothing; a hit is a hint to the reader and never changes the text.
//! Bounds of what is left out were set on the cardiologists' reports of PTB-XL, folds 1 to 8, beside our measurements
//! (`pipeline/examples/false_alarms.rs`; docs/safety.md has the figures of fold 9).

mod words;

use ecg::segment::Measurements;
use words::Words;

/// Above it no bradycardia, and below it no normal rate, beats a minute.
const BRADYCARDIA_BPM: f32 = 60.0;
/// Below it no tachycardia, and above it no normal rate, beats a minute.
const TACHYCARDIA_BPM: f32 = 100.0;
/// How far a rate may lie on the wrong side of a limit: readers round, and a rate drifts within ten seconds.
const MARGIN_BPM: f32 = 5.0;
/// How far a stated rate may be from the measured one, beats a minute.
const STATED_MARGIN_BPM: f32 = 10.0;
/// Below it a sinus rhythm or a normal ECG must be called slow, beats a minute: cardiologists call 50 to 60 either way.
const SLOW_BPM: f32 = 50.0;
/// From it on a normal ECG must name what widens QRS, milliseconds: a complete bundle branch block (AHA/ACC/HRS 2009, part III).
const WIDE_QRS_MS: f32 = 120.0;
/// From it on a normal ECG must name QT, milliseconds by Fridericia: a long QT even without symptoms (ESC 2015).
const LONG_QTC_MS: f32 = 480.0;

/// Words of a slow rate, or of what makes one.
const SLOW: [&str; 5] = ["brady*", "slow*", "pause*", "arrest*", "asystol*"];
/// Words of a fast rate.
const FAST: [&str; 6] = ["tachy*", "rapid*", "fast*", "accelerated", "svt", "psvt"];
/// Rhythms whose rate is read otherwise, or is the pacemaker's: a text that names one is not held to say slow or fast.
const OTHER_RHYTHMS: [&str; 13] = [
    "fibrillat*",
    "flutter*",
    "pace*",
    "pacing",
    "junctional",
    "nodal",
    "idioventricular",
    "ectopic",
    "escape*",
    "dissociation",
    "wenckebach",
    "mobitz",
    "bigemin*",
];
/// Words of a wide QRS, or of what makes one.
const WIDE: [&str; 17] = [
    "bundle",
    "branch",
    "fascicular",
    "hemiblock",
    "conduction",
    "intraventricular",
    "rbbb",
    "lbbb",
    "wide",
    "widened",
    "broad",
    "preexcit*",
    "pre-excit*",
    "wolff*",
    "wpw",
    "pace*",
    "pacing",
];
/// Words of QT.
const LONG_QT: [&str; 3] = ["qt*", "repolari*", "long-qt"];

/// What a text may call a measured heart rate without a contradiction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It must be called slow where nothing else explains it.
    Slow,
    /// It may be called slow.
    Slowish,
    /// It may be called neither slow nor fast.
    Even,
    /// It may be called fast.
    Fastish,
    /// It must be called fast where nothing else explains it.
    Fast,
}

impl Pace {
    /// Beats a minute -> what they may be called.
    pub fn of(bpm: f32) -> Self {
        match bpm {
            ..SLOW_BPM => Pace::Slow,
            bpm if bpm <= BRADYCARDIA_BPM + MARGIN_BPM => Pace::Slowish,
            bpm if bpm > TACHYCARDIA_BPM + MARGIN_BPM => Pace::Fast,
            bpm if bpm >= TACHYCARDIA_BPM - MARGIN_BPM => Pace::Fastish,
            _ => Pace::Even,
        }
    }

    /// As a prompt tells it.
    pub fn word(self) -> &'static str {
        match self {
            Pace::Slow => "slow",
            Pace::Slowish => "slowish",
            Pace::Even => "even",
            Pace::Fastish => "fastish",
            Pace::Fast => "fast",
        }
    }
}

/// The contradictions between a text and the measurements, each a sentence; none where nothing is measured.
pub fn contradictions(text: &str, measured: &Measurements) -> Vec<String> {
    let text = text.to_lowercase().replace("/min", " /min");
    let words = Words::of(&text);
    let mut found = Vec::new();
    if let Some(rate) = measured.heart_rate_bpm {
        let mut claims = rate_claims(&words, rate);
        if claims.is_empty() {
            claims.extend(unnamed_rate(&words, rate));
        }
        let sentence = |claim| format!("text says {claim}, measured heart rate is {rate:.0} bpm");
        found.extend(claims.into_iter().map(sentence));
    }
    if words.call_normal() {
        let intervals = [
            (measured.qrs_ms, WIDE_QRS_MS, &WIDE[..], "QRS duration"),
            (measured.qtc_ms, LONG_QTC_MS, &LONG_QT, "QTc"),
        ];
        for (ms, least_ms, names, interval) in intervals {
            if let Some(ms) = ms.filter(|&ms| ms >= least_ms && !words.name(names)) {
                found.push(format!("text says a normal ecg, measured {interval} is {ms:.0} ms"));
            }
        }
    }
    found
}

/// Each claim that the rate contradicts, once.
fn rate_claims(words: &Words, rate: f32) -> Vec<String> {
    let mut claims: Vec<String> = Vec::new();
    let mut note = |claim: String| {
        if !claims.contains(&claim) {
            claims.push(claim);
        }
    };
    for at in words.places() {
        if let Some(claim) = named_claim(words, at, rate) {
            note(claim.to_owned());
        }
        if let Some(stated) = words.stated_rate(at)
            && (stated - rate).abs() > STATED_MARGIN_BPM
        {
            note(format!("a rate of {stated:.0} bpm"));
        }
    }
    claims
}

/// The claim of the word at a place that the rate contradicts.
fn named_claim(words: &Words, at: usize, rate: f32) -> Option<&'static str> {
    if words.is_denied(at) {
        return None;
    }
    // "normal to rapid" says no more than that it is not slow
    let is_range = at > 0 && words.at(at - 1) == "to";
    let response = ["response", "rate"]
        .iter()
        .any(|what| words.go_on(at + 1, &["ventricular", what]) && !is_range);
    let pace = Pace::of(rate);
    let not_fast = matches!(pace, Pace::Slow | Pace::Slowish | Pace::Even);
    let not_slow = matches!(pace, Pace::Even | Pace::Fastish | Pace::Fast);
    let claim = match words.at(at) {
        "bradycardia" | "bradycardic" if not_slow => "bradycardia",
        "tachycardia" | "tachycardic" if not_fast => "tachycardia",
        "slow" if response && not_slow => "a slow ventricular response",
        "rapid" | "fast" if response && not_fast => "a rapid ventricular response",
        "normal" if response || words.go_on(at + 1, &["rate"]) || words.go_on(at + 1, &["heart", "rate"]) => {
            let normal = BRADYCARDIA_BPM - MARGIN_BPM..=TACHYCARDIA_BPM + MARGIN_BPM;
            return (!normal.contains(&rate)).then_some("a normal rate");
        }
        _ => return None,
    };
    Some(claim)
}

/// The claim of a text that should name a slow or fast rate and does not.
fn unnamed_rate(words: &Words, rate: f32) -> Option<String> {
    let (names, unnamed) = match Pace::of(rate) {
        Pace::Slow => (&SLOW[..], "bradycardia"),
        Pace::Fast => (&FAST[..], "tachycardia"),
        Pace::Slowish | Pace::Even | Pace::Fastish => return None,
    };
    let states_rate = words.places().any(|at| words.stated_rate(at).is_some());
    if states_rate || words.name(names) || words.name(&OTHER_RHYTHMS) || words.say_dropped_beats() {
        return None;
    }
    let claim = match (words.call_normal(), words.say_sinus_rhythm()) {
        (true, _) => "a normal ecg",
        (false, true) => "sinus rhythm",
        (false, false) => return None,
    };
    Some(format!("{claim} without {unnamed}"))
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
    fn the_ventricles_rate_in_another_rhythm_is_compared_too() {
        check("atrial fibrillation with rapid ventricular response", Some(98.0), &[]);
        check(
            "atrial fibrillation with rapid ventricular response",
            Some(72.0),
            &["a rapid ventricular response"],
        );
        check(
            "atrial fibrillation with slow ventricular response",
            Some(90.0),
            &["a slow ventricular response"],
        );
        check(
            "atrial fibrillation with normal to rapid ventricular response",
            Some(72.0),
            &[],
        );
        check(
            "atrial flutter, normal ventricular rate",
            Some(140.0),
            &["a normal rate"],
        );
    }

    #[test]
    fn a_normal_ecg_or_a_sinus_rhythm_that_leaves_out_a_slow_or_fast_rate_is_contradicted() {
        let normal = "sinus rhythm. normal axis. normal ecg.";
        check(normal, Some(45.0), &["a normal ecg without bradycardia"]);
        check(normal, Some(49.9), &["a normal ecg without bradycardia"]);
        check(normal, Some(50.0), &[]);
        check(normal, Some(105.0), &[]);
        check(normal, Some(112.0), &["a normal ecg without tachycardia"]);
        check(
            "sinus rhythm. left axis.",
            Some(46.0),
            &["sinus rhythm without bradycardia"],
        );
        check(
            "no bradycardia. sinus rhythm.",
            Some(46.0),
            &["sinus rhythm without bradycardia"],
        );
        for named in [
            "sinus bradycardia. otherwise normal ecg.",
            "sinus rhythm, rate 44. otherwise normal ecg.",
            "sinus rhythm with second degree av block",
            "left axis. low voltage.",
        ] {
            check(named, Some(45.0), &[]);
        }
        // these blocks slow nothing
        for block in ["first degree av block", "right bundle branch block"] {
            let text = format!("sinus rhythm. {block}.");
            check(&text, Some(45.0), &["sinus rhythm without bradycardia"]);
        }
    }

    #[test]
    fn a_text_that_names_another_rhythm_need_not_say_slow_or_fast() {
        for text in [
            "atrial fibrillation. otherwise normal ecg.",
            "atrial fibrillation/flutter. normal axis.",
            "pacemaker ecg. sinus rhythm.",
            "junctional rhythm",
        ] {
            check(text, Some(44.0), &[]);
            check(text, Some(140.0), &[]);
        }
    }

    #[test]
    fn a_normal_ecg_that_leaves_out_a_wide_qrs_or_a_long_qt_is_contradicted() {
        let found = |text: &str, qrs_ms, qtc_ms| {
            let measured = Measurements {
                heart_rate_bpm: Some(70.0),
                qrs_ms,
                qtc_ms,
                ..Measurements::default()
            };
            contradictions(text, &measured)
        };
        let normal = "sinus rhythm. no definite pathology.";
        assert_eq!(
            found(normal, Some(150.0), Some(520.0)),
            [
                "text says a normal ecg, measured QRS duration is 150 ms",
                "text says a normal ecg, measured QTc is 520 ms"
            ]
        );
        for (text, qrs_ms, qtc_ms) in [
            (normal, Some(118.0), Some(478.0)),
            (normal, None, None),
            ("sinus rhythm. left axis.", Some(150.0), Some(520.0)),
            (
                "incomplete right bundle branch block. otherwise normal ecg.",
                Some(126.0),
                Some(420.0),
            ),
            ("prolonged qt. otherwise normal ecg.", Some(90.0), Some(500.0)),
        ] {
            assert!(found(text, qrs_ms, qtc_ms).is_empty(), "{text}");
        }
        // a first-degree block does not widen QRS
        assert_eq!(
            found("first degree av block. otherwise normal ecg.", Some(130.0), None).len(),
            1
        );
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
