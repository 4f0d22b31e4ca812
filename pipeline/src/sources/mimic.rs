//! MIMIC-IV-ECG in its genuine layout: record_list.csv, machine_measurements.csv (report_0 to report_17), WFDB files.
//!
//! Place: under `sources`. Invariant: report and recording are joined by study_id, never by row, and only where both tables
//! name the same subject; leads are placed by the names in each header (files store aVF before aVL).

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use super::{Candidate, Origin, Sourced, Waveform, patient_hash};
use crate::dataset::rows;
use crate::text_rules::{self, Drop};

/// Columns report_0 to report_17.
const REPORTS: usize = 18;

#[derive(Deserialize)]
struct ListRow {
    subject_id: u64,
    study_id: u64,
    path: String,
}

/// The statements of one study.
struct Study {
    subject: u64,
    statements: Vec<String>,
}

pub(super) fn read(dir: &Path) -> anyhow::Result<Sourced> {
    let studies = studies(&dir.join("machine_measurements.csv"))?;
    let mut sourced = Sourced::default();
    let mut seen = std::collections::HashSet::new();
    for row in rows::<ListRow>(&dir.join("record_list.csv"))? {
        if seen.insert(row.study_id) {
            sourced.add(candidate(dir, &row, studies.get(&row.study_id)));
        } else {
            sourced.drop(Drop::Duplicate);
        }
    }
    for _ in studies.keys().filter(|study| !seen.contains(study)) {
        sourced.drop(Drop::NoRecording);
    }
    Ok(sourced)
}

fn candidate(dir: &Path, row: &ListRow, study: Option<&Study>) -> Result<Candidate, Drop> {
    let study = study.ok_or(Drop::NoReport)?;
    if study.subject != row.subject_id {
        return Err(Drop::JoinMismatch);
    }
    let report = text_rules::report(study.statements.iter().map(String::as_str))?;
    let header = dir.join(format!("{}.hea", row.path));
    if !header.is_file() {
        return Err(Drop::NoRecording);
    }
    Ok(Candidate {
        id: format!("mimic/{}", row.study_id),
        patient_hash: patient_hash("mimic", &row.subject_id.to_string()),
        origin: Origin::Base,
        split: None,
        report,
        labels: Default::default(),
        strata: Vec::new(),
        waveform: Waveform::Recording(header),
    })
}

fn studies(path: &Path) -> anyhow::Result<HashMap<u64, Study>> {
    let mut reader = csv::Reader::from_path(path).with_context(|| format!("open {}", path.display()))?;
    let header = reader
        .headers()
        .with_context(|| format!("read {}", path.display()))?
        .clone();
    let column = |name: &str| {
        let found = header.iter().position(|column| column == name);
        found.with_context(|| format!("{} lacks column {name}", path.display()))
    };
    let (subject, study) = (column("subject_id")?, column("study_id")?);
    let reports = (0..REPORTS)
        .map(|i| column(&format!("report_{i}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut studies = HashMap::new();
    for row in reader.records() {
        let row = row.with_context(|| format!("read {}", path.display()))?;
        let id = |at: usize, name: &str| -> anyhow::Result<u64> {
            row[at]
                .parse()
                .with_context(|| format!("{} {name} is {:?}: expected a number", path.display(), &row[at]))
        };
        let statements = reports.iter().map(|&at| row[at].to_owned()).filter(|s| !s.is_empty());
        studies.insert(
            id(study, "study_id")?,
            Study {
                subject: id(subject, "subject_id")?,
                statements: statements.collect(),
            },
        );
    }
    Ok(studies)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A study and a patient for each recording in files/, whose headers are made where they are missing.
    pub(crate) fn layout_of(dir: &Path, recordings: &[String]) {
        let names: Vec<String> = (0..REPORTS).map(|i| format!("report_{i}")).collect();
        let mut list = "subject_id,study_id,file_name,ecg_time,path\n".to_owned();
        let mut table = format!("subject_id,study_id,{}\n", names.join(","));
        std::fs::create_dir_all(dir.join("files")).unwrap();
        for (i, name) in recordings.iter().enumerate() {
            let (subject, study) = (20_000_000 + i, 40_000_000 + i);
            let header = dir.join(format!("files/{name}.hea"));
            if !header.exists() {
                std::fs::write(header, "").unwrap();
            }
            list += &format!("{subject},{study},{name},2180-07-23 08:44:00,files/{name}\n");
            table += &format!(
                "{subject},{study},Sinus rhythm with {i} premature beats{}\n",
                ",".repeat(REPORTS - 1)
            );
        }
        std::fs::write(dir.join("record_list.csv"), list).unwrap();
        std::fs::write(dir.join("machine_measurements.csv"), table).unwrap();
    }

    /// Three studies; the second table has another order, one study of another subject, and one without a recording.
    fn layout(dir: &Path) {
        std::fs::create_dir_all(dir.join("files/p1000/p10000032/s40689238")).unwrap();
        std::fs::write(dir.join("files/p1000/p10000032/s40689238/40689238.hea"), "").unwrap();
        std::fs::write(
            dir.join("record_list.csv"),
            "subject_id,study_id,file_name,ecg_time,path\n\
             10000032,40689238,40689238,2180-07-23 08:44:00,files/p1000/p10000032/s40689238/40689238\n\
             10000117,44391049,44391049,2180-07-23 09:00:00,files/p1000/p10000117/s44391049/44391049\n\
             10000560,41302341,41302341,2180-07-23 09:54:00,files/p1000/p10000560/s41302341/41302341\n",
        )
        .unwrap();
        let names: Vec<String> = (0..REPORTS).map(|i| format!("report_{i}")).collect();
        let row = |ids: &str, statements: &[&str]| {
            let mut cells = vec![String::new(); REPORTS];
            for (cell, statement) in cells.iter_mut().zip(statements) {
                *cell = format!("\"{statement}\"");
            }
            format!("{ids},{},0.05-150 Hz\n", cells.join(","))
        };
        let table = format!("subject_id,study_id,cart_id,{},bandwidth\n", names.join(","))
            + &row("10000117,41302341,1", &["Sinus rhythm with PACs"])
            + &row(
                "10000032,40689238,1",
                &[
                    "Sinus rhythm",
                    "Possible inferior infarct, age undetermined",
                    "Abnormal EKG",
                ],
            )
            + &row("10000999,49999999,1", &["Sinus rhythm with many PVCs"])
            + &row("10000117,44391049,1", &["Sinus rhythm with many PVCs"]);
        std::fs::write(dir.join("machine_measurements.csv"), table).unwrap();
    }

    #[test]
    fn studies_are_joined_by_id_and_every_other_row_has_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        layout(dir.path());
        let sourced = read(dir.path()).unwrap();
        let [only] = &sourced.candidates[..] else {
            panic!("{:?}", sourced.candidates)
        };
        assert_eq!(only.id, "mimic/40689238");
        assert_eq!(
            only.report,
            "sinus rhythm. possible inferior infarct, age undetermined. abnormal ecg."
        );
        let dropped: Vec<_> = sourced.dropped.into_iter().collect();
        assert_eq!(dropped, [(Drop::NoRecording, 2), (Drop::JoinMismatch, 1)]);
    }

    #[test]
    fn a_table_without_its_columns_is_named() {
        let dir = tempfile::tempdir().unwrap();
        layout(dir.path());
        std::fs::write(
            dir.path().join("machine_measurements.csv"),
            "subject_id,study_id,report_0\n",
        )
        .unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("report_1"), "{error}");
    }
}
