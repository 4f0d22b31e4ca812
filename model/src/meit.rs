//! The fused model: millivolts in, report text out.
//!
//! Place: owned by the node's device thread. Invariant: on the CPU every recording is drafted by itself, so its text does
//! not depend on its batch, bit for bit; several recordings run side by side on the machine's cores.

use candle_core::{Device, Tensor};
use ecg::{LEADS, SEGMENT_SAMPLES};

use crate::config::{DecoderConfig, EncoderConfig};
use crate::decoder::Decoder;
use crate::encoder::EcgEncoder;
use crate::error::{Error, Result};
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
        if encoder_config.dim != decoder_config.head_dim() {
            let bound = format!("must be the decoder's head dimension, {}", decoder_config.head_dim());
            return Err(Error::Config {
                key: "dim",
                value: encoder_config.dim.to_string(),
                bound,
            });
        }
        Ok(Self {
            encoder: EcgEncoder::load(encoder, encoder_config)?,
            projector: Projector::load(encoder, encoder_config)?,
            decoder: Decoder::load(decoder, decoder_config)?,
        })
    }

    /// ECG (B, L, S) in millivolts -> embeddings (B, P, D).
    pub fn embed(&self, ecg: &Tensor, mode: &Mode) -> candle_core::Result<Tensor> {
        self.projector.forward(&self.encoder.forward(ecg, mode)?, mode)
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
    /// Position in the standard lead order of each input lead of the model.
    pub lead_order: Vec<usize>,
    /// Millivolts are clipped to this bound on both sides.
    pub clip_mv: f32,
    pub device: Device,
}

impl Drafting {
    /// Drafts each ECG: 12 x 5000 filtered millivolts, lead-major, standard lead order.
    ///
    /// # Errors
    /// [`Error::EcgLength`]; a tensor operation that fails.
    pub fn draft(&self, ecgs: &[Vec<f32>], options: &DecodeOptions) -> Result<Vec<Drafted>> {
        if !self.device.is_cpu() {
            return self.draft_rows(ecgs, 0, options);
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

    fn draft_singly(&self, ecgs: &[Vec<f32>], first: usize, options: &DecodeOptions) -> Result<Vec<Drafted>> {
        let rows = ecgs.iter().enumerate();
        let drafts = rows.map(|(i, ecg)| self.draft_rows(std::slice::from_ref(ecg), first + i, options));
        Ok(drafts.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn draft_rows(&self, ecgs: &[Vec<f32>], first: usize, options: &DecodeOptions) -> Result<Vec<Drafted>> {
        if ecgs.is_empty() {
            return Ok(Vec::new());
        }
        let x = self.input(ecgs, first)?;
        let e = self.model.embed(&x, &Mode::Eval)?;
        let prefix = self.model.decoder.prefix(&e)?;
        let ids = self.tokenizer.encode(&instruction(&self.prompt))?;
        let prompt = Tensor::from_vec(ids.repeat(ecgs.len()), (ecgs.len(), ids.len()), &self.device)?;
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
    pub fn input(&self, ecgs: &[Vec<f32>], first: usize) -> Result<Tensor> {
        let expected = LEADS * SEGMENT_SAMPLES;
        let mut values = Vec::with_capacity(ecgs.len() * expected);
        for (i, ecg) in ecgs.iter().enumerate() {
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
