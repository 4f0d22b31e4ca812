//! A frozen linear layer with an adapter, as one operation.
//!
//! Place: under `projection` and `fused::mlp`, in training. Shapes: x (.., I), A (R, I), B (O, R) ->
//! `x W^T + scale (x A^T) B^T` (.., O). W gets no gradient, and nothing as wide as the output is kept or added up on the way.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Result, Shape, Tensor};

use super::{by_type, held, stored, values};
use crate::panels::{LowRank, Matrix, adapted, sum_of_products};
use crate::wide::Real;

/// A layer's own weight (O, I), an adapter's A (R, I) and B (O, R), and how much of it is added.
pub(crate) struct Layer {
    pub weight: Tensor,
    pub a: Tensor,
    pub b: Tensor,
    pub scale: f64,
}

/// What a backward pass finds beside the gradient of a layer's input.
pub(super) struct Slopes<T> {
    /// Gradient of the adapter's inner values (N, R).
    pub low: Vec<T>,
    pub a: Tensor,
    pub b: Tensor,
}

impl Layer {
    /// x (N, I) -> (N, O), and the adapter's inner values (R, N), which the backward pass takes.
    pub(super) fn forward<T: Real>(&self, x: &[T]) -> Result<(Vec<T>, Vec<T>)> {
        let ((rank, inputs), of_w) = (self.a.dims2()?, self.weight.storage_and_layout());
        let [of_a, of_b] = [&self.a, &self.b].map(Tensor::storage_and_layout);
        let adapter = LowRank {
            a: Matrix::new(held::<T>(&of_a)?, inputs),
            b: Matrix::new(held::<T>(&of_b)?, rank),
            scale: T::from_f64(self.scale),
        };
        let w = Matrix::new(held::<T>(&of_w)?, inputs);
        Ok(adapted(Matrix::new(x, inputs), w, Some(adapter)))
    }

    /// From the input (N, I), the inner values (R, N) and the gradient of the output (N, O).
    pub(super) fn backward<T: Real>(&self, x: &[T], low: &[T], grad: &[T]) -> Result<Slopes<T>> {
        let ((rank, inputs), (outputs, _)) = (self.a.dims2()?, self.b.dims2()?);
        let (x, grad) = (Matrix::new(x, inputs), Matrix::new(grad, outputs));
        let of_b = self.b.storage_and_layout();
        let mut slopes = sum_of_products(&[(grad, Matrix::new(held::<T>(&of_b)?, rank))]); // (N, R)
        slopes.iter_mut().for_each(|slope| *slope *= T::from_f64(self.scale));
        let across = Matrix::new(&slopes, rank).transposed(); // (R, N)
        let da = sum_of_products(&[(Matrix::new(&across, x.rows()), x)]); // (R, I)
        let db = sum_of_products(&[(Matrix::new(low, x.rows()), grad)]); // (R, O)
        let db = Matrix::new(&db, outputs).transposed();
        let of = |values: Vec<T>, like: &Tensor| Tensor::from_vec(values, like.shape(), &Device::Cpu);
        Ok(Slopes {
            low: slopes,
            a: of(da, &self.a)?,
            b: of(db, &self.b)?,
        })
    }
}

/// The gradient of the input (N, I) of some layers, from the gradients of their outputs (N, O) and inner values (N, R).
pub(super) fn slope_of_input<T: Real>(layers: &[(&Layer, &[T], &[T])]) -> Result<Vec<T>> {
    let of_layers = layers.iter().map(|(layer, ..)| {
        let weights = [&layer.weight, &layer.a];
        weights.map(Tensor::storage_and_layout)
    });
    let of_layers: Vec<_> = of_layers.collect();
    let mut products = Vec::new();
    for ((layer, grad, low), [of_w, of_a]) in layers.iter().zip(&of_layers) {
        let ((rank, inputs), (outputs, _)) = (layer.a.dims2()?, layer.b.dims2()?);
        products.push((Matrix::new(grad, outputs), Matrix::new(held::<T>(of_w)?, inputs)));
        products.push((Matrix::new(low, rank), Matrix::new(held::<T>(of_a)?, inputs)));
    }
    Ok(sum_of_products(&products))
}

/// A [`Layer`] as an operation on x, A and B.
pub(crate) struct Adapted {
    layer: Layer,
    /// The output's, whose rows lie as the input's.
    shape: Shape,
    /// The adapter's inner values, from the forward pass.
    low: OnceLock<Tensor>,
}

impl Adapted {
    /// x, of rows of I values -> `shape`, of as many rows of O values: candle would copy the gradient of a view.
    pub fn apply(layer: Layer, x: &Tensor, shape: impl Into<Shape>) -> Result<Tensor> {
        let (a, b) = (layer.a.clone(), layer.b.clone());
        let (shape, low) = (shape.into(), OnceLock::new());
        x.contiguous()?.apply_op3(&a, &b, Self { layer, shape, low })
    }

    /// Gradients of x, where it learns, of A and of B.
    fn backward<T: Real>(&self, x: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Tensor, Tensor)> {
        let low = self
            .low
            .get()
            .expect("the forward pass comes before")
            .storage_and_layout();
        let [of_x, of_grad] = [x, grad].map(Tensor::storage_and_layout);
        let (rows, grad) = (held::<T>(&of_x)?, held::<T>(&of_grad)?);
        let slopes = self.layer.backward(rows, held(&low)?, grad)?;
        let dx = x.track_op().then(|| {
            let dx = slope_of_input(&[(&self.layer, grad, &slopes.low)])?;
            Tensor::from_vec(dx, x.shape(), x.device())
        });
        Ok((dx.transpose()?, slopes.a, slopes.b))
    }
}

impl CustomOp3 for Adapted {
    fn name(&self) -> &'static str {
        "adapted-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        _a: &CpuStorage,
        _: &Layout,
        _b: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = by_type!(x, T => {
            let (y, low) = self.layer.forward(values::<T>(x, layout)?)?;
            let count = low.len();
            let low = Tensor::from_vec(low, count, &Device::Cpu)?;
            self.low.get_or_init(|| low);
            stored(y)
        });
        Ok((y, self.shape.clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _a: &Tensor,
        _b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dx, da, db) = match x.dtype() {
            DType::F64 => self.backward::<f64>(x, &grad)?,
            _ => self.backward::<f32>(x, &grad)?,
        };
        Ok((dx, Some(da), Some(db)))
    }
}
