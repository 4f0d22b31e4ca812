//! Rotary positions: which dimensions turn, how fast, and in which pairs.
//!
//! Place: part of an `architecture`, applied by `attention` to queries and keys of text; the ECG prefix is never rotated.
//! Invariant: the tables are computed in f64 and rounded once. Source: RoFormer; the `llama3` scaling is that of LLaMA 3.1
//! (wavelength-dependent interpolation).

use candle_core::{D, DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::columns::Past;
use crate::error::{Error, Result};
use crate::fused::rotary::Turn;

/// `rope_scaling` (older) or `rope_parameters` (newer) of config.json.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RopeParameters {
    #[serde(default)]
    pub rope_theta: Option<f64>,
    #[serde(default)]
    pub rope_type: Option<String>,
    /// Older name of `rope_type`; some configs have both.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub older_type: Option<String>,
    #[serde(default)]
    pub factor: Option<f64>,
    #[serde(default)]
    pub low_freq_factor: Option<f64>,
    #[serde(default)]
    pub high_freq_factor: Option<f64>,
    #[serde(default)]
    pub original_max_position_embeddings: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial_rotary_factor: Option<f64>,
}

/// Which dimensions form a pair that turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// (i, i + dims / 2), as GPT-NeoX and LLaMA.
    Halves,
    /// (2 i, 2 i + 1), as GPT-J.
    Neighbours,
}

/// Inverse frequencies of a model's rotary positions, one a pair.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    inverse_frequencies: Vec<f64>,
    pairs: Pairs,
}

impl Rope {
    /// The first `dims` dimensions of every head turn. An odd number of them has its last frequency turn one dimension more, as in
    /// transformers: frequencies are those of `dims`, pairs those of the next even number.
    pub fn new(dims: usize, theta: f64, pairs: Pairs) -> Self {
        let frequency = |i| theta.powf(-((2 * i) as f64) / dims as f64);
        Self {
            inverse_frequencies: (0..dims.div_ceil(2)).map(frequency).collect(),
            pairs,
        }
    }

    /// As [`Self::new`], with frequencies stretched as config.json says; `positions_max` is its max_position_embeddings.
    ///
    /// # Errors
    /// [`Error::Config`] for a kind of scaling that is not one of default, linear, llama3; for a number of that kind which is missing,
    /// not finite or not above 0.
    pub fn scaled(
        dims: usize,
        theta: f64,
        pairs: Pairs,
        scaling: Option<&RopeParameters>,
        positions_max: usize,
    ) -> Result<Self> {
        let mut rope = Self::new(dims, positive("rope_theta", Some(theta))?, pairs);
        let Some(p) = scaling else { return Ok(rope) };
        let frequencies = rope.inverse_frequencies.iter_mut();
        match p.rope_type.as_deref().or(p.older_type.as_deref()) {
            None | Some("default") => {}
            Some("linear") => {
                let factor = positive("factor", p.factor)?;
                frequencies.for_each(|f| *f /= factor);
            }
            Some("llama3") => {
                let factor = positive("factor", p.factor)?;
                let low = positive("low_freq_factor", p.low_freq_factor)?;
                let high = positive("high_freq_factor", p.high_freq_factor)?;
                if high <= low {
                    return Err(Error::Config {
                        key: "high_freq_factor",
                        value: high.to_string(),
                        bound: format!("must be above low_freq_factor, {low}"),
                    });
                }
                let original = p.original_max_position_embeddings.unwrap_or(positions_max as f64);
                let original = positive("original_max_position_embeddings", Some(original))?;
                frequencies.for_each(|f| *f = llama3(*f, factor, low, high, original));
            }
            Some(kind) => {
                return Err(Error::Config {
                    key: "rope_type",
                    value: kind.to_owned(),
                    bound: "one of default, linear, llama3".to_owned(),
                });
            }
        }
        Ok(rope)
    }

    /// Dimensions of a head that turn.
    pub fn dims(&self) -> usize {
        2 * self.inverse_frequencies.len()
    }

