//! What a report must be to teach or to test: the paper's text rules, with a reason for every text that is dropped.
//!
//! Place: between a source's text and a sample. Invariant: a text that passes is lower case, without device stamps, in
//! sentences that end in full stops, none of them numbers alone; what does not pass is counted by its reason.
//! Source: MEIT section 4.1 (drop 'nan', sentences of numbers only, reports under 5 tokens; EKG to ECG; lower case).

pub mod translate;

use std::sync::LazyLock;

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};

/// Words and full stops that a report must have.
pub const TOKENS_MIN: usize = 5;
/// What MERL and MEIT search for to leave faulty PTB-XL rows out.
const FAULT: &str = "something wrong with the data";

/// Why a candidate is no sample; a closed set, so it is safe as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drop {
    /// No report at all.
    NoReport,
    /// Nothing but stamps and headings.
    Boilerplate,
    /// The report says that the data are wrong.
    DataFault,
    /// Too little of the text could be translated.
    Untranslated,
    /// Fewer than [`TOKENS_MIN`] tokens.
    TooShort,
    /// The report has no recording.
    NoRecording,
    /// The recording cannot be read.
    Unreadable,
    /// The signal quality gate did not accept the recording outright.
    Gate,
    /// The signer threw the draft away.
    Rejected,
    /// The signer took the report back.
    Withdrawn,
    /// A later version of the report exists.
    Superseded,
    /// No consent to train on it.
    NoConsent,
    /// Two tables name different patients for it.
    JoinMismatch,
    /// The segment's samples are not those that were reported on.
    HashMismatch,
    /// The patient is on the erasure list.
    Erased,
    /// A sample of this id is there already.
    Duplicate,
}

static STAMPS: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\*{2,}|\*(?=\s|$)|=-|-=|\bunconfirmed (?:report|diagnosis)\b"));
static EKG: LazyLock<Regex> = LazyLock::new(|| regex(r"\bekg"));
static SENTENCE: LazyLock<Regex> = LazyLock::new(|| regex(r"\.(?:\s+|$)|\n+"));
static STOP: LazyLock<Regex> = LazyLock::new(|| regex(r"\.(?=\s|$)"));
static SPACES: LazyLock<Regex> = LazyLock::new(|| regex(r"\s+"));

fn regex(text: &str) -> Regex {
    Regex::new(text).expect("the patterns are constants")
}

/// Statements, such as MIMIC's report_0 to report_17 or one whole text, as one report.
///
/// # Errors
/// The reason for dropping it.
pub fn report<'a>(statements: impl IntoIterator<Item = &'a str>) -> Result<String, Drop> {
    let (mut sentences, mut any) = (Vec::new(), false);
    for statement in statements {
        let lower = statement.to_lowercase();
        any |= !lower.trim().is_empty();
        if lower.contains(FAULT) {
            return Err(Drop::DataFault);
        }
        let plain = EKG.replace_all(&STAMPS.replace_all(&lower, " "), "ecg").into_owned();
        sentences.extend(split(&plain));
    }
    match sentences.is_empty() {
        true if any => Err(Drop::Boilerplate),
        true => Err(Drop::NoReport),
        false => long_enough(sentences.join(". ") + "."),
    }
}

/// A text of sentences, if it has [`TOKENS_MIN`] tokens.
///
/// # Errors
/// [`Drop::TooShort`].
fn long_enough(text: String) -> Result<String, Drop> {
    if tokens(&text) < TOKENS_MIN {
        return Err(Drop::TooShort);
    }
    Ok(text)
}

/// Words and sentence-final full stops, the way the metrics count.
pub fn tokens(text: &str) -> usize {
    STOP.replace_all(text, " .").split_whitespace().count()
}

/// Sentences with a letter in them, 'nan' left out.
fn split(text: &str) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut start = 0;
    let ends = SENTENCE
        .find_iter(text)
        .filter_map(Result::ok)
        .map(|m| (m.start(), m.end()));
    for (end, next) in ends.chain([(text.len(), text.len())]) {
        let sentence = SPACES.replace_all(&text[start..end], " ");
        let sentence = sentence.trim_matches(|c: char| c.is_whitespace() || ",;:-".contains(c));
        if sentence != "nan" && sentence.contains(char::is_alphabetic) {
            sentences.push(sentence.to_owned());
        }
        start = next;
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(statements: &[&str], expected: Result<&str, Drop>) {
        assert_eq!(report(statements.iter().copied()), expected.map(str::to_owned));
    }

    #[test]
    fn statements_become_lower_case_sentences() {
        check(
            &[
                "Sinus rhythm",
                "Possible Inferior infarct - age undetermined",
                "Abnormal EKG",
            ],
            Ok("sinus rhythm. possible inferior infarct - age undetermined. abnormal ecg."),
        );
        check(
            &["Rate 72. PR 0.16 s is normal.\n*** Unconfirmed report ***"],
            Ok("rate 72. pr 0.16 s is normal."),
        );
    }

    #[test]
    fn nan_and_numbers_alone_are_no_sentences() {
        check(&["sinus rhythm. 120. nan. 12/3.", "nan"], Err(Drop::TooShort));
        check(
            &["normal sinus rhythm today. 120. nan."],
            Ok("normal sinus rhythm today."),
        );
    }

    #[test]
    fn every_drop_has_its_reason() {
        check(&[], Err(Drop::NoReport));
        check(&["", " "], Err(Drop::NoReport));
        check(&["*** 12"], Err(Drop::Boilerplate));
        check(
            &["There is something wrong with the data of this ECG"],
            Err(Drop::DataFault),
        );
        check(&["sinus rhythm"], Err(Drop::TooShort));
    }
}
