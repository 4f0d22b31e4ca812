//! An output head that does not learn and the cross-entropy of its logits, some rows at a time.
//!
//! Place: under `loss`, in training. Shapes: x (.., C), weight (V, C) -> scalar. The gradient of x is computed with the loss, while a
//! block's logits are at hand; rows whose target weighs nothing cost nothing.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor};

use super::{by_type, held, stored, values};
use crate::panels::{Matrix, sum_of_products, times_transposed};
use crate::threads::share_map;
use crate::wide::{Real, Vector, Wide, max_of, sum_of, wide};

/// Rows whose logits are in memory at a time: enough that reading the weight costs little.
const BLOCK: usize = 256;

/// Sum over the rows of `weight (ln sum of exp of the logits - the target's logit)`.
pub(crate) struct HeadLoss {
    weight: Tensor,
    targets: Vec<u32>,
    weights: Vec<f64>,
    learns: bool,
    /// Gradient of x, from the forward pass.
    slopes: OnceLock<Tensor>,
}

impl HeadLoss {
    /// `learns` where the gradient of x will be asked for.
    pub fn new(weight: &Tensor, targets: Vec<u32>, weights: Vec<f64>, learns: bool) -> Self {
        Self {
            weight: weight.clone(),
            targets,
            weights,
            learns,
            slopes: OnceLock::new(),
        }
    }

    /// The loss, and the gradient of x where it learns.
    fn forward<T: Real>(&self, x: &[T]) -> Result<(T, Vec<T>)> {
        let (v, c) = self.weight.dims2()?;
        let weight = self.weight.storage_and_layout();
        let w = Matrix::new(held::<T>(&weight)?, c);
        let mut slopes = vec![T::zero(); if self.learns { x.len() } else { 0 }];
        let mut loss = T::zero();
        let counted: Vec<usize> = (0..self.targets.len())
            .filter(|&row| self.weights[row] != 0.0)
            .collect();
        for block in counted.chunks(BLOCK) {
            let rows: Vec<T> = block.iter().flat_map(|row| &x[row * c..][..c]).copied().collect();
            let mut logits = times_transposed(Matrix::new(&rows, c), w);
            let losses = share_map(logits.chunks_mut(v).zip(block).collect(), |(logits, &row)| {
                let (target, weight) = (self.targets[row] as usize, T::from_f64(self.weights[row]));
                wide(Slopes { logits, target, weight })
            });
            loss = losses.into_iter().fold(loss, |sum, loss| sum + loss);
            if self.learns {
                let of_rows = sum_of_products(&[(Matrix::new(&logits, v), w)]);
                for (of_row, row) in of_rows.chunks(c).zip(block) {
                    slopes[row * c..][..c].copy_from_slice(of_row);
                }
            }
        }
        Ok((loss, slopes))
    }
}

/// The loss of a row, whose logits become its gradient by them.
struct Slopes<'a, T> {
    logits: &'a mut [T],
    target: usize,
    weight: T,
}

impl<T: Real> Wide for Slopes<'_, T> {
    type Value = T;
    type Output = T;

    #[inline(always)]
    fn run<V: Vector<T>, const N: usize>(self) -> T {
        let row = self.logits;
        let (largest, own) = (max_of(row), row[self.target]);
        row.iter_mut().for_each(|logit| *logit = (*logit - largest).exp());
        let sum = sum_of(row.len(), |i| row[i]);
        let share = self.weight / sum;
        row.iter_mut().for_each(|power| *power *= share);
        row[self.target] -= self.weight;
        self.weight * (largest - own + sum.ln())
    }
}

impl CustomOp1 for HeadLoss {
    fn name(&self) -> &'static str {
        "head-loss"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let loss = by_type!(x, T => {
            let (loss, slopes) = self.forward(values::<T>(x, layout)?)?;
            if self.learns {
                let slopes = Tensor::from_vec(slopes, layout.shape(), &Device::Cpu)?;
                self.slopes.get_or_init(|| slopes);
            }
            stored(vec![loss])
        });
        Ok((loss, Shape::from(())))
    }

    fn bwd(&self, _x: &Tensor, _loss: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        self.slopes.get().map(|slopes| slopes * grad).transpose()
    }
}
