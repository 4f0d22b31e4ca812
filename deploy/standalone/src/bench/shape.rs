//! Named sizes of decoders with random weights.
//!
//! Place: what `meit bench infer` and `meit bench train` run. Invariant: a name has the same sizes wherever it is measured, here
//! and by tests/peers.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use clap::ValueEnum;
use model::config::DecoderConfig;
use model::decoder::Decoder;
use model::error::{Error, Result};
use model::init::{Start, decoder_starts};
use model::served::ServedWeights;
use model::weights::{Tensors, Weights};

/// A LLaMA of one of four sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    #[value(name = "15m")]
    M15,
    #[value(name = "110m")]
    M110,
    #[value(name = "1b")]
    B1,
    #[value(name = "7b")]
    B7,
}

impl Shape {
    pub fn config(self) -> DecoderConfig {
        let (hidden, mlp, layers, heads, kv_heads, vocabulary) = match self {
            Self::M15 => (256, 688, 8, 4, 4, 4096),
            Self::M110 => (768, 2048, 12, 12, 12, 32_000),
            Self::B1 => (2048, 5504, 22, 32, 4, 32_000),
            Self::B7 => (4096, 11_008, 32, 32, 32, 32_000),
        };
        DecoderConfig {
            model_type: "llama".to_owned(),
            vocab_size: vocabulary,
            hidden_size: hidden,
            intermediate_size: mlp,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: Some(kv_heads),
            head_dim: None,
            max_position_embeddings: Some(2048),
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            rope_theta: Some(10_000.0),
            rope_scaling: None,
            rope_parameters: None,
            bos_token_id: None,
            eos_token_id: None,
            pad_token_id: None,
        }
    }

    /// A decoder whose weights are drawn on `device` one after the other, each as it is needed.
    pub fn decoder(self, weights: ServedWeights, device: &Device) -> anyhow::Result<Decoder> {
        let config = self.config();
        let starts = decoder_starts(&config).into_iter();
        let drawn = Weights::from_source(Drawn {
            starts: starts.map(|start| (start.name.clone(), start)).collect(),
            device: device.clone(),
        });
        let drawn = drawn.in_dtype(weights.dtype()).in_blocks(weights.blocks());
        Ok(Decoder::load(&drawn, &config.architecture()?)?)
    }

    /// The name that `--shape` takes.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Bytes of weights that every decoded token reads: all but the embedding's table.
    pub fn bytes_per_token(self, weights: ServedWeights) -> f64 {
        let dense = weights.dtype().size_in_bytes() as f64;
        let bytes = |shape: &[usize]| {
            let each = match (shape, weights.blocks()) {
                (&[_, inputs], Some(kind)) if inputs.is_multiple_of(kind.block_size()) => {
                    kind.type_size() as f64 / kind.block_size() as f64
                }
                _ => dense,
            };
            each * shape.iter().product::<usize>() as f64
        };
        let starts = decoder_starts(&self.config());
        let read = starts.iter().filter(|start| !start.name.contains("embed_tokens"));
        read.map(|start| bytes(&start.shape)).sum()
    }
}

/// Random weights that are nowhere until a module asks for them.
struct Drawn {
    starts: BTreeMap<String, Start>,
    device: Device,
}

impl Tensors for Drawn {
    fn names(&self) -> Vec<String> {
        self.starts.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.starts.get(name).map(|start| start.shape.clone())
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let start = self.starts.get(name);
        let start = start.ok_or_else(|| Error::MissingTensor { name: name.to_owned() })?;
        Ok(match start.std {
            Some(std) => Tensor::randn(0f32, std, start.shape.as_slice(), &self.device)?,
            None => Tensor::ones(start.shape.as_slice(), DType::F32, &self.device)?,
        })
    }
}
