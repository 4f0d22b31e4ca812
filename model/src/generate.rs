//! Token-by-token generation with a key/value cache and an ECG prefix.
//!
//! Place: after `prefix`; its tokens become a draft's text. Invariant: row i of a batch gets the tokens that it would get
//! alone, and a row that has stopped costs no more than its place in the batch.

use candle_core::{DType, Device, IndexOp, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use serde::{Deserialize, Serialize};

use crate::decoder::Decoder;
use crate::error::Result;
use crate::fused::{self, cross_entropy::LogSoftmax};
use crate::layers::widen;
use crate::lora::Adaptable;
use crate::prefix::EcgPrefix;
use crate::seq2seq::{Memory, Seq2Seq};

/// How tokens are chosen and when generation ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecodeOptions {
    /// New tokens a report, at most.
    pub tokens_max: usize,
    /// 0 is greedy.
    pub temperature: f64,
    /// Nucleus mass of sampling; 1 keeps every token.
    pub top_p: f64,
    /// Seed of sampling; row i of a request draws from its own stream.
    pub seed: u64,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            tokens_max: 96,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
        }
    }
}

/// Why a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    Stop,
    Length,
}

/// The tokens of one row, the stop token left out.
#[derive(Clone, Debug)]
pub struct Generated {
    pub ids: Vec<u32>,
    /// Natural log probability of each token under the untempered model, the stop token's included.
    pub logprobs: Vec<f32>,
    pub finish: Finish,
}

/// Continues `prompt` (B, T) until `stop` or `options.tokens_max` in every row.
///
/// # Errors
/// As there.
pub fn generate(
    decoder: &Decoder,
    prompt: &Tensor,
    prefix: Option<&EcgPrefix>,
    stop: Option<u32>,
    options: &DecodeOptions,
) -> Result<Vec<Generated>> {
    let (b, t) = prompt.dims2()?;
    continue_rows(decoder, prompt, &vec![t; b], prefix, stop, options, &|| {})
}

/// As [`generate`], in one batch for prompts of different lengths; none may be empty. Calls `step_done` after each step: the
/// prompts' first, then one a token; whoever times the steps brings the clock.
///
/// # Errors
/// A tensor operation that fails.
pub fn generate_ragged(
    decoder: &Decoder,
    prompts: &[&[u32]],
    prefix: Option<&EcgPrefix>,
    stop: Option<u32>,
    options: &DecodeOptions,
    step_done: &(dyn Fn() + Sync),
) -> Result<Vec<Generated>> {
    let (ids, lengths) = padded(prompts, 0, decoder.device())?;
    continue_rows(decoder, &ids, &lengths, prefix, stop, options, step_done)
}

/// Rows of tokens as one tensor (B, T), shorter ones with `pad` behind them, and their lengths.
///
/// # Errors
/// A tensor that cannot be made.
pub fn padded(rows: &[&[u32]], pad: u32, device: &Device) -> candle_core::Result<(Tensor, Vec<usize>)> {
    let lengths: Vec<usize> = rows.iter().map(|ids| ids.len()).collect();
    let t = lengths.iter().copied().max().unwrap_or(0);
    let ids = rows.iter().flat_map(|ids| {
        let padding = std::iter::repeat_n(pad, t - ids.len());
        ids.iter().copied().chain(padding)
    });
    Ok((Tensor::from_vec(ids.collect(), (rows.len(), t), device)?, lengths))
}

fn continue_rows(
    decoder: &Decoder,
    prompt: &Tensor,
    lengths: &[usize],
    prefix: Option<&EcgPrefix>,
    stop: Option<u32>,
    options: &DecodeOptions,
    step_done: &(dyn Fn() + Sync),
) -> Result<Vec<Generated>> {
    // on a thread of the pool, or every product would have to wake it
    rayon::scope(|_| {
        let mut cache = decoder.cache_for(options.tokens_max);
        let logits = |next: Option<Tensor>| match next {
            None => decoder.forward_last_of(prompt, lengths, prefix, &mut cache),
            Some(ids) => decoder.forward_last(&ids, prefix, &mut cache),
        };
        continue_with(lengths.len(), prompt.device(), stop, options, step_done, logits)
    })
}

