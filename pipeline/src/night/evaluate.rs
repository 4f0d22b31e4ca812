//! Candidate and champion on the same test samples, by the ruler.
//!
//! Place: third step of the job. Invariant: both draft the same recordings with the same options, and a resample draws the same
//! samples for both; the prompt is never part of a scored text; a text that is unfit to be read counts as an abstention and as
//! an empty text. Every figure is a function of some samples, so that the whole set, a slice and a resample are scored alike.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Context as _;
use ecg::segment::Decision;
use ecg::window::Context;
use ecg::{LEADS, SEGMENT_SAMPLES};
use model::bundle::Bundle;
use model::checks::contradictions;
use model::validate::validate;
use rayon::prelude::*;
use score::wordnet::WordNet;
use serde::{Deserialize, Serialize};

use super::settings::PipelineSection;
use crate::bertscore::{BertScoreArgs, BertScorer};
use crate::dataset::Ecg;
use crate::evaluate::SLICE_MIN;
use crate::evaluate::baselines::{self, derangement};
use crate::evaluate::noise::Disturbance;
use crate::evaluate::readings;
use crate::evaluate::ruler::{self, Ruler, interval};
use crate::gate::{Intervals, Metrics, slice_of};
use crate::manifest::{Dataset, Sample, sha256};
use crate::sources::{Origin, Split};
use crate::strata;

/// Test samples whose noisy versions are put before the gate of the stream, and the ratio of the white noise on them.
const NOISY_SAMPLES: usize = 100;
const NOISY_SNR_DB: f64 = -6.0;
/// Every figure; `bertscore_f1` where there is a model for it, `clinical_f1_macro` where a class is frequent enough.
pub const METRICS: [&str; 17] = [
    "abstain_rate",
    "bertscore_f1",
    "bleu1",
    "bleu2",
    "bleu3",
    "bleu4",
    "cider_d",
    "clinical_f1_macro",
    "clinical_f1_micro",
    "contradiction_rate",
    "ecg_use",
    "ecg_use_zeroed",
    "meteor",
    "noise_refusal",
    "rouge1_f",
    "rouge2_f",
    "rouge_l",
];
/// Training samples that the retrieval baseline remembers.
const MEMORY_MAX: usize = 2000;

/// True for METRIC, and for METRIC@AXIS=VALUE.
pub fn is_metric(name: &str) -> bool {
    let (metric, slice) = slice_of(name);
    METRICS.contains(&metric) && slice.is_none_or(|slice| slice.contains('='))
}

/// What a bundle wrote about the test samples, and how well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    pub bundle_id: String,
    /// By metric, and by METRIC@AXIS=VALUE for each slice of at least 20 samples.
    pub metrics: Metrics,
    /// One text a test sample; empty where it abstained.
    pub texts: Vec<String>,
}

/// The test samples of a data set, at most `max` of them, drawn by hash and sorted.
pub fn test_set(data: &Dataset, max: usize, seed: u64) -> Vec<usize> {
    let mut test = data.indices(|s| s.split == Split::Test);
    test.sort_by_cached_key(|&i| sha256(format!("test\0{seed}\0{}", data.samples()[i].id).as_bytes()));
    test.truncate(max);
    test.sort_unstable();
    test
}

/// What the settings name for metrics.
///
/// # Errors
/// A WordNet directory or model for BERTScore that cannot be read.
pub fn tools(settings: &PipelineSection) -> anyhow::Result<(Option<WordNet>, Option<BertScorer>)> {
    let given = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
    let wordnet = given(&settings.wordnet).map(|dir| WordNet::open(&dir)).transpose();
    let bertscore = BertScoreArgs {
        dir: given(&settings.bertscore),
        ..BertScoreArgs::default()
    };
    let scorer = BertScorer::open(&bertscore).context("open pipeline.bertscore")?;
    Ok((wordnet.context("read pipeline.wordnet")?, scorer))
}

/// The test samples with everything that is the same for every bundle.
pub struct Exam<'a> {
    data: &'a Dataset,
    samples: Vec<&'a Sample>,
    ecgs: Vec<Ecg>,
    ruler: Ruler,
    scorer: Option<BertScorer>,
    /// Samples of each slice, as AXIS=VALUE.
    slices: BTreeMap<String, Vec<usize>>,
    noise_refusal: f64,
    seed: u64,
}

/// A bundle's answers, sample by sample.
pub struct Answers {
    pub scored: Scored,
    own: ruler::Scored,
    /// BERTScore F1 of each text, where there is a model for it.
    bertscore_f1: Option<Vec<f64>>,
    shuffled: ruler::Scored,
    zeroed: ruler::Scored,
    abstained: Vec<bool>,
    contradicted: Vec<bool>,
}

