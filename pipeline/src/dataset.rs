//! PTB-XL in its genuine layout, with its reports in English.
//!
//! Place: first stage of training and evaluation. Layout: ptbxl_database.csv and records500/; a report_en.csv (ecg_id,
//! report_en, reason) beside them is joined by ecg_id, without one the reports are translated. Invariant: rows are sorted by
//! ecg_id, and a patient is in one fold only (PTB-XL's own folds).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ecg::segment::Measurements;
use model::meit::EcgInput;
use rayon::prelude::*;
use serde::Deserialize;

use crate::augment::millivolts;
use crate::strata::{self, Person, Stratum};
use crate::text_rules::translate::{COVERED_MIN, Language, Translator};
use crate::text_rules::{self, Drop};

/// One ECG of a data set.
#[derive(Clone, Debug)]
pub struct Sample {
    /// "ptbxl/00020", as in `sources`.
    pub id: String,
    /// The data set's own name of the patient.
    pub patient: String,
    pub fold: u8,
    pub report: String,
    /// SCP statements with a likelihood above zero, or of unknown likelihood.
    pub scp: BTreeSet<String>,
    /// What it may be sliced by.
    pub strata: Vec<Stratum>,
    /// Header path, where the recording is there.
    pub header: Option<PathBuf>,
}

/// A recording's first ten seconds as the chain that serves leaves them.
#[derive(Clone, Debug)]
pub struct Ecg {
    /// Filtered samples, lead-major 12 x 5000, one microvolt a unit.
    pub filtered: Vec<i16>,
    pub measurements: Measurements,
}

impl Ecg {
    pub fn input(&self) -> EcgInput {
        EcgInput {
            millivolts: millivolts(&self.filtered),
            measurements: self.measurements.clone(),
        }
    }
}

impl Default for Ecg {
    /// Ten seconds of nothing.
    fn default() -> Self {
        Self {
            filtered: vec![0; ecg::LEADS * ecg::SEGMENT_SAMPLES],
            measurements: Measurements::default(),
        }
    }
}

/// The data set's rows that are fit for training or scoring.
pub struct PtbXl {
    samples: Vec<Sample>,
    dropped: Vec<(u32, Drop)>,
}

#[derive(Deserialize)]
struct DatabaseRow {
    ecg_id: u32,
    patient_id: f64,
    scp_codes: String,
    strat_fold: u8,
    filename_hr: String,
    #[serde(default)]
    report: String,
    #[serde(default)]
    sex: Option<u8>,
    #[serde(default)]
    age: Option<f32>,
    #[serde(default)]
    device: String,
}

#[derive(Deserialize)]
struct ReportRow {
    ecg_id: u32,
    report_en: String,
    #[serde(default)]
    reason: String,
}

impl PtbXl {
    /// Reads the tables; rows whose report is unfit are left out.
    ///
    /// # Errors
    /// A table that cannot be read; no usable row.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let table = rows::<DatabaseRow>(&dir.join("ptbxl_database.csv"))?;
        let given = dir.join("report_en.csv");
        let reports = if given.is_file() {
            given_reports(&given)?
        } else {
            translated(&table)
        };
        let classes = strata::classes(&dir.join("scp_statements.csv"))?;
        let (mut samples, mut dropped) = (Vec::new(), Vec::new());
        for row in table {
            let report = match reports.get(&row.ecg_id) {
                Some(Ok(report)) => report.clone(),
                Some(Err(why)) => {
                    dropped.push((row.ecg_id, *why));
                    continue;
                }
                None => {
                    dropped.push((row.ecg_id, Drop::NoReport));
                    continue;
                }
            };
            let header = dir.join(format!("{}.hea", row.filename_hr));
            let scp = scp_codes(&row.scp_codes);
            let person = Person {
                sex: row.sex,
                age: row.age,
                device: &row.device,
            };
            samples.push(Sample {
                strata: strata::of_person(&person, &scp, &classes),
                id: format!("ptbxl/{:05}", row.ecg_id),
                patient: (row.patient_id as u32).to_string(),
                fold: row.strat_fold,
                report,
                scp,
                header: header.is_file().then_some(header),
            });
        }
        if samples.is_empty() {
            bail!("{} has no row with a usable report", dir.display());
        }
        samples.sort_by(|a, b| a.id.cmp(&b.id));
        dropped.sort_unstable();
        Ok(Self { samples, dropped })
    }

    /// Rows that were left out, by ecg_id, with the reason.
    pub fn dropped(&self) -> &[(u32, Drop)] {
        &self.dropped
    }

    /// Every usable row.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    pub(crate) fn into_samples(self) -> Vec<Sample> {
        self.samples
    }
}