/// As [`generate`], for an encoder-decoder: each row starts with the model's start token.
///
/// # Errors
/// As there.
pub fn generate_from(
    model: &Seq2Seq,
    memory: &Memory,
    rows: usize,
    stop: Option<u32>,
    options: &DecodeOptions,
    step_done: &(dyn Fn() + Sync),
) -> Result<Vec<Generated>> {
    rayon::scope(|_| {
        let start = Tensor::full(model.config().start, (rows, 1), model.device())?;
        let mut cache = model.cache_for(options.tokens_max);
        let logits = |next: Option<Tensor>| model.forward_last(next.as_ref().unwrap_or(&start), memory, &mut cache);
        continue_with(rows, model.device(), stop, options, step_done, logits)
    })
}

/// Continues `b` rows with what `logits` (B, V) says: first of the prompts, then of the tokens (B, 1) that it is given.
fn continue_with(
    b: usize,
    device: &Device,
    stop: Option<u32>,
    options: &DecodeOptions,
    step_done: &(dyn Fn() + Sync),
    mut logits: impl FnMut(Option<Tensor>) -> candle_core::Result<Tensor>,
) -> Result<Vec<Generated>> {
    let mut rows: Vec<Row> = (0..b).map(|_| Row::new(options)).collect();
    let mut ids = None;
    for step in 0..options.tokens_max {
        let logprobs = log_softmax(&widen(&logits(ids.take())?)?)?
            .to_dtype(DType::F32)?
            .to_device(&Device::Cpu)?;
        let next = rows
            .iter_mut()
            .enumerate()
            .map(|(i, row)| row.step(&logprobs.i(i)?, stop, step + 1 == options.tokens_max))
            .collect::<Result<Vec<u32>>>()?;
        step_done();
        if rows.iter().all(|row| row.finish.is_some()) {
            break;
        }
        ids = Some(Tensor::from_vec(next, (b, 1), device)?);
    }
    Ok(rows.into_iter().map(Row::end).collect())
}

/// (B, V) -> natural log probabilities (B, V).
fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    if fused::takes(logits) {
        Ok(logits.contiguous()?.apply_op1_no_bwd(&LogSoftmax)?)
    } else {
        Ok(candle_nn::ops::log_softmax(logits, 1)?)
    }
}

struct Row {
    sampler: LogitsProcessor,
    ids: Vec<u32>,
    logprobs: Vec<f32>,
    finish: Option<Finish>,
}

impl Row {
    fn new(options: &DecodeOptions) -> Self {
        let sampling = if options.temperature <= 0.0 {
            Sampling::ArgMax
        } else if options.top_p < 1.0 {
            Sampling::TopP {
                p: options.top_p,
                temperature: options.temperature,
            }
        } else {
            Sampling::All {
                temperature: options.temperature,
            }
        };
        let sampler = LogitsProcessor::from_sampling(options.seed, sampling);
        Self {
            sampler,
            ids: Vec::new(),
            logprobs: Vec::new(),
            finish: None,
        }
    }

    /// Chooses the next token from log probabilities (V); a finished row repeats its last token, which nobody reads.
    fn step(&mut self, logprobs: &Tensor, stop: Option<u32>, last: bool) -> Result<u32> {
        if self.finish.is_some() {
            return Ok(stop.or(self.ids.last().copied()).unwrap_or(0));
        }
        let token = self.sampler.sample(logprobs)?;
        self.logprobs.push(logprobs.i(token as usize)?.to_scalar::<f32>()?);
        if Some(token) == stop {
            self.finish = Some(Finish::Stop);
        } else {
            self.ids.push(token);
            if last {
                self.finish = Some(Finish::Length);
            }
        }
        Ok(token)
    }

    fn end(self) -> Generated {
        Generated {
            ids: self.ids,
            logprobs: self.logprobs,
            finish: self.finish.unwrap_or(Finish::Length),
        }
    }
}
