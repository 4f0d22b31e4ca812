//! How the ECG's embeddings enter the decoder: as a key/value prefix, as input tokens, or through gated cross-attention.
//!
//! Place: between `projector` and `decoder`; named in bundle.json, its own weights are `fusion.*`. Invariant: whatever the kind,
//! the decoder sees one `EcgPrefix` a request, made once, and generation does not know the kind.

use std::collections::BTreeSet;
use std::str::FromStr;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::architecture::Architecture;
use crate::error::{Error, Result};
use crate::layers::{Linear, attend};
use crate::norm::NormLayer;
use crate::weights::Weights;

/// The kind of fusion and its choices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fusion {
    /// A key/value prefix in every layer, or in those listed. Source: MEIT section 3.4, eqs 3-5.
    Prefix {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        layers: Option<BTreeSet<usize>>,
    },
    /// Projected tokens before the text, at the text's first positions. Source: LLaVA (arXiv 2304.08485).
    Input,
    /// Gated cross-attention and feed-forward before layers 0, k, 2k, ... Source: Flamingo (arXiv 2204.14198), figure 4.
    CrossAttention {
        #[serde(default = "every_layer")]
        every: usize,
    },
    /// Projected tokens beside the output of an encoder-decoder's encoder; the only kind that such a base takes.
    Memory,
}

fn every_layer() -> usize {
    1
}

impl FromStr for Fusion {
    type Err = serde_json::Error;

    /// A kind's name, or JSON as bundle.json has it.
    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        if text.starts_with('{') {
            serde_json::from_str(text)
        } else {
            serde_json::from_value(serde_json::json!({ "kind": text }))
        }
    }
}

impl Default for Fusion {
    fn default() -> Self {
        Self::Prefix { layers: None }
    }
}

impl Fusion {
    /// True for the kind that a manifest leaves out.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Layers that a cross-attention block precedes.
    pub fn cross_layers(&self, layers: usize) -> Vec<usize> {
        match self {
            Self::CrossAttention { every } => (0..layers).step_by((*every).max(1)).collect(),
            Self::Prefix { .. } | Self::Input | Self::Memory => Vec::new(),
        }
    }

    /// # Errors
    /// [`Error::Config`] for an ECG width that a prefix cannot tile, a layer that is not there, or `every` of zero.
    pub fn validate(&self, architecture: &Architecture, ecg_dim: usize) -> Result<()> {
        let fail = |key, value: usize, bound: String| {
            Err(Error::Config {
                key,
                value: value.to_string(),
                bound,
            })
        };
        let layers = architecture.layers.len();
        match self {
            Self::Prefix { .. } if ecg_dim != architecture.head_dim => {
                let bound = format!("must be the decoder's head dimension, {}", architecture.head_dim);
                fail("dim", ecg_dim, bound)
            }
            Self::Prefix { layers: Some(chosen) } => match chosen.iter().find(|&&layer| layer >= layers) {
                Some(&layer) => fail("fusion.layers", layer, format!("must be below {layers}")),
                None if chosen.is_empty() => fail("fusion.layers", 0, "must name at least one layer".to_owned()),
                None => Ok(()),
            },
            Self::CrossAttention { every: 0 } => fail("fusion.every", 0, "must be at least 1".to_owned()),
            Self::Memory => Err(Error::Config {
                key: "fusion.kind",
                value: "memory".to_owned(),
                bound: format!("{} has no encoder whose output could be one", architecture.model_type),
            }),
            Self::Prefix { layers: None } | Self::Input | Self::CrossAttention { .. } => Ok(()),
        }
    }
}

/// Loaded modules of a fusion.
#[derive(Clone)]
pub(crate) enum Modules {
    Prefix {
        layers: Option<BTreeSet<usize>>,
    },
    Input {
        project: Linear,
    },
    /// One entry a decoder layer.
    CrossAttention {
        blocks: Vec<Option<CrossBlock>>,
    },
}

