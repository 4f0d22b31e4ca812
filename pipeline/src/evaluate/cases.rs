//! What is scored: recordings with the report a cardiologist wrote, and what the baselines may remember.
//!
//! Place: between the data sets and the ruler. Invariant: no case is in both the test set and the memory, and no patient of
//! PTB-XL either, as its folds are by patient.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::dataset::{PtbXl, Sample, Sex};

/// One recording and its report.
#[derive(Clone, Debug)]
pub struct Case {
    /// Header of the recording.
    pub header: PathBuf,
    /// The reference, lower-case.
    pub report: String,
    /// SCP statements of the data set; empty where it has none.
    pub scp: BTreeSet<String>,
    /// What it may be sliced by: axis ("sex", "age", "device", "class") and value.
    pub strata: Vec<(&'static str, String)>,
}

/// The cases to score, and those the baselines draw from.
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
    /// PTB-XL's rows of `folds` that have a recording; the other folds are the memory.
    ///
    /// # Errors
    /// A table that cannot be read; folds without a recording.
    pub fn ptbxl(data: &PtbXl, dir: &Path, folds: &[u8]) -> anyhow::Result<Self> {
        let kinds = kinds(&dir.join("scp_statements.csv"))?;
        let cases = |keep: bool| -> Vec<Case> {
            let samples = data.of_folds(|fold| folds.contains(&fold) == keep);
            samples.into_iter().filter_map(|s| case(s, &kinds)).collect()
        };
        let set = Self {
            cases: cases(true),
            memory: cases(false),
            memory_reports: data
                .of_folds(|fold| !folds.contains(&fold))
                .into_iter()
                .map(|sample| sample.report.clone())
                .collect(),
        };
        ensure!(!set.cases.is_empty(), "no recording in folds {folds:?}");
        Ok(set)
    }

    /// Keeps the first `limit` cases.
    pub fn truncate(&mut self, limit: Option<usize>) {
        self.cases.truncate(limit.unwrap_or(usize::MAX));
    }
}

fn case(sample: &Sample, kinds: &BTreeMap<String, String>) -> Option<Case> {
    let mut strata = Vec::new();
    strata.extend(sample.sex.map(|sex| ("sex", sex_name(sex).to_owned())));
    strata.extend(sample.age.map(|age| ("age", age_band(age).to_owned())));
    strata.extend((!sample.device.is_empty()).then(|| ("device", sample.device.clone())));
    let classes: BTreeSet<&String> = sample.scp.iter().filter_map(|code| kinds.get(code)).collect();
    strata.extend(classes.into_iter().map(|class| ("class", class.clone())));
    Some(Case {
        header: sample.header.clone()?,
        report: sample.report.clone(),
        scp: sample.scp.clone(),
        strata,
    })
}

fn sex_name(sex: Sex) -> &'static str {
    match sex {
        Sex::Male => "male",
        Sex::Female => "female",
    }
}

/// PTB-XL writes 300 for ages above 89.
fn age_band(age: f32) -> &'static str {
    match age {
        ..40.0 => "under 40",
        ..60.0 => "40 to 59",
        ..80.0 => "60 to 79",
        _ => "80 and over",
    }
}

/// Diagnostic class (NORM, MI, STTC, CD, HYP) of each SCP code; none of a data set without the table.
fn kinds(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    if !path.is_file() {
        return Ok(BTreeMap::new());
    }
    let mut reader = csv::Reader::from_path(path).with_context(|| format!("open {}", path.display()))?;
    let class = reader.headers()?.iter().position(|name| name == "diagnostic_class");
    let class = class.with_context(|| format!("{} has no column diagnostic_class", path.display()))?;
    let mut kinds = BTreeMap::new();
    for row in reader.records() {
        let row = row.with_context(|| format!("read {}", path.display()))?;
        let (code, class) = (&row[0], row.get(class).unwrap_or_default());
        if !class.is_empty() {
            kinds.insert(code.to_owned(), class.to_owned());
        }
    }
    Ok(kinds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_fall_into_the_band_that_their_name_says() {
        let bands = [18.0, 39.9, 40.0, 60.0, 79.0, 80.0, 300.0].map(age_band);
        assert_eq!(
            bands,
            [
                "under 40",
                "under 40",
                "40 to 59",
                "60 to 79",
                "60 to 79",
                "80 and over",
                "80 and over"
            ]
        );
    }
}
