//! The nightly job's settings.
//!
//! Place: read once at start from defaults, file and environment. Invariant: unknown keys are refused, and nothing starts
//! before the bounds are checked. Defaults live in config/default.toml, nowhere else.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use service::kafka::KafkaSettings;
use service::settings::{Check, OutOfBounds, within};
use store::Location;

use super::evaluate::{METRICS, is_metric};
use crate::gate::Margins;
use crate::prompts::SIZES;
use crate::schedule::At;
use crate::sources::Source;

/// Everything that the job reads.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineSettings {
    /// Section `kafka`.
    pub kafka: KafkaSettings,
    /// Section `pipeline`.
    pub pipeline: PipelineSection,
}

/// Section `pipeline`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineSection {
    /// Directory of the base bundle.
    pub bundle: PathBuf,
    /// Where the registry is kept.
    pub registry: Location,
    /// Directory of the runs.
    pub work: PathBuf,
    /// Where signed reports come from.
    pub sources: Vec<Source>,
    /// Where base data for replay come from.
    pub base_sources: Vec<Source>,
    /// Base samples a source at most; 0 for all.
    pub limit: usize,
    /// Size of the set of prompts.
    pub prompts: usize,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Signed training samples below which the job is skipped.
    pub samples_min: usize,
    /// Test samples at most, drawn by hash.
    pub test_max: usize,
    /// When the daemon runs the job, UTC.
    pub at: At,
    /// How long a lease lasts without being renewed, minutes.
    pub lease_minutes: u32,
    /// Megabytes that must stay free on the disk.
    pub reserve_mb: u64,
    /// Whether events are sent to the broker too.
    pub announce: bool,
    /// WordNet 3.0 directory for METEOR's synonyms; empty for exact and stem matches.
    #[serde(default)]
    pub wordnet: PathBuf,
    /// Directory of a BERT or RoBERTa model for BERTScore; empty for none.
    #[serde(default)]
    pub bertscore: PathBuf,
    /// Section `pipeline.train`.
    pub train: AdapterSettings,
    /// Section `pipeline.gate`.
    pub gate: Margins,
}

/// Whether the encoder learns with the adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum EncoderMode {
    /// As in the paper; its batch norms keep their statistics.
    Trainable,
    Frozen,
}

/// Section `pipeline.train`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterSettings {
    /// LoRA rank, R.
    pub rank: usize,
    /// LoRA alpha; updates are scaled by alpha / rank.
    pub alpha: f64,
    pub encoder: EncoderMode,
    /// Passes over the signed samples.
    pub epochs: u64,
    /// Samples a step.
    pub batch: usize,
    /// Share of each step's samples that are base samples.
    pub replay: f64,
    /// Weight of a report that was signed as drafted.
    pub accepted_weight: f32,
    /// Weight of a report that was changed before it was signed.
    pub edited_weight: f32,
    pub learning_rate: f64,
    /// Share of the steps over which the rate rises from zero.
    pub warmup: f64,
    pub weight_decay: f64,
    /// Largest global norm of a step's gradient.
    pub clip_norm: f64,
    /// Dropout in the decoder.
    pub dropout: f32,
    /// One layer's graph in memory at a time, for a second forward pass; the weights are the same up to rounding.
    #[serde(default)]
    pub by_layer: bool,
    /// Steps between two checkpoints.
    pub checkpoint_steps: u64,
}

impl PipelineSettings {
    /// The broker that events go to, if any.
    pub fn announced(&self) -> Option<KafkaSettings> {
        self.pipeline.announce.then(|| self.kafka.clone())
    }
}

impl Check for PipelineSettings {
    fn check(&self) -> Result<(), OutOfBounds> {
        self.kafka.check()?;
        let section = &self.pipeline;
        if !SIZES.contains(&section.prompts) {
            return Err(OutOfBounds {
                key: "pipeline.prompts",
                value: section.prompts.to_string(),
                bound: format!("one of {SIZES:?}"),
            });
        }
        within("pipeline.samples_min", section.samples_min, 1..=1_000_000_000)?;
        within("pipeline.test_max", section.test_max, 1..=1_000_000)?;
        within("pipeline.gate.resamples", section.gate.resamples, 0..=100_000)?;
        for (key, listed) in [
            ("pipeline.gate.higher", &section.gate.higher),
            ("pipeline.gate.lower", &section.gate.lower),
        ] {
            if let Some(name) = listed.keys().find(|name| !is_metric(name)) {
                return Err(OutOfBounds {
                    key,
                    value: name.clone(),
                    bound: format!("one of {METRICS:?}, or such a name with @AXIS=VALUE"),
                });
            }
        }
        within("pipeline.lease_minutes", section.lease_minutes, 1..=1440)?;
        let train = &section.train;
        within("pipeline.train.rank", train.rank, 1..=4096)?;
        within("pipeline.train.alpha", train.alpha, f64::MIN_POSITIVE..=65_536.0)?;
        within("pipeline.train.epochs", train.epochs, 1..=10_000)?;
        within("pipeline.train.batch", train.batch, 1..=4096)?;
        within("pipeline.train.replay", train.replay, 0.0..=0.95)?;
        within(
            "pipeline.train.accepted_weight",
            train.accepted_weight,
            f32::MIN_POSITIVE..=100.0,
        )?;
        within(
            "pipeline.train.edited_weight",
            train.edited_weight,
            train.accepted_weight..=100.0,
        )?;
        within(
            "pipeline.train.learning_rate",
            train.learning_rate,
            f64::MIN_POSITIVE..=1.0,
        )?;
        within("pipeline.train.warmup", train.warmup, 0.0..=0.99)?;
        within("pipeline.train.weight_decay", train.weight_decay, 0.0..=10.0)?;
        within("pipeline.train.clip_norm", train.clip_norm, f64::MIN_POSITIVE..=1e9)?;
        within("pipeline.train.dropout", train.dropout, 0.0..=0.95)?;
        within("pipeline.train.checkpoint_steps", train.checkpoint_steps, 1..=1_000_000)
    }
}

#[cfg(test)]
pub(crate) fn shipped() -> PipelineSettings {
    service::settings::load_checked("pipeline", None).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_settings_and_the_shipped_file_are_within_their_bounds() {
        shipped();
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/pipeline.toml");
        let settings: PipelineSettings = service::settings::load_checked("pipeline", Some(&file)).unwrap();
        assert!(!settings.pipeline.gate.higher.is_empty());
    }

    #[test]
    fn a_gate_that_lists_what_is_never_measured_is_refused() {
        let mut settings = shipped();
        settings
            .pipeline
            .gate
            .higher
            .insert("rouge_l@sex=female".to_owned(), 0.1);
        settings.check().unwrap();
        for wrong in ["blue4", "rouge_l@female"] {
            let mut settings = settings.clone();
            settings.pipeline.gate.lower.insert(wrong.to_owned(), 0.1);
            let error = settings.check().unwrap_err();
            assert_eq!((error.key, &*error.value), ("pipeline.gate.lower", wrong));
        }
    }

    #[test]
    fn an_edited_report_never_weighs_less_than_an_untouched_draft() {
        let mut settings = shipped();
        settings.pipeline.train.edited_weight = settings.pipeline.train.accepted_weight / 2.0;
        assert_eq!(settings.check().unwrap_err().key, "pipeline.train.edited_weight");
    }
}