    /// Rotations of the next `t` tokens of every row.
    pub fn rotation(&self, past: &Past, t: usize, dtype: DType, device: &Device) -> candle_core::Result<Rotation> {
        let half = self.inverse_frequencies.len();
        let angles: Vec<f64> = past
            .positions(t)
            .into_iter()
            .flat_map(|position| self.inverse_frequencies.iter().map(move |f| position as f64 * f))
            .collect();
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f64> = angles.iter().map(|&a| f(a)).collect();
            let table = if past.rows() == 1 {
                Tensor::from_vec(values, (t, half), &Device::Cpu)?
            } else {
                Tensor::from_vec(values, (past.rows(), 1, t, half), &Device::Cpu)?
            };
            table.to_dtype(dtype)?.to_device(device)
        };
        Ok(Rotation {
            cos: table(f64::cos)?,
            sin: table(f64::sin)?,
            pairs: self.pairs,
        })
    }
}

/// # Errors
/// [`Error::Config`] for a number that is missing, not finite or not above 0.
fn positive(key: &'static str, value: Option<f64>) -> Result<f64> {
    let fail = |value, bound: &str| {
        Err(Error::Config {
            key,
            value,
            bound: bound.to_owned(),
        })
    };
    match value {
        Some(value) if value.is_finite() && value > 0.0 => Ok(value),
        Some(value) => fail(value.to_string(), "must be a finite number above 0"),
        None => fail("missing".to_owned(), "this rope_type needs it"),
    }
}

fn llama3(frequency: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let wavelength = 2.0 * std::f64::consts::PI / frequency;
    if wavelength < original / high {
        frequency
    } else if wavelength > original / low {
        frequency / factor
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// Cosines and sines of one step's positions, each (T, dims / 2), or (B, 1, T, dims / 2) where rows differ.
pub struct Rotation {
    cos: Tensor,
    sin: Tensor,
    pairs: Pairs,
}

impl Rotation {
    /// Turns the first dimensions of the last axis: (B, n, T, D) -> (B, n, T, D).
    pub fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (d, dims) = (x.dim(D::Minus1)?, 2 * self.cos.dim(D::Minus1)?);
        if dims == d {
            return self.turn(x);
        }
        let turned = self.turn(&x.narrow(D::Minus1, 0, dims)?)?;
        // contiguous, or candle's cat returns a strided result that its matmul refuses
        let rest = x.narrow(D::Minus1, dims, d - dims)?.contiguous()?;
        Tensor::cat(&[turned, rest], D::Minus1)
    }

    /// As [`Self::apply`] with the tokens first, on the CPU in one pass: (B, T, n, D) -> (B, T, n, D).
    pub(crate) fn apply_fused(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.contiguous()?.apply_op1(Turn {
            cos: self.cos.clone(),
            sin: self.sin.clone(),
            pairs: self.pairs,
            back: false,
        })
    }

    fn turn(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self.pairs {
            Pairs::Halves => {
                let half = x.dim(D::Minus1)? / 2;
                let [y1, y2] = self.pair(&x.narrow(D::Minus1, 0, half)?, &x.narrow(D::Minus1, half, half)?)?;
                Tensor::cat(&[y1, y2], D::Minus1)
            }
            Pairs::Neighbours => {
                let (b, n, t, d) = x.dims4()?;
                let x = x.contiguous()?.reshape((b, n, t, d / 2, 2))?;
                let part = |i| x.narrow(D::Minus1, i, 1)?.squeeze(D::Minus1);
                let [y1, y2] = self.pair(&part(0)?, &part(1)?)?; // (B, n, T, D / 2)
                Tensor::stack(&[y1, y2], 4)?.reshape((b, n, t, d))
            }
        }
    }

    fn pair(&self, x1: &Tensor, x2: &Tensor) -> candle_core::Result<[Tensor; 2]> {
        Ok([
            (x1.broadcast_mul(&self.cos)? - x2.broadcast_mul(&self.sin)?)?,
            (x2.broadcast_mul(&self.cos)? + x1.broadcast_mul(&self.sin)?)?,
        ])
    }
}
