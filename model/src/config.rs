//! Sizes of a decoder that is trained from nothing (its config.json) and of the encoder (bundle.json).
//!
//! Place: written by training, read once at load; checkpoints of other families are read by `architecture`. Invariant: a
//! config that becomes an architecture describes tensors that fit together.

use serde::{Deserialize, Serialize};

use crate::architecture::Architecture;
use crate::error::{Error, Result};
use crate::rotary::RopeParameters;
use crate::weights::Weights;

/// The config.json of a `LlamaForCausalLM`, as training from nothing writes it.
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

impl DecoderConfig {
    /// Key/value heads: as many as query heads where the config does not say.
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// # Errors
    /// [`Error::Config`] with the key, the value and the bound.
    pub fn architecture(&self) -> Result<Architecture> {
        let json = serde_json::to_value(self).map_err(|source| Error::DecoderConfig { source })?;
        Architecture::from_json(&json)
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
