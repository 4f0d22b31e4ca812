//! What is scored: recordings with the report a cardiologist wrote, and what the baselines may remember.
//!
//! Place: between the data sets and the ruler. Invariant: no case and no patient is in both the test set and the memory:
//! PTB-XL's folds are by patient, and the split of other sources is too; nor does a baseline draw a patient's own reports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{bail, ensure};
use rand::SeedableRng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;

use crate::corpus::splits;
use crate::dataset::{PtbXl, Sample};
use crate::sources::{Candidate, Source, Split, Waveform};
use crate::strata::Stratum;

/// One recording and its report.
#[derive(Clone, Debug)]
pub struct Case {
    /// Header of the recording.
    pub header: PathBuf,
    /// Whose it is; of a data set's own patients alone.
    pub patient: String,
    /// The reference, lower-case.
    pub report: String,
    /// SCP statements of the data set; empty where it has none.
    pub scp: BTreeSet<String>,
    /// What it may be sliced by.
    pub strata: Vec<Stratum>,
}

/// The cases to score, and those the baselines draw from. Where there are none of those, the baselines draw from the scored cases of
/// other patients.
#[derive(Default)]
pub struct TestSet {
    /// Scored.
    pub cases: Vec<Case>,
    /// Recordings of the retrieval baseline.
    pub memory: Vec<Case>,
    /// Reports of the most-frequent baseline; recordings need not be there.
    pub memory_reports: Vec<String>,
}

impl TestSet {
    /// The recordings of a data set: `folds` of PTB-XL, the test split of MIMIC-IV-ECG and of WFDB with JSONL; the rest is the
    /// memory.
    ///
    /// # Errors
    /// A table that cannot be read; a kind of source that has no recordings of its own; a patient in two splits; nothing to score.
    pub fn open(source: &Source, folds: &[u8]) -> anyhow::Result<Self> {
        let set = match source {
            Source::PtbXl(dir) => Self::ptbxl(&PtbXl::open(dir)?, folds),
            Source::Mimic(_) | Source::Wfdb(_) => Self::of(source.read(&BTreeMap::new(), None)?.candidates)?,
            _ => bail!("dataset is {source}: expected ptbxl:DIR, mimic:DIR or wfdb:DIR"),
        };
        let place = match source {
            Source::PtbXl(_) => format!("folds {folds:?}"),
            _ => "the test split".to_owned(),
        };
        ensure!(!set.cases.is_empty(), "no recording in {place} of {source}");
        Ok(set)
    }

    fn ptbxl(data: &PtbXl, folds: &[u8]) -> Self {
        let samples = |tested: bool| {
            let all = data.samples().iter();
            all.filter(move |sample| folds.contains(&sample.fold) == tested)
        };
        let cases = |tested: bool| samples(tested).filter_map(case).collect();
        Self {
            cases: cases(true),
            memory: cases(false),
            memory_reports: samples(false).map(|sample| sample.report.clone()).collect(),
        }
    }

    fn of(candidates: Vec<Candidate>) -> anyhow::Result<Self> {
        let splits = splits(&candidates)?;
        let mut set = Self::default();
        for candidate in candidates {
            let Waveform::Recording(header) = candidate.waveform else {
                continue;
            };
            let split = splits[&candidate.patient_hash];
            let case = Case {
                header,
                patient: candidate.patient_hash,
                report: candidate.report,
                scp: candidate.labels,
                strata: candidate.strata,
            };
            if split == Split::Test {
                set.cases.push(case);
            } else {
                set.memory_reports.push(case.report.clone());
                set.memory.push(case);
            }
        }
        Ok(set)
    }

    /// Keeps the first `limit` cases, and at most `memory_max` recordings of the memory, drawn by `seed`.
    pub fn limit(&mut self, limit: Option<usize>, memory_max: usize, seed: u64) {
        self.cases.truncate(limit.unwrap_or(usize::MAX));
        if self.memory.len() > memory_max {
            let mut drawn = sample(&mut ChaCha8Rng::seed_from_u64(seed), self.memory.len(), memory_max).into_vec();
            drawn.sort_unstable();
            self.memory = drawn.into_iter().map(|at| self.memory[at].clone()).collect();
        }
    }
}

fn case(sample: &Sample) -> Option<Case> {
    Some(Case {
        header: sample.header.clone()?,
        patient: sample.patient.clone(),
        report: sample.report.clone(),
        scp: sample.scp.clone(),
        strata: sample.strata.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curate::split_of;

    #[test]
    fn mimic_is_read_as_curation_reads_it_and_split_by_patient() {
        let dir = tempfile::tempdir().unwrap();
        let recordings: Vec<String> = (0..40).map(|i| format!("r{i}")).collect();
        crate::sources::mimic_layout(dir.path(), &recordings);
        let source = Source::Mimic(dir.path().to_owned());
        let mut set = TestSet::open(&source, &[9]).unwrap();
        let candidates = source.read(&BTreeMap::new(), None).unwrap().candidates;
        assert_eq!(set.cases.len() + set.memory.len(), candidates.len());
        for candidate in &candidates {
            let Waveform::Recording(header) = &candidate.waveform else {
                panic!("MIMIC has recordings")
            };
            let tested = set
                .cases
                .iter()
                .any(|case| case.header == *header && case.report == candidate.report);
            assert_eq!(
                tested,
                split_of(&candidate.patient_hash) == Split::Test,
                "{}",
                candidate.id
            );
        }
        let memory = set.memory.clone();
        set.limit(Some(1), 7, 3);
        assert_eq!(
            (set.cases.len(), set.memory.len(), set.memory_reports.len()),
            (1, 7, memory.len())
        );
        assert!(
            set.memory
                .iter()
                .all(|case| memory.iter().any(|m| m.header == case.header))
        );
    }

    #[test]
    fn a_source_of_signed_reports_is_no_test_set() {
        let error = TestSet::open(&Source::Signed("x".into()), &[9]).err().unwrap();
        assert_eq!(
            error.to_string(),
            "dataset is signed:x: expected ptbxl:DIR, mimic:DIR or wfdb:DIR"
        );
    }
}
