//! Norms of the decoder, with exact gradients.
//!
//! Place: around the halves of every `decoder` layer. candle's fused norms have no backward (0.11.1), so these are composed of
//! operations whose gradients were checked. Invariant: computed in f32 or wider, returned in the input's type.

use candle_core::{D, Result, Tensor};

use crate::architecture::Norm as Kind;
use crate::error::Result as ModelResult;
use crate::fused::{self, norm::Norm};
use crate::layers::widen;
use crate::weights::Weights;

/// A norm over the last axis.
#[derive(Clone)]
pub struct NormLayer {
    kind: Kind,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
}

impl NormLayer {
    /// Reads `weight` (C) and, for a layer norm, `bias` (C).
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(w: &Weights, c: usize, kind: Kind) -> ModelResult<Self> {
        let (has_weight, has_bias) = match kind {
            Kind::Layer { affine, .. } => (affine, affine),
            Kind::Rms { .. } => (true, false),
        };
        Ok(Self {
            kind,
            weight: has_weight.then(|| w.get(&[c], "weight")).transpose()?,
            bias: has_bias.then(|| w.get(&[c], "bias")).transpose()?,
        })
    }

    /// (.., C) -> (.., C).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if let Some(norm) = self.fused(x) {
            return norm.apply(x);
        }
        let wide = widen(x)?;
        let normed = match self.kind {
            Kind::Rms { eps } => scale(&wide, eps)?,
            Kind::Layer { eps, .. } => scale(&wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?, eps)?,
        };
        let mut y = normed.to_dtype(x.dtype())?;
        if let Some(weight) = &self.weight {
            y = y.broadcast_mul(weight)?;
        }
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        Ok(y)
    }
}

impl NormLayer {
    /// The norm in one pass, where that takes x.
    pub(crate) fn fused(&self, x: &Tensor) -> Option<Norm> {
        if !fused::takes_frozen(x, self.weight.iter().chain(&self.bias)) {
            return None;
        }
        let (centred, eps) = match self.kind {
            Kind::Rms { eps } => (false, eps),
            Kind::Layer { eps, .. } => (true, eps),
        };
        Some(Norm {
            centred,
            eps,
            weight: self.weight.clone(),
            bias: self.bias.clone(),
        })
    }
}

/// `x` over its root mean square.
fn scale(x: &Tensor, eps: f64) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + eps)?.sqrt()?)
}
