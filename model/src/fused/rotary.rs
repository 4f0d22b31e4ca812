//! Rotation of queries and keys in one pass.
//!
//! Place: under `rotary`. Shapes: (B, T, n, D) -> (B, T, n, D); cosines and sines (T, dims / 2), or (B, 1, T, dims / 2).

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};

use super::{by_type, fill_parts, held, stored, values};
use crate::rotary::Pairs;
use crate::wide::Real;

/// Turns the first dimensions of every head by the angles of its token.
#[derive(Clone)]
pub(crate) struct Turn {
    pub cos: Tensor,
    pub sin: Tensor,
    pub pairs: Pairs,
    /// The other way round, which is the gradient.
    pub back: bool,
}

impl Turn {
    fn forward<T: Real>(&self, x: &[T], heads: usize, d: usize) -> Result<Vec<T>> {
        let (cos, sin) = (self.cos.storage_and_layout(), self.sin.storage_and_layout());
        let (cos, sin) = (held::<T>(&cos)?, held::<T>(&sin)?);
        let half = self.cos.dim(D::Minus1)?;
        let tokens = cos.len() / half; // T, or B T where rows differ
        let mut y = x.to_vec();
        fill_parts(&mut y, heads * d, |token, y| {
            let at = token % tokens * half;
            let (cos, sin) = (&cos[at..][..half], &sin[at..][..half]);
            for y in y.chunks_mut(d) {
                for i in 0..half {
                    let (i1, i2) = match self.pairs {
                        Pairs::Halves => (i, i + half),
                        Pairs::Neighbours => (2 * i, 2 * i + 1),
                    };
                    let (x1, x2) = (y[i1], y[i2]);
                    let sin = if self.back { T::zero() - sin[i] } else { sin[i] };
                    y[i1] = x1 * cos[i] - x2 * sin;
                    y[i2] = x2 * cos[i] + x1 * sin;
                }
            }
        });
        Ok(y)
    }
}

impl CustomOp1 for Turn {
    fn name(&self) -> &'static str {
        "turn"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, _, heads, d) = layout.shape().dims4()?;
        let y = by_type!(x, T => stored(self.forward(values::<T>(x, layout)?, heads, d)?));
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let turn = Self {
            back: !self.back,
            ..self.clone()
        };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&turn)?))
    }
}
