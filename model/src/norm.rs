//! Norms of the decoder, with exact gradients.
//!
//! Place: around the halves of every `decoder` layer. candle's fused norms have no backward (0.11.1), so these are composed of
//! operations whose gradients were checked. Invariant: computed in f32 or wider, returned in the input's type.

use candle_core::{D, Result, Tensor};

use crate::architecture::Norm;
use crate::error::Result as ModelResult;
use crate::layers::widen;
use crate::weights::Weights;

/// A norm over the last axis.
#[derive(Clone)]
pub struct NormLayer {
    kind: Norm,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
}

impl NormLayer {
    /// Reads `weight` (C) and, for a layer norm, `bias` (C).
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(w: &Weights, c: usize, kind: Norm) -> ModelResult<Self> {
        let (has_weight, has_bias) = match kind {
            Norm::Layer { affine, .. } => (affine, affine),
            Norm::Rms { .. } => (true, false),
        };
        Ok(Self {
            kind,
            weight: has_weight.then(|| w.get(&[c], "weight")).transpose()?,
            bias: has_bias.then(|| w.get(&[c], "bias")).transpose()?,
        })
    }

    /// (.., C) -> (.., C).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let wide = widen(x)?;
        let normed = match self.kind {
            Norm::Rms { eps } => scale(&wide, eps)?,
            Norm::Layer { eps, .. } => scale(&wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?, eps)?,
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

/// `x` over its root mean square.
fn scale(x: &Tensor, eps: f64) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + eps)?.sqrt()?)
}