impl<'a> Exam<'a> {
    /// # Errors
    /// A recording, WordNet directory or model for BERTScore that cannot be read.
    pub fn new(data: &'a Dataset, settings: &PipelineSection) -> anyhow::Result<Self> {
        let test = test_set(data, settings.test_max, settings.seed);
        let samples: Vec<&Sample> = test.iter().map(|&i| &data.samples()[i]).collect();
        let ecgs = test.iter().map(|&i| data.ecg(i)).collect::<anyhow::Result<Vec<_>>>()?;
        let references = samples.iter().map(|sample| sample.report.clone()).collect();
        let (wordnet, scorer) = tools(settings)?;
        Ok(Self {
            scorer,
            ruler: Ruler::new(references, wordnet, settings.gate.resamples, settings.seed),
            slices: slices(&samples),
            noise_refusal: noise_refusal(&ecgs, settings.seed),
            seed: settings.seed,
            data,
            samples,
            ecgs,
        })
    }

    /// Test samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// True when there is nothing to score.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// A bundle's drafts of the test samples, with their metrics.
    ///
    /// # Errors
    /// A device that fails.
    pub fn answers(&self, bundle: &Bundle) -> anyhow::Result<Answers> {
        let mut texts = readings::draft(bundle, self.ecgs.iter())?;
        let abstained: Vec<bool> = texts.iter().map(|text| validate(text).is_err()).collect();
        for (text, _) in texts.iter_mut().zip(&abstained).filter(|(_, abstained)| **abstained) {
            text.clear();
        }
        let contradicts = |(text, sample): (&String, &&Sample)| !contradictions(text, &sample.measurements).is_empty();
        let zeroed = readings::draft(bundle, std::iter::once(&Ecg::default()))?;
        let shuffled: Vec<String> = derangement(texts.len(), self.seed)
            .into_iter()
            .map(|other| texts[other].clone())
            .collect();
        let mut answers = Answers {
            bertscore_f1: self.bertscore_f1(&texts)?,
            own: self.ruler.score(&texts),
            shuffled: self.ruler.score(&shuffled),
            zeroed: self.ruler.score(&vec![zeroed[0].clone(); texts.len()]),
            contradicted: texts.iter().zip(&self.samples).map(contradicts).collect(),
            abstained,
            scored: Scored {
                bundle_id: bundle.id().to_owned(),
                metrics: Metrics::new(),
                texts,
            },
        };
        answers.scored.metrics = self.metrics(&answers, &self.all());
        for (slice, members) in self.slices.iter().filter(|(_, members)| members.len() >= SLICE_MIN) {
            let metrics = self.metrics(&answers, members).into_iter();
            let named = metrics.map(|(metric, value)| (format!("{metric}@{slice}"), value));
            answers.scored.metrics.extend(named);
        }
        Ok(answers)
    }

    /// What templates reach: the most frequent training report, and that of the nearest training ECG in `bundle`'s encoder.
    ///
    /// # Errors
    /// A recording that cannot be read; a device that fails.
    pub fn baselines(&self, bundle: &Bundle) -> anyhow::Result<BTreeMap<String, Metrics>> {
        let mut memory = self.data.indices(|sample| sample.split == Split::Train);
        memory.truncate(MEMORY_MAX);
        if memory.is_empty() || self.is_empty() {
            return Ok(BTreeMap::new());
        }
        let reports: Vec<String> = memory.iter().map(|&i| self.data.samples()[i].report.clone()).collect();
        let ecgs = memory
            .iter()
            .map(|&i| self.data.ecg(i))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let nearest = baselines::recalled(bundle, ecgs.iter(), &reports, self.ecgs.iter())?;
        let frequent = vec![baselines::most_frequent(&reports); self.len()];
        let row = |texts: &[String]| self.text_metrics(&self.ruler.score(texts), &self.all());
        Ok([("most_frequent", row(&frequent)), ("knn", row(&nearest))]
            .map(|(name, metrics)| (name.to_owned(), metrics))
            .into())
    }

