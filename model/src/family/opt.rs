//! OPT: learned positions from row 2, norm before or after each half, embeddings of another width where projected.
//!
//! Place: `family`. Source: transformers' OPTConfig and OPTForCausalLM.

use serde::Deserialize;

use crate::architecture::{Activation, Architecture, Biases, Names, Norm, Orientation, Positions, Qkv, Residual};
use crate::error::Result;

#[derive(Deserialize)]
pub(super) struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    ffn_dim: usize,
    max_position_embeddings: usize,
    num_attention_heads: usize,
    word_embed_proj_dim: Option<usize>,
    do_layer_norm_before: Option<bool>,
    #[serde(rename = "_remove_final_layer_norm")]
    remove_final_layer_norm: Option<bool>,
    activation_function: Option<String>,
    enable_bias: Option<bool>,
    layer_norm_elementwise_affine: Option<bool>,
    tie_word_embeddings: Option<bool>,
}

/// Rows of the position table before position 0.
const OFFSET: usize = 2;

pub(super) fn architecture(c: Config) -> Result<Architecture> {
    let head_dim = super::head_dim(c.hidden_size, c.num_attention_heads)?;
    let embed_size = c.word_embed_proj_dim.unwrap_or(c.hidden_size);
    let projected = embed_size != c.hidden_size;
    let before = c.do_layer_norm_before.unwrap_or(true);
    let bias = c.enable_bias.unwrap_or(true);
    Ok(Architecture {
        model_type: "opt".to_owned(),
        vocab_size: c.vocab_size,
        hidden_size: c.hidden_size,
        embed_size,
        mlp_size: c.ffn_dim,
        heads: c.num_attention_heads,
        kv_heads: c.num_attention_heads,
        head_dim,
        layers: super::layers(c.num_hidden_layers, head_dim, None),
        norm: Norm::Layer {
            eps: 1e-5,
            affine: c.layer_norm_elementwise_affine.unwrap_or(true),
        },
        residual: if before { Residual::PreNorm } else { Residual::PostNorm },
        positions: Positions::Learned {
            rows: c.max_position_embeddings + OFFSET,
            offset: OFFSET,
        },
        activation: Activation::parse(c.activation_function.as_deref().unwrap_or("relu"))?,
        biases: Biases {
            qkv: bias,
            attention_out: bias,
            mlp: bias,
            head: false,
        },
        tied: c.tie_word_embeddings.unwrap_or(true),
        names: Names {
            body: "model.decoder",
            embed: "embed_tokens",
            learned_positions: Some("embed_positions"),
            embed_norm: None,
            project_in: projected.then_some("project_in"),
            project_out: projected.then_some("project_out"),
            final_norm: (before && !c.remove_final_layer_norm.unwrap_or(false)).then_some("final_layer_norm"),
            head: "lm_head",
            layers: "layers",
            attention_norm: "self_attn_layer_norm",
            mlp_norm: Some("final_layer_norm"),
            qkv: Qkv::Split {
                q: "self_attn.q_proj",
                k: "self_attn.k_proj",
                v: "self_attn.v_proj",
            },
            attention_out: "self_attn.out_proj",
            gate: None,
            up: "fc1",
            down: "fc2",
            orientation: Orientation::OutIn,
        },
    })
}
