//! A frozen linear layer with an adapter, as one operation.
//!
//! Place: under `projection`, in training. Shapes: x (.., I), A (R, I), B (O, R) -> `x W^T + scale (x A^T) B^T` (.., O). W gets no
//! gradient, and nothing as wide as the output is kept or added up on the way.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};

use super::{by_type, held, stored, values};
use crate::frozen::with_width;
use crate::panels::{LowRank, Matrix, sum_of_products, times_transposed};
use crate::wide::Real;

/// The layer's own weight (O, I) and how much of the adapter is added.
pub(crate) struct Adapted {
    pub weight: Tensor,
    pub scale: f64,
}

impl Adapted {
    fn forward<T: Real>(&self, [x, a, b]: [&[T]; 3], (inputs, rank): (usize, usize)) -> Result<Vec<T>> {
        let weight = self.weight.storage_and_layout();
        let adapter = LowRank {
            a: Matrix::new(a, inputs),
            b: Matrix::new(b, rank),
            scale: T::from_f64(self.scale),
        };
        let w = Matrix::new(held::<T>(&weight)?, inputs);
        Ok(times_transposed(Matrix::new(x, inputs), w, Some(adapter)))
    }

    /// Gradients of x, where it learns, of A and of B.
    fn backward<T: Real>(&self, [x, a, b, grad]: [&Tensor; 4]) -> Result<(Option<Tensor>, Tensor, Tensor)> {
        let ((rank, inputs), (outputs, _)) = (a.dims2()?, b.dims2()?);
        let weight = self.weight.storage_and_layout();
        let [of_x, of_a, of_b, of_grad] = [x, a, b, grad].map(Tensor::storage_and_layout);
        let (rows, grads) = (
            Matrix::new(held::<T>(&of_x)?, inputs),
            Matrix::new(held::<T>(&of_grad)?, outputs),
        );
        let (a_rows, b_rows) = (
            Matrix::new(held::<T>(&of_a)?, inputs),
            Matrix::new(held::<T>(&of_b)?, rank),
        );
        let scaled = |mut y: Vec<T>| {
            y.iter_mut().for_each(|y| *y *= T::from_f64(self.scale));
            y
        };
        let a_columns = a_rows.transposed();
        let low = scaled(sum_of_products(&[(rows, Matrix::new(&a_columns, rank))])); // (N, R)
        let slopes = scaled(sum_of_products(&[(grads, b_rows)])); // (N, R)
        let (low, across) = (
            Matrix::new(&low, rank).transposed(),
            Matrix::new(&slopes, rank).transposed(),
        );
        let da = sum_of_products(&[(Matrix::new(&across, rows.rows()), rows)]); // (R, I)
        let db = sum_of_products(&[(Matrix::new(&low, rows.rows()), grads)]); // (R, O)
        let db = Matrix::new(&db, outputs).transposed();
        let dx = x.track_op().then(|| {
            let w = Matrix::new(held::<T>(&weight)?, inputs);
            let dx = sum_of_products(&[(grads, w), (Matrix::new(&slopes, rank), a_rows)]);
            Tensor::from_vec(dx, x.shape(), x.device())
        });
        let of = |values: Vec<T>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((dx.transpose()?, of(da, a)?, of(db, b)?))
    }
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
        let ((rank, inputs), (outputs, _)) = (l2.shape().dims2()?, l3.shape().dims2()?);
        let y = by_type!(x, T => {
            let operands = [values::<T>(x, l1)?, values::<T>(a, l2)?, values::<T>(b, l3)?];
            stored(self.forward(operands, (inputs, rank))?)
        });
        Ok((y, with_width(l1, outputs)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let tensors = [x, a, b, &grad.contiguous()?];
        let (dx, da, db) = match x.dtype() {
            DType::F64 => self.backward::<f64>(tensors)?,
            _ => self.backward::<f32>(tensors)?,
        };
        Ok((dx, Some(da), Some(db)))
    }
}
