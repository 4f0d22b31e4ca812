//! A frozen linear layer with an adapter, as one operation.
//!
//! Place: under `projection`, in training. Shapes: x (N, I), A (R, I), B (O, R) -> `x W^T + scale (x A^T) B^T` (N, O). W gets no
//! gradient, and nothing as wide as the output is kept or added up on the way.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, WithDType};

use super::{by_type, fill_parts, stored};

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
        let (n, outputs) = (l1.dims()[0], l3.dims()[0]);
        let (weight, layout) = self.weight.storage_and_layout();
        let Storage::Cpu(weight) = &*weight else {
            candle_core::bail!("adapted-linear: input on the CPU, weight elsewhere")
        };
        let y = times_transposed((x, l1), (weight, layout))?;
        let low = times_transposed((x, l1), (a, l2))?;
        let change = times_transposed((&low, &Layout::contiguous((n, l2.dims()[0]))), (b, l3))?;
        let y = by_type!(x, T => {
            let (mut y, change, scale) = (T::cpu_storage_data(y)?, change.as_slice::<T>()?, T::from_f64(self.scale));
            fill_parts(&mut y, outputs, |row, y| {
                let change = &change[row * outputs..][..outputs];
                y.iter_mut().zip(change).for_each(|(y, &change)| *y += scale * change);
            });
            stored(y)
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

/// x (N, I), w (O, I) -> `x w^T`. Training's rows come in large batches, where candle's product is the quickest.
fn times_transposed(
    (x, x_layout): (&CpuStorage, &Layout),
    (w, w_layout): (&CpuStorage, &Layout),
) -> Result<CpuStorage> {
    let ((n, inputs), (outputs, _)) = (x_layout.shape().dims2()?, w_layout.shape().dims2()?);
    x.matmul(w, (1, n, outputs, inputs), x_layout, &w_layout.transpose(0, 1)?)
}
