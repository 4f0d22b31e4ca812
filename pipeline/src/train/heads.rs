//! Outputs over an encoder's frames that training holds to the statements of a recording.
//!
//! Place: beside the encoder, in the label stage and in the ECG stage. Invariant: the findings' head is `model::findings`' own, and
//! goes into the bundle; that of the data set's SCP statements only teaches the encoder.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use model::findings::{pooled, probabilities};
use model::layers::Linear;
use model::mode::Mode;
use model::weights::Weights;

use crate::objective::label_loss;

/// Names among the parameters; what lies with the encoder is exported.
const FINDINGS: &str = "encoder.findings";
const SCP: &str = "scp_head";
/// What a label counts as where it holds and where it does not: reports omit and err.
const SMOOTHED: (f64, f64) = (0.98, 0.005);

#[derive(Clone, Copy)]
pub struct Sizes {
    /// Features of a frame.
    pub features: usize,
    pub statements: usize,
    pub scp: usize,
}

pub struct Heads {
    findings: Linear,
    scp: Linear,
}

impl Heads {
    /// Zeros: every statement starts at even odds.
    pub fn fresh(sizes: Sizes) -> candle_core::Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        for (name, outputs) in [(FINDINGS, sizes.statements), (SCP, sizes.scp)] {
            let weight = Tensor::zeros((outputs, 2 * sizes.features), DType::F32, &Device::Cpu)?;
            let bias = Tensor::zeros(outputs, DType::F32, &Device::Cpu)?;
            tensors.extend([(format!("{name}.weight"), weight), (format!("{name}.bias"), bias)]);
        }
        Ok(tensors)
    }

    pub fn load(w: &Weights, sizes: Sizes) -> model::error::Result<Self> {
        let head = |name: &str, outputs| Linear::load(&w.pp(name), 2 * sizes.features, outputs);
        Ok(Self {
            findings: head(FINDINGS, sizes.statements)?,
            scp: head(SCP, sizes.scp)?,
        })
    }

    /// Loss of both heads: frames (B, S', F), and B rows of labels, the findings' first.
    pub fn loss(&self, frames: &Tensor, labels: &[&[f32]], mode: &Mode, dropout: f32) -> candle_core::Result<Tensor> {
        let pooled = mode.dropout_of(&pooled(frames)?, dropout)?;
        let logits = Tensor::cat(&[self.findings.forward(&pooled)?, self.scp.forward(&pooled)?], 1)?;
        let (holds, holds_not) = SMOOTHED;
        let labels = Tensor::from_vec(labels.concat(), logits.shape(), logits.device())?;
        label_loss(&logits, &labels.affine(holds - holds_not, holds_not)?)
    }

    /// Probabilities of the findings, row by row: frames (B, S', F).
    pub fn probabilities(&self, frames: &Tensor) -> candle_core::Result<Vec<Vec<f32>>> {
        probabilities(&self.findings.forward(&pooled(frames)?)?)
    }
}
