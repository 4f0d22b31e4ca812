//! The feed-forward half of a layer with adapters, as one operation: `x + down(silu(gate(n)) up(n))` with n the norm of x.
//!
//! Place: under `mlp`, in training. Shapes: (.., C) -> (.., C). candle would add the gradients of eight tensors to zeros and keep
//! two more; the norm and the gated values are computed again instead.

use std::sync::OnceLock;

use candle_core::{Device, Result, Tensor};

use super::adapted::{Layer, slope_of_input};
use super::norm::Norm;
use super::ties::{self, Operation};
use super::{fill_parts, gate, held};
use crate::wide::Real;

/// Values of a part of a sum.
const PART: usize = 1 << 12;

pub(crate) struct MlpHalf {
    norm: Norm,
    gate: Layer,
    up: Layer,
    down: Layer,
    /// From the forward pass: what comes of gate and up, then the inner values of the three adapters.
    kept: OnceLock<[Tensor; 5]>,
}

impl MlpHalf {
    pub fn apply(norm: Norm, [gate, up, down]: [Layer; 3], x: &Tensor) -> Result<Tensor> {
        let factors = [&gate, &up, &down].map(|layer| [layer.a.clone(), layer.b.clone()]);
        let half = Self {
            norm,
            gate,
            up,
            down,
            kept: OnceLock::new(),
        };
        ties::apply(half, &x.contiguous()?, &factors.iter().flatten().collect::<Vec<_>>())
    }

    fn width(&self) -> Result<usize> {
        Ok(self.gate.a.dims2()?.1)
    }
}

/// Adds `x` to `y`.
fn add<T: Real>(y: &mut [T], x: &[T]) {
    fill_parts(y, PART, |i, y| {
        y.iter_mut().zip(&x[i * PART..]).for_each(|(y, &x)| *y += x);
    });
}

impl Operation for MlpHalf {
    const NAME: &'static str = "mlp-half";

    fn forward<T: Real>(&self, x: &[T]) -> Result<Vec<T>> {
        let normed = self.norm.forward(x, self.width()?)?;
        let (gate, low_gate) = self.gate.forward(&normed)?;
        let (up, low_up) = self.up.forward(&normed)?;
        let (mut y, low_down) = self.down.forward(&gate::forward(&gate, &up))?;
        add(&mut y, x);
        let tensor = |values: Vec<T>| {
            let count = values.len();
            Tensor::from_vec(values, count, &Device::Cpu)
        };
        let kept = [
            tensor(gate)?,
            tensor(up)?,
            tensor(low_gate)?,
            tensor(low_up)?,
            tensor(low_down)?,
        ];
        self.kept.get_or_init(|| kept);
        Ok(y)
    }

    fn backward<T: Real>(&self, x: &Tensor, grad: &Tensor) -> Result<(Vec<T>, Vec<Tensor>)> {
        let kept = self.kept.get().expect("the forward pass comes before");
        let kept = kept.each_ref().map(Tensor::storage_and_layout);
        let [of_x, of_grad] = [x, grad].map(Tensor::storage_and_layout);
        let (x, grad, width) = (held::<T>(&of_x)?, held::<T>(&of_grad)?, self.width()?);
        let (gate, up) = (held::<T>(&kept[0])?, held::<T>(&kept[1])?);
        let down = self.down.backward(&gate::forward(gate, up), held(&kept[4])?, grad)?;
        let slopes = gate::backward(gate, up, &slope_of_input(&[(&self.down, grad, &down.low)])?);
        let (of_gate, of_up) = slopes.split_at(gate.len());
        let normed = self.norm.forward(x, width)?;
        let gate = self.gate.backward(&normed, held(&kept[2])?, of_gate)?;
        let up = self.up.backward(&normed, held(&kept[3])?, of_up)?;
        let of_normed = slope_of_input(&[(&self.gate, of_gate, &gate.low), (&self.up, of_up, &up.low)])?;
        let mut dx = self.norm.backward(x, &of_normed, width)?;
        add(&mut dx, grad);
        Ok((dx, vec![gate.a, gate.b, up.a, up.b, down.a, down.b]))
    }
}
