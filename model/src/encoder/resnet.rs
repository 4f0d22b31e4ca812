//! A 1-D ResNet: stem and residual stages, without max-pool after the stem.
//!
//! Place: the default trunk of `encoder`. Shapes: (B, L, S) -> (B, S', F), F = expansion width 2^(stages - 1).
//! Source: MEIT section 3.2 and the reference ecg_encoder.py (blocks and names of ResNet-18, 34 and 50).

use candle_core::Tensor;

use crate::batch_norm::{Activation, BatchNorm};
use crate::config::{Convolution, ResnetConfig};
use crate::error::Result;
use crate::layers::Conv1d;
use crate::mode::Mode;
use crate::weights::Weights;

#[derive(Clone)]
pub(super) struct Resnet1d {
    stem: Normed,
    blocks: Vec<Residual>,
}

/// Normed convolutions one after another; identity or projected shortcut.
#[derive(Clone)]
struct Residual {
    path: Vec<Normed>,
    shortcut: Option<Normed>,
}

/// A convolution with its batch norm.
#[derive(Clone)]
struct Normed {
    conv: Conv1d,
    norm: BatchNorm,
}

impl Resnet1d {
    /// Reads `conv1`, `bn1` and `layer<stage>.<block>.*`.
    pub fn load(w: &Weights, leads: usize, sizes: &ResnetConfig) -> Result<Self> {
        let residual = |block: &crate::config::ResidualConfig| {
            let last = block.path.len() - 1;
            let path = block.path.iter().enumerate();
            // the last norm of a path comes before the sum, whose ReLU is the block's
            let activation = |i| if i == last { Activation::None } else { Activation::Relu };
            Ok(Residual {
                path: path
                    .map(|(i, conv)| Normed::load(w, conv, activation(i)))
                    .collect::<Result<_>>()?,
                shortcut: block
                    .shortcut
                    .as_ref()
                    .map(|conv| Normed::load(w, conv, Activation::None))
                    .transpose()?,
            })
        };
        Ok(Self {
            stem: Normed::load(w, &sizes.stem(leads), Activation::Relu)?,
            blocks: sizes.residuals().iter().map(residual).collect::<Result<_>>()?,
        })
    }

    pub fn forward(&self, x: &Tensor, mode: &Mode) -> candle_core::Result<Tensor> {
        let x = x.transpose(1, 2)?.contiguous()?; // (B, S, L)
        let mut y = self.stem.forward(&x, mode)?;
        for block in &self.blocks {
            y = block.forward(&y, mode)?;
        }
        Ok(y)
    }
}

impl Residual {
    fn forward(&self, x: &Tensor, mode: &Mode) -> candle_core::Result<Tensor> {
        let y = self
            .path
            .iter()
            .try_fold(x.clone(), |y, layer| layer.forward(&y, mode))?;
        let shortcut = self.shortcut.as_ref();
        (y + shortcut.map_or(Ok(x.clone()), |layer| layer.forward(x, mode))?)?.relu()
    }
}

impl Normed {
    fn load(w: &Weights, c: &Convolution, activation: Activation) -> Result<Self> {
        Ok(Self {
            conv: Conv1d::load(&w.pp(&c.name), c.inputs, c.outputs, c.kernel, c.stride, c.groups)?,
            norm: BatchNorm::load(&w.pp(&c.norm), c.outputs, activation)?,
        })
    }

    fn forward(&self, x: &Tensor, mode: &Mode) -> candle_core::Result<Tensor> {
        self.norm.forward(&self.conv.forward(x)?, mode)
    }
}
