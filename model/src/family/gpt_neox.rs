//! GPT-NeoX (and Pythia): partial rotary positions, fused projections a head, parallel or sequential residual.
//!
//! Place: `family`. Source: transformers' GPTNeoXConfig and GPTNeoXForCausalLM.

use serde::Deserialize;

use crate::architecture::{Activation, Architecture, Biases, Names, Norm, Orientation, Positions, Qkv, Residual};
use crate::error::Result;
use crate::rotary::{Pairs, Rope, RopeParameters};

#[derive(Deserialize)]
pub(super) struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f64>,
    use_parallel_residual: Option<bool>,
    attention_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    rope_parameters: Option<RopeParameters>,
    max_position_embeddings: Option<usize>,
    /// transformers 4 writes these three instead of `rope_parameters`.
    rope_scaling: Option<RopeParameters>,
    rotary_pct: Option<f64>,
    rotary_emb_base: Option<f64>,
}

pub(super) fn architecture(c: Config) -> Result<Architecture> {
    let head_dim = super::head_dim(c.hidden_size, c.num_attention_heads)?;
    let newer = c.rope_parameters.as_ref();
    let share = newer
        .and_then(|p| p.partial_rotary_factor)
        .or(c.rotary_pct)
        .unwrap_or(0.25);
    let theta = newer
        .and_then(|p| p.rope_theta)
        .or(c.rotary_emb_base)
        .unwrap_or(10_000.0);
    let dims = (head_dim as f64 * share) as usize;
    let scaling = newer.or(c.rope_scaling.as_ref());
    let positions_max = c.max_position_embeddings.unwrap_or(2048);
    let rope = Rope::scaled(dims, theta, Pairs::Halves, scaling, positions_max)?;
    let bias = c.attention_bias.unwrap_or(true);
    Ok(Architecture {
        model_type: "gpt_neox".to_owned(),
        vocab_size: c.vocab_size,
        hidden_size: c.hidden_size,
        embed_size: c.hidden_size,
        mlp_size: c.intermediate_size,
        heads: c.num_attention_heads,
        kv_heads: c.num_attention_heads,
        head_dim,
        layers: super::layers(c.num_hidden_layers, head_dim, None),
        norm: Norm::Layer {
            eps: c.layer_norm_eps.unwrap_or(1e-5),
            affine: true,
        },
        residual: if c.use_parallel_residual.unwrap_or(true) {
            Residual::Parallel
        } else {
            Residual::PreNorm
        },
        positions: Positions::Rotary(rope),
        activation: Activation::parse(c.hidden_act.as_deref().unwrap_or("gelu"))?,
        biases: Biases {
            qkv: bias,
            attention_out: bias,
            mlp: true,
            head: false,
        },
        tied: c.tie_word_embeddings.unwrap_or(false),
        names: Names {
            body: "gpt_neox",
            embed: "embed_in",
            learned_positions: None,
            embed_norm: None,
            project_in: None,
            project_out: None,
            final_norm: Some("final_layer_norm"),
            head: "embed_out",
            layers: "layers",
            attention_norm: "input_layernorm",
            mlp_norm: Some("post_attention_layernorm"),
            qkv: Qkv::PerHead("attention.query_key_value"),
            attention_out: "attention.dense",
            gate: None,
            up: "mlp.dense_h_to_4h",
            down: "mlp.dense_4h_to_h",
            orientation: Orientation::OutIn,
        },
    })
}
