//! Which SCP-ECG statements a report names, how surely, and how well drafts agree with references on them.
//!
//! Place: beside the text metrics, in evaluation and in the promotion gate: words can agree where findings do not.
//! Invariant: a pure function of the text and of the shipped tables (data/*.tsv); a denied statement is not named.
//! Source of the classes: PTB-XL's scp_statements.csv.

mod agreement;
mod certainty;
mod phrases;
mod words;

use std::collections::BTreeMap;
use std::sync::LazyLock;

pub use agreement::{Agreement, ClassAgreement, Named, POSITIVES_MIN, Tally, agreement, agreement_of};
use serde::Serialize;

/// How a report speaks of a statement; the surer is the larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// "no", "without", "is excluded", "previously".
    Denied,
    /// "possible", "consistent with", "cannot be excluded".
    Hedged,
    /// Neither.
    Affirmed,
}

impl Certainty {
    /// True when the statement is named: affirmed or hedged.
    pub fn is_named(self) -> bool {
        self != Self::Denied
    }
}

/// One SCP-ECG statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Its code, such as "LVH".
    pub code: &'static str,
    /// NORM, MI, STTC, CD, HYP (diagnostic classes), FORM or RHYTHM.
    pub kind: &'static str,
    /// PTB-XL's description.
    pub description: &'static str,
}

/// Codes a text speaks of, each with its surest mention.
pub type Findings = BTreeMap<&'static str, Certainty>;

static CLASSES: LazyLock<Vec<Class>> = LazyLock::new(|| {
    rows(include_str!("../../data/scp_classes.tsv"))
        .map(|fields| match fields[..] {
            [code, kind, description] => Class {
                code,
                kind,
                description,
            },
            _ => panic!("scp_classes.tsv: {fields:?} is not code, kind, description"),
        })
        .collect()
});

/// The 71 statements.
pub fn classes() -> &'static [Class] {
    &CLASSES
}

/// The statements that a report in English or German speaks of.
pub fn findings(text: &str) -> Findings {
    let mut found = Findings::new();
    for sentence in words::sentences(text) {
        let mentions = phrases::mentions(&sentence);
        for mention in &mentions {
            let end = phrases::reach(&sentence, &mentions, mention.last);
            let certainty = certainty::certainty(&sentence, mention.first, mention.last, end);
            for &code in mention.codes {
                let entry = found.entry(code).or_insert(certainty);
                *entry = certainty.max(*entry);
            }
        }
    }
    found
}

/// Tab-separated rows of a shipped table, without comments.
fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    table
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split('\t').collect())
}

#[cfg(test)]
mod tests;
