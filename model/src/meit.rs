//! The fused model: millivolts in, report text out.
//!
//! Place: owned by the node's device thread. Invariant: on the CPU a text does not depend on what is drafted with it, bit for bit:
//! every recording is encoded by itself, and drafted by itself, several side by side on the machine's cores, or in slots (`refill`).

use std::sync::Arc;

use candle_core::{Device, Tensor};
use ecg::segment::{Measurements, Segment};
use ecg::{LEADS, SEGMENT_SAMPLES};

use crate::backbone::{Backbone, BackboneConfig};
use crate::config::{DecoderConfig, EncoderConfig};
use crate::encoder::EcgEncoder;
use crate::error::{Error, Result};
use crate::evidence::Evidence;
use crate::findings::FindingsHead;
use crate::fusion::Fusion;
use crate::generate::{DecodeOptions, Finish, Generated};
use crate::lora::Adapter;
use crate::mode::Mode;
use crate::projector::Projector;
use crate::prompt::{PromptTokenizer, instruction};
use crate::weights::Weights;

/// Encoder, projector and language model. A clone shares the weights.
#[derive(Clone)]
pub struct Meit {
    pub encoder: EcgEncoder,
    pub projector: Projector,
    pub backbone: Backbone,
}

impl Meit {
    /// # Errors
    /// A tensor that is missing or of another shape; an encoder whose tokens do not fit the decoder's heads.
    pub fn load(
        encoder: &Weights,
        encoder_config: &EncoderConfig,
        decoder: &Weights,
        decoder_config: &DecoderConfig,
    ) -> Result<Self> {
        Self::assemble(
            encoder,
            encoder_config,
            decoder,
            &BackboneConfig::Decoder(Box::new(decoder_config.architecture()?)),
            &Fusion::default(),
        )
    }

    /// As [`Self::load`], for a language model of any family and any fusion, whose own weights lie beside the encoder's.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn assemble(
        encoder: &Weights,
        encoder_config: &EncoderConfig,
        backbone: &Weights,
        config: &BackboneConfig,
        fusion: &Fusion,
    ) -> Result<Self> {
        Ok(Self {
            encoder: EcgEncoder::load(encoder, encoder_config)?,
            projector: Projector::load(encoder, encoder_config)?,
            backbone: config.load(backbone, fusion, &encoder.pp("fusion"), encoder_config.dim)?,
        })
    }
}

const UV_PER_MV: f32 = 1000.0;

/// What a draft is made from.
#[derive(Clone, Debug, Default)]
pub struct EcgInput {
    /// 12 x 5000 filtered millivolts, lead-major, standard lead order.
    pub millivolts: Vec<f32>,
    /// What was measured of the same ten seconds.
    pub measurements: Measurements,
}

impl From<&Segment> for EcgInput {
    fn from(segment: &Segment) -> Self {
        let mv_per_unit = segment.uv_per_unit / UV_PER_MV;
        Self {
            millivolts: segment.filtered.iter().map(|&v| f32::from(v) * mv_per_unit).collect(),
            measurements: segment.measurements.clone(),
        }
    }
}

/// One drafted report.
#[derive(Clone, Debug, PartialEq)]
pub struct Drafted {
    pub text: String,
    pub tokens: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Mean and minimum of the tokens' natural log probabilities.
    pub logprob_mean: f32,
    pub logprob_min: f32,
    pub finish: Finish,
}

/// Told after each step of a generation which ECGs took it, from the thread that drafts them: the prompt's step first, then one
/// a token. Whoever times the steps brings the clock.
pub type StepDone<'a> = &'a (dyn Fn(&[usize]) + Sync);

/// A model with its prompt and input conventions, ready to draft.
#[derive(Clone)]
pub struct Drafting {
    pub model: Meit,
    pub tokenizer: PromptTokenizer,
    pub prompt: String,
    /// What the prompt tells beside the ECG.
    pub evidence: Evidence,
    /// Names the statements of the evidence, where it tells any.
    pub findings: Option<FindingsHead>,
    /// Position in the standard lead order of each input lead of the model.
    pub lead_order: Vec<usize>,
    /// Millivolts are clipped to this bound on both sides.
    pub clip_mv: f32,
    pub device: Device,
    /// What `model.backbone` has in front of its base, if anything.
    pub adapter: Option<Arc<Adapter>>,
}

