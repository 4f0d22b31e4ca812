//! A frozen linear layer with an adapter, as one operation.
//!
//! Place: under `projection`, in training. Shapes: x (N, I), A (R, I), B (O, R) -> `x W^T + scale (x A^T) B^T` (N, O). W gets no
//! gradient, and nothing as wide as the output is kept or added up on the way.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::{by_type, fill_parts, held, stored, values};
use crate::product::{Rows, product};
use crate::wide::Real;

/// The layer's own weight (O, I) and how much of the adapter is added.
pub(crate) struct Adapted {
    pub weight: Tensor,
    pub scale: f64,
}

impl CustomOp3 for Adapted {
    fn name(&self) -> &'static str {
        "adapted-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        l1: &Layout,
        a: &CpuStorage,
        l2: &Layout,
        b: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((n, inputs), (rank, _), (outputs, _)) = (l1.shape().dims2()?, l2.shape().dims2()?, l3.shape().dims2()?);
        let weight = self.weight.storage_and_layout();
        let y = by_type!(x, T => {
            let (x, a, b) = (values::<T>(x, l1)?, values::<T>(a, l2)?, values::<T>(b, l3)?);
            stored(self.forward([x, held(&weight)?, a, b], inputs, rank))
        });
        Ok((y, Shape::from((n, outputs))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let learns = x.track_op();
        let (x, a, b, grad) = (x.detach(), a.detach(), b.detach(), grad.contiguous()?);
        let scaled = (&grad.matmul(&b)? * self.scale)?; // (N, R)
        let low = (x.matmul(&a.t()?)? * self.scale)?; // (N, R)
        let dx = learns.then(|| grad.matmul(&self.weight)? + scaled.matmul(&a)?);
        let (da, db) = (scaled.t()?.matmul(&x)?, grad.t()?.matmul(&low)?);
        Ok((dx.transpose()?, Some(da), Some(db)))
    }
}

impl Adapted {
    fn forward<T: Real>(&self, [x, weight, a, b]: [&[T]; 4], inputs: usize, rank: usize) -> Vec<T> {
        let x = Rows::dense(x, inputs);
        let mut y = product(x, Rows::dense(weight, inputs), inputs);
        let mut low = product(x, Rows::dense(a, inputs), inputs);
        let scale = T::from_f64(self.scale);
        low.iter_mut().for_each(|v| *v *= scale);
        let change = product(Rows::dense(&low, rank), Rows::dense(b, rank), rank);
        let outputs = weight.len() / inputs;
        fill_parts(&mut y, outputs, |row, y| {
            let change = &change[row * outputs..][..outputs];
            y.iter_mut().zip(change).for_each(|(y, &change)| *y += change);
        });
        y
    }
}
