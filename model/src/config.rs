//! Sizes of the decoder (Hugging Face's config.json) and of the encoder (bundle.json).
//!
//! Place: read once at load. Invariant: a config that passes `validate` describes tensors that fit together.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::weights::Weights;

/// A `LlamaForCausalLM` config.json; unknown keys are ignored, as every transformers version adds some.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DecoderConfig {
    pub model_type: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    #[serde(default)]
    pub num_key_value_heads: Option<usize>,
    #[serde(default)]
    pub head_dim: Option<usize>,
    #[serde(default)]
    pub max_position_embeddings: Option<usize>,
    pub rms_norm_eps: f64,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default)]
    pub rope_theta: Option<f64>,
    #[serde(default)]
    pub rope_scaling: Option<RopeParameters>,
    /// transformers 5 writes theta and scaling here.
    #[serde(default)]
    pub rope_parameters: Option<RopeParameters>,
    #[serde(default)]
    pub bos_token_id: Option<u32>,
    #[serde(default)]
    pub eos_token_id: Option<u32>,
    #[serde(default)]
    pub pad_token_id: Option<u32>,
}

/// `rope_scaling` (older) or `rope_parameters` (newer) of config.json.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RopeParameters {
    #[serde(default)]
    pub rope_theta: Option<f64>,
    #[serde(default, alias = "type")]
    pub rope_type: Option<String>,
    #[serde(default)]
    pub factor: Option<f64>,
    #[serde(default)]
    pub low_freq_factor: Option<f64>,
    #[serde(default)]
    pub high_freq_factor: Option<f64>,
    #[serde(default)]
    pub original_max_position_embeddings: Option<f64>,
}

/// How rotary frequencies are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    Linear {
        factor: f64,
    },
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
}

const ROPE_THETA_DEFAULT: f64 = 10_000.0;

impl DecoderConfig {
    /// Key/value heads: as many as query heads where the config does not say.
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    pub fn rope_theta(&self) -> f64 {
        let newer = self.rope_parameters.as_ref().and_then(|p| p.rope_theta);
        newer.or(self.rope_theta).unwrap_or(ROPE_THETA_DEFAULT)
    }

    /// The scaling that `validate` accepted; unknown kinds never get here.
    pub fn rope_scaling(&self) -> RopeScaling {
        let Some(p) = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref()) else {
            return RopeScaling::None;
        };
        let factor = p.factor.unwrap_or(1.0);
        match p.rope_type.as_deref() {
            Some("linear") => RopeScaling::Linear { factor },
            Some("llama3") => RopeScaling::Llama3 {
                factor,
                low: p.low_freq_factor.unwrap_or(1.0),
                high: p.high_freq_factor.unwrap_or(4.0),
                original: p.original_max_position_embeddings.unwrap_or(8192.0),
            },
            _ => RopeScaling::None,
        }
    }

    /// # Errors
    /// [`Error::Config`] with the key, the value and the bound.
    pub fn validate(&self) -> Result<()> {
        let fail = |key, value: &dyn std::fmt::Display, bound: &str| {
            Err(Error::Config {
                key,
                value: value.to_string(),
                bound: bound.to_owned(),
            })
        };
        if self.model_type != "llama" {
            return fail("model_type", &self.model_type, "this build runs llama");
        }
        if self.num_attention_heads == 0 || self.kv_heads() == 0 {
            return fail("num_attention_heads", &self.num_attention_heads, "at least 1");
        }
        if !self.num_attention_heads.is_multiple_of(self.kv_heads()) {
            return fail(
                "num_key_value_heads",
                &self.kv_heads(),
                "must divide num_attention_heads",
            );
        }
        if !self.head_dim().is_multiple_of(2) || self.head_dim() == 0 {
            return fail("head_dim", &self.head_dim(), "must be even, for rotary positions");
        }
        let scaling = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        match scaling.and_then(|p| p.rope_type.as_deref()) {
            None | Some("default" | "linear" | "llama3") => Ok(()),
            Some(kind) => fail("rope_type", &kind, "one of default, linear, llama3"),
        }
    }
}

/// Sizes of encoder and projector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// Leads of the input, L.
    pub leads: usize,
    /// Neighbouring samples averaged into one before the stem: 2 turns 500 Hz into 250 Hz.
    pub decimation: usize,
    /// Channels of the stem; stage i has 4 width 2^i outputs.
    pub width: usize,
    pub stem_kernel: usize,
    pub stem_stride: usize,
    /// Bottleneck blocks a stage, ResNet-50: 3, 4, 6, 3.
    pub blocks: Vec<usize>,
    /// Width of the projector's hidden layer.
    pub hidden: usize,
    /// Head dimension of the decoder, D.
    pub dim: usize,
    /// Prefix tokens, P.
    pub tokens: usize,
    /// A learned vector per time token, added before the projector.
    pub time_embedding: bool,
}

impl EncoderConfig {
    /// Features of the last stage.
    pub fn features(&self) -> usize {
        (4 * self.width) << (self.blocks.len() - 1)
    }

    /// The config of a reference-shaped checkpoint (stem kernel from its weight, stride 2, no decimation), with sizes
    /// read from the tensors' shapes.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] where a tensor that carries a size is not there.
    pub fn from_weights(w: &Weights, tokens: usize) -> Result<Self> {
        let shape = |name: &str| {
            w.find(name)
                .map(|t| t.dims().to_vec())
                .ok_or_else(|| Error::MissingTensor { name: name.to_owned() })
        };
        let stem = shape("conv1.weight")?;
        let blocks_of = |stage: usize| {
            (0..)
                .take_while(|block| w.find(&format!("layer{stage}.{block}.conv1.weight")).is_some())
                .count()
        };
        Ok(Self {
            leads: stem[1],
            decimation: 1,
            width: stem[0],
            stem_kernel: stem[2],
            stem_stride: 2,
            blocks: (1..).map(blocks_of).take_while(|&n| n > 0).collect(),
            hidden: shape("projector.0.weight")?[0],
            dim: shape("projector.3.weight")?[0],
            tokens,
            time_embedding: w.find("time_embedding").is_some(),
        })
    }
}
