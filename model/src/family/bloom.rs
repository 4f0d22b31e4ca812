//! BLOOM: ALiBi positions, a norm after the embedding, fused projections a head, tied head.
//!
//! Place: `family`. Source: transformers' BloomConfig and BloomForCausalLM.

use serde::Deserialize;

use crate::architecture::{Activation, Architecture, Biases, Names, Norm, Orientation, Positions, Qkv, Residual};
use crate::error::Result;

#[derive(Deserialize)]
pub(super) struct Config {
    vocab_size: usize,
    hidden_size: Option<usize>,
    n_layer: Option<usize>,
    n_head: Option<usize>,
    /// Older configs have these names instead of the three above, or beside them.
    n_embed: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    layer_norm_epsilon: Option<f64>,
    apply_residual_connection_post_layernorm: Option<bool>,
    tie_word_embeddings: Option<bool>,
}

pub(super) fn architecture(c: Config) -> Result<Architecture> {
    let hidden_size = super::required("hidden_size", c.n_embed.or(c.hidden_size))?;
    let layers = super::required("n_layer", c.n_layer.or(c.num_hidden_layers))?;
    let heads = super::required("n_head", c.n_head.or(c.num_attention_heads))?;
    let head_dim = super::head_dim(hidden_size, heads)?;
    Ok(Architecture {
        model_type: "bloom".to_owned(),
        vocab_size: c.vocab_size,
        hidden_size,
        embed_size: hidden_size,
        mlp_size: 4 * hidden_size,
        heads,
        kv_heads: heads,
        head_dim,
        layers: super::layers(layers, head_dim, None),
        norm: Norm::Layer {
            eps: c.layer_norm_epsilon.unwrap_or(1e-5),
            affine: true,
        },
        residual: if c.apply_residual_connection_post_layernorm.unwrap_or(false) {
            Residual::FromNorm
        } else {
            Residual::PreNorm
        },
        positions: Positions::Alibi,
        activation: Activation::GeluTanh,
        biases: Biases {
            qkv: true,
            attention_out: true,
            mlp: true,
            head: false,
        },
        tied: c.tie_word_embeddings.unwrap_or(true),
        names: Names {
            body: "transformer",
            embed: "word_embeddings",
            learned_positions: None,
            embed_norm: Some("word_embeddings_layernorm"),
            project_in: None,
            project_out: None,
            final_norm: Some("ln_f"),
            head: "lm_head",
            layers: "h",
            attention_norm: "input_layernorm",
            mlp_norm: Some("post_attention_layernorm"),
            qkv: Qkv::PerHead("self_attention.query_key_value"),
            attention_out: "self_attention.dense",
            gate: None,
            up: "mlp.dense_h_to_4h",
            down: "mlp.dense_4h_to_h",
            orientation: Orientation::OutIn,
        },
    })
}
