//! GPT-2: learned positions, fused Conv1D projections, tied head.
//!
//! Place: `family`. Source: transformers' GPT2Config and GPT2LMHeadModel.

use serde::Deserialize;

use crate::architecture::{
    Activation, Architecture, Biases, LayerShape, Names, Norm, Orientation, Positions, Qkv, Residual,
};
use crate::error::Result;

#[derive(Deserialize)]
pub(super) struct Config {
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_inner: Option<usize>,
    activation_function: Option<String>,
    layer_norm_epsilon: Option<f64>,
    scale_attn_weights: Option<bool>,
    scale_attn_by_inverse_layer_idx: Option<bool>,
    tie_word_embeddings: Option<bool>,
}

pub(super) fn architecture(c: Config) -> Result<Architecture> {
    let head_dim = super::head_dim(c.n_embd, c.n_head)?;
    let by_head = c.scale_attn_weights.unwrap_or(true);
    let by_layer = c.scale_attn_by_inverse_layer_idx.unwrap_or(false);
    let layer = |i: usize| LayerShape {
        score_scale: if by_head { (head_dim as f64).powf(-0.5) } else { 1.0 }
            / if by_layer { (i + 1) as f64 } else { 1.0 },
        window: None,
    };
    Ok(Architecture {
        model_type: "gpt2".to_owned(),
        vocab_size: c.vocab_size,
        hidden_size: c.n_embd,
        embed_size: c.n_embd,
        mlp_size: c.n_inner.unwrap_or(4 * c.n_embd),
        heads: c.n_head,
        kv_heads: c.n_head,
        head_dim,
        layers: (0..c.n_layer).map(layer).collect(),
        norm: Norm::Layer {
            eps: c.layer_norm_epsilon.unwrap_or(1e-5),
            affine: true,
        },
        residual: Residual::PreNorm,
        positions: Positions::Learned {
            rows: c.n_positions,
            offset: 0,
        },
        activation: Activation::parse(c.activation_function.as_deref().unwrap_or("gelu_new"))?,
        biases: Biases {
            qkv: true,
            attention_out: true,
            mlp: true,
            head: false,
        },
        tied: c.tie_word_embeddings.unwrap_or(true),
        names: Names {
            body: "transformer",
            embed: "wte",
            learned_positions: Some("wpe"),
            embed_norm: None,
            project_in: None,
            project_out: None,
            final_norm: Some("ln_f"),
            head: "lm_head",
            layers: "h",
            attention_norm: "ln_1",
            mlp_norm: Some("ln_2"),
            qkv: Qkv::Stacked("attn.c_attn"),
            attention_out: "attn.c_proj",
            gate: None,
            up: "mlp.c_fc",
            down: "mlp.c_proj",
            orientation: Orientation::InOut,
        },
    })
}
