//! Where samples come from: every kind of source gives candidates, or the reason why not.
//!
//! Place: first step of `curate`. Kinds: `ptbxl:DIR` and `mimic:DIR` in their genuine layouts, `wfdb:DIR` (recordings with
//! reports.jsonl), `signed:DIR` (signed reports and segments as files) and `kafka` or
//! `kafka:BROKERS` (the same from the topics).
//! Invariant: ids are stable and unique across kinds; everything that a source holds is a candidate or is counted with the
//! reason why it is none.

mod mimic;
mod ptbxl;
mod signed;
mod topics;
mod wfdb;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::bail;
use ecg::segment::Segment;
use serde::{Deserialize, Serialize};
use service::kafka::KafkaSettings;
use sha2::{Digest, Sha256};

use crate::strata::Stratum;
use crate::text_rules::Drop;

/// A kind of source and where it lies, as KIND:PLACE on the command line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Source {
    PtbXl(PathBuf),
    Mimic(PathBuf),
    Wfdb(PathBuf),
    Signed(PathBuf),
    /// Brokers; empty for those of the settings.
    Kafka(String),
}

/// What a report is worth to training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A data set's own report.
    Base,
    /// A draft that was signed as it was.
    Accepted,
    /// A draft that was changed before it was signed.
    Edited,
}

/// Training, validation or test; a patient is in one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    Train,
    Validation,
    Test,
}

/// Where the samples of a candidate are.
#[derive(Clone, Debug)]
pub enum Waveform {
    /// Header of a WFDB recording.
    Recording(PathBuf),
    /// A segment of the stream.
    Segment(Box<Segment>),
}

/// A recording with a report that passed the text rules.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// "ptbxl/00020", "mimic/40689238", "wfdb/NAME", "segment/ID".
    pub id: String,
    /// [`patient_hash`] of the patient.
    pub patient_hash: String,
    pub origin: Origin,
    /// The source's own split, where it has one.
    pub split: Option<Split>,
    pub report: String,
    /// Diagnostic labels, where the source has them.
    pub labels: BTreeSet<String>,
    /// What it may be sliced by, where the source says.
    pub strata: Vec<Stratum>,
    pub waveform: Waveform,
}

/// What a source holds.
#[derive(Debug, Default)]
pub struct Sourced {
    /// Sorted by id.
    pub candidates: Vec<Candidate>,
    pub dropped: BTreeMap<Drop, usize>,
    /// Where reading ended, so that the same can be read again: topic and partition to the offset after the last.
    pub ends: BTreeMap<String, i64>,
}

impl Sourced {
    fn drop(&mut self, why: Drop) {
        *self.dropped.entry(why).or_default() += 1;
    }

    fn add(&mut self, candidate: Result<Candidate, Drop>) {
        match candidate {
            Ok(candidate) => self.candidates.push(candidate),
            Err(why) => self.drop(why),
        }
    }

    fn sorted(mut self) -> Self {
        self.candidates.sort_by(|a, b| a.id.cmp(&b.id));
        self
    }
}

impl Source {
    /// The part of its text before the colon.
    pub fn kind(&self) -> &'static str {
        match self {
            Source::PtbXl(_) => "ptbxl",
            Source::Mimic(_) => "mimic",
            Source::Wfdb(_) => "wfdb",
            Source::Signed(_) => "signed",
            Source::Kafka(_) => "kafka",
        }
    }

    /// Reads tables and reports; recordings are not opened yet. `ends` bounds what is read from topics; `kafka` says how brokers
    /// are spoken to, without it the defaults and the environment do.
    ///
    /// # Errors
    /// A table or topic that cannot be read.
    pub fn read(&self, ends: &BTreeMap<String, i64>, kafka: Option<&KafkaSettings>) -> anyhow::Result<Sourced> {
        let sourced = match self {
            Source::PtbXl(dir) => ptbxl::read(dir),
            Source::Mimic(dir) => mimic::read(dir),
            Source::Wfdb(dir) => wfdb::read(dir),
            Source::Signed(dir) => signed::read(dir),
            Source::Kafka(brokers) => topics::read(&topics::settings(brokers, kafka)?, ends),
        }?;
        Ok(sourced.sorted())
    }

    /// Where the source ends now, for [`Source::read`], with the same `kafka`; only topics grow.
    ///
    /// # Errors
    /// A broker that does not answer.
    pub fn ends(&self, kafka: Option<&KafkaSettings>) -> anyhow::Result<BTreeMap<String, i64>> {
        match self {
            Source::Kafka(brokers) => topics::ends(&topics::settings(brokers, kafka)?),
            _ => Ok(BTreeMap::new()),
        }
    }
}

impl FromStr for Source {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (kind, place) = text.split_once(':').unwrap_or((text, ""));
        if text == "kafka" {
            return Ok(Source::Kafka(String::new()));
        }
        if place.is_empty() {
            bail!("source is {text:?}: expected KIND:PLACE, such as ptbxl:DIR");
        }
        Ok(match kind {
            "ptbxl" => Source::PtbXl(place.into()),
            "mimic" => Source::Mimic(place.into()),
            "wfdb" => Source::Wfdb(place.into()),
            "signed" => Source::Signed(place.into()),
            "kafka" => Source::Kafka(place.to_owned()),
            _ => bail!("source kind is {kind:?}: one of ptbxl, mimic, wfdb, signed, kafka"),
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            Source::PtbXl(dir) | Source::Mimic(dir) | Source::Wfdb(dir) | Source::Signed(dir) => {
                write!(f, "{kind}:{}", dir.display())
            }
            Source::Kafka(brokers) if brokers.is_empty() => f.write_str(kind),
            Source::Kafka(brokers) => write!(f, "{kind}:{brokers}"),
        }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

impl TryFrom<String> for Source {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

/// SHA-256 of a source's name and its patient, hexadecimal, 32 digits: the only form in which a patient is named here.
pub fn patient_hash(source: &str, patient: &str) -> String {
    let digest = Sha256::digest(format!("meit-patient\0{source}\0{patient}"));
    digest.iter().take(16).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
pub(crate) use mimic::tests::layout_of as mimic_layout;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_reads_back_from_its_text_and_an_unknown_kind_is_named() {
        for text in [
            "ptbxl:/data",
            "mimic:m",
            "wfdb:w",
            "signed:s",
            "kafka:host:9092",
            "kafka",
        ] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        let error = "dicom:x".parse::<Source>().unwrap_err().to_string();
        assert!(error.contains("dicom"), "{error}");
        for incomplete in ["ptbxl", "kafka:"] {
            assert!(incomplete.parse::<Source>().is_err(), "{incomplete}");
        }
    }

    #[test]
    fn the_same_number_is_another_patient_in_another_source() {
        assert_eq!(patient_hash("ptbxl", "1").len(), 32);
        assert_ne!(patient_hash("ptbxl", "1"), patient_hash("mimic", "1"));
    }
}
