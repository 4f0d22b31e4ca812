//! The language model of a bundle: a decoder of any family, or an encoder-decoder.
//!
//! Place: between `bundle` and what drafts or trains. Invariant: config.json alone says which it is; prompts, ECG embeddings and
//! reports go in and come out alike.

use std::path::Path;

use candle_core::Tensor;
use serde_json::Value;

use crate::architecture::Architecture;
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::files;
use crate::fusion::Fusion;
use crate::generate::{DecodeOptions, Generated, generate_from, limits_of, padded, run_out};
use crate::lora::{Adaptable, Adapter};
use crate::mode::Mode;
use crate::projection::Projection;
use crate::seq2seq::{self, Seq2Seq, Seq2SeqConfig, Source};
use crate::slots::{Request, Slots};
use crate::weights::Weights;

/// What config.json describes.
#[derive(Clone, Debug)]
pub enum BackboneConfig {
    Decoder(Box<Architecture>),
    Seq2Seq(Box<Seq2SeqConfig>),
}

/// A loaded language model. A clone shares the weights.
#[derive(Clone)]
pub enum Backbone {
    Decoder(Decoder),
    Seq2Seq(Seq2Seq),
}

impl BackboneConfig {
    /// Reads config.json of any supported `model_type`.
    ///
    /// # Errors
    /// A file that cannot be read or parsed; a value outside its bound.
    pub fn read(path: &Path) -> Result<Self> {
        let json: Value = files::parse(path, &files::read(path)?)?;
        Self::from_json(&json)
    }

    /// # Errors
    /// A key that is missing or of another type; a value outside its bound.
    pub fn from_json(json: &Value) -> Result<Self> {
        let model_type = json.get("model_type").and_then(Value::as_str).unwrap_or_default();
        if seq2seq::config::MODEL_TYPES.contains(&model_type) {
            return Ok(Self::Seq2Seq(Box::new(Seq2SeqConfig::from_json(json)?)));
        }
        Ok(Self::Decoder(Box::new(Architecture::from_json(json)?)))
    }

    /// V.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Decoder(architecture) => architecture.vocab_size,
            Self::Seq2Seq(config) => config.vocab_size,
        }
    }

    /// The fusion that a bundle has where nobody chose one.
    pub fn fusion_default(&self) -> Fusion {
        match self {
            Self::Decoder(_) => Fusion::default(),
            Self::Seq2Seq(_) => Fusion::Memory,
        }
    }

    /// The axis of a checkpoint's tensor that has a place for each token of the vocabulary, if any.
    pub(crate) fn vocabulary_axis(&self, name: &str) -> Option<usize> {
        match self {
            Self::Decoder(architecture) => {
                let (names, (module, part)) = (&architecture.names, name.rsplit_once('.')?);
                let is = |other: &str| {
                    let rest = module.strip_suffix(other);
                    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                };
                let grows = match part {
                    "weight" => is(names.embed) || is(names.head),
                    "bias" => is(names.head),
                    _ => false,
                };
                grows.then_some(0)
            }
            Self::Seq2Seq(config) => config.vocabulary_axis(name),
        }
    }

    /// Loads a checkpoint with a fusion, whose own weights are `fusion`'s; `ecg_dim` is the width of the embeddings.
    ///
    /// # Errors
    /// A fusion that the model does not have; a tensor that is missing or of another shape.
    pub fn load(&self, w: &Weights, fusion: &Fusion, fusion_weights: &Weights, ecg_dim: usize) -> Result<Backbone> {
        match self {
            Self::Decoder(architecture) => {
                let decoder = Decoder::load(w, architecture)?;
                Ok(Backbone::Decoder(decoder.with_fusion(
                    fusion,
                    fusion_weights,
                    ecg_dim,
                )?))
            }
            Self::Seq2Seq(config) if *fusion == Fusion::Memory => {
                let model = Seq2Seq::load(w, config)?;
                Ok(Backbone::Seq2Seq(model.with_memory(fusion_weights, ecg_dim)?))
            }
            Self::Seq2Seq(config) => Err(Error::Config {
                key: "fusion.kind",
                value: format!("{fusion:?}"),
                bound: format!("{} is an encoder-decoder, which takes memory alone", config.model_type),
            }),
        }
    }
}

impl Backbone {
    /// The decoder of a family without encoder.
    ///
    /// # Errors
    /// [`Error::Config`] for an encoder-decoder.
    pub fn decoder(&self) -> Result<&Decoder> {
        match self {
            Self::Decoder(decoder) => Ok(decoder),
            Self::Seq2Seq(model) => Err(Error::Config {
                key: "model_type",
                value: model.model_type().to_owned(),
                bound: "must be that of a decoder here, not of an encoder-decoder".to_owned(),
            }),
        }
    }

    /// Token that a report starts with, where the prompt is not before it but in the encoder.
    pub fn start(&self) -> Option<u32> {
        match self {
            Self::Decoder(_) => None,
            Self::Seq2Seq(model) => Some(model.config().start),
        }
    }

    /// Drafts after `prompts`, of ECG embeddings e (B, P, E), in one batch. Row i has `adapters[i]`, or `own`, which this model has.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub fn generate(
        &self,
        prompts: &[&[u32]],
        (adapters, own): (&[Option<&Adapter>], Option<&Adapter>),
        e: &Tensor,
        stop: u32,
        options: &DecodeOptions,
        step_done: &(dyn Fn() + Sync),
    ) -> Result<Vec<Generated>> {
        match self {
            Self::Decoder(decoder) => {
                let requests = prompts.iter().zip(adapters).enumerate();
                let requests = requests.map(|(key, (prompt, &adapter))| Request {
                    key,
                    prompt,
                    tokens_max: options.tokens_max,
                    adapter,
                });
                let requests: Vec<Request> = requests.collect();
                // room for the ECG among the text, where the fusion puts it there
                let limits = limits_of(&requests, e.dim(1)?);
                let slots = Slots::new(decoder.clone(), limits, Some(stop), options.clone()).with_own(own);
                run_out(slots, step_done, |slots| slots.admit(&requests, Some(e)))
            }
            Self::Seq2Seq(model) => {
                let with_adapters;
                let model = if adapters.iter().all(Option::is_none) {
                    model
                } else {
                    let or_own: Vec<_> = adapters.iter().map(|adapter| adapter.or(own)).collect();
                    with_adapters = model.with_adapters(&or_own)?;
                    &with_adapters
                };
                let (ids, lengths) = padded(prompts, 0, model.device())?;
                let text = Source {
                    ids: &ids,
                    lengths: &lengths,
                };
                let memory = model.memory(&text, Some(e), &Mode::Eval)?;
                generate_from(model, &memory, prompts.len(), Some(stop), options, step_done)
            }
        }
    }
}

/// What is the same for both, by the one that it is.
macro_rules! either {
    ($backbone:expr, $model:ident => $result:expr) => {
        match $backbone {
            Backbone::Decoder($model) => $result,
            Backbone::Seq2Seq($model) => $result,
        }
    };
}

impl Adaptable for Backbone {
    fn projections(&self) -> Vec<&Projection> {
        either!(self, model => model.projections())
    }

    fn projections_mut(&mut self) -> Vec<&mut Projection> {
        either!(self, model => model.projections_mut())
    }

    fn model_type(&self) -> &str {
        either!(self, model => model.model_type())
    }

    fn head(&self) -> &str {
        either!(self, model => model.head())
    }

    fn embedding(&self) -> (String, &Tensor) {
        either!(self, model => model.embedding())
    }

    fn weights_are_transposed(&self) -> bool {
        either!(self, model => model.weights_are_transposed())
    }
}
