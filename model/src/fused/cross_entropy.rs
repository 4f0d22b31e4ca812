//! Cross-entropy over a vocabulary without probabilities in memory, and log probabilities in one pass.
//!
//! Place: under `loss` and `generate`. Shapes: logits (N, V) -> scalar, or (N, V).

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{by_type, fill_parts, stored, values};
use crate::wide::{Real, Vector, Wide, max_of, sum_of, wide};

/// Sum over the rows of `weight (ln sum of exp - the target's logit)`.
#[derive(Clone)]
pub(crate) struct CrossEntropy {
    pub targets: Vec<u32>,
    pub weights: Vec<f64>,
}

/// Largest logit of a row, and the sum of the powers of e to what the others are below it, which go to `powers`.
struct Powers<'a, T> {
    logits: &'a [T],
    powers: &'a mut [T],
}

impl<T: Real> Wide for Powers<'_, T> {
    type Value = T;
    type Output = (T, T);

    #[inline(always)]
    fn run<V: Vector<T>, const N: usize>(self) -> (T, T) {
        let largest = max_of(self.logits);
        for (power, &logit) in self.powers.iter_mut().zip(self.logits) {
            *power = (logit - largest).exp();
        }
        (largest, sum_of(self.powers.len(), |i| self.powers[i]))
    }
}

/// `logit - ln sum of exp` of each row; serves alone, without a gradient.
pub(crate) struct LogSoftmax;

impl LogSoftmax {
    fn forward<T: Real>(logits: &[T], v: usize) -> Vec<T> {
        let mut y = vec![T::zero(); logits.len()];
        fill_parts(&mut y, v, |row, y| {
            let logits = &logits[row * v..][..v];
            let (largest, sum) = wide(Powers { logits, powers: y });
            let level = largest + sum.ln();
            y.iter_mut().zip(logits).for_each(|(y, &logit)| *y = logit - level);
        });
        y
    }
}

impl CustomOp1 for LogSoftmax {
    fn name(&self) -> &'static str {
        "log-softmax"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, v) = layout.shape().dims2()?;
        let y = by_type!(logits, T => stored(Self::forward(values::<T>(logits, layout)?, v)));
        Ok((y, layout.shape().clone()))
    }
}

impl CrossEntropy {
    fn forward<T: Real>(&self, logits: &[T], v: usize) -> T {
        let rows = logits.par_chunks(v).zip(&self.targets).zip(&self.weights);
        let losses: Vec<T> = rows
            .map_init(
                || vec![T::zero(); v],
                |powers, ((logits, &target), &weight)| {
                    if weight == 0.0 {
                        return T::zero();
                    }
                    let (largest, sum) = wide(Powers { logits, powers });
                    T::from_f64(weight) * (largest - logits[target as usize] + sum.ln())
                },
            )
            .collect();
        losses.into_iter().fold(T::zero(), |sum, loss| sum + loss)
    }

    fn backward<T: Real>(&self, logits: &[T], v: usize, grad: T) -> Vec<T> {
        let mut slopes = vec![T::zero(); logits.len()];
        fill_parts(&mut slopes, v, |row, slopes| {
            let weight = T::from_f64(self.weights[row]) * grad;
            if weight == T::zero() {
                return;
            }
            let logits = &logits[row * v..][..v];
            let (_, sum) = wide(Powers { logits, powers: slopes });
            let share = weight / sum;
            slopes.iter_mut().for_each(|slope| *slope *= share);
            slopes[self.targets[row] as usize] -= weight;
        });
        slopes
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, v) = layout.shape().dims2()?;
        let loss = by_type!(logits, T => stored(vec![self.forward(values::<T>(logits, layout)?, v)]));
        Ok((loss, Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(logits.apply_op2_no_bwd(grad, &CrossEntropyBackward(self))?))
    }
}

struct CrossEntropyBackward<'a>(&'a CrossEntropy);

impl CustomOp2 for CrossEntropyBackward<'_> {
    fn name(&self) -> &'static str {
        "cross-entropy-backward"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, l1: &Layout, grad: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, v) = l1.shape().dims2()?;
        let slopes = by_type!(logits, T => {
            let (logits, grad) = (values::<T>(logits, l1)?, values::<T>(grad, l2)?);
            stored(self.0.backward(logits, v, grad[0]))
        });
        Ok((slopes, l1.shape().clone()))
    }
}
