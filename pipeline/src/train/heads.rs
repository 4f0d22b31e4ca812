//! Outputs over an encoder's frames and over a recording's morphology that training holds to the statements of a recording.
//!
//! Place: beside the encoder, in the label stage and in the ECG stage. Invariant: the findings' head is `model::findings`' own, and
//! goes into the bundle; that of the data set's SCP statements only teaches the encoder.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use model::findings::{MorphologyConfig, MorphologyLayer, pooled, probabilities};
use model::layers::Linear;
use model::mode::Mode;
use model::weights::Weights;

use crate::objective::label_loss;

/// Names among the parameters; what lies with the encoder is exported.
const FINDINGS: &str = "encoder.findings";
const SCP: &str = "scp_head";
/// The same outputs over the morphology.
const MORPHOLOGY_FINDINGS: &str = "encoder.morphology.findings";
const MORPHOLOGY_SCP: &str = "scp_head_morphology";
/// What a label counts as where it holds and where it does not: reports omit and err.
const SMOOTHED: (f64, f64) = (0.98, 0.005);

#[derive(Clone, Copy)]
pub struct Sizes {
    /// Features of a frame.
    pub features: usize,
    pub statements: usize,
    pub scp: usize,
    pub morphology: MorphologyConfig,
}

impl Sizes {
    /// Each output layer with its inputs and outputs.
    fn layers(self) -> [(&'static str, usize, usize); 4] {
        let (pooled, hidden) = (2 * self.features, self.morphology.hidden);
        [
            (FINDINGS, pooled, self.statements),
            (SCP, pooled, self.scp),
            (MORPHOLOGY_FINDINGS, hidden, self.statements),
            (MORPHOLOGY_SCP, hidden, self.scp),
        ]
    }
}

/// What the heads see of B recordings.
pub struct Views<'a> {
    /// (B, S', F)
    pub frames: &'a Tensor,
    /// (B, M)
    pub morphology: &'a Tensor,
}

pub struct Heads {
    findings: Linear,
    scp: Linear,
    hidden: MorphologyLayer,
    morphology_findings: Linear,
    morphology_scp: Linear,
}

impl Heads {
    /// Zeros: every statement starts at even odds.
    pub fn fresh(sizes: Sizes) -> candle_core::Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        for (name, inputs, outputs) in sizes.layers() {
            let weight = Tensor::zeros((outputs, inputs), DType::F32, &Device::Cpu)?;
            let bias = Tensor::zeros(outputs, DType::F32, &Device::Cpu)?;
            tensors.extend([(format!("{name}.weight"), weight), (format!("{name}.bias"), bias)]);
        }
        Ok(tensors)
    }

    pub fn load(w: &Weights, sizes: Sizes) -> model::error::Result<Self> {
        let [findings, scp, morphology_findings, morphology_scp] = sizes
            .layers()
            .map(|(name, inputs, outputs)| Linear::load(&w.pp(name), inputs, outputs));
        Ok(Self {
            findings: findings?,
            scp: scp?,
            hidden: MorphologyLayer::load(&w.pp("encoder"), sizes.morphology)?,
            morphology_findings: morphology_findings?,
            morphology_scp: morphology_scp?,
        })
    }

    /// Loss of both heads, each by itself over the frames and over the morphology: B rows of labels, the findings' first.
    pub fn loss(&self, views: &Views, labels: &[&[f32]], mode: &Mode, dropout: f32) -> candle_core::Result<Tensor> {
        let pooled = mode.dropout_of(&pooled(views.frames)?, dropout)?;
        let hidden = mode.dropout_of(&self.hidden.forward(views.morphology)?, dropout)?;
        let logits = |seen: &Tensor, findings: &Linear, scp: &Linear| {
            Tensor::cat(&[findings.forward(seen)?, scp.forward(seen)?], 1)
        };
        let of_frames = logits(&pooled, &self.findings, &self.scp)?;
        let of_morphology = logits(&hidden, &self.morphology_findings, &self.morphology_scp)?;
        let (holds, holds_not) = SMOOTHED;
        let labels = Tensor::from_vec(labels.concat(), of_frames.shape(), of_frames.device())?;
        let labels = labels.affine(holds - holds_not, holds_not)?;
        label_loss(&of_frames, &labels)? + label_loss(&of_morphology, &labels)?
    }

    /// Probabilities of the findings, row by row, as `FindingsHead` gives them.
    pub fn probabilities(&self, views: &Views) -> candle_core::Result<Vec<Vec<f32>>> {
        let of_frames = self.findings.forward(&pooled(views.frames)?)?;
        let of_morphology = self
            .morphology_findings
            .forward(&self.hidden.forward(views.morphology)?)?;
        probabilities(&of_frames, Some(&of_morphology))
    }
}
