//! The fused model: millivolts in, report text out.
//!
//! Place: owned by the node's device thread. Invariant: on the CPU every recording is drafted by itself, so its text does
//! not depend on its batch, bit for bit; several recordings run side by side on the machine's cores.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use ecg::segment::{Measurements, Segment};
use ecg::{LEADS, SEGMENT_SAMPLES};

use crate::architecture::Architecture;
use crate::config::{DecoderConfig, EncoderConfig};
use crate::decoder::Decoder;
use crate::encoder::EcgEncoder;
use crate::error::{Error, Result};
use crate::evidence::Evidence;
use crate::generate::{DecodeOptions, Finish, Generated, generate};
use crate::mode::Mode;
use crate::projector::Projector;
use crate::prompt::{PromptTokenizer, instruction};
use crate::weights::Weights;

/// Encoder, projector and decoder.
pub struct Meit {
    pub encoder: EcgEncoder,
    pub projector: Projector,
    pub decoder: Decoder,
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
        Self::assemble(encoder, encoder_config, decoder, &decoder_config.architecture()?)
    }

    /// As [`Self::load`], for a decoder of any family.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn assemble(
        encoder: &Weights,
        encoder_config: &EncoderConfig,
        decoder: &Weights,
        architecture: &Architecture,
    ) -> Result<Self> {
        if encoder_config.dim != architecture.head_dim {
            let bound = format!("must be the decoder's head dimension, {}", architecture.head_dim);
            return Err(Error::Config {
                key: "dim",
                value: encoder_config.dim.to_string(),
                bound,
            });
        }
        Ok(Self {
            encoder: EcgEncoder::load(encoder, encoder_config)?,
            projector: Projector::load(encoder, encoder_config)?,
            decoder: Decoder::load(decoder, architecture)?,
        })
    }

    /// ECG (B, L, S) in millivolts -> embeddings (B, P, D).
    pub fn embed(&self, ecg: &Tensor, mode: &Mode) -> candle_core::Result<Tensor> {
        self.projector.forward(&self.encoder.forward(ecg, mode)?, mode)
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
    /// Mean and minimum of the tokens' natural log probabilities.
    pub logprob_mean: f32,
    pub logprob_min: f32,
    pub finish: Finish,
}

/// A model with its prompt and input conventions, ready to draft.
pub struct Drafting {
    pub model: Meit,
    pub tokenizer: PromptTokenizer,
    pub prompt: String,
    /// What the prompt tells beside the ECG.
    pub evidence: Evidence,
    /// Position in the standard lead order of each input lead of the model.
    pub lead_order: Vec<usize>,
    /// Millivolts are clipped to this bound on both sides.
    pub clip_mv: f32,
    pub device: Device,
}

impl Drafting {
    /// Drafts each ECG.
    ///
    /// # Errors
    /// [`Error::EcgLength`]; a tensor operation that fails.
    pub fn draft(&self, ecgs: &[EcgInput], options: &DecodeOptions) -> Result<Vec<Drafted>> {
        if !self.device.is_cpu() {
            return self.draft_together(ecgs, options);
        }
        let workers = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(ecgs.len().max(1));
        let share = ecgs.len().div_ceil(workers).max(1);
        let parts: Vec<Result<Vec<Drafted>>> = std::thread::scope(|scope| {
            let handles: Vec<_> = ecgs
                .chunks(share)
                .enumerate()
                .map(|(worker, chunk)| scope.spawn(move || self.draft_singly(chunk, worker * share, options)))
                .collect();
            handles
                .into_iter()
                .map(|h| h.join().expect("a drafting thread does not panic"))
                .collect()
        });
        Ok(parts
            .into_iter()
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect())
    }

    fn draft_singly(&self, ecgs: &[EcgInput], first: usize, options: &DecodeOptions) -> Result<Vec<Drafted>> {
        let rows = ecgs.iter().enumerate();
        let drafts = rows.map(|(i, ecg)| self.draft_rows(&[ecg], first + i, &self.instruction_ids(ecg)?, options));
        Ok(drafts.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// One batch for each length of prompt, so that no row is padded.
    fn draft_together(&self, ecgs: &[EcgInput], options: &DecodeOptions) -> Result<Vec<Drafted>> {
        let ids: Vec<Vec<u32>> = ecgs
            .iter()
            .map(|ecg| self.instruction_ids(ecg))
            .collect::<Result<_>>()?;
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, ids) in ids.iter().enumerate() {
            by_length.entry(ids.len()).or_default().push(i);
        }
        let mut drafts: Vec<(usize, Drafted)> = Vec::with_capacity(ecgs.len());
        for rows in by_length.into_values() {
            let group: Vec<&EcgInput> = rows.iter().map(|&i| &ecgs[i]).collect();
            let prompts: Vec<u32> = rows.iter().flat_map(|&i| ids[i].iter().copied()).collect();
            let drafted = self.draft_rows(&group, rows[0], &prompts, options)?;
            drafts.extend(rows.into_iter().zip(drafted));
        }
        drafts.sort_by_key(|(i, _)| *i);
        Ok(drafts.into_iter().map(|(_, draft)| draft).collect())
    }

    fn instruction_ids(&self, ecg: &EcgInput) -> Result<Vec<u32>> {
        let evidence = self.evidence.words(&ecg.measurements);
        self.tokenizer.encode(&instruction(&self.prompt, evidence.as_deref()))
    }

    /// `ids` are the rows' prompts, of one length, one after the other; `first` is the index an error gives the first row.
    fn draft_rows(
        &self,
        ecgs: &[&EcgInput],
        first: usize,
        ids: &[u32],
        options: &DecodeOptions,
    ) -> Result<Vec<Drafted>> {
        let x = self.input(ecgs, first)?;
        let e = self.model.embed(&x, &Mode::Eval)?;
        let prefix = self.model.decoder.prefix(&e)?;
        let prompt = Tensor::from_slice(ids, (ecgs.len(), ids.len() / ecgs.len()), &self.device)?;
        let rows = generate(
            &self.model.decoder,
            &prompt,
            Some(&prefix),
            Some(self.tokenizer.stop()),
            options,
        )?;
        rows.into_iter().map(|row| self.drafted(&row)).collect()
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

    fn drafted(&self, row: &Generated) -> Result<Drafted> {
        let n = row.logprobs.len().max(1) as f32;
        Ok(Drafted {
            text: self.tokenizer.decode(&row.ids)?,
            tokens: row.ids.len() as u32,
            logprob_mean: row.logprobs.iter().sum::<f32>() / n,
            logprob_min: row.logprobs.iter().copied().fold(0.0, f32::min),
            finish: row.finish,
        })
    }
}
