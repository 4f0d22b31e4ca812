//! What an encoder-decoder is made of: BART and T5 in one description.
//!
//! Place: made from a checkpoint's config.json, read by the modules beside it. Invariant: a config describes tensors that fit
//! together; keys that config.json leaves out have the values that transformers gives them.
//! Source: transformers' BartConfig and T5Config (5.24.0).

use serde::Deserialize;
use serde_json::Value;

use super::names::Names;
use crate::architecture::{Activation, Norm, check_plain};
use crate::error::{Error, Result};
use crate::family::parse;

/// Values of `model_type` that load.
pub const MODEL_TYPES: [&str; 2] = ["bart", "t5"];

/// Every size and choice of an encoder-decoder, and where its weights lie in the checkpoint.
#[derive(Clone, Debug)]
pub struct Seq2SeqConfig {
    pub model_type: String,
    /// V.
    pub vocab_size: usize,
    /// C, of both stacks.
    pub hidden_size: usize,
    pub encoder: StackShape,
    pub decoder: StackShape,
    pub norm: Norm,
    pub norm_place: NormPlace,
    pub positions: Positions,
    pub activation: Activation,
    /// The feed-forward layer multiplies two projections.
    pub gated: bool,
    /// Every linear layer but the head has a bias.
    pub biases: bool,
    /// Factor of the attention scores; one over the root of the head's width without.
    pub score_scale: Option<f64>,
    /// Factor of the token embeddings.
    pub embed_scale: f64,
    /// Factor of what goes into the output head.
    pub output_scale: f64,
    /// The output head is the token embedding.
    pub tied: bool,
    /// Token that the decoder starts with.
    pub start: u32,
    pub(crate) names: Names,
}

/// Sizes of one stack of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackShape {
    pub layers: usize,
    /// H.
    pub heads: usize,
    /// D.
    pub head_dim: usize,
    pub mlp_size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// `x + f(norm(x))`, and one norm after the last layer.
    Before,
    /// `norm(x + f(x))`.
    After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// A table of `rows` vectors a stack; position p is row `p + offset`.
    Learned { rows: usize, offset: usize },
    /// A bias of the scores by distance, one value a bucket and head, shared by all layers of a stack.
    Relative { buckets: usize, distance_max: usize },
}

impl Seq2SeqConfig {
    /// # Errors
    /// A `model_type` that is not in [`MODEL_TYPES`]; a key that is missing or of another type; a value outside its bound.
    pub fn from_json(json: &Value) -> Result<Self> {
        check_plain(json)?;
        let model_type = json.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let config = match model_type {
            "bart" => bart(parse(json)?)?,
            "t5" => t5(parse(json)?)?,
            _ => {
                return Err(refused(
                    "model_type",
                    model_type,
                    format!("one of {}", MODEL_TYPES.join(", ")),
                ));
            }
        };
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        for stack in [self.encoder, self.decoder] {
            if stack.layers == 0 || stack.heads == 0 || stack.head_dim == 0 {
                let bound = "layers, heads and the head's width must each be at least 1".to_owned();
                return Err(refused("encoder or decoder", format!("{stack:?}"), bound));
            }
        }
        if let Positions::Relative { buckets, distance_max } = self.positions
            && (buckets < 4 || distance_max <= buckets / 2)
        {
            let (key, value) = (
                "relative_attention_num_buckets",
                format!("{buckets} up to {distance_max}"),
            );
            let bound = "at least 4, and a largest distance above half of them".to_owned();
            return Err(refused(key, value, bound));
        }
        if self.start as usize >= self.vocab_size {
            let bound = format!("must be below the vocabulary's size, {}", self.vocab_size);
            return Err(refused("decoder_start_token_id", self.start.to_string(), bound));
        }
        Ok(())
    }

    /// Tokens that a stack has positions for, where it has a last one.
    pub fn positions_max(&self) -> Option<usize> {
        match self.positions {
            Positions::Learned { rows, offset } => Some(rows - offset),
            Positions::Relative { .. } => None,
        }
    }