/// Reports of report_en.csv, by the text rules; a reason against one is a drop.
fn given_reports(path: &Path) -> anyhow::Result<BTreeMap<u32, Result<String, Drop>>> {
    let report = |row: ReportRow| {
        let reason = match row.reason.as_str() {
            "" => return (row.ecg_id, text_rules::report([row.report_en.as_str()])),
            "empty" => Drop::NoReport,
            "boilerplate only" => Drop::Boilerplate,
            "translation incomplete" => Drop::Untranslated,
            share if share.starts_with("covered") => Drop::Untranslated,
            _ => Drop::TooShort,
        };
        (row.ecg_id, Err(reason))
    };
    Ok(rows::<ReportRow>(path)?.into_iter().map(report).collect())
}

/// The table's own reports, translated.
fn translated(table: &[DatabaseRow]) -> BTreeMap<u32, Result<String, Drop>> {
    let sources: Vec<&str> = table.iter().map(|row| row.report.as_str()).collect();
    let translator = Translator::learn(&sources);
    let report = |row: &DatabaseRow| {
        let done = translator.translate(&row.report);
        let kept = match done.language {
            Language::None if row.report.trim().is_empty() => Err(Drop::NoReport),
            Language::None => Err(Drop::Boilerplate),
            _ if done.covered < COVERED_MIN => Err(Drop::Untranslated),
            _ => text_rules::report([done.english.as_str()]),
        };
        (row.ecg_id, kept)
    };
    table.par_iter().map(report).collect()
}

pub(crate) fn rows<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<Vec<T>> {
    let mut reader = csv::Reader::from_path(path).with_context(|| format!("open {}", path.display()))?;
    reader
        .deserialize()
        .collect::<Result<_, _>>()
        .with_context(|| format!("read {}", path.display()))
}

/// Keys of the database's `{'NORM': 100.0, 'SR': 0.0}`; a likelihood of 0 means unknown there.
fn scp_codes(text: &str) -> BTreeSet<String> {
    text.split('\'').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Reads, resamples and filters the recordings, with the chain that serves; in the order given.
///
/// # Errors
/// A sample without a recording, or a recording that cannot be read.
pub fn load_ecgs(samples: &[&Sample]) -> anyhow::Result<Vec<Ecg>> {
    let config = ecg::dsp::DspConfig::default();
    samples
        .par_iter()
        .map(|sample| {
            let header = sample
                .header
                .as_deref()
                .with_context(|| format!("{} has no recording", sample.id))?;
            let record = ecg::wfdb::read(header).with_context(|| format!("read {}", header.display()))?;
            let segment = ecg::dsp::analyse(&record.context()?, &config);
            Ok(Ecg {
                filtered: segment.filtered,
                measurements: segment.measurements,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_reports_are_translated_as_the_table_of_translations_has_them() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/ptbxl");
        let table = rows::<DatabaseRow>(&shipped.join("ptbxl_database.csv")).unwrap();
        let mut expected = given_reports(&shipped.join("report_en.csv")).unwrap();
        let mut got = translated(&table);
        // the end of a text that was cut at 255 characters is completed from the whole corpus, which is not shipped
        for row in table.iter().filter(|row| row.report.chars().count() >= 250) {
            expected.remove(&row.ecg_id);
            got.remove(&row.ecg_id);
        }
        assert!(got.len() > 20, "{} reports are left", got.len());
        assert_eq!(got, expected);
    }

    #[test]
    fn given_reports_go_by_the_text_rules_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report_en.csv");
        let table = "ecg_id,report_en,reason\n1,Sinus rhythm. nan. Normal EKG.,\n2,normal,\n3,,\n4,x,empty\n";
        std::fs::write(&path, table).unwrap();
        let given = given_reports(&path).unwrap();
        assert_eq!(given[&1], Ok("sinus rhythm. normal ecg.".to_owned()));
        assert_eq!((&given[&2], &given[&3]), (&Err(Drop::TooShort), &Err(Drop::NoReport)));
        assert_eq!(given[&4], Err(Drop::NoReport));
    }

    #[test]
    fn scp_codes_are_the_keys_of_the_dictionary() {
        let codes = scp_codes("{'NORM': 100.0, 'LVOLT': 0.0, 'SR': 0.0}");
        assert_eq!(codes.into_iter().collect::<Vec<_>>(), ["LVOLT", "NORM", "SR"]);
    }
}
