//! Backbone families: what each config.json means and where each checkpoint keeps its weights.
//!
//! Place: between a Hugging Face config and an `architecture`; one small file a family and nothing else of it anywhere.
//! Invariant: keys that a config leaves out have the values that transformers gives them.

mod bloom;
mod gpt2;
mod gpt_neo;
mod gpt_neox;
mod gptj;
mod llama;
mod opt;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::architecture::{Architecture, LayerShape};
use crate::error::{Error, Result};

/// Values of `model_type` that load.
pub const MODEL_TYPES: [&str; 8] = [
    "bloom", "gpt2", "gpt_neo", "gpt_neox", "gptj", "llama", "mistral", "opt",
];

/// # Errors
/// A `model_type` that is not in [`MODEL_TYPES`]; a key that is missing or of another type.
pub(crate) fn architecture(json: &Value) -> Result<Architecture> {
    let model_type = json.get("model_type").and_then(Value::as_str).unwrap_or_default();
    match model_type {
        "bloom" => bloom::architecture(parse(json)?),
        "gpt2" => gpt2::architecture(parse(json)?),
        "gpt_neo" => gpt_neo::architecture(parse(json)?),
        "gpt_neox" => gpt_neox::architecture(parse(json)?),
        "gptj" => gptj::architecture(parse(json)?),
        "llama" => llama::architecture(parse(json)?, None),
        "mistral" => llama::mistral(parse(json)?),
        "opt" => opt::architecture(parse(json)?),
        _ => Err(Error::Config {
            key: "model_type",
            value: model_type.to_owned(),
            bound: format!("one of {}", MODEL_TYPES.join(", ")),
        }),
    }
}

pub(crate) fn parse<T: DeserializeOwned>(json: &Value) -> Result<T> {
    T::deserialize(json).map_err(|source| Error::DecoderConfig { source })
}

/// A size that has two names in configs of different ages.
///
/// # Errors
/// [`Error::Config`] where neither is there.
fn required(key: &'static str, value: Option<usize>) -> Result<usize> {
    value.ok_or_else(|| Error::Config {
        key,
        value: "missing".to_owned(),
        bound: "must be given".to_owned(),
    })
}

/// Layers that are all alike, with scores scaled by one over the square root of the head dimension.
fn layers(count: usize, head_dim: usize, window: Option<usize>) -> Vec<LayerShape> {
    let shape = LayerShape {
        score_scale: (head_dim as f64).powf(-0.5),
        window,
    };
    vec![shape; count]
}

/// Width of a head: `hidden / heads`.
///
/// # Errors
/// [`Error::Config`] where the heads do not divide the hidden size.
fn head_dim(hidden: usize, heads: usize) -> Result<usize> {
    if heads > 0 && hidden.is_multiple_of(heads) {
        return Ok(hidden / heads);
    }
    Err(Error::Config {
        key: "num_attention_heads",
        value: heads.to_string(),
        bound: format!("must divide the hidden size, {hidden}"),
    })
}

#[cfg(test)]
mod tests;
