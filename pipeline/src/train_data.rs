//! What a training run reads: reports, recordings, tokens and labels of the folds.
//!
//! Place: opened once, before the first step. Invariant: a function of the data set and the settings; folds 1-8 train, fold 9
//! validates, fold 10 is never opened.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::ensure;
use ecg::segment::Measurements;
use model::bundle::{TOKENIZER, load_tokenizer};
use model::evidence::Evidence;
use model::morphology::morphology;
use model::prompt::{PromptTokenizer, instruction, response};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::batch::{Row, row};
use crate::corpus::{Corpus, TEST_FOLD, VALIDATION_FOLD};
use crate::dataset::{Ecg, Sample, load_ecgs};
use crate::prompts::Prompts;
use crate::rates;
use crate::settings::TrainSettings;
use crate::statements::Statements;
use crate::tokenizer;

/// A report, what was measured beside it, and which statements it names.
pub struct Told {
    /// Prompt before the report in training.
    pub prompt: String,
    pub report: String,
    pub measurements: Measurements,
    /// Places among the run's statements, rising.
    pub named: Vec<usize>,
}

/// Recordings with their reports and labels.
pub struct EcgSet {
    pub ecgs: Vec<Ecg>,
    /// What the head of the statements sees beside the encoder's frames.
    pub morphology: Vec<Vec<f32>>,
    pub told: Vec<Told>,
    /// 1 where the report names the statement, then 1 where the recording has the SCP statement.
    pub labels: Vec<Vec<f32>>,
}

/// Everything a run trains on and validates with.
pub struct TrainingData {
    pub tokenizer: PromptTokenizer,
    /// Reports of the training folds, with or without a recording; of what is measured only a rate, which `rates` lends.
    pub text: Vec<Told>,
    pub train: EcgSet,
    pub validation: EcgSet,
    /// What the head of the findings names.
    pub statements: Statements,
    /// Number of SCP labels.
    pub scp: usize,
    evidence: Evidence,
    /// Binds a checkpoint to the data.
    pub sha256: String,
}

impl TrainingData {
    /// Reads what the settings ask for, trains the tokenizer into `out` and says what was found.
    ///
    /// # Errors
    /// A recording that cannot be read; fewer than one batch to train on; nothing to validate with; no SCP statement that enough
    /// reports name.
    pub fn open(settings: &TrainSettings, data: &Corpus, out: &Path) -> anyhow::Result<Self> {
        let training = data.of_folds(|fold| fold != VALIDATION_FOLD && fold != TEST_FOLD);
        let validation = recorded(&data.of_folds(|fold| fold == VALIDATION_FOLD));
        let train = recorded(&training);
        ensure!(
            train.len() >= settings.batch && !validation.is_empty(),
            "{} recordings to train on and {} to validate on: a batch of {} and one are needed",
            train.len(),
            validation.len(),
            settings.batch
        );
        let statements = Statements::of(train.iter().map(|s| s.report.as_str()), settings.positives_min);
        let codes = scp_labels(&train, settings.positives_min);
        ensure!(
            !statements.is_empty(),
            "no SCP statement is named by {} training reports",
            settings.positives_min
        );
        let prompts = settings.prompt_set()?;
        let told = |sample: &&Sample, measurements: Measurements| Told {
            // drafts have the one prompt, so validation has it too
            prompt: match sample.fold {
                VALIDATION_FOLD => settings.prompt().to_owned(),
                _ => prompts.draw(&sample.id, settings.seed).to_owned(),
            },
            named: statements.named(&sample.report),
            report: sample.report.clone(),
            measurements,
        };
        let set = |samples: &[&Sample]| -> anyhow::Result<EcgSet> {
            let ecgs = load_ecgs(samples)?;
            let told = samples
                .iter()
                .zip(&ecgs)
                .map(|(sample, ecg)| told(sample, ecg.measurements.clone()));
            let told: Vec<Told> = told.collect();
            Ok(EcgSet {
                labels: labels(samples, &told, statements.len(), &codes),
                morphology: ecgs.par_iter().map(|ecg| morphology(&ecg.input())).collect(),
                told,
                ecgs,
            })
        };
        let train_set = set(&train)?;
        let mut text: Vec<Told> = training.par_iter().map(|s| told(s, Measurements::default())).collect();
        // the only evidence that the text stage tells
        if settings.evidence().tells_findings() {
            let lent = rates::lend(&mut text, &train_set.told, &statements, settings.seed);
            eprintln!(
                "{lent} of {} reports are told a rate of a recording with their rhythm",
                text.len()
            );
        }
        let words = |told: &Told| evidence(settings.evidence(), &statements, told, &told.named);
        let tokenizer = open_tokenizer(
            settings,
            &prompts,
            &training,
            train_set.told.iter().filter_map(words),
            out,
        )?;
        let opened = Self {
            text,
            train: train_set,
            validation: set(&validation)?,
            scp: codes.len(),
            sha256: data_sha256(&training),
            evidence: settings.evidence(),
            tokenizer,
            statements,
        };
        eprintln!("{}", opened.found());
        Ok(opened)
    }

