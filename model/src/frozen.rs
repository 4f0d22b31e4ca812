//! Products with weights: those that do not learn cost no gradient, and large ones use every core.
//!
//! Place: under every linear layer. candle's matmul backward computes the gradient of both sides and keeps that of every
//! weight, learning or not; here a frozen weight stays out of the graph: no gradient, no product, no memory for it. candle's
//! CPU product of one row with a matrix runs on one core (0.11.1); what serves in f32 goes through `product` instead.
//! Invariant: values and gradients are those of `x W^T`; served rows have the same bits in any batch and on any number of cores.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Storage, Tensor};

use crate::fused::{self, by_type, held, stored, values};
use crate::panels::{Matrix, sum_of_products, times_transposed};
use crate::product::{Rows, product};

/// `x W^T`: x (N, I), weight (O, I) -> (N, O).
pub fn matmul_t(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if learns_before(x, weight) {
        return beside(x, weight);
    }
    if x.track_op() && !weight.track_op() {
        return x.apply_op1(Frozen { weight: weight.t()? });
    }
    let learns = x.track_op() || weight.track_op();
    if !learns && x.device().is_cpu() && [x, weight].iter().all(|t| t.dtype() == DType::F32 && t.is_contiguous()) {
        x.apply_op2_no_bwd(weight, &Served)
    } else {
        x.matmul(&weight.t()?)
    }
}

/// True where [`beside`] takes a layer: its input learns, its weight does not.
pub(crate) fn learns_before(x: &Tensor, weight: &Tensor) -> bool {
    x.track_op() && fused::takes_frozen(x, [weight]) && weight.is_contiguous()
}

/// `x W^T` of every row of x (.., I) -> (.., O), on the CPU.
pub(crate) fn beside(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Beside {
        weight: weight.clone(),
        back: false,
    })
}

/// The shape of a layer's output, from its input's.
fn with_width(input: &Layout, outputs: usize) -> Shape {
    let mut dims = input.dims().to_vec();
    *dims.last_mut().expect("a linear layer's input has at least one axis") = outputs;
    Shape::from(dims)
}

/// A layer whose weight (O, I) has no gradient, in panels.
struct Beside {
    weight: Tensor,
    /// From the gradient of the output (.., O) to that of the input (.., I).
    back: bool,
}

impl CustomOp1 for Beside {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (outputs, inputs) = self.weight.dims2()?;
        let weight = self.weight.storage_and_layout();
        let (from, to) = if self.back {
            (outputs, inputs)
        } else {
            (inputs, outputs)
        };
        let y = by_type!(x, T => {
            let (x, w) = (Matrix::new(values::<T>(x, layout)?, from), Matrix::new(held::<T>(&weight)?, inputs));
            stored(if self.back { sum_of_products(&[(x, w)]) } else { times_transposed(x, w) })
        });
        Ok((y, with_width(layout, to)))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let back = Self {
            weight: self.weight.clone(),
            back: !self.back,
        };
        grad.contiguous()?.apply_op1_no_bwd(&back).map(Some)
    }
}

/// `x W^T` by [`product`], where neither side learns.
struct Served;

impl CustomOp2 for Served {
    fn name(&self) -> &'static str {
        "served-matmul"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((n, inputs), (outputs, _)) = (x_layout.shape().dims2()?, weight_layout.shape().dims2()?);
        let x = Rows::dense(&x.as_slice::<f32>()?[x_layout.start_offset()..][..n * inputs], inputs);
        let weight = &weight.as_slice::<f32>()?[weight_layout.start_offset()..][..outputs * inputs];
        let y = product(x, Rows::dense(weight, inputs), inputs);
        Ok((CpuStorage::F32(y), Shape::from((n, outputs))))
    }
}

/// Right-multiplies by `weight` (I, O), which has no gradient, on any device and in any type.
struct Frozen {
    weight: Tensor,
}

impl Frozen {
    fn sizes(&self, x: &Layout) -> Result<(usize, usize, usize, usize)> {
        let (n, inputs) = x.shape().dims2()?;
        let (_, outputs) = self.weight.dims2()?;
        Ok((1, n, outputs, inputs))
    }

    fn product<S: BackendStorage>(&self, x: &S, layout: &Layout, weight: &S) -> Result<(S, Shape)> {
        let sizes = self.sizes(layout)?;
        let (_, n, outputs, _) = sizes;
        let y = x.matmul(weight, sizes, layout, self.weight.layout())?;
        Ok((y, Shape::from((n, outputs))))
    }
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-matmul"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (weight, _) = self.weight.storage_and_layout();
        match &*weight {
            Storage::Cpu(weight) => self.product(x, layout, weight),
            _ => candle_core::bail!("frozen-matmul: input on the CPU, weight elsewhere"),
        }
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (weight, _) = self.weight.storage_and_layout();
        match &*weight {
            Storage::Cuda(weight) => self.product(x, layout, weight),
            _ => candle_core::bail!("frozen-matmul: input on the GPU, weight elsewhere"),
        }
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.contiguous()?.matmul(&self.weight.t()?)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn random(shape: (usize, usize)) -> Result<Tensor> {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu)
    }

    #[test]
    fn a_frozen_weight_gives_the_gradient_of_the_input_and_has_none() -> Result<()> {
        let (x, w, direction) = (Var::from_tensor(&random((3, 5))?)?, random((4, 5))?, random((3, 4))?);
        for w in [w.clone(), w.t()?.contiguous()?.t()?] {
            let grads = (matmul_t(&x, &w)? * &direction)?.sum_all()?.backward()?;
            let expected = direction.matmul(&w.contiguous()?)?;
            let error = (grads.get(&x).expect("a gradient") - expected)?.abs()?.max_all()?;
            assert!(error.to_scalar::<f32>()? < 1e-5);
            assert!(grads.get(&w).is_none());
        }
        Ok(())
    }

    #[test]
    fn a_learning_weight_has_its_gradient() -> Result<()> {
        let (x, w) = (random((3, 5))?, Var::from_tensor(&random((4, 5))?)?);
        let grads = matmul_t(&x, &w)?.sum_all()?.backward()?;
        assert_eq!(grads.get(&w).expect("a gradient").dims(), [4, 5]);
        Ok(())
    }

    #[test]
    fn a_served_row_has_the_same_bits_in_any_batch() -> Result<()> {
        let (x, w) = (random((9, 70))?, random((33, 70))?);
        let together = matmul_t(&x, &w)?;
        let error = (&together - x.matmul(&w.t()?)?)?.abs()?.max_all()?;
        assert!(error.to_scalar::<f32>()? < 1e-4, "{error}");
        for row in 0..9 {
            let alone = matmul_t(&x.narrow(0, row, 1)?, &w)?.to_vec2::<f32>()?;
            assert_eq!(alone[0], together.to_vec2::<f32>()?[row]);
        }
        Ok(())
    }
}
