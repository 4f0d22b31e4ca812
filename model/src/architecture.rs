//! What a decoder is made of: one description for every backbone family.
//!
//! Place: made by `family` from a checkpoint's config.json, read by `decoder`, `attention` and `lora`. Invariant: an
//! architecture describes tensors that fit together; what the config asks for and this crate does not do is an error here.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::family;
use crate::files;
use crate::rotary::Rope;

/// Every size and choice of a decoder, and where its weights lie in the checkpoint.
#[derive(Clone, Debug)]
pub struct Architecture {
    pub model_type: String,
    /// V.
    pub vocab_size: usize,
    /// C.
    pub hidden_size: usize,
    /// Width of the token embedding; another than C only where `names.project_in` is set.
    pub embed_size: usize,
    /// Width of the feed-forward layer.
    pub mlp_size: usize,
    /// H.
    pub heads: usize,
    /// K.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    pub layers: Vec<LayerShape>,
    pub norm: Norm,
    pub residual: Residual,
    pub positions: Positions,
    pub activation: Activation,
    pub biases: Biases,
    /// The output head is the token embedding.
    pub tied: bool,
    pub names: Names,
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerShape {
    /// Factor of the attention scores.
    pub score_scale: f64,
    /// Text positions a query sees, itself included; all of them without.
    pub window: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// Mean and variance; with or without weight and bias.
    Layer { eps: f64, affine: bool },
    /// Root mean square.
    Rms { eps: f64 },
}

/// How a layer's two halves join the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// `x + f(norm(x))`, attention first.
    PreNorm,
    /// `norm(x + f(x))`, attention first.
    PostNorm,
    /// `norm(x) + f(norm(x))`, attention first.
    FromNorm,
    /// `x + attention(norm(x)) + mlp(norm(x))`, with one norm or two.
    Parallel,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// A table of `rows` vectors; position p is row `p + offset`.
    Learned { rows: usize, offset: usize },
    /// Rotations of queries and keys.
    Rotary(Rope),
    /// A bias of the scores that grows with the key's position, one slope a head.
    Alibi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// tanh approximation.
    GeluTanh,
    GeluErf,
    Relu,
    Silu,
}

impl Activation {
    /// By the name in config.json.
    ///
    /// # Errors
    /// [`Error::Config`] for a name that no family of ours uses.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Self::GeluTanh),
            "gelu" => Ok(Self::GeluErf),
            "relu" => Ok(Self::Relu),
            "silu" | "swish" => Ok(Self::Silu),
            _ => Err(Error::Config {
                key: "activation",
                value: name.to_owned(),
                bound: "one of gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu, silu, swish".to_owned(),
            }),
        }
    }
}

/// Which linear layers have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    pub qkv: bool,
    pub attention_out: bool,
    pub mlp: bool,
    pub head: bool,
}

/// Module names below the checkpoint's root, as transformers gives them (and peft after it).
#[derive(Clone, Debug)]
pub struct Names {
    /// Name of everything but the head; older checkpoints leave it out.
    pub body: &'static str,
    pub embed: &'static str,
    pub learned_positions: Option<&'static str>,
    pub embed_norm: Option<&'static str>,
    pub project_in: Option<&'static str>,
    pub project_out: Option<&'static str>,
    pub final_norm: Option<&'static str>,
    pub head: &'static str,
    /// A layer is `<layers>.<i>`.
    pub layers: &'static str,
    pub attention_norm: &'static str,
    /// None where attention and feed-forward share one norm.
    pub mlp_norm: Option<&'static str>,
    pub qkv: Qkv,
    pub attention_out: &'static str,
    /// The gated layers have one.
    pub gate: Option<&'static str>,
    pub up: &'static str,
    pub down: &'static str,
    pub orientation: Orientation,
}

/// Query, key and value projections.
#[derive(Clone, Copy, Debug)]
pub enum Qkv {
    Split {
        q: &'static str,
        k: &'static str,
        v: &'static str,
    },
    /// One projection to [q of every head | k of every head | v of every head].
    Stacked(&'static str),
    /// One projection to [q, k, v of head 0 | q, k, v of head 1 | ...].
    PerHead(&'static str),
}

/// How a checkpoint lays out the weights of its linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orientation {
    /// (O, I), torch's Linear.
    OutIn,
    /// (I, O), transformers' Conv1D.
    InOut,
}

/// # Errors
/// [`Error::Config`] for a config whose checkpoint holds quantised weights.
pub(crate) fn check_plain(json: &Value) -> Result<()> {
    let Some(quantised) = json.get("quantization_config").filter(|value| !value.is_null()) else {
        return Ok(());
    };
    Err(Error::Config {
        key: "quantization_config",
        value: quantised["quant_method"].as_str().unwrap_or("set").to_owned(),
        bound: "quantised checkpoints are not read; use the one they were made of".to_owned(),
    })
}

impl Architecture {
    /// Reads config.json of any supported `model_type`.
    ///
    /// # Errors
    /// A file that cannot be read or parsed; a value outside its bound.
    pub fn read(path: &Path) -> Result<Self> {
        let json: Value = files::parse(path, &files::read(path)?)?;
        Self::from_json(&json)
    }

    /// # Errors
    /// A key that is missing or of another type; a value outside its bound.
    pub fn from_json(json: &Value) -> Result<Self> {
        check_plain(json)?;
        let architecture = family::architecture(json)?;
        architecture.validate()?;
        Ok(architecture)
    }

    fn validate(&self) -> Result<()> {
        let fail = |key, value: usize, bound: String| {
            Err(Error::Config {
                key,
                value: value.to_string(),
                bound,
            })
        };
        if self.heads == 0 {
            return fail("num_attention_heads", 0, "at least 1".to_owned());
        }
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            let bound = format!("at least 1, and must divide the {} query heads", self.heads);
            return fail("num_key_value_heads", self.kv_heads, bound);
        }
        if self.head_dim == 0 || !self.hidden_size.is_multiple_of(self.head_dim) {
            let bound = format!(
                "must divide the hidden size, {}, which tiles the ECG embedding",
                self.hidden_size
            );
            return fail("head_dim", self.head_dim, bound);
        }
        if !matches!(self.names.qkv, Qkv::Split { .. }) && self.kv_heads != self.heads {
            let bound = "a fused projection has as many key/value heads as query heads".to_owned();
            return fail("num_key_value_heads", self.kv_heads, bound);
        }
        if let Positions::Rotary(rope) = &self.positions
            && !(1..=self.head_dim).contains(&rope.dims())
        {
            let bound = format!(
                "dimensions that turn, in pairs, must be 2 to the head dimension, {}",
                self.head_dim
            );
            return fail("rotary_dim", rope.dims(), bound);
        }
        if self.layers.is_empty() {
            return fail("num_hidden_layers", 0, "at least 1".to_owned());
        }
        if self.names.project_in.is_none() && self.embed_size != self.hidden_size {
            let bound = format!("must be the hidden size, {}", self.hidden_size);
            return fail("embedding size", self.embed_size, bound);
        }
        Ok(())
    }

    /// Text positions that the decoder has, where it has a last one.
    pub fn positions_max(&self) -> Option<usize> {
        match self.positions {
            Positions::Learned { rows, offset } => Some(rows - offset),
            Positions::Rotary(_) | Positions::Alibi => None,
        }
    }
}