    /// What was found, as a line for people.
    fn found(&self) -> String {
        format!(
            "{} reports, {} recordings to train on, {} to validate on, {} statements, {} SCP labels, {} tokens",
            self.text.len(),
            self.train.ecgs.len(),
            self.validation.ecgs.len(),
            self.statements.len(),
            self.scp,
            self.tokenizer.size()
        )
    }

    /// A report after a prompt that tells its measurements and these statements, as far as the run's evidence goes.
    ///
    /// # Errors
    /// A text that cannot be encoded.
    pub fn row(&self, told: &Told, named: &[usize]) -> model::error::Result<Row> {
        let evidence = evidence(self.evidence, &self.statements, told, named);
        row(&self.tokenizer, &told.prompt, evidence.as_deref(), &told.report)
    }

    /// A report after a prompt that tells nothing.
    ///
    /// # Errors
    /// A text that cannot be encoded.
    pub fn bare(&self, told: &Told) -> model::error::Result<Row> {
        row(&self.tokenizer, &told.prompt, None, &told.report)
    }
}

fn evidence(evidence: Evidence, statements: &Statements, told: &Told, named: &[usize]) -> Option<String> {
    let names = statements.names(named);
    evidence.words(
        &told.measurements,
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    )
}

fn recorded<'a>(samples: &[&'a Sample]) -> Vec<&'a Sample> {
    samples.iter().copied().filter(|s| s.header.is_some()).collect()
}

fn open_tokenizer(
    settings: &TrainSettings,
    prompts: &Prompts,
    training: &[&Sample],
    evidence: impl Iterator<Item = String>,
    out: &Path,
) -> anyhow::Result<PromptTokenizer> {
    let path = out.join(TOKENIZER);
    if settings.base.is_some() {
        return Ok(load_tokenizer(&path)?); // the base's own lies there
    }
    let prompts = prompts.all().iter().map(|prompt| instruction(prompt, None));
    let texts: Vec<String> = training
        .iter()
        .map(|s| response(&s.report))
        .chain(prompts.flat_map(|prompt| std::iter::repeat_n(prompt, 2)))
        .chain(evidence.map(|words| instruction(settings.prompt(), Some(&words))))
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

/// 1 where a report names a statement, then 1 where a recording has an SCP statement.
fn labels(samples: &[&Sample], told: &[Told], statements: usize, codes: &[String]) -> Vec<Vec<f32>> {
    let of = |(sample, told): (&&Sample, &Told)| {
        let named = (0..statements).map(|at| told.named.contains(&at));
        let has = codes.iter().map(|code| sample.scp.contains(code));
        named.chain(has).map(|holds| f32::from(u8::from(holds))).collect()
    };
    samples.iter().zip(told).map(of).collect()
}

fn data_sha256(samples: &[&Sample]) -> String {
    let mut hash = Sha256::new();
    for sample in samples {
        hash.update(format!(
            "{}\t{}\t{}\n",
            sample.id,
            sample.header.is_some(),
            sample.report
        ));
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}
