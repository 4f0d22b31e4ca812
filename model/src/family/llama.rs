//! LLaMA 1 to 3.x and Mistral: rotary positions, root-mean-square norms, gated feed-forward, grouped queries.
//!
//! Place: `family`. Source: transformers' LlamaConfig, LlamaForCausalLM, MistralConfig and MistralForCausalLM.

use serde::Deserialize;

use crate::architecture::{Activation, Architecture, Biases, Names, Norm, Orientation, Positions, Qkv, Residual};
use crate::error::Result;
use crate::rotary::{Pairs, Rope, RopeParameters};

#[derive(Deserialize)]
pub(super) struct Config {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    rms_norm_eps: Option<f64>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    max_position_embeddings: Option<usize>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    /// transformers 5 writes theta and scaling here.
    rope_parameters: Option<RopeParameters>,
}

#[derive(Deserialize)]
pub(super) struct MistralConfig {
    #[serde(flatten)]
    llama: Config,
    /// Null means no window; left out means the default.
    #[serde(default = "window_default")]
    sliding_window: Option<usize>,
}

#[allow(clippy::unnecessary_wraps)] // serde's default must have the field's type
fn window_default() -> Option<usize> {
    Some(4096)
}

const MISTRAL_KV_HEADS_DEFAULT: usize = 8;
const MISTRAL_POSITIONS_DEFAULT: usize = 131_072;

pub(super) fn mistral(mut c: MistralConfig) -> Result<Architecture> {
    c.llama.num_key_value_heads.get_or_insert(MISTRAL_KV_HEADS_DEFAULT);
    c.llama.max_position_embeddings.get_or_insert(MISTRAL_POSITIONS_DEFAULT);
    architecture(c.llama, c.sliding_window)
}

pub(super) fn architecture(c: Config, window: Option<usize>) -> Result<Architecture> {
    let head_dim = match c.head_dim {
        Some(d) => d,
        None => super::head_dim(c.hidden_size, c.num_attention_heads)?,
    };
    let newer = c.rope_parameters.as_ref();
    let theta = newer.and_then(|p| p.rope_theta).or(c.rope_theta).unwrap_or(10_000.0);
    let scaling = newer.or(c.rope_scaling.as_ref());
    let positions_max = c.max_position_embeddings.unwrap_or(2048);
    let rope = Rope::scaled(head_dim, theta, Pairs::Halves, scaling, positions_max)?;
    let attention_bias = c.attention_bias.unwrap_or(false);
    Ok(Architecture {
        model_type: c.model_type,
        vocab_size: c.vocab_size,
        hidden_size: c.hidden_size,
        embed_size: c.hidden_size,
        mlp_size: c.intermediate_size,
        heads: c.num_attention_heads,
        kv_heads: c.num_key_value_heads.unwrap_or(c.num_attention_heads),
        head_dim,
        layers: super::layers(c.num_hidden_layers, head_dim, window),
        norm: Norm::Rms {
            eps: c.rms_norm_eps.unwrap_or(1e-6),
        },
        residual: Residual::PreNorm,
        positions: Positions::Rotary(rope),
        activation: Activation::parse(c.hidden_act.as_deref().unwrap_or("silu"))?,
        biases: Biases {
            qkv: attention_bias,
            attention_out: attention_bias,
            mlp: c.mlp_bias.unwrap_or(false),
            head: false,
        },
        tied: c.tie_word_embeddings.unwrap_or(false),
        names: Names {
            body: "model",
            embed: "embed_tokens",
            learned_positions: None,
            embed_norm: None,
            project_in: None,
            project_out: None,
            final_norm: Some("norm"),
            head: "lm_head",
            layers: "layers",
            attention_norm: "input_layernorm",
            mlp_norm: Some("post_attention_layernorm"),
            qkv: Qkv::Split {
                q: "self_attn.q_proj",
                k: "self_attn.k_proj",
                v: "self_attn.v_proj",
            },
            attention_out: "self_attn.o_proj",
            gate: Some("mlp.gate_proj"),
            up: "mlp.up_proj",
            down: "mlp.down_proj",
            orientation: Orientation::OutIn,
        },
    })
}
