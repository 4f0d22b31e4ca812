//! `silu(gate) up` in one pass.
//!
//! Place: the gated feed-forward of `decoder`. Shapes: two of one shape -> that shape.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, IndexOp, Layout, Result, Shape, Tensor};

use super::{by_type, fill_parts, stored, values};
use crate::threads::zeros;
use crate::wide::{Real, Vector, Wide, wide};

/// Values of a part.
const PART: usize = 1 << 12;

/// The product of a value's swish, `g / (1 + exp(-g))`, with another value.
pub(crate) struct SwishGate;

impl CustomOp2 for SwishGate {
    fn name(&self) -> &'static str {
        "swish-gate"
    }

    fn cpu_fwd(&self, gate: &CpuStorage, l1: &Layout, up: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = by_type!(gate, T => stored(forward(values::<T>(gate, l1)?, values::<T>(up, l2)?)));
        Ok((y, l1.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grads = gate.apply_op3_no_bwd(up, &grad.contiguous()?, &SwishGateBackward)?; // (2, ..)
        Ok((Some(grads.i(0)?), Some(grads.i(1)?)))
    }
}

pub(super) fn forward<T: Real>(gate: &[T], up: &[T]) -> Vec<T> {
    let mut y = zeros(gate.len());
    fill_parts(&mut y, PART, |i, y| {
        let part = i * PART..i * PART + y.len();
        let (gate, up) = (&gate[part.clone()], &up[part]);
        wide(Forward { gate, up, y });
    });
    y
}

struct Forward<'a, T> {
    gate: &'a [T],
    up: &'a [T],
    y: &'a mut [T],
}

#[inline(always)]
fn logistic<T: Real>(x: T) -> T {
    T::one() / (T::one() + (T::zero() - x).exp())
}

impl<T: Real> Wide for Forward<'_, T> {
    type Value = T;
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<T>, const N: usize>(self) {
        for ((y, &g), &u) in self.y.iter_mut().zip(self.gate).zip(self.up) {
            *y = g * logistic(g) * u;
        }
    }
}

/// Gradients of gate and up, one after the other: (2, ..).
struct SwishGateBackward;

impl CustomOp3 for SwishGateBackward {
    fn name(&self) -> &'static str {
        "swish-gate-backward"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        l1: &Layout,
        up: &CpuStorage,
        l2: &Layout,
        grad: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let mut dims = vec![2];
        dims.extend(l1.dims());
        let grads = by_type!(gate, T => {
            let (gate, up, grad) = (values::<T>(gate, l1)?, values::<T>(up, l2)?, values::<T>(grad, l3)?);
            stored(backward(gate, up, grad))
        });
        Ok((grads, Shape::from(dims)))
    }
}

/// Gradients of gate and up, one after the other.
pub(super) fn backward<T: Real>(gate: &[T], up: &[T], grad: &[T]) -> Vec<T> {
    let n = gate.len();
    let mut grads = zeros(2 * n);
    let (of_gate, of_up) = grads.split_at_mut(n);
    fill_parts(of_gate, PART, |i, y| {
        let part = i * PART..i * PART + y.len();
        let (gate, up, grad) = (&gate[part.clone()], &up[part.clone()], &grad[part]);
        wide(OfGate { gate, up, grad, y });
    });
    fill_parts(of_up, PART, |i, y| {
        let part = i * PART..i * PART + y.len();
        let (gate, up) = (&gate[part.clone()], &grad[part]);
        wide(Forward { gate, up, y });
    });
    grads
}

struct OfGate<'a, T> {
    gate: &'a [T],
    up: &'a [T],
    grad: &'a [T],
    y: &'a mut [T],
}

impl<T: Real> Wide for OfGate<'_, T> {
    type Value = T;
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<T>, const N: usize>(self) {
        for (((y, &g), &u), &grad) in self.y.iter_mut().zip(self.gate).zip(self.up).zip(self.grad) {
            let s = logistic(g);
            *y = grad * u * s * (T::one() + g * (T::one() - s));
        }
    }
}
