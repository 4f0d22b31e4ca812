//! Products with weights: those that do not learn cost no gradient, and large ones use every core.
//!
//! Place: under every linear layer. candle's matmul backward computes the gradient of both sides and keeps that of every
//! weight, learning or not; here a frozen weight stays out of the graph: no gradient, no product, no memory for it. candle's
//! CPU product of one row with a matrix runs on one core (0.11.1); here the matrix is cut into bands of outputs.
//! Invariant: values and gradients are those of `x W^T`, with the same bits on any number of cores.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor};
use rayon::prelude::*;

/// `x W^T`: x (N, I), weight (O, I) -> (N, O).
pub fn matmul_t(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if x.track_op() && !weight.track_op() {
        return x.apply_op1(Frozen { weight: weight.t()? });
    }
    let (rows, _) = x.dims2()?;
    let serves = x.device().is_cpu() && !weight.track_op();
    if serves && rows <= BANDED_ROWS_MAX && weight.elem_count() >= BANDED_WEIGHTS_MIN {
        banded(x, weight)
    } else {
        x.matmul(&weight.t()?)
    }
}

/// More rows than this and candle's product uses every core by itself.
const BANDED_ROWS_MAX: usize = 1;
/// Fewer weights than this and the product is over before another core has woken (2^20 in f32 take about 0.1 ms).
const BANDED_WEIGHTS_MIN: usize = 1 << 20;

/// Outputs of a band. Fixed, so that the number of cores cannot change a bit.
const BAND: usize = 192;

/// `x W^T` in bands of outputs, side by side on the cores.
fn banded(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (outputs, _) = weight.dims2()?;
    let products: Vec<Tensor> = (0..outputs.div_ceil(BAND))
        .into_par_iter()
        .map(|band| {
            let from = band * BAND;
            x.matmul(&weight.narrow(0, from, BAND.min(outputs - from))?.t()?)
        })
        .collect::<Result<_>>()?;
    Tensor::cat(&products, 1)
}

/// Right-multiplies by `weight` (I, O), which has no gradient.
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
    fn bands_of_outputs_together_are_the_whole_product() -> Result<()> {
        let x = random((1, 1030))?;
        for w in [random((1021, 1030))?, random((1030, 1021))?.t()?] {
            assert!(w.elem_count() >= BANDED_WEIGHTS_MIN);
            let error = (matmul_t(&x, &w)? - x.matmul(&w.t()?)?)?.abs()?.max_all()?;
            assert!(error.to_scalar::<f32>()? < 1e-3, "{error}");
        }
        Ok(())
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() -> Result<()> {
        let (x, w) = (random((1, 1030))?, random((1021, 1030))?);
        assert!(w.elem_count() >= BANDED_WEIGHTS_MIN);
        let on = |threads| -> Result<Vec<Vec<f32>>> {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a pool");
            pool.install(|| matmul_t(&x, &w))?.to_vec2()
        };
        let one = on(1)?;
        for threads in [2, 3, 7] {
            assert_eq!(on(threads)?, one, "{threads} threads");
        }
        Ok(())
    }
}