/// One ECG of a request, ready to be batched.
struct Row<'a> {
    index: usize,
    ecg: &'a EcgInput,
    adapter: Option<&'a Adapter>,
}

fn rows<'a>(ecgs: &'a [EcgInput], adapters: &[Option<&'a Adapter>]) -> Vec<Row<'a>> {
    let rows = ecgs.iter().zip(adapters).enumerate();
    rows.map(|(index, (ecg, &adapter))| Row { index, ecg, adapter })
        .collect()
}

impl Drafting {
    /// Drafts each ECG.
    ///
    /// # Errors
    /// [`Error::EcgLength`]; a tensor operation that fails.
    pub fn draft(&self, ecgs: &[EcgInput], options: &DecodeOptions) -> Result<Vec<Drafted>> {
        self.draft_watched(ecgs, options, &|_| {})
    }

    /// As [`Self::draft`], with somebody who is told of each step.
    ///
    /// # Errors
    /// As [`Self::draft`].
    pub fn draft_watched(
        &self,
        ecgs: &[EcgInput],
        options: &DecodeOptions,
        step_done: StepDone<'_>,
    ) -> Result<Vec<Drafted>> {
        self.draft_with(ecgs, &vec![None; ecgs.len()], options, step_done)
    }

    /// As [`Self::draft_watched`], each ECG with an adapter of its own; None is this drafting's own adapter, or the base.
    ///
    /// # Errors
    /// As [`Self::draft`].
    pub fn draft_with(
        &self,
        ecgs: &[EcgInput],
        adapters: &[Option<&Adapter>],
        options: &DecodeOptions,
        step_done: StepDone<'_>,
    ) -> Result<Vec<Drafted>> {
        if !self.device.is_cpu() {
            return self.draft_batch(ecgs, adapters, options, step_done);
        }
        self.draft_singly(&rows(ecgs, adapters), options, step_done)
    }

    /// As [`Self::draft_with`], in one batch whatever the device.
    ///
    /// # Errors
    /// As [`Self::draft`].
    pub fn draft_batch(
        &self,
        ecgs: &[EcgInput],
        adapters: &[Option<&Adapter>],
        options: &DecodeOptions,
        step_done: StepDone<'_>,
    ) -> Result<Vec<Drafted>> {
        if ecgs.is_empty() {
            return Ok(Vec::new());
        }
        self.draft_rows(&rows(ecgs, adapters), options, step_done)
    }

    /// Each row by itself, on the machine's cores side by side.
    fn draft_singly(&self, rows: &[Row], options: &DecodeOptions, step_done: StepDone<'_>) -> Result<Vec<Drafted>> {
        let workers = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(rows.len().max(1));
        let share = rows.len().div_ceil(workers).max(1);
        let draft_share = |rows: &[Row]| -> Result<Vec<Drafted>> {
            let drafts = rows.chunks(1).map(|row| self.draft_rows(row, options, step_done));
            Ok(drafts.collect::<Result<Vec<_>>>()?.concat())
        };
        let parts: Vec<Result<Vec<Drafted>>> = std::thread::scope(|scope| {
            let handles: Vec<_> = rows
                .chunks(share)
                .map(|chunk| scope.spawn(move || draft_share(chunk)))
                .collect();
            handles
                .into_iter()
                .map(|h| h.join().expect("a drafting thread does not panic"))
                .collect()
        });
        Ok(parts.into_iter().collect::<Result<Vec<_>>>()?.concat())
    }

    /// Names of each recording's statements, of B recordings and their encoder frames (B, S', F); none where the prompt tells none.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub fn named(&self, ecgs: &[&EcgInput], frames: &Tensor) -> candle_core::Result<Vec<Vec<&str>>> {
        match &self.findings {
            Some(head) => head.named(ecgs, frames),
            None => Ok(vec![Vec::new(); frames.dim(0)?]),
        }
    }

    /// What the prompt tells of one ECG beside it; encodes the ECG where its statements belong to that.
    ///
    /// # Errors
    /// [`Error::EcgLength`]; a tensor operation that fails.
    pub fn evidence_of(&self, ecg: &EcgInput) -> Result<Option<String>> {
        let named = match &self.findings {
            Some(head) => {
                let frames = self.model.encoder.forward(&self.input(&[ecg], 0)?, &Mode::Eval)?;
                head.named(&[ecg], &frames)?.concat()
            }
            None => Vec::new(),
        };
        Ok(self.evidence.words(&ecg.measurements, &named))
    }

    /// What the language model is given of some ECGs: their prompts, and their embeddings (B, P, E). `first` is the index that
    /// an error gives the first ECG.
    pub(crate) fn seen(&self, ecgs: &[&EcgInput], first: usize) -> Result<(Vec<Vec<u32>>, Tensor)> {
        let frames = self.model.encoder.forward(&self.input(ecgs, first)?, &Mode::Eval)?;
        let prompts = self.named(ecgs, &frames)?.into_iter().zip(ecgs).map(|(named, ecg)| {
            let evidence = self.evidence.words(&ecg.measurements, &named);
            self.tokenizer.encode(&instruction(&self.prompt, evidence.as_deref()))
        });
        let prompts = prompts.collect::<Result<Vec<_>>>()?;
        Ok((prompts, self.model.projector.forward(&frames, &Mode::Eval)?))
    }

    fn draft_rows(&self, rows: &[Row], options: &DecodeOptions, step_done: StepDone<'_>) -> Result<Vec<Drafted>> {
        let places: Vec<usize> = rows.iter().map(|row| row.index).collect();
        let ecgs: Vec<&EcgInput> = rows.iter().map(|row| row.ecg).collect();
        let (prompts, e) = self.seen(&ecgs, places[0])?;
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let stop = self.tokenizer.stop();
        let adapters: Vec<Option<&Adapter>> = rows.iter().map(|row| row.adapter).collect();
        let adapters = (adapters.as_slice(), self.adapter.as_deref());
        let backbone = &self.model.backbone;
        let generated = backbone.generate(&prompts, adapters, &e, stop, options, &|| step_done(&places))?;
        let drafts = generated.iter().zip(&prompts);
        drafts.map(|(row, prompt)| self.drafted(row, prompt.len())).collect()
    }

    /// Clips and reorders: ECGs -> (B, L, S). Values that are not finite become zero, one sample at a time. `first` is the
    /// index that an error gives the first ECG.
    ///
    /// # Errors
    /// [`Error::EcgLength`].
    pub fn input(&self, ecgs: &[&EcgInput], first: usize) -> Result<Tensor> {
        let expected = LEADS * SEGMENT_SAMPLES;
        let mut values = Vec::with_capacity(ecgs.len() * expected);
        for (i, EcgInput { millivolts: ecg, .. }) in ecgs.iter().enumerate() {
            if ecg.len() != expected {
                return Err(Error::EcgLength {
                    index: first + i,
                    got: ecg.len(),
                    expected,
                });
            }
            for &lead in &self.lead_order {
                let samples = &ecg[lead * SEGMENT_SAMPLES..(lead + 1) * SEGMENT_SAMPLES];
                let clip = |&v: &f32| {
                    if v.is_finite() {
                        v.clamp(-self.clip_mv, self.clip_mv)
                    } else {
                        0.0
                    }
                };
                values.extend(samples.iter().map(clip));
            }
        }
        Ok(Tensor::from_vec(
            values,
            (ecgs.len(), self.lead_order.len(), SEGMENT_SAMPLES),
            &self.device,
        )?)
    }

    pub(crate) fn drafted(&self, row: &Generated, prompt_tokens: usize) -> Result<Drafted> {
        let n = row.logprobs.len().max(1) as f32;
        Ok(Drafted {
            text: self.tokenizer.decode(&row.ids)?,
            tokens: row.ids.len() as u32,
            prompt_tokens: prompt_tokens as u32,
            logprob_mean: row.logprobs.iter().sum::<f32>() / n,
            logprob_min: row.logprobs.iter().copied().fold(0.0, f32::min),
            finish: row.finish,
        })
    }
}
