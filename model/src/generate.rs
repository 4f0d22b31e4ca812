//! Token-by-token generation: how tokens are chosen, and batches that begin together.
//!
//! Place: over `slots`, which decode; its tokens become a draft's text. Invariant: row i of a batch gets the tokens that it would
//! get alone. A decoder's row that has stopped costs nothing more; an encoder-decoder's keeps its place until the batch ends.

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
use crate::slots::{Request, SlotLimits, Slots};

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
    /// Seed of sampling. Every row draws from a stream of its own that begins here, so its tokens do not depend on its place in a batch.
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
    let prompts = prompt.to_vec2::<u32>()?;
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    generate_ragged(decoder, &prompts, prefix, stop, options, &|| {})
}

/// As [`generate`], in one batch for prompts of different lengths; none may be empty. An adapter of the decoder is in every row.
///
/// Calls `step_done` after each step: the
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
    let requests = prompts.iter().enumerate().map(|(key, prompt)| Request {
        key,
        prompt,
        tokens_max: options.tokens_max,
        adapter: None,
    });
    let requests: Vec<Request> = requests.collect();
    let limits = limits_of(&requests, prefix.map_or(Ok(0), EcgPrefix::text_columns)?);
    let slots = Slots::new(decoder.clone(), limits, stop, options.clone());
    run_out(slots, step_done, |slots| slots.admit_seeing(&requests, prefix))
}

/// Slots for these requests and no more, with `before` columns before their prompts.
pub(crate) fn limits_of(requests: &[Request], before: usize) -> SlotLimits {
    let tokens = requests.iter().map(|request| request.prompt.len() + request.tokens_max);
    SlotLimits {
        slots: requests.len(),
        tokens: before + tokens.max().unwrap_or(0),
    }
}

/// What the requests that `admit` gives the slots are continued with, in the order of their keys.
pub(crate) fn run_out<'a>(
    mut slots: Slots<'a>,
    step_done: &(dyn Fn() + Sync),
    admit: impl FnOnce(&mut Slots<'a>) -> Result<()> + Send,
) -> Result<Vec<Generated>> {
    // on a thread of the pool, or every product would have to wake it
    rayon::scope(|_| {
        admit(&mut slots)?;
        step_done();
        while slots.running() > 0 {
            slots.step()?;
            step_done();
        }
        let mut ended = slots.ended();
        ended.sort_by_key(|&(key, _)| key);
        Ok(ended.into_iter().map(|(_, generated)| generated).collect())
    })
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
    let mut rows: Vec<Row> = (0..b).map(|_| Row::new(options, options.tokens_max)).collect();
    let mut ids = None;
    for _ in 0..options.tokens_max {
        let logprobs = log_probabilities(&logits(ids.take())?)?;
        let next = rows
            .iter_mut()
            .enumerate()
            .map(|(i, row)| row.step(&logprobs.i(i)?, stop))
            .collect::<Result<Vec<u32>>>()?;
        step_done();
        if rows.iter().all(Row::has_ended) {
            break;
        }
        ids = Some(Tensor::from_vec(next, (b, 1), device)?);
    }
    Ok(rows.into_iter().map(Row::end).collect())
}

/// Logits (B, V) -> natural log probabilities (B, V) in f32, on the CPU.
pub(crate) fn log_probabilities(logits: &Tensor) -> Result<Tensor> {
    let logits = widen(logits)?;
    let logprobs = if fused::takes(&logits) {
        logits.contiguous()?.apply_op1_no_bwd(&LogSoftmax)?
    } else {
        candle_nn::ops::log_softmax(&logits, 1)?
    };
    Ok(logprobs.to_dtype(DType::F32)?.to_device(&Device::Cpu)?)
}

/// One row on its way.
pub(crate) struct Row {
    sampler: LogitsProcessor,
    tokens_max: usize,
    ids: Vec<u32>,
    logprobs: Vec<f32>,
    finish: Option<Finish>,
}

impl Row {
    pub fn new(options: &DecodeOptions, tokens_max: usize) -> Self {
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
            tokens_max,
            ids: Vec::new(),
            logprobs: Vec::new(),
            finish: (tokens_max == 0).then_some(Finish::Length),
        }
    }

    /// Chooses the next token from log probabilities (V); a finished row repeats its last token, which nobody reads.
    pub fn step(&mut self, logprobs: &Tensor, stop: Option<u32>) -> Result<u32> {
        if self.finish.is_some() {
            return Ok(stop.or(self.ids.last().copied()).unwrap_or(0));
        }
        let token = self.sampler.sample(logprobs)?;
        self.logprobs.push(logprobs.i(token as usize)?.to_scalar::<f32>()?);
        if Some(token) == stop {
            self.finish = Some(Finish::Stop);
        } else {
            self.ids.push(token);
            if self.ids.len() >= self.tokens_max {
                self.finish = Some(Finish::Length);
            }
        }
        Ok(token)
    }

    pub fn has_ended(&self) -> bool {
        self.finish.is_some()
    }

    pub fn end(self) -> Generated {
        Generated {
            ids: self.ids,
            logprobs: self.logprobs,
            finish: self.finish.unwrap_or(Finish::Length),
        }
    }
}
