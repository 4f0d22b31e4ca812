//! What writes texts: the seam between the node and the model.
//!
//! Place: owned by the device thread; tests put a fake here.
//! Invariant: one text for each ECG, in order; bundle and decode parameters never change while a drafter lives.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ecg::report::{BundleLineage, DecodeParameters};
use model::backbone::Backbone;
use model::bundle::Bundle;
use model::generate::{DecodeOptions, Finish};
use model::meit::{Drafted, EcgInput};
use model::slots::SlotLimits;

use crate::desk::{Batches, BundleDesk, Desk};

/// One text, before it is validated.
#[derive(Clone, Debug, PartialEq)]
pub struct DraftText {
    /// The text.
    pub text: String,
    /// Its tokens.
    pub tokens: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// When each step was done, since the ECG's first: the prompt's first, then one a token; empty where nobody measured.
    pub steps: Vec<Duration>,
    /// Mean natural log probability of the tokens.
    pub logprob_mean: f32,
    /// Smallest natural log probability of the tokens.
    pub logprob_min: f32,
    /// Why it ended.
    pub finish: Finish,
}

impl DraftText {
    /// A draft that took `steps`.
    pub(crate) fn new(drafted: &Drafted, steps: Vec<Duration>) -> Self {
        Self {
            steps,
            prompt_tokens: drafted.prompt_tokens,
            text: drafted.text.trim().to_owned(),
            tokens: drafted.tokens,
            logprob_mean: drafted.logprob_mean,
            logprob_min: drafted.logprob_min,
            finish: drafted.finish,
        }
    }
}

/// Writes texts about ECGs.
pub trait Drafter: Send + Sync {
    /// One text for each ECG.
    ///
    /// # Errors
    /// When the device fails; no ECG of the right length is at fault.
    fn draft(&self, ecgs: &[EcgInput]) -> anyhow::Result<Vec<DraftText>>;

    /// Where ECGs are drafted that come while others are drafted: in slots, where the drafter has any, else in batches.
    ///
    /// # Errors
    /// As [`Drafter::draft`].
    fn desk(&self, _limits: SlotLimits) -> anyhow::Result<Box<dyn Desk + '_>> {
        Ok(Box::new(Batches::new(|ecgs| self.draft(ecgs))))
    }

    /// What writes, by hash.
    fn lineage(&self) -> BundleLineage;

    /// How texts are decoded.
    fn decode_parameters(&self) -> DecodeParameters;
}

/// A bundle that drafts.
pub struct BundleDrafter {
    bundle: Arc<Bundle>,
    options: DecodeOptions,
}

impl BundleDrafter {
    /// A drafter with fixed decode options.
    pub fn new(bundle: Arc<Bundle>, options: DecodeOptions) -> Self {
        Self { bundle, options }
    }
}

impl Drafter for BundleDrafter {
    fn draft(&self, ecgs: &[EcgInput]) -> anyhow::Result<Vec<DraftText>> {
        let watch = Watch::new(ecgs.len());
        let drafted = self
            .bundle
            .drafting()
            .draft_watched(ecgs, &self.options, &|which| watch.step_done(which))
            .context("draft texts")?;
        let texts = drafted.into_iter().zip(watch.end());
        Ok(texts.map(|(drafted, steps)| DraftText::new(&drafted, steps)).collect())
    }

    fn desk(&self, limits: SlotLimits) -> anyhow::Result<Box<dyn Desk + '_>> {
        let drafting = self.bundle.drafting();
        match drafting.model.backbone {
            Backbone::Decoder(_) if limits.tokens > 0 => {
                let slots = drafting.refill(limits, &self.options).context("make slots")?;
                Ok(Box::new(BundleDesk::new(slots, self)))
            }
            Backbone::Decoder(_) | Backbone::Seq2Seq(_) => Ok(Box::new(Batches::new(|ecgs| self.draft(ecgs)))),
        }
    }

    fn lineage(&self) -> BundleLineage {
        let lineage = self.bundle.lineage();
        BundleLineage {
            bundle_id: self.bundle.id().to_owned(),
            base_sha256: lineage.base_sha256,
            encoder_sha256: lineage.encoder_sha256,
            tokenizer_sha256: lineage.tokenizer_sha256,
            adapter_sha256: lineage.adapter_sha256,
        }
    }

    fn decode_parameters(&self) -> DecodeParameters {
        parameters(&self.options)
    }
}

/// Times the steps of a batch.
struct Watch {
    start: Instant,
    /// When each step of each ECG was done.
    steps: Mutex<Vec<Vec<Duration>>>,
}

impl Watch {
    fn new(ecgs: usize) -> Self {
        Self {
            start: Instant::now(),
            steps: Mutex::new(vec![Vec::new(); ecgs]),
        }
    }

    fn step_done(&self, which: &[usize]) {
        let now = self.start.elapsed();
        let mut steps = self.steps.lock().expect("no code panics while it holds this lock");
        for &ecg in which {
            steps[ecg].push(now);
        }
    }

    fn end(self) -> Vec<Vec<Duration>> {
        self.steps
            .into_inner()
            .expect("no code panics while it holds this lock")
    }
}

fn parameters(options: &DecodeOptions) -> DecodeParameters {
    let strategy = if options.temperature > 0.0 { "sample" } else { "greedy" };
    DecodeParameters {
        strategy: strategy.to_owned(),
        max_tokens: options.tokens_max as u32,
        temperature: options.temperature,
        seed: options.seed,
    }
}

/// Label and JSON value of a finish: "stop", "length".
pub fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_timed_for_the_ecgs_that_took_them() {
        let watch = Watch::new(3);
        watch.step_done(&[0, 1, 2]);
        watch.step_done(&[1]);
        let steps = watch.end();
        assert_eq!(steps.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 1]);
        assert!(steps[1][0] <= steps[1][1]);
    }

    #[test]
    fn a_temperature_of_zero_is_greedy_and_any_other_samples() {
        let greedy = DecodeOptions::default();
        assert_eq!(parameters(&greedy).strategy, "greedy");
        let warm = DecodeOptions {
            temperature: 0.7,
            ..greedy
        };
        assert_eq!(parameters(&warm).strategy, "sample");
    }
}
