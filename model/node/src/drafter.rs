//! What writes texts: the seam between the node and the model.
//!
//! Place: owned by the device thread; tests put a fake here.
//! Invariant: one text for each ECG, in order; bundle and decode parameters never change while a drafter lives.

use std::sync::Arc;

use anyhow::Context as _;
use ecg::report::{BundleLineage, DecodeParameters};
use model::bundle::Bundle;
use model::generate::{DecodeOptions, Finish};
use model::meit::EcgInput;

/// One text, before it is validated.
#[derive(Clone, Debug, PartialEq)]
pub struct DraftText {
    /// The text.
    pub text: String,
    /// Its tokens.
    pub tokens: u32,
    /// Mean natural log probability of the tokens.
    pub logprob_mean: f32,
    /// Smallest natural log probability of the tokens.
    pub logprob_min: f32,
    /// Why it ended.
    pub finish: Finish,
}

/// Writes texts about ECGs.
pub trait Drafter: Send + Sync {
    /// One text for each ECG.
    ///
    /// # Errors
    /// When the device fails; no ECG of the right length is at fault.
    fn draft(&self, ecgs: &[EcgInput]) -> anyhow::Result<Vec<DraftText>>;

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
        let drafted = self
            .bundle
            .drafting()
            .draft(ecgs, &self.options)
            .context("draft texts")?;
        let texts = drafted.into_iter().map(|drafted| DraftText {
            text: drafted.text.trim().to_owned(),
            tokens: drafted.tokens,
            logprob_mean: drafted.logprob_mean,
            logprob_min: drafted.logprob_min,
            finish: drafted.finish,
        });
        Ok(texts.collect())
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
