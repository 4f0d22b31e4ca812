//! The feed-forward half of a layer, gated or not.
//!
//! Place: in every layer of `decoder` and `seq2seq`. Shapes: (.., C) -> (.., C).

use candle_core::{Result, Tensor};

use crate::architecture::Activation;
use crate::fused::{self, gate::SwishGate, mlp::MlpHalf};
use crate::mode::Mode;
use crate::norm::NormLayer;
use crate::projection::Projection;

/// `down(activation(gate(x)) up(x))`, or `down(activation(up(x)))` without a gate.
#[derive(Clone)]
pub(crate) struct Mlp {
    pub gate: Option<Projection>,
    pub up: Projection,
    pub down: Projection,
    pub activation: Activation,
}

impl Mlp {
    pub fn projections(&self) -> impl Iterator<Item = &Projection> {
        self.gate.iter().chain([&self.up, &self.down])
    }

    pub fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        self.gate.iter_mut().chain([&mut self.up, &mut self.down])
    }

    /// `x + mlp(norm(x))` in training, where that is one operation.
    pub fn half(&self, norm: &NormLayer, x: &Tensor, mode: &Mode) -> Result<Option<Tensor>> {
        let one = self.activation == Activation::Silu && !mode.drops_own();
        let Some(gate) = self.gate.as_ref().filter(|_| one) else {
            return Ok(None);
        };
        let layers = [gate, &self.up, &self.down].map(|projection| projection.adapted(x, mode));
        match (norm.fused(x), layers) {
            (Some(norm), [Some(gate), Some(up), Some(down)]) => MlpHalf::apply(norm, [gate, up, down], x).map(Some),
            _ => Ok(None),
        }
    }

    pub fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        let up = self.up.forward(x, mode)?;
        let y = match &self.gate {
            None => self.activation.apply(&up)?,
            Some(gate) if self.activation == Activation::Silu && fused::takes(x) => {
                gate.forward(x, mode)?.apply_op2(&up, SwishGate)?
            }
            Some(gate) => (self.activation.apply(&gate.forward(x, mode)?)? * up)?,
        };
        self.down.forward(&y, mode)
    }
}

impl Activation {
    fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::GeluTanh => x.gelu(),
            Self::GeluErf => x.gelu_erf(),
            Self::Relu => x.relu(),
            Self::Silu => x.silu(),
        }
    }
}
