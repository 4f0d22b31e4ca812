//! Sizes of a decoder that is trained from nothing (its config.json); those of the encoder (bundle.json) are `encoder::config`'s.
//!
//! Place: written by training, read once at load; checkpoints of other families are read by `architecture`. Invariant: a
//! config that becomes an architecture describes tensors that fit together.

use serde::{Deserialize, Serialize};

use crate::architecture::Architecture;
pub use crate::encoder::config::*;
use crate::error::{Error, Result};
use crate::rotary::RopeParameters;

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
