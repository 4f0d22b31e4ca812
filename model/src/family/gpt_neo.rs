//! GPT-Neo: learned positions, unscaled scores, global and local layers.
//!
//! Place: `family`. Source: transformers' GPTNeoConfig and GPTNeoForCausalLM.

use serde::Deserialize;

use crate::architecture::{
    Activation, Architecture, Biases, LayerShape, Names, Norm, Orientation, Positions, Qkv, Residual,
};
use crate::error::{Error, Result};

#[derive(Deserialize)]
pub(super) struct Config {
    vocab_size: usize,
    max_position_embeddings: usize,
    hidden_size: usize,
    num_layers: usize,
    num_heads: usize,
    /// Kinds of layers and how often each list repeats.
    attention_types: Option<Vec<(Vec<String>, usize)>>,
    intermediate_size: Option<usize>,
    window_size: Option<usize>,
    activation_function: Option<String>,
    layer_norm_epsilon: Option<f64>,
    tie_word_embeddings: Option<bool>,
}

const WINDOW_DEFAULT: usize = 256;

pub(super) fn architecture(c: Config) -> Result<Architecture> {
    let head_dim = super::head_dim(c.hidden_size, c.num_heads)?;
    Ok(Architecture {
        model_type: "gpt_neo".to_owned(),
        vocab_size: c.vocab_size,
        hidden_size: c.hidden_size,
        embed_size: c.hidden_size,
        mlp_size: c.intermediate_size.unwrap_or(4 * c.hidden_size),
        heads: c.num_heads,
        kv_heads: c.num_heads,
        head_dim,
        layers: layers(&c)?,
        norm: Norm::Layer {
            eps: c.layer_norm_epsilon.unwrap_or(1e-5),
            affine: true,
        },
        residual: Residual::PreNorm,
        positions: Positions::Learned {
            rows: c.max_position_embeddings,
            offset: 0,
        },
        activation: Activation::parse(c.activation_function.as_deref().unwrap_or("gelu_new"))?,
        biases: Biases {
            qkv: false,
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
            qkv: Qkv::Split {
                q: "attn.attention.q_proj",
                k: "attn.attention.k_proj",
                v: "attn.attention.v_proj",
            },
            attention_out: "attn.attention.out_proj",
            gate: None,
            up: "mlp.c_fc",
            down: "mlp.c_proj",
            orientation: Orientation::OutIn,
        },
    })
}

fn layers(c: &Config) -> Result<Vec<LayerShape>> {
    let usual = || vec![(vec!["global".to_owned(), "local".to_owned()], 12)];
    let types = c.attention_types.clone().unwrap_or_else(usual);
    let repeated = types.iter();
    let kinds: Vec<&String> = repeated
        .flat_map(|(kinds, times)| kinds.iter().cycle().take(kinds.len() * times))
        .collect();
    if kinds.len() != c.num_layers {
        return Err(Error::Config {
            key: "attention_types",
            value: format!("{} layers", kinds.len()),
            bound: format!("must describe num_layers, {}", c.num_layers),
        });
    }
    let layer = |kind: &&String| match kind.as_str() {
        "global" => Ok(None),
        "local" => Ok(Some(c.window_size.unwrap_or(WINDOW_DEFAULT))),
        other => Err(Error::Config {
            key: "attention_types",
            value: other.to_owned(),
            bound: "global or local".to_owned(),
        }),
    };
    let shape = |window| LayerShape {
        score_scale: 1.0,
        window,
    };
    kinds.iter().map(|kind| layer(kind).map(shape)).collect()
}
