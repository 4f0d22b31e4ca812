//! Self-attention over [ECG prefix | text] in one softmax, and rotary positions.
//!
//! Place: inside every `decoder` layer. Shapes: (B, T, C) -> (B, T, C).
//! The prefix is visible to every query, is never rotated, and does not shift text positions. Source: MEIT eqs 3-5.

use candle_core::{D, DType, Device, Tensor};

use crate::cache::Cache;
use crate::config::{DecoderConfig, RopeScaling};
use crate::error::Result;
use crate::layers::{Linear, widen};
use crate::prefix::EcgPrefix;
use crate::weights::Weights;

/// Grouped-query attention with rotary positions.
pub struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    layer: usize,
}

impl Attention {
    pub fn load(w: &Weights, config: &DecoderConfig, layer: usize) -> Result<Self> {
        let (c, d) = (config.hidden_size, config.head_dim());
        let (q_dim, kv_dim) = (config.num_attention_heads * d, config.kv_heads() * d);
        Ok(Self {
            q_proj: Linear::load(&w.pp("q_proj"), c, q_dim)?,
            k_proj: Linear::load(&w.pp("k_proj"), c, kv_dim)?,
            v_proj: Linear::load(&w.pp("v_proj"), c, kv_dim)?,
            o_proj: Linear::load(&w.pp("o_proj"), q_dim, c)?,
            heads: config.num_attention_heads,
            kv_heads: config.kv_heads(),
            head_dim: d,
            layer,
        })
    }

    /// This layer's prefix: its own projections of the tiled embeddings e (B, P, D) -> K, V (B, K, P, D).
    pub fn prefix(&self, e: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let k = self.split(&self.k_proj.forward_tiled(e)?, self.kv_heads)?;
        let v = self.split(&self.v_proj.forward_tiled(e)?, self.kv_heads)?;
        Ok((k, v))
    }

    /// (B, T, n D) -> (B, n, T, D).
    fn split(&self, x: &Tensor, n: usize) -> candle_core::Result<Tensor> {
        let (b, t, _) = x.dims3()?;
        x.reshape((b, t, n, self.head_dim))?.transpose(1, 2)?.contiguous()
    }

    /// `mask` (T, P + T_all) is added to the scores; `rope` holds the rotations of this step's positions.
    pub fn forward(
        &self,
        x: &Tensor,
        rope: &Rotation,
        mask: &Tensor,
        prefix: Option<&EcgPrefix>,
        cache: &mut Cache,
    ) -> candle_core::Result<Tensor> {
        let (b, t, _) = x.dims3()?;
        let q = rope.apply(&self.split(&self.q_proj.forward(x)?, self.heads)?)?; // (B, H, T, D)
        let k = rope.apply(&self.split(&self.k_proj.forward(x)?, self.kv_heads)?)?; // (B, K, T, D)
        let v = self.split(&self.v_proj.forward(x)?, self.kv_heads)?;
        let (mut k, mut v) = cache.append(self.layer, &k, &v)?;
        if let Some((prefix_k, prefix_v)) = prefix.and_then(|p| p.layer(self.layer)) {
            k = Tensor::cat(&[prefix_k, &k], 2)?; // (B, K, P + T_all, D)
            v = Tensor::cat(&[prefix_v, &v], 2)?;
        }
        let group = self.heads / self.kv_heads;
        let columns = k.dim(2)?;
        let q = (q.reshape((b, self.kv_heads, group * t, self.head_dim))? * (self.head_dim as f64).powf(-0.5))?;
        let scores = widen(&q.matmul(&k.t()?)?)?.reshape((b, self.heads, t, columns))?;
        let weights = candle_nn::ops::softmax(&scores.broadcast_add(mask)?, D::Minus1)?.to_dtype(v.dtype())?;
        let weights = weights.reshape((b, self.kv_heads, group * t, columns))?;
        let y = weights.matmul(&v)?.reshape((b, self.heads, t, self.head_dim))?; // (B, H, T, D)
        self.o_proj.forward(
            &y.transpose(1, 2)?
                .contiguous()?
                .reshape((b, t, self.heads * self.head_dim))?,
        )
    }
}

/// Causal mask of `t` new tokens after `past` cached ones, with `p` prefix columns that are always visible:
/// (T, P + past + T), zero where visible.
pub fn causal_mask(t: usize, past: usize, p: usize, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
    let columns = p + past + t;
    let mask: Vec<f32> = (0..t)
        .flat_map(|i| (0..columns).map(move |j| if j < p + past + i + 1 { 0.0 } else { f32::MIN }))
        .collect();
    Tensor::from_vec(mask, (t, columns), device)?.to_dtype(dtype)
}

/// Inverse frequencies of a model's rotary positions.
pub struct Rope {
    inverse_frequencies: Vec<f64>,
}

impl Rope {
    /// Source: LLaMA's rotary embedding; the `llama3` scaling is that of LLaMA 3.1 (wavelength-dependent interpolation).
    pub fn new(config: &DecoderConfig) -> Self {
        let d = config.head_dim();
        let theta = config.rope_theta();
        let mut inverse_frequencies: Vec<f64> = (0..d / 2).map(|i| theta.powf(-((2 * i) as f64) / d as f64)).collect();
        match config.rope_scaling() {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => inverse_frequencies.iter_mut().for_each(|f| *f /= factor),
            RopeScaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                inverse_frequencies
                    .iter_mut()
                    .for_each(|f| *f = llama3(*f, factor, low, high, original));
            }
        }
        Self { inverse_frequencies }
    }

    /// Rotations of positions `from .. from + t`.
    pub fn rotation(&self, from: usize, t: usize, dtype: DType, device: &Device) -> candle_core::Result<Rotation> {
        let half = self.inverse_frequencies.len();
        let angles: Vec<f64> = (from..from + t)
            .flat_map(|position| self.inverse_frequencies.iter().map(move |f| position as f64 * f))
            .collect();
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f64> = angles.iter().map(|&a| f(a)).collect();
            Tensor::from_vec(values, (t, half), &Device::Cpu)?
                .to_dtype(dtype)?
                .to_device(device)
        };
        Ok(Rotation {
            cos: table(f64::cos)?,
            sin: table(f64::sin)?,
        })
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

/// Cosines and sines of one step's positions, each (T, D / 2).
pub struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    /// Rotates the two halves of the last axis: (B, n, T, D) -> (B, n, T, D).
    pub fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let half = x.dim(D::Minus1)? / 2;
        let (x1, x2) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let y1 = (x1.broadcast_mul(&self.cos)? - x2.broadcast_mul(&self.sin)?)?;
        let y2 = (x2.broadcast_mul(&self.cos)? + x1.broadcast_mul(&self.sin)?)?;
        Tensor::cat(&[y1, y2], D::Minus1)
    }
}
