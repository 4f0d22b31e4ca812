//! Reports, with or without their recordings, by fold: what training from scratch reads.
//!
//! Place: between the data sets and `train_data`. Invariant: a patient is in one fold only; folds 1 to 8 train, 9 validates, 10
//! tests, whatever the data set calls them.

use std::collections::{BTreeMap, HashMap};

use anyhow::{bail, ensure};

use crate::curate::split_of;
use crate::dataset::{PtbXl, Sample};
use crate::sources::{Candidate, Source, Split, Waveform};

/// Fold that chooses among weights.
pub const VALIDATION_FOLD: u8 = 9;
/// Fold that training never opens.
pub const TEST_FOLD: u8 = 10;
/// Fold of what another data set trains on.
const TRAINING_FOLD: u8 = 1;

/// The samples of a data set, by id.
pub struct Corpus {
    samples: Vec<Sample>,
}

impl Corpus {
    /// PTB-XL by its own folds; MIMIC-IV-ECG, and WFDB with JSONL, by their splits, else by a hash of the patient.
    ///
    /// # Errors
    /// A table that cannot be read; a kind of source that has no recordings of its own; a patient in two splits.
    pub fn open(source: &Source) -> anyhow::Result<Self> {
        match source {
            Source::PtbXl(dir) => Ok(PtbXl::open(dir)?.into()),
            Source::Mimic(_) | Source::Wfdb(_) => Self::of(source.read(&BTreeMap::new(), None)?.candidates),
            _ => bail!("dataset is {source}: expected ptbxl:DIR, mimic:DIR or wfdb:DIR"),
        }
    }

    fn of(candidates: Vec<Candidate>) -> anyhow::Result<Self> {
        let splits = splits(&candidates)?;
        let fold = |candidate: &Candidate| match splits[&candidate.patient_hash] {
            Split::Train => TRAINING_FOLD,
            Split::Validation => VALIDATION_FOLD,
            Split::Test => TEST_FOLD,
        };
        let sample = |candidate: Candidate| {
            let fold = fold(&candidate);
            let Waveform::Recording(header) = candidate.waveform else {
                return None;
            };
            Some(Sample {
                id: candidate.id,
                patient: candidate.patient_hash,
                fold,
                report: candidate.report,
                scp: candidate.labels,
                strata: candidate.strata,
                header: Some(header),
            })
        };
        Ok(Self {
            samples: candidates.into_iter().filter_map(sample).collect(),
        })
    }

    /// Samples of the folds that `keep` accepts.
    pub fn of_folds(&self, keep: impl Fn(u8) -> bool) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| keep(sample.fold)).collect()
    }
}

impl From<PtbXl> for Corpus {
    fn from(data: PtbXl) -> Self {
        Self {
            samples: data.into_samples(),
        }
    }
}

/// The split of each patient.
///
/// # Errors
/// A patient in two splits.
pub fn splits(candidates: &[Candidate]) -> anyhow::Result<HashMap<String, Split>> {
    let mut splits = HashMap::new();
    for candidate in candidates {
        let split = candidate.split.unwrap_or_else(|| split_of(&candidate.patient_hash));
        let first = *splits.entry(candidate.patient_hash.clone()).or_insert(split);
        ensure!(
            first == split,
            "{} is of split {split:?}, another recording of its patient is of {first:?}",
            candidate.id
        );
    }
    Ok(splits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One recording of a patient, in a split.
    fn candidate(id: &str, patient: &str, split: Split) -> Candidate {
        Candidate {
            id: id.to_owned(),
            patient_hash: patient.to_owned(),
            origin: crate::sources::Origin::Base,
            split: Some(split),
            report: "sinus rhythm. normal ecg.".to_owned(),
            labels: Default::default(),
            strata: Vec::new(),
            waveform: Waveform::Recording(id.into()),
        }
    }

    #[test]
    fn splits_become_folds_and_a_patient_in_two_is_refused() {
        let (train, test) = (
            candidate("wfdb/a", "p", Split::Train),
            candidate("wfdb/b", "q", Split::Test),
        );
        let corpus = Corpus::of(vec![train.clone(), test.clone()]).unwrap();
        let folds: Vec<u8> = corpus.of_folds(|_| true).iter().map(|sample| sample.fold).collect();
        assert_eq!(folds, [TRAINING_FOLD, TEST_FOLD]);
        let torn = candidate("wfdb/c", "p", Split::Test);
        let error = Corpus::of(vec![train, test, torn]).err().unwrap().to_string();
        assert!(error.contains("wfdb/c") && error.contains("Train"), "{error}");
    }
}