    /// 95 % intervals of candidate minus champion for the listed metrics, by bootstrap over the samples (of a slice).
    pub fn differences<'m>(
        &self,
        champion: &Answers,
        candidate: &Answers,
        listed: impl Iterator<Item = &'m String>,
    ) -> Intervals {
        let mut by_slice: BTreeMap<Option<&str>, BTreeSet<&str>> = BTreeMap::new();
        for name in listed {
            let (metric, slice) = slice_of(name);
            by_slice.entry(slice).or_default().insert(metric);
        }
        let mut intervals = Intervals::new();
        for (slice, metrics) in by_slice {
            let members = match slice {
                None => self.all(),
                Some(slice) => self.slices.get(slice).cloned().unwrap_or_default(),
            };
            let draws = self.ruler.draws(&members);
            let of = |answers: &Answers| -> Vec<Metrics> {
                draws.par_iter().map(|drawn| self.metrics(answers, drawn)).collect()
            };
            let (old, new) = (of(champion), of(candidate));
            for metric in metrics {
                let differences = old
                    .iter()
                    .zip(&new)
                    .map(|(old, new)| Some(new.get(metric)? - old.get(metric)?));
                let differences: Option<Vec<f64>> = differences.collect();
                if let Some(differences) = differences.filter(|d| !d.is_empty()) {
                    let name = slice.map_or(metric.to_owned(), |slice| format!("{metric}@{slice}"));
                    intervals.insert(name, interval(differences));
                }
            }
        }
        intervals
    }

    fn bertscore_f1(&self, texts: &[String]) -> anyhow::Result<Option<Vec<f64>>> {
        let Some(scorer) = &self.scorer else { return Ok(None) };
        let each = scorer.score(&self.ruler.pairs(texts))?.each;
        Ok(Some(each.into_iter().map(|[_, _, f1]| f1).collect()))
    }

    fn all(&self) -> Vec<usize> {
        (0..self.len()).collect()
    }

    fn text_metrics(&self, scored: &ruler::Scored, members: &[usize]) -> Metrics {
        let scores = scored.scores_of(members);
        let row = self.ruler.row_of(scored, members, &scores);
        let mut metrics = named([
            ("bleu1", scores.bleu1),
            ("bleu2", scores.bleu2),
            ("bleu3", scores.bleu3),
            ("bleu4", row.bleu4),
            ("meteor", row.meteor),
            ("rouge1_f", scores.rouge1_f),
            ("rouge2_f", scores.rouge2_f),
            ("rouge_l", row.rouge_l),
            ("cider_d", row.cider_d),
            ("clinical_f1_micro", row.clinical_f1_micro),
        ]);
        metrics.extend(row.clinical_f1_macro.map(|f1| ("clinical_f1_macro".to_owned(), f1)));
        metrics
    }

    /// Every metric over some samples, which may come more than once.
    fn metrics(&self, answers: &Answers, members: &[usize]) -> Metrics {
        let mut metrics = self.text_metrics(&answers.own, members);
        let own = metrics.get("rouge_l").copied().unwrap_or_default();
        let lost = |control: &ruler::Scored| match own > 0.0 {
            true => 1.0 - self.ruler.subset(control, members).rouge_l / own,
            false => 0.0,
        };
        let share = |marks: &[bool]| members.iter().filter(|&&i| marks[i]).count() as f64 / members.len().max(1) as f64;
        let mean = |each: &Vec<f64>| members.iter().map(|&i| each[i]).sum::<f64>() / members.len().max(1) as f64;
        let bertscore_f1 = answers.bertscore_f1.as_ref().map(mean);
        metrics.extend(bertscore_f1.map(|f1| ("bertscore_f1".to_owned(), f1)));
        metrics.extend(named([
            ("ecg_use", lost(&answers.shuffled)),
            ("ecg_use_zeroed", lost(&answers.zeroed)),
            ("abstain_rate", share(&answers.abstained)),
            ("contradiction_rate", share(&answers.contradicted)),
            ("noise_refusal", self.noise_refusal),
        ]));
        metrics
    }
}

fn named<const N: usize>(metrics: [(&str, f64); N]) -> Metrics {
    metrics.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Samples by stratum and by what a clinician made of the draft.
fn slices(samples: &[&Sample]) -> BTreeMap<String, Vec<usize>> {
    let origin = |sample: &Sample| match sample.origin {
        Origin::Base => "base",
        Origin::Accepted => "accepted",
        Origin::Edited => "edited",
    };
    let strata: Vec<_> = samples
        .iter()
        .map(|sample| {
            let mut strata = sample.strata.clone();
            strata.push(("origin".to_owned(), origin(sample).to_owned()));
            strata
        })
        .collect();
    let members = strata::members(strata.iter()).into_iter();
    members
        .map(|((axis, value), at)| (format!("{axis}={value}"), at))
        .collect()
}

/// Share of noisy versions of the samples that the gate of the stream rejects; it stands before every bundle alike.
fn noise_refusal(ecgs: &[Ecg], seed: u64) -> f64 {
    let ecgs = &ecgs[..ecgs.len().min(NOISY_SAMPLES)];
    let (noise, config) = (Disturbance::white(seed), ecg::dsp::DspConfig::default());
    let rejected = ecgs.par_iter().enumerate().filter(|(index, ecg)| {
        let lead = |lead: usize| ecg.filtered[lead * SEGMENT_SAMPLES..][..SEGMENT_SAMPLES].iter();
        let samples_uv = (0..LEADS).map(|at| lead(at).map(|&v| f32::from(v)).collect()).collect();
        let mut context = Context::of("noisy", samples_uv);
        noise.add(&mut context, &ecg.filtered, NOISY_SNR_DB, seed, *index);
        ecg::dsp::analyse(&context, &config).decision == Decision::Reject
    });
    rejected.count() as f64 / ecgs.len().max(1) as f64
}
