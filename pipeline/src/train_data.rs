//! What a training run reads: reports, recordings, tokens and auxiliary labels of the folds.
//!
//! Place: opened once, before the first step. Invariant: a function of the data set and the settings; folds 1-8 train, fold 9
//! validates, fold 10 is never opened.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::ensure;
use model::bundle::{TOKENIZER, load_tokenizer};
use model::prompt::{PromptTokenizer, instruction, response};
use sha2::{Digest, Sha256};

use crate::batch::{Row, row};
use crate::dataset::{Ecg, PtbXl, Sample, load_ecgs};
use crate::settings::TrainSettings;
use crate::tokenizer;

const VALIDATION_FOLD: u8 = 9;
const TEST_FOLD: u8 = 10;

/// Recordings with their token rows and auxiliary labels.
pub struct EcgSet {
    pub ecgs: Vec<Ecg>,
    pub rows: Vec<Row>,
    /// The same rows without evidence in the prompt.
    pub bare: Vec<Row>,
    /// 1 where the recording has the SCP statement.
    pub labels: Vec<Vec<f32>>,
}

/// Everything a run trains on and validates with.
pub struct TrainingData {
    pub tokenizer: PromptTokenizer,
    /// Reports of the training folds, with or without a recording.
    pub text: Vec<Row>,
    pub train: EcgSet,
    pub validation: EcgSet,
    /// Number of auxiliary labels.
    pub labels: usize,
    /// Binds a checkpoint to the data.
    pub sha256: String,
}

impl TrainingData {
    /// Reads what the settings ask for, trains the tokenizer into `out` and says what was found.
    ///
    /// # Errors
    /// A recording that cannot be read; fewer than one batch to train on; nothing to validate with; no SCP statement with
    /// enough recordings.
    pub fn open(settings: &TrainSettings, data: &PtbXl, out: &Path) -> anyhow::Result<Self> {
        let training = data.of_folds(|fold| fold != VALIDATION_FOLD && fold != TEST_FOLD);
        let validation = recorded(&data.of_folds(|fold| fold == VALIDATION_FOLD));
        let train = recorded(&training);
        ensure!(
            train.len() >= settings.batch,
            "{} training recordings: fewer than one batch",
            train.len()
        );
        ensure!(
            !validation.is_empty(),
            "no validation recording in fold {VALIDATION_FOLD}"
        );
        let codes = scp_labels(&train, settings.scp_positives_min);
        ensure!(
            !codes.is_empty(),
            "no SCP statement has {} training recordings",
            settings.scp_positives_min
        );
        let train_ecgs = load_ecgs(&train)?;
        let words = |ecg: &Ecg| settings.evidence.words(&ecg.measurements);
        let tokenizer = open_tokenizer(settings, &training, train_ecgs.iter().filter_map(words), out)?;
        let bare = |samples: &[&Sample]| {
            samples
                .iter()
                .map(|s| row(&tokenizer, &settings.prompt, None, &s.report))
                .collect::<Result<Vec<_>, _>>()
        };
        let set = |samples: &[&Sample], ecgs: Vec<Ecg>| -> anyhow::Result<EcgSet> {
            let rows = samples
                .iter()
                .zip(&ecgs)
                .map(|(s, ecg)| row(&tokenizer, &settings.prompt, words(ecg).as_deref(), &s.report));
            let labels = samples
                .iter()
                .map(|s| codes.iter().map(|c| f32::from(u8::from(s.scp.contains(c)))).collect());
            Ok(EcgSet {
                rows: rows.collect::<Result<_, _>>()?,
                bare: bare(samples)?,
                labels: labels.collect(),
                ecgs,
            })
        };
        let opened = Self {
            text: bare(&training)?,
            train: set(&train, train_ecgs)?,
            validation: set(&validation, load_ecgs(&validation)?)?,
            labels: codes.len(),
            sha256: data_sha256(&training),
            tokenizer,
        };
        eprintln!(
            "{} reports, {} recordings to train on, {} to validate on, {} SCP labels, {} tokens",
            opened.text.len(),
            train.len(),
            validation.len(),
            opened.labels,
            opened.tokenizer.size()
        );
        Ok(opened)
    }
}

fn recorded<'a>(samples: &[&'a Sample]) -> Vec<&'a Sample> {
    samples.iter().copied().filter(|s| s.header.is_some()).collect()
}

fn open_tokenizer(
    settings: &TrainSettings,
    training: &[&Sample],
    evidence: impl Iterator<Item = String>,
    out: &Path,
) -> anyhow::Result<PromptTokenizer> {
    let path = out.join(TOKENIZER);
    let prompt = instruction(&settings.prompt, None);
    let texts: Vec<String> = training
        .iter()
        .map(|s| response(&s.report))
        .chain(std::iter::repeat_n(prompt, 2))
        .chain(evidence.map(|words| instruction(&settings.prompt, Some(&words))))
        .collect();
    tokenizer::train(&texts, settings.vocabulary, &path)?;
    Ok(load_tokenizer(&path)?)
}

/// SCP statements with enough recordings, sorted.
fn scp_labels(recorded: &[&Sample], positives_min: usize) -> Vec<String> {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    for code in recorded.iter().flat_map(|s| &s.scp) {
        *counts.entry(code).or_default() += 1;
    }
    counts
        .into_iter()
        .filter(|(_, n)| *n >= positives_min)
        .map(|(code, _)| code.clone())
        .collect()
}

fn data_sha256(samples: &[&Sample]) -> String {
    let mut hash = Sha256::new();
    for sample in samples {
        hash.update(format!(
            "{}\t{}\t{}\n",
            sample.ecg_id,
            sample.header.is_some(),
            sample.report
        ));
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}
