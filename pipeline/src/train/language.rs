//! The language model that a run starts from: a fresh LLaMA decoder, or a Hugging Face checkpoint of any family.
//!
//! Place: read once, before the first step. Invariant: a function of the settings, the tokenizer and the checkpoint; encoder and
//! fusion fit it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use candle_core::{DType, Device, Tensor};
use model::assemble::language_model;
use model::backbone::BackboneConfig;
use model::bundle::{DECODER_CONFIG, TOKENIZER};
use model::config::EncoderConfig;
use model::fusion::Fusion;
use model::prompt::PromptTokenizer;
use model::weights::Weights;
use rand_chacha::ChaCha8Rng;

use crate::settings::TrainSettings;

/// Where a base lies with a place in its vocabulary for each of the template's tokens.
const PREPARED: &str = "checkpoint/base";

/// What a run's bundle is made of beside its weights.
pub(crate) struct Language {
    /// Text of config.json.
    pub json: String,
    pub config: BackboneConfig,
    pub fusion: Fusion,
    pub encoder: EncoderConfig,
    /// Directory of the weights that it starts with; fresh ones without.
    checkpoint: Option<PathBuf>,
}

/// Puts the base that the settings name, if any, in order below `out`, and its tokenizer in `out`.
///
/// # Errors
/// A base that cannot be read; a full disk.
pub(super) fn prepare(settings: &TrainSettings, out: &Path) -> anyhow::Result<()> {
    let Some(base) = &settings.base else {
        return Ok(());
    };
    let prepared = out.join(PREPARED);
    language_model(base, &prepared).with_context(|| format!("read base {}", base.display()))?;
    let tokenizer = std::fs::read(prepared.join(TOKENIZER)).context("read the base's tokenizer")?;
    std::fs::write(out.join(TOKENIZER), tokenizer).context("write tokenizer.json")
}

impl Language {
    /// # Errors
    /// A config of the base that is not understood.
    pub fn open(settings: &TrainSettings, tokenizer: &PromptTokenizer, out: &Path) -> anyhow::Result<Self> {
        let mut encoder = settings.encoder();
        let Some(base) = &settings.base else {
            let decoder = settings.decoder(tokenizer.size(), tokenizer.stop(), tokenizer.pad());
            let json = serde_json::to_string_pretty(&decoder)? + "\n";
            return Ok(Self {
                config: parse(&json)?,
                fusion: settings.fusion.clone().unwrap_or_default(),
                encoder,
                checkpoint: None,
                json,
            });
        };
        let checkpoint = out.join(PREPARED);
        let json = std::fs::read_to_string(checkpoint.join(DECODER_CONFIG)).context("read the base's config.json")?;
        let config = parse(&json).with_context(|| format!("read base {}", base.display()))?;
        if let BackboneConfig::Decoder(architecture) = &config {
            encoder.dim = architecture.head_dim; // which a prefix tiles
        }
        Ok(Self {
            fusion: settings.fusion.clone().unwrap_or_else(|| config.fusion_default()),
            encoder,
            config,
            checkpoint: Some(checkpoint),
            json,
        })
    }

    /// Tensors that the run starts with, below `encoder.` and `decoder.`.
    ///
    /// # Errors
    /// A checkpoint that cannot be read.
    pub fn tensors(&self, settings: &TrainSettings, rng: &mut ChaCha8Rng) -> anyhow::Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        let mut add = |part: &str, named: BTreeMap<String, Tensor>| {
            tensors.extend(
                named
                    .into_iter()
                    .map(|(name, tensor)| (format!("{part}.{name}"), tensor)),
            );
        };
        add("encoder", model::init::encoder(&self.encoder, rng)?);
        let fused = match &self.config {
            BackboneConfig::Decoder(architecture) => {
                model::init::fusion(&self.fusion, architecture, self.encoder.dim, rng)?
            }
            BackboneConfig::Seq2Seq(config) => model::init::memory(config.hidden_size, self.encoder.dim, rng)?,
        };
        add("encoder", fused);
        let Some(checkpoint) = &self.checkpoint else {
            let decoder: model::config::DecoderConfig = serde_json::from_str(&self.json)?;
            add("decoder", model::init::decoder(&decoder, rng)?);
            return Ok(tensors);
        };
        let weights = Weights::load_checkpoint(checkpoint, DType::F32, &Device::Cpu)
            .with_context(|| format!("read base {:?}", settings.base))?;
        let mut floats = weights
            .tensors()
            .with_context(|| format!("read base {:?}", settings.base))?;
        floats.retain(|_, tensor| tensor.dtype().is_float());
        add("decoder", floats);
        Ok(tensors)
    }
}

fn parse(json: &str) -> anyhow::Result<BackboneConfig> {
    Ok(BackboneConfig::from_json(&serde_json::from_str(json)?)?)
}
