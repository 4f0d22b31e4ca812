//! Vision Mamba over patches in time: every layer reads the sequence in both directions.
//!
//! Place: a trunk of `encoder`. Shapes: (B, L, S) -> (B, 1 + N, C), the class token first; inside it lies in the middle.
//! Source: Zhu et al. 2024 (arXiv 2401.09417, algorithm 1) and its code's names; the two directions are averaged, as there in
//! the released models.

use candle_core::Tensor;

use super::patches::Patches;
use super::scan::selective_scan;
use crate::architecture::Norm;
use crate::config::VimConfig;
use crate::error::Result;
use crate::layers::Linear;
use crate::norm::NormLayer;
use crate::weights::Weights;

const NORM: Norm = Norm::Rms { eps: 1e-5 };

#[derive(Clone)]
pub(super) struct Vim {
    patches: Patches,
    layers: Vec<Layer>,
    norm: NormLayer,
}

#[derive(Clone)]
struct Layer {
    norm: NormLayer,
    input: Linear,
    forth: Direction,
    back: Direction,
    output: Linear,
    inner: usize,
}

/// Convolution and state space of one direction.
#[derive(Clone)]
struct Direction {
    /// (E, 1, taps).
    conv_weight: Tensor,
    conv_bias: Tensor,
    /// To step sizes, inputs and outputs of the states.
    x_proj: Linear,
    dt_proj: Linear,
    /// (E, states).
    a_log: Tensor,
    /// (E).
    d: Tensor,
    rank: usize,
    state: usize,
}

impl Vim {
    /// Reads what [`Patches`] reads, `layers.<i>.norm`, `layers.<i>.mixer.*` and `norm_f`.
    pub fn load(w: &Weights, leads: usize, sizes: &VimConfig) -> Result<Self> {
        let layers = w.pp("layers");
        Ok(Self {
            patches: Patches::load(w, leads, sizes.width, [sizes.patch, sizes.patches], sizes.patches / 2)?,
            layers: (0..sizes.layers)
                .map(|i| Layer::load(&layers.pp(i), sizes))
                .collect::<Result<_>>()?,
            norm: NormLayer::load(&w.pp("norm_f"), sizes.width, NORM)?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x = self.patches.forward(x)?;
        let x = self
            .layers
            .iter()
            .try_fold(x, |x, layer| &x + layer.forward(&layer.norm.forward(&x)?)?)?;
        self.patches.class_first(&self.norm.forward(&x)?)
    }
}

impl Layer {
    fn load(w: &Weights, sizes: &VimConfig) -> Result<Self> {
        let mixer = w.pp("mixer");
        Ok(Self {
            norm: NormLayer::load(&w.pp("norm"), sizes.width, NORM)?,
            input: Linear::load(&mixer.pp("in_proj"), sizes.width, 2 * sizes.inner)?,
            forth: Direction::load(&mixer, sizes, "", "A_log")?,
            back: Direction::load(&mixer, sizes, "_b", "A_b_log")?,
            output: Linear::load(&mixer.pp("out_proj"), sizes.inner, sizes.width)?,
            inner: sizes.inner,
        })
    }

    /// (B, T, C) -> (B, T, C).
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let xz = self.input.forward(x)?;
        let (x, z) = (xz.narrow(2, 0, self.inner)?, xz.narrow(2, self.inner, self.inner)?);
        let x = x.contiguous()?;
        let forth = self.forth.forward(&x)?;
        let back = self.back.forward(&x.flip(&[1])?)?.flip(&[1])?;
        let y = ((forth + back)? * z.silu()?)?;
        self.output.forward(&(y * 0.5)?)
    }
}

impl Direction {
    fn load(mixer: &Weights, sizes: &VimConfig, suffix: &str, a_log: &str) -> Result<Self> {
        let (e, part) = (sizes.inner, |name: &str| mixer.pp(format!("{name}{suffix}")));
        let conv = part("conv1d");
        Ok(Self {
            conv_weight: conv.get(&[e, 1, sizes.conv], "weight")?,
            conv_bias: conv.get(&[e], "bias")?,
            x_proj: Linear::load(&part("x_proj"), e, sizes.rank + 2 * sizes.state)?,
            dt_proj: Linear::load(&part("dt_proj"), sizes.rank, e)?,
            a_log: mixer.get(&[e, sizes.state], a_log)?,
            d: mixer.get(&[e], &format!("D{suffix}"))?,
            rank: sizes.rank,
            state: sizes.state,
        })
    }

    /// (B, T, E) -> (B, T, E), causal in the order given.
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x = self.convolve(x)?.silu()?;
        let sizes = self.x_proj.forward(&x)?; // (B, T, R + 2 states)
        let part = |from, len| sizes.narrow(2, from, len)?.contiguous();
        let step = softplus(&self.dt_proj.forward(&part(0, self.rank)?)?)?;
        let a = self.a_log.exp()?.neg()?;
        let (b, c) = (part(self.rank, self.state)?, part(self.rank + self.state, self.state)?);
        selective_scan(&x, &step, &a, &b, &c)? + x.broadcast_mul(&self.d)?
    }

    /// Depthwise, each output from its own sample and the taps before it.
    fn convolve(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (_, t, _) = x.dims3()?;
        let (_, _, taps) = self.conv_weight.dims3()?;
        let padded = x.pad_with_zeros(1, taps - 1, 0)?;
        let mut y = x.zeros_like()?.broadcast_add(&self.conv_bias)?;
        for tap in 0..taps {
            let weight = self.conv_weight.narrow(2, tap, 1)?.flatten_all()?; // (E)
            y = (y + padded.narrow(1, tap, t)?.broadcast_mul(&weight)?)?;
        }
        Ok(y)
    }
}

/// `ln(1 + e^x)`, without overflow.
fn softplus(x: &Tensor) -> candle_core::Result<Tensor> {
    x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?
}
