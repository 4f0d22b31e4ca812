//! PTB-XL in its genuine layout, joined with English reports by ecg_id.
//!
//! Place: first stage of training and evaluation. Layout: ptbxl_database.csv, report_en.csv (ecg_id, report_en, reason) and
//! records500/. Invariant: rows are sorted by ecg_id, and a patient is in one fold only (PTB-XL's own folds).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ecg::segment::Measurements;
use model::meit::EcgInput;
use rayon::prelude::*;
use serde::Deserialize;

use crate::augment::millivolts;

/// One ECG of the data set.
#[derive(Clone, Debug)]
pub struct Sample {
    pub ecg_id: u32,
    pub patient_id: u32,
    pub fold: u8,
    pub report: String,
    /// SCP statements with a likelihood above zero, or of unknown likelihood.
    pub scp: BTreeSet<String>,
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
}

#[derive(Deserialize)]
struct DatabaseRow {
    ecg_id: u32,
    patient_id: f64,
    scp_codes: String,
    strat_fold: u8,
    filename_hr: String,
}

#[derive(Deserialize)]
struct ReportRow {
    ecg_id: u32,
    report_en: String,
    #[serde(default)]
    reason: String,
}

impl PtbXl {
    /// Reads the tables; rows whose report has a reason against it are left out.
    ///
    /// # Errors
    /// A table that cannot be read; no usable row.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let reports: BTreeMap<u32, String> = rows::<ReportRow>(&dir.join("report_en.csv"))?
            .into_iter()
            .filter(|row| row.reason.is_empty())
            .map(|row| (row.ecg_id, row.report_en.trim().to_lowercase()))
            .collect();
        let mut samples = Vec::new();
        for row in rows::<DatabaseRow>(&dir.join("ptbxl_database.csv"))? {
            let Some(report) = reports.get(&row.ecg_id) else {
                continue;
            };
            let header = dir.join(format!("{}.hea", row.filename_hr));
            samples.push(Sample {
                ecg_id: row.ecg_id,
                patient_id: row.patient_id as u32,
                fold: row.strat_fold,
                report: report.clone(),
                scp: scp_codes(&row.scp_codes),
                header: header.is_file().then_some(header),
            });
        }
        if samples.is_empty() {
            bail!("{} has no row with a usable report", dir.display());
        }
        samples.sort_by_key(|s| s.ecg_id);
        Ok(Self { samples })
    }

    /// Rows of the folds that `keep` accepts.
    pub fn of_folds(&self, keep: impl Fn(u8) -> bool) -> Vec<&Sample> {
        self.samples.iter().filter(|s| keep(s.fold)).collect()
    }
}

fn rows<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<Vec<T>> {
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
                .with_context(|| format!("ecg {} has no recording", sample.ecg_id))?;
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
    fn scp_codes_are_the_keys_of_the_dictionary() {
        let codes = scp_codes("{'NORM': 100.0, 'LVOLT': 0.0, 'SR': 0.0}");
        assert_eq!(codes.into_iter().collect::<Vec<_>>(), ["LVOLT", "NORM", "SR"]);
    }
}
