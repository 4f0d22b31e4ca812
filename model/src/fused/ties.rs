//! Operations with more inputs than candle's three.
//!
//! Place: under `mlp`. The first input is candle's; the others hang on a tie, a scalar that candle takes for the second. When the
//! operation's backward pass has run, candle comes to the ties, and each hands over the gradients of what hangs on it.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor};

use super::{by_type, stored, values};
use crate::wide::Real;

/// An operation on x and on inputs of its own.
pub(crate) trait Operation: Send + Sync {
    const NAME: &'static str;
    /// y in the shape of x (.., C).
    fn forward<T: Real>(&self, x: &[T]) -> Result<Vec<T>>;
    /// Gradients of x and of its own inputs.
    fn backward<T: Real>(&self, x: &Tensor, grad: &Tensor) -> Result<(Vec<T>, Vec<Tensor>)>;
}

/// Gradients of an operation's own inputs, from its backward pass to the ties.
type Grads = Arc<Mutex<Vec<Option<Tensor>>>>;

/// `operation` of x, which is contiguous, and of its own `inputs`, in the order of their gradients.
pub(crate) fn apply<O: Operation + 'static>(operation: O, x: &Tensor, inputs: &[&Tensor]) -> Result<Tensor> {
    let grads = Grads::default();
    let tie = |first| Tie {
        first,
        grads: grads.clone(),
    };
    let (last, pairs) = inputs.split_first().expect("an operation of x alone is candle's own");
    let mut tied = last.apply_op1(tie(0))?;
    for (i, pair) in pairs.chunks(2).enumerate() {
        tied = match pair {
            [a, b] => tied.apply_op3(a, b, tie(1 + 2 * i))?,
            _ => tied.apply_op2(pair[0], tie(1 + 2 * i))?,
        };
    }
    x.apply_op2(&tied, Tied { operation, grads })
}

struct Tied<O> {
    operation: O,
    grads: Grads,
}

impl<O: Operation> Tied<O> {
    fn backward<T: Real>(&self, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let (dx, grads) = self.operation.backward::<T>(x, grad)?;
        *self.grads.lock().expect("nothing panics with the lock") = grads.into_iter().map(Some).collect();
        Tensor::from_vec(dx, x.shape(), x.device())
    }
}

impl<O: Operation> CustomOp2 for Tied<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = by_type!(x, T => stored(self.operation.forward(values::<T>(x, layout)?)?));
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, tie: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let dx = match x.dtype() {
            DType::F64 => self.backward::<f64>(x, &grad)?,
            _ => self.backward::<f32>(x, &grad)?,
        };
        Ok((Some(dx), Some(tie.zeros_like()?)))
    }
}

/// A scalar, zero, that depends on another tie, where there is one, and on the inputs from `first` on.
struct Tie {
    first: usize,
    grads: Grads,
}

impl Tie {
    fn scalar(like: &CpuStorage) -> Result<(CpuStorage, Shape)> {
        Ok((by_type!(like, T => stored(vec![T::default()])), Shape::from(())))
    }

    fn grad(&self, behind: usize) -> Option<Tensor> {
        let mut grads = self.grads.lock().expect("nothing panics with the lock");
        grads.get_mut(self.first + behind).and_then(Option::take)
    }
}

impl CustomOp1 for Tie {
    fn name(&self) -> &'static str {
        "tie"
    }

    fn cpu_fwd(&self, a: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Self::scalar(a)
    }

    fn bwd(&self, _a: &Tensor, _y: &Tensor, _grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(self.grad(0))
    }
}

impl CustomOp2 for Tie {
    fn name(&self) -> &'static str {
        "tie"
    }

    fn cpu_fwd(&self, tie: &CpuStorage, _: &Layout, _a: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Self::scalar(tie)
    }

    fn bwd(&self, _tie: &Tensor, _a: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), self.grad(0)))
    }
}

impl CustomOp3 for Tie {
    fn name(&self) -> &'static str {
        "tie"
    }

    fn cpu_fwd(
        &self,
        tie: &CpuStorage,
        _: &Layout,
        _a: &CpuStorage,
        _: &Layout,
        _b: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::scalar(tie)
    }

    fn bwd(
        &self,
        _tie: &Tensor,
        _a: &Tensor,
        _b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), self.grad(0), self.grad(1)))
    }
}
