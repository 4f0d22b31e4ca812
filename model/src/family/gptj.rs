//! GPT-J: interleaved rotary positions, one norm for attention and feed-forward side by side, a head with a bias.
//!
//! Place: `family`. Source: transformers' GPTJConfig and GPTJForCausalLM.

use serde::Deserialize;

use crate::architecture::{Activation, Architecture, Biases, Names, Norm, Orientation, Positions, Qkv, Residual};
use crate::error::{Error, Result};
use crate::rotary::{Pairs, Rope};

#[derive(Deserialize)]
pub(super) struct Config {
    vocab_size: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    /// Left out means the default; null is another function in transformers, which is not done here.
    #[serde(default = "rotary_dim_default")]
    rotary_dim: Option<usize>,
    n_inner: Option<usize>,
    activation_function: Option<String>,
    layer_norm_epsilon: Option<f64>,
    tie_word_embeddings: Option<bool>,
}

#[allow(clippy::unnecessary_wraps)] // serde's default must have the field's type
fn rotary_dim_default() -> Option<usize> {
    Some(64)
}

pub(super) fn architecture(c: Config) -> Result<Architecture> {
    let head_dim = super::head_dim(c.n_embd, c.n_head)?;
    let even = c.rotary_dim.filter(|dims| dims.is_multiple_of(2));
    let rotary_dim = even.ok_or_else(|| Error::Config {
        key: "rotary_dim",
        value: c.rotary_dim.map_or("null".to_owned(), |dims| dims.to_string()),
        bound: "must be an even number; left out it is 64".to_owned(),
    })?;
    let tied = c.tie_word_embeddings.unwrap_or(false);
    Ok(Architecture {
        model_type: "gptj".to_owned(),
        vocab_size: c.vocab_size,
        hidden_size: c.n_embd,
        embed_size: c.n_embd,
        mlp_size: c.n_inner.unwrap_or(4 * c.n_embd),
        heads: c.n_head,
        kv_heads: c.n_head,
        head_dim,
        layers: super::layers(c.n_layer, head_dim, None),
        norm: Norm::Layer {
            eps: c.layer_norm_epsilon.unwrap_or(1e-5),
            affine: true,
        },
        residual: Residual::Parallel,
        positions: Positions::Rotary(Rope::new(rotary_dim, 10_000.0, Pairs::Neighbours)),
        activation: Activation::parse(c.activation_function.as_deref().unwrap_or("gelu_new"))?,
        biases: Biases {
            qkv: false,
            attention_out: false,
            mlp: true,
            head: true,
        },
        tied,
        names: Names {
            body: "transformer",
            embed: "wte",
            learned_positions: None,
            embed_norm: None,
            project_in: None,
            project_out: None,
            final_norm: Some("ln_f"),
            head: "lm_head",
            layers: "h",
            attention_norm: "ln_1",
            mlp_norm: None,
            qkv: Qkv::Split {
                q: "attn.q_proj",
                k: "attn.k_proj",
                v: "attn.v_proj",
            },
            attention_out: "attn.out_proj",
            gate: None,
            up: "mlp.fc_in",
            down: "mlp.fc_out",
            orientation: Orientation::OutIn,
        },
    })
}
