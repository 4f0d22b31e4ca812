//! PTB-XL as a source.
//!
//! Place: under `sources`. Invariant: PTB-XL's own folds decide the split (9 validation, 10 test), because the shipped base
//! was trained on folds 1 to 8.

use std::path::Path;

use super::{Candidate, Origin, Sourced, Split, Waveform, patient_hash};
use crate::corpus::{TEST_FOLD, VALIDATION_FOLD};
use crate::dataset::{PtbXl, Sample};
use crate::text_rules::Drop;

pub(super) fn read(dir: &Path) -> anyhow::Result<Sourced> {
    let data = PtbXl::open(dir)?;
    let mut sourced = Sourced::default();
    for &(_, why) in data.dropped() {
        sourced.drop(why);
    }
    for sample in data.samples() {
        sourced.add(candidate(sample));
    }
    Ok(sourced)
}

fn candidate(sample: &Sample) -> Result<Candidate, Drop> {
    let header = sample.header.clone().ok_or(Drop::NoRecording)?;
    Ok(Candidate {
        id: sample.id.clone(),
        patient_hash: patient_hash("ptbxl", &sample.patient),
        origin: Origin::Base,
        split: Some(match sample.fold {
            VALIDATION_FOLD => Split::Validation,
            TEST_FOLD => Split::Test,
            _ => Split::Train,
        }),
        report: sample.report.clone(),
        labels: sample.scp.clone(),
        strata: sample.strata.clone(),
        waveform: Waveform::Recording(header),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_recordings_are_candidates_under_stable_ids() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/ptbxl");
        let sourced = read(&shipped).unwrap().sorted();
        assert_eq!(sourced.candidates.len(), 24);
        assert_eq!(sourced.candidates[0].id, "ptbxl/00020");
        assert_eq!(sourced.candidates[0].split, Some(Split::Validation));
        assert!(sourced.dropped.is_empty());
    }
}
