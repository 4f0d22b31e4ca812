//! Texts that no reader should see.
//!
//! Place: between the device and the draft. Invariant: judges the form alone; whether the text is true of the ECG is for
//! `checks` and for the clinician.

/// Longest text, bytes; the longest report of PTB-XL has some 500.
const TEXT_BYTES_MAX: usize = 2000;
/// Longest phrase whose repetition is a loop, words.
const LOOP_WORDS_MAX: usize = 16;
/// Times that a phrase comes in a row in a loop.
const LOOP_TIMES: usize = 4;

/// What is wrong with a text; a closed set, so it is safe as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TextFault {
    /// No letter in it.
    Empty,
    /// Longer than any report.
    TooLong,
    /// Characters other than printable ASCII and line breaks.
    NonAscii,
    /// The same phrase over and over.
    Looping,
}

impl TextFault {
    /// Every fault.
    pub const ALL: [TextFault; 4] = [
        TextFault::Empty,
        TextFault::TooLong,
        TextFault::NonAscii,
        TextFault::Looping,
    ];
}

/// Judges a text's form.
///
/// # Errors
/// The first fault, in the order of [`TextFault::ALL`].
pub fn validate(text: &str) -> Result<(), TextFault> {
    if !text.chars().any(char::is_alphabetic) {
        return Err(TextFault::Empty);
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(TextFault::TooLong);
    }
    if !text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')) {
        return Err(TextFault::NonAscii);
    }
    let words: Vec<String> = text.split_whitespace().map(str::to_ascii_lowercase).collect();
    if (1..=LOOP_WORDS_MAX).any(|phrase| loops(&words, phrase)) {
        return Err(TextFault::Looping);
    }
    Ok(())
}

/// True when some `phrase` words come [`LOOP_TIMES`] times in a row.
fn loops(words: &[String], phrase: usize) -> bool {
    let same_from = phrase * (LOOP_TIMES - 1);
    let mut run = 0;
    for (earlier, later) in words.iter().zip(words.iter().skip(phrase)) {
        run = if earlier == later { run + 1 } else { 0 };
        if run >= same_from {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_valid() {
        let text = "sinus rhythm. left axis deviation.\nst segments are normal. t waves are normal.";
        assert_eq!(validate(text), Ok(()));
        assert_eq!(validate("pvc, pvc, pvc, sinus rhythm"), Ok(()));
    }

    #[test]
    fn each_fault_is_named() {
        let long = (0..1000).map(|word| format!("word{word} ")).collect::<String>();
        for (text, fault) in [
            ("", TextFault::Empty),
            (" \n.", TextFault::Empty),
            (long.as_str(), TextFault::TooLong),
            ("sinusrhythmus, \u{fc}berdreht", TextFault::NonAscii),
            ("sinus\u{0}rhythm", TextFault::NonAscii),
            ("st st st st", TextFault::Looping),
            (
                "normal ecg. Sinus rhythm sinus rhythm sinus rhythm sinus rhythm",
                TextFault::Looping,
            ),
        ] {
            assert_eq!(validate(text), Err(fault), "{text:?}");
        }
    }
}
