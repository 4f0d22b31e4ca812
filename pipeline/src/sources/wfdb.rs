//! A directory of WFDB recordings with reports.jsonl.
//!
//! Place: under `sources`. A line: {"record": "sub/name", "report": "...", "patient": "...", "labels": [...],
//! "strata": {...}, "split": "train"};
//! all but record and report may be missing. Invariant: a recording without a patient counts as a patient of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use super::{Candidate, Origin, Sourced, Split, Waveform, patient_hash};
use crate::text_rules::{self, Drop};

const REPORTS: &str = "reports.jsonl";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    record: String,
    report: String,
    #[serde(default)]
    patient: Option<String>,
    #[serde(default)]
    labels: BTreeSet<String>,
    /// Axis to value, such as "sex" to "female".
    #[serde(default)]
    strata: BTreeMap<String, String>,
    #[serde(default)]
    split: Option<Split>,
}

pub(super) fn read(dir: &Path) -> anyhow::Result<Sourced> {
    let mut sourced = Sourced::default();
    let mut seen = BTreeSet::new();
    for line in lines::<Line>(&dir.join(REPORTS))? {
        if !seen.insert(line.record.clone()) {
            sourced.drop(Drop::Duplicate);
            continue;
        }
        sourced.add(candidate(dir, line));
    }
    Ok(sourced)
}

/// The values of a JSONL file; blank lines are skipped.
///
/// # Errors
/// A file that cannot be read; a line that is not the value, with its number.
pub(super) fn lines<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<Vec<T>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let value = |(i, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("parse {} line {}", path.display(), i + 1))
    };
    numbered.map(value).collect()
}

fn candidate(dir: &Path, line: Line) -> Result<Candidate, Drop> {
    let report = text_rules::report([line.report.as_str()])?;
    let header = dir.join(format!("{}.hea", line.record));
    if !header.is_file() {
        return Err(Drop::NoRecording);
    }
    Ok(Candidate {
        id: format!("wfdb/{}", line.record),
        patient_hash: patient_hash("wfdb", line.patient.as_deref().unwrap_or(&line.record)),
        origin: Origin::Base,
        split: line.split,
        report,
        labels: line.labels,
        strata: line.strata.into_iter().collect(),
        waveform: Waveform::Recording(header),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_recordings_and_a_bad_line_is_named_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.hea"), "").unwrap();
        let good = r#"{"record":"a","report":"Sinus rhythm. Normal EKG.","patient":"7","split":"test"}"#;
        let missing = r#"{"record":"b","report":"Sinus rhythm. Normal EKG."}"#;
        std::fs::write(dir.path().join(REPORTS), format!("{good}\n\n{missing}\n{good}\n")).unwrap();
        let sourced = read(dir.path()).unwrap();
        assert_eq!(sourced.candidates[0].report, "sinus rhythm. normal ecg.");
        assert_eq!(sourced.candidates[0].split, Some(Split::Test));
        let dropped: Vec<_> = sourced.dropped.into_iter().collect();
        assert_eq!(dropped, [(Drop::NoRecording, 1), (Drop::Duplicate, 1)]);
        std::fs::write(dir.path().join(REPORTS), format!("{good}\n{{}}\n")).unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("line 2"));
    }
}
