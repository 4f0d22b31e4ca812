//! ECG encoder: a 1-D ResNet of bottleneck blocks from millivolts to feature frames.
//!
//! Place: first stage of a request; its frames are pooled to P time tokens by `projector`.
//! Shapes: (B, L, S) -> (B, S', 4 width 2^(stages - 1)).
//! Source: MEIT section 3.2 and the reference ecg_encoder.py (ResNet-50 layout, no max-pool after the stem).

use candle_core::Tensor;

use crate::batch_norm::{Activation, BatchNorm};
use crate::config::EncoderConfig;
use crate::error::Result;
use crate::layers::Conv1d;
use crate::mode::Mode;
use crate::weights::Weights;

/// Stem and residual stages. A clone shares the weights.
#[derive(Clone)]
pub struct EcgEncoder {
    conv1: Conv1d,
    bn1: BatchNorm,
    blocks: Vec<Bottleneck>,
    decimation: usize,
}

impl EcgEncoder {
    /// Reads `conv1`, `bn1` and `layer<stage>.<block>.*`.
    pub fn load(w: &Weights, config: &EncoderConfig) -> Result<Self> {
        let conv1 = Conv1d::load(
            &w.pp("conv1"),
            config.leads,
            config.width,
            config.stem_kernel,
            config.stem_stride,
        )?;
        let bn1 = BatchNorm::load(&w.pp("bn1"), config.width, Activation::Relu)?;
        let mut blocks = Vec::new();
        let mut inputs = config.width;
        for (stage, &count) in config.blocks.iter().enumerate() {
            let width = config.width << stage;
            for block in 0..count {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                blocks.push(Bottleneck::load(
                    &w.pp(format!("layer{}.{block}", stage + 1)),
                    inputs,
                    width,
                    stride,
                )?);
                inputs = 4 * width;
            }
        }
        Ok(Self {
            conv1,
            bn1,
            blocks,
            decimation: config.decimation,
        })
    }

    /// (B, L, S) millivolts -> (B, S', C) frames.
    pub fn forward(&self, x: &Tensor, mode: &Mode) -> candle_core::Result<Tensor> {
        let x = decimate(x, self.decimation)?.transpose(1, 2)?.contiguous()?; // (B, S, L)
        let mut y = self.bn1.forward(&self.conv1.forward(&x)?, mode)?;
        for block in &self.blocks {
            y = block.forward(&y, mode)?;
        }
        Ok(y)
    }
}

/// Means of `factor` neighbouring samples: (B, L, S) -> (B, L, S / factor).
fn decimate(x: &Tensor, factor: usize) -> candle_core::Result<Tensor> {
    if factor == 1 {
        return Ok(x.clone());
    }
    let (b, l, s) = x.dims3()?;
    x.narrow(2, 0, s / factor * factor)?
        .contiguous()?
        .reshape((b, l, s / factor, factor))?
        .mean(3)
}

/// 1x1 reduce, 3 wide (carries the stride), 1x1 expand, each with batch norm; identity or projected shortcut.
#[derive(Clone)]
struct Bottleneck {
    convs: [Conv1d; 3],
    bns: [BatchNorm; 3],
    shortcut: Option<(Conv1d, BatchNorm)>,
}

impl Bottleneck {
    fn load(w: &Weights, inputs: usize, width: usize, stride: usize) -> Result<Self> {
        let outputs = 4 * width;
        let shortcut = if stride == 1 && inputs == outputs {
            None
        } else {
            let conv = Conv1d::load(&w.pp("shortcut.0"), inputs, outputs, 1, stride)?;
            Some((conv, BatchNorm::load(&w.pp("shortcut.1"), outputs, Activation::None)?))
        };
        Ok(Self {
            convs: [
                Conv1d::load(&w.pp("conv1"), inputs, width, 1, 1)?,
                Conv1d::load(&w.pp("conv2"), width, width, 3, stride)?,
                Conv1d::load(&w.pp("conv3"), width, outputs, 1, 1)?,
            ],
            bns: [
                BatchNorm::load(&w.pp("bn1"), width, Activation::Relu)?,
                BatchNorm::load(&w.pp("bn2"), width, Activation::Relu)?,
                BatchNorm::load(&w.pp("bn3"), outputs, Activation::None)?,
            ],
            shortcut,
        })
    }

    fn forward(&self, x: &Tensor, mode: &Mode) -> candle_core::Result<Tensor> {
        let y = self.bns[0].forward(&self.convs[0].forward(x)?, mode)?;
        let y = self.bns[1].forward(&self.convs[1].forward(&y)?, mode)?;
        let y = self.bns[2].forward(&self.convs[2].forward(&y)?, mode)?;
        let shortcut = match &self.shortcut {
            None => x.clone(),
            Some((conv, bn)) => bn.forward(&conv.forward(x)?, mode)?,
        };
        (y + shortcut)?.relu()
    }
}
