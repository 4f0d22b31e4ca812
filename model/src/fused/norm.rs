//! Root mean square and layer norms in one pass.
//!
//! Place: under `norm`, where weight and bias do not learn. Shapes: (.., C) -> (.., C).

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::{by_type, fill_parts, held, stored, values};
use crate::threads::zeros;
use crate::wide::{Real, Vector, Wide, sum_of, wide};

/// `(x - m) / sqrt(mean((x - m)^2) + eps) weight + bias` over the last axis, m its mean where `centred`, else 0.
#[derive(Clone)]
pub(crate) struct Norm {
    pub centred: bool,
    pub eps: f64,
    pub weight: Option<Tensor>,
    pub bias: Option<Tensor>,
}

impl Norm {
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(self)
    }

    pub(super) fn forward<T: Real>(&self, x: &[T], c: usize) -> Result<Vec<T>> {
        let weight = self.weight.as_ref().map(Tensor::storage_and_layout);
        let bias = self.bias.as_ref().map(Tensor::storage_and_layout);
        let weight = weight.as_ref().map(held::<T>).transpose()?;
        let bias = bias.as_ref().map(held::<T>).transpose()?;
        let (centred, eps) = (self.centred, T::from_f64(self.eps));
        let mut y = zeros(x.len());
        fill_parts(&mut y, c, |row, y| {
            let x = &x[row * c..][..c];
            wide(Forward {
                x,
                y,
                weight,
                bias,
                centred,
                eps,
            });
        });
        Ok(y)
    }

    pub(super) fn backward<T: Real>(&self, x: &[T], grad: &[T], c: usize) -> Result<Vec<T>> {
        let weight = self.weight.as_ref().map(Tensor::storage_and_layout);
        let weight = weight.as_ref().map(held::<T>).transpose()?;
        let (centred, eps) = (self.centred, T::from_f64(self.eps));
        let mut dx = zeros(x.len());
        fill_parts(&mut dx, c, |row, dx| {
            let (x, grad) = (&x[row * c..][..c], &grad[row * c..][..c]);
            wide(Backward {
                x,
                grad,
                dx,
                weight,
                centred,
                eps,
            });
        });
        Ok(dx)
    }
}

/// Mean and reciprocal deviation of a row.
#[inline(always)]
fn statistics<T: Real>(x: &[T], centred: bool, eps: T) -> (T, T) {
    let n = T::from_f64(x.len() as f64);
    let mean = if centred {
        sum_of(x.len(), |i| x[i]) / n
    } else {
        T::zero()
    };
    let square = sum_of(x.len(), |i| (x[i] - mean) * (x[i] - mean)) / n;
    (mean, T::one() / (square + eps).sqrt())
}

struct Forward<'a, T> {
    x: &'a [T],
    y: &'a mut [T],
    weight: Option<&'a [T]>,
    bias: Option<&'a [T]>,
    centred: bool,
    eps: T,
}

impl<T: Real> Wide for Forward<'_, T> {
    type Value = T;
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<T>, const N: usize>(self) {
        let (mean, scale) = statistics(self.x, self.centred, self.eps);
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            *y = (x - mean) * scale;
        }
        if let Some(weight) = self.weight {
            self.y.iter_mut().zip(weight).for_each(|(y, &w)| *y *= w);
        }
        if let Some(bias) = self.bias {
            self.y.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
        }
    }
}

struct Backward<'a, T> {
    x: &'a [T],
    grad: &'a [T],
    dx: &'a mut [T],
    weight: Option<&'a [T]>,
    centred: bool,
    eps: T,
}

impl<T: Real> Wide for Backward<'_, T> {
    type Value = T;
    type Output = ();

    /// `dx = scale (g - mean(g) - n mean(g n))` with g the gradient of the normed row n; mean(g) only where centred.
    #[inline(always)]
    fn run<V: Vector<T>, const N: usize>(self) {
        let (x, dx) = (self.x, self.dx);
        let (mean, scale) = statistics(x, self.centred, self.eps);
        dx.copy_from_slice(self.grad);
        if let Some(weight) = self.weight {
            dx.iter_mut().zip(weight).for_each(|(g, &w)| *g *= w);
        }
        let n = T::from_f64(x.len() as f64);
        let along = sum_of(x.len(), |i| dx[i] * (x[i] - mean) * scale) / n;
        let level = if self.centred {
            sum_of(x.len(), |i| dx[i]) / n
        } else {
            T::zero()
        };
        for (dx, &x) in dx.iter_mut().zip(x) {
            *dx = scale * (*dx - level - (x - mean) * scale * along);
        }
    }
}

impl CustomOp1 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let c = last(layout);
        let y = by_type!(x, T => stored(self.forward(values::<T>(x, layout)?, c)?));
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let dx = x.apply_op2_no_bwd(&grad.contiguous()?, &NormBackward(self))?;
        Ok(Some(dx))
    }
}

struct NormBackward<'a>(&'a Norm);

impl CustomOp2 for NormBackward<'_> {
    fn name(&self) -> &'static str {
        "norm-backward"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l1: &Layout, grad: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let c = last(l1);
        let dx = by_type!(x, T => stored(self.0.backward(values::<T>(x, l1)?, values::<T>(grad, l2)?, c)?));
        Ok((dx, l1.shape().clone()))
    }
}

fn last(layout: &Layout) -> usize {
    *layout.dims().last().expect("a norm's input has at least one axis")
}