impl Modules {
    /// Reads `input.*`, or `layers.<i>.*` for the layers that have a block.
    pub fn load(w: &Weights, fusion: &Fusion, a: &Architecture, ecg_dim: usize) -> Result<Self> {
        fusion.validate(a, ecg_dim)?;
        Ok(match fusion {
            Fusion::Prefix { layers } => Self::Prefix { layers: layers.clone() },
            Fusion::Input => Self::Input {
                project: Linear::load(&w.pp("input"), ecg_dim, a.hidden_size)?,
            },
            // `validate` refuses a memory, which has no layers here either
            Fusion::CrossAttention { .. } | Fusion::Memory => {
                let mut blocks = vec![None; a.layers.len()];
                for layer in fusion.cross_layers(a.layers.len()) {
                    blocks[layer] = Some(CrossBlock::load(&w.pp(format!("layers.{layer}")), a, ecg_dim)?);
                }
                Self::CrossAttention { blocks }
            }
        })
    }
}

impl Modules {
    /// The cross-attention block before a layer.
    pub fn block(&self, layer: usize) -> Option<&CrossBlock> {
        match self {
            Self::CrossAttention { blocks } => blocks.get(layer)?.as_ref(),
            Self::Prefix { .. } | Self::Input { .. } => None,
        }
    }
}

/// `x + tanh(g1) attend(norm(x), ecg)`, then `x + tanh(g2) mlp(norm(x))`; both gates start at zero.
#[derive(Clone)]
pub(crate) struct CrossBlock {
    attention_norm: NormLayer,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    attention_gate: Tensor,
    mlp_norm: NormLayer,
    up: Linear,
    down: Linear,
    mlp_gate: Tensor,
    heads: usize,
    head_dim: usize,
}

impl CrossBlock {
    fn load(w: &Weights, a: &Architecture, ecg_dim: usize) -> Result<Self> {
        let (c, inner) = (a.hidden_size, a.heads * a.head_dim);
        Ok(Self {
            attention_norm: NormLayer::load(&w.pp("attention_norm"), c, a.norm)?,
            q: Linear::load(&w.pp("q_proj"), c, inner)?,
            k: Linear::load(&w.pp("k_proj"), ecg_dim, inner)?,
            v: Linear::load(&w.pp("v_proj"), ecg_dim, inner)?,
            out: Linear::load(&w.pp("out_proj"), inner, c)?,
            attention_gate: w.get(&[1], "attention_gate")?,
            mlp_norm: NormLayer::load(&w.pp("mlp_norm"), c, a.norm)?,
            up: Linear::load(&w.pp("up_proj"), c, 4 * c)?,
            down: Linear::load(&w.pp("down_proj"), 4 * c, c)?,
            mlp_gate: w.get(&[1], "mlp_gate")?,
            heads: a.heads,
            head_dim: a.head_dim,
        })
    }

    /// e (B, P, E) -> K, V (B, H, P, D), once a request.
    pub fn keys_values(&self, e: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        Ok((self.split(&self.k.forward(e)?)?, self.split(&self.v.forward(e)?)?))
    }

    /// (B, T, H D) -> (B, H, T, D).
    fn split(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (b, t, _) = x.dims3()?;
        x.reshape((b, t, self.heads, self.head_dim))?
            .transpose(1, 2)?
            .contiguous()
    }

    /// (B, T, C) -> (B, T, C); every text position sees the whole ECG.
    pub fn forward(&self, x: &Tensor, (k, v): &(Tensor, Tensor)) -> candle_core::Result<Tensor> {
        let q = self.split(&self.q.forward(&self.attention_norm.forward(x)?)?)?;
        let y = self.out.forward(&attend(&q, k, v)?)?;
        let x = (x + y.broadcast_mul(&self.attention_gate.tanh()?)?)?;
        let y = self.up.forward(&self.mlp_norm.forward(&x)?)?.gelu_erf()?;
        let y = self.down.forward(&y)?;
        &x + y.broadcast_mul(&self.mlp_gate.tanh()?)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fusion_is_given_by_its_kind_or_as_json() {
        let of = |text: &str| text.parse::<Fusion>().unwrap();
        assert_eq!(of("prefix"), Fusion::default());
        assert_eq!(of("input"), Fusion::Input);
        assert_eq!(of("cross-attention"), Fusion::CrossAttention { every: 1 });
        assert_eq!(
            of(r#"{"kind": "cross-attention", "every": 2}"#),
            Fusion::CrossAttention { every: 2 }
        );
        let unknown = "prefixes".parse::<Fusion>().unwrap_err().to_string();
        assert!(
            unknown.contains("prefixes") && unknown.contains("cross-attention"),
            "{unknown}"
        );
    }
}
