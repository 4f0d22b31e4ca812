//! From trained variables to a sealed bundle.
//!
//! Place: last step of training. Invariant: the bundle's f16 weights are what a node loads; nothing else is needed to serve.

use std::path::Path;

use anyhow::Context;
use candle_core::DType;
use ecg::lead::Lead;
use model::bundle::{self, Manifest};
use model::findings::Finding;

use crate::params::Params;
use crate::settings::TrainSettings;
use crate::train::language::Language;

/// Largest magnitude of the input, in millivolts; beyond it lies artefact.
pub const CLIP_MV: f32 = 5.0;

/// Writes the bundle's parts to `out` beside its tokenizer.json, and seals it; `findings` are the head's, where the prompt tells
/// them. Returns the bundle's id.
///
/// # Errors
/// A part that cannot be written.
pub(crate) fn export(
    params: &Params,
    settings: &TrainSettings,
    language: &Language,
    findings: Vec<Finding>,
    out: &Path,
) -> anyhow::Result<String> {
    candle_core::safetensors::save(&params.part("decoder", DType::F16)?, out.join(bundle::DECODER))?;
    candle_core::safetensors::save(&params.part("encoder", DType::F16)?, out.join(bundle::ENCODER))?;
    std::fs::write(out.join(bundle::DECODER_CONFIG), &language.json).context("write config.json")?;
    let dsp = ecg::dsp::DspConfig::default();
    let manifest = Manifest {
        format: String::new(),
        name: settings.name.clone(),
        encoder: language.encoder.clone(),
        fusion: language.fusion.clone(),
        lead_order: Lead::ALL.iter().map(|lead| lead.name().to_owned()).collect(),
        clip_mv: CLIP_MV,
        chain: dsp.chain_name(),
        prompt: settings.prompt().to_owned(),
        evidence: settings.evidence(),
        morphology: (!findings.is_empty()).then(|| settings.morphology()),
        findings,
        parts: Default::default(),
    };
    Ok(bundle::seal(out, manifest)?)
}