    /// Whether a tensor has a place for each token of the vocabulary, and on which axis.
    pub(crate) fn vocabulary_axis(&self, name: &str) -> Option<usize> {
        let (module, _) = name.rsplit_once('.').unwrap_or((name, ""));
        let last = module.rsplit('.').next().unwrap_or_default();
        match last {
            "shared" | "embed_tokens" | "lm_head" => Some(0),
            "final_logits_bias" => Some(1),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Bart {
    vocab_size: usize,
    d_model: usize,
    max_position_embeddings: usize,
    encoder_layers: usize,
    encoder_attention_heads: usize,
    encoder_ffn_dim: usize,
    decoder_layers: usize,
    decoder_attention_heads: usize,
    decoder_ffn_dim: usize,
    activation_function: Option<String>,
    scale_embedding: Option<bool>,
    decoder_start_token_id: Option<u32>,
    tie_word_embeddings: Option<bool>,
}

/// Rows of BART's position tables before position 0.
const BART_OFFSET: usize = 2;
/// BART starts with its end of text where the config does not say.
const BART_START_DEFAULT: u32 = 2;

fn bart(c: Bart) -> Result<Seq2SeqConfig> {
    let stack = |layers, heads: usize, mlp_size| match heads {
        0 => Err(refused("attention_heads", "0", "at least 1".to_owned())),
        _ if !c.d_model.is_multiple_of(heads) => {
            let bound = format!("must divide d_model, {}", c.d_model);
            Err(refused("attention_heads", heads.to_string(), bound))
        }
        _ => Ok(StackShape {
            layers,
            heads,
            head_dim: c.d_model / heads,
            mlp_size,
        }),
    };
    Ok(Seq2SeqConfig {
        model_type: "bart".to_owned(),
        vocab_size: c.vocab_size,
        hidden_size: c.d_model,
        encoder: stack(c.encoder_layers, c.encoder_attention_heads, c.encoder_ffn_dim)?,
        decoder: stack(c.decoder_layers, c.decoder_attention_heads, c.decoder_ffn_dim)?,
        norm: Norm::Layer {
            eps: 1e-5,
            affine: true,
        },
        norm_place: NormPlace::After,
        positions: Positions::Learned {
            rows: c.max_position_embeddings + BART_OFFSET,
            offset: BART_OFFSET,
        },
        activation: Activation::parse(c.activation_function.as_deref().unwrap_or("gelu"))?,
        gated: false,
        biases: true,
        score_scale: None,
        embed_scale: if c.scale_embedding.unwrap_or(false) {
            (c.d_model as f64).sqrt()
        } else {
            1.0
        },
        output_scale: 1.0,
        tied: c.tie_word_embeddings.unwrap_or(true),
        start: c.decoder_start_token_id.unwrap_or(BART_START_DEFAULT),
        names: Names::bart(),
    })
}

#[derive(Deserialize)]
struct T5 {
    vocab_size: usize,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    num_layers: usize,
    num_decoder_layers: Option<usize>,
    num_heads: usize,
    relative_attention_num_buckets: Option<usize>,
    relative_attention_max_distance: Option<usize>,
    layer_norm_epsilon: Option<f64>,
    feed_forward_proj: Option<String>,
    decoder_start_token_id: Option<u32>,
    pad_token_id: Option<u32>,
    tie_word_embeddings: Option<bool>,
    /// transformers 5 writes it; before, it followed from the tie.
    scale_decoder_outputs: Option<bool>,
}

fn t5(c: T5) -> Result<Seq2SeqConfig> {
    let stack = |layers| StackShape {
        layers,
        heads: c.num_heads,
        head_dim: c.d_kv,
        mlp_size: c.d_ff,
    };
    let feed_forward = c.feed_forward_proj.as_deref().unwrap_or("relu");
    let (activation, gated) = match feed_forward.strip_prefix("gated-") {
        Some("gelu") => (Activation::GeluTanh, true),
        Some(name) => (Activation::parse(name)?, true),
        None => (Activation::parse(feed_forward)?, false),
    };
    let tied = c.tie_word_embeddings.unwrap_or(true);
    let scaled = c.scale_decoder_outputs.unwrap_or(tied);
    Ok(Seq2SeqConfig {
        model_type: "t5".to_owned(),
        vocab_size: c.vocab_size,
        hidden_size: c.d_model,
        encoder: stack(c.num_layers),
        decoder: stack(c.num_decoder_layers.unwrap_or(c.num_layers)),
        norm: Norm::Rms {
            eps: c.layer_norm_epsilon.unwrap_or(1e-6),
        },
        norm_place: NormPlace::Before,
        positions: Positions::Relative {
            buckets: c.relative_attention_num_buckets.unwrap_or(32),
            distance_max: c.relative_attention_max_distance.unwrap_or(128),
        },
        activation,
        gated,
        biases: false,
        score_scale: Some(1.0),
        embed_scale: 1.0,
        output_scale: if scaled { (c.d_model as f64).powf(-0.5) } else { 1.0 },
        tied,
        start: c.decoder_start_token_id.or(c.pad_token_id).unwrap_or(0),
        names: Names::t5(gated),
    })
}

fn refused(key: &'static str, value: impl Into<String>, bound: String) -> Error {
    Error::Config {
        key,
        value: value.into(),
        bound,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn flan_t5_of_the_hub_has_a_head_of_its_own_and_no_scale() {
        let config = Seq2SeqConfig::from_json(&json!({"model_type": "t5", "vocab_size": 32128, "d_model": 512, "d_kv": 64,
            "d_ff": 1024, "num_layers": 8, "num_decoder_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu",
            "relative_attention_num_buckets": 32, "pad_token_id": 0, "decoder_start_token_id": 0, "tie_word_embeddings": false}))
        .unwrap();
        assert_eq!((config.tied, config.output_scale, config.gated), (false, 1.0, true));
        assert_eq!(config.activation, Activation::GeluTanh);
        assert_eq!(
            config.positions,
            Positions::Relative {
                buckets: 32,
                distance_max: 128
            }
        );
    }

    #[test]
    fn heads_that_do_not_divide_the_width_are_named_with_the_bound() {
        let error = Seq2SeqConfig::from_json(&json!({"model_type": "bart", "vocab_size": 9, "d_model": 10,
            "max_position_embeddings": 8, "encoder_layers": 1, "encoder_attention_heads": 3, "encoder_ffn_dim": 4,
            "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 4}))
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "config key attention_heads is 3: must divide d_model, 10"
        );
    }
}
