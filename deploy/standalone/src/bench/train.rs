//! `meit bench train`: seconds a step of training an adapter on a decoder with random weights.
//!
//! Place: the same forward, frozen base, f32 adapter variables and optimiser as the pipeline's. Invariant: a step is forward,
//! backward and update; its time is the wall clock's, the median of the steps after the first.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use model::decoder::Decoder;
use model::lora::{Adaptable, Adapter, AdapterConfig, Targets};
use model::loss::cross_entropy;
use model::mode::Mode;
use model::served::ServedWeights;
use pipeline::benchmark::cost::memory_kib_max;
use pipeline::optimizer::{AdamW, Move};
use rand::SeedableRng;
use serde::Serialize;

use super::shape::Shape;

const LEARNING_RATE: f64 = 1e-4;

/// Arguments of `meit bench train`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[arg(long, value_enum, default_value = "110m")]
    shape: Shape,
    #[arg(long, default_value = "f32")]
    dtype: ServedWeights,
    /// Rank of the adapter, on every linear layer but the head.
    #[arg(long, default_value_t = 16)]
    rank: usize,
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Tokens of a row.
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Keeps the input of each layer alone and computes the rest again for the gradient: less memory, more time.
    #[arg(long)]
    checkpoint: bool,
    /// cpu, or cuda, cuda:N in a build with that feature.
    #[arg(long, default_value = "cpu")]
    device: String,
}

/// What was measured.
#[derive(Serialize)]
struct Figures {
    seconds_per_step: f64,
    tokens_per_s: f64,
    /// Largest resident memory of this process, the base's weights included.
    peak_rss_mb: f64,
    /// Not measured: null.
    peak_device_mb: Option<f64>,
    adapter_parameters: usize,
    loss_first: f32,
    loss_last: f32,
    shape: String,
    dtype: String,
    rank: usize,
    batch: usize,
    tokens: usize,
    steps: usize,
    checkpoint: bool,
    device: String,
}

/// Measures and prints one JSON object.
///
/// # Errors
/// A size of zero; a device that is not there; a loss that is not finite; a tensor operation that fails.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(
        arguments.batch > 0 && arguments.tokens > 1 && arguments.steps > 1,
        "--batch must be at least 1, --tokens and --steps at least 2"
    );
    let device = model::device::open(&arguments.device)?;
    let quantised = arguments.dtype.blocks().is_some();
    ensure!(!quantised, "--dtype is quantised: such weights serve and never train");
    let base = arguments.shape.decoder(arguments.dtype, &device)?;
    let alpha = 2.0 * arguments.rank as f64;
    let config = AdapterConfig::new(arguments.rank, alpha, Targets::Pattern("all-linear".to_owned()));
    let fresh = Adapter::fresh(config, &base, &mut rand_chacha::ChaCha8Rng::seed_from_u64(1))?;
    let (adapter, vars) = fresh.trainable()?;
    let decoder = base.with_adapter(&adapter);
    let vocabulary = base.architecture().vocab_size as f32;
    let ids = Tensor::rand(0f32, vocabulary, (arguments.batch, arguments.tokens), &device)?.to_dtype(DType::U32)?;
    let mut optimizer = AdamW::default();
    let (mut times, mut losses) = (Vec::new(), Vec::new());
    for _ in 0..arguments.steps {
        let started = Instant::now();
        let (loss, grads) = backward(&decoder, &ids, arguments.checkpoint)?;
        let moves = vars.iter().map(|(name, var)| {
            let grad = grads.get(var).with_context(|| format!("no gradient for {name}"))?;
            let lr = LEARNING_RATE;
            anyhow::Ok(Move { name, var, grad, lr })
        });
        optimizer.update(moves.collect::<anyhow::Result<_>>()?, 1.0, 0.0)?;
        losses.push(loss.to_scalar::<f32>()?);
        times.push(started.elapsed().as_secs_f64());
    }
    ensure!(
        losses.iter().all(|loss| loss.is_finite()),
        "a loss is not finite: {losses:?}"
    );
    let seconds_per_step = median(&mut times[1..]);
    let figures = Figures {
        seconds_per_step,
        tokens_per_s: (arguments.batch * arguments.tokens) as f64 / seconds_per_step,
        peak_rss_mb: memory_kib_max().context("VmHWM in /proc/self/status")? * 1024.0 / 1e6,
        peak_device_mb: model::device::peak_bytes(&device)?.map(|bytes| bytes as f64 / 1e6),
        adapter_parameters: adapter.parameters(),
        loss_first: losses[0],
        loss_last: losses[losses.len() - 1],
        shape: arguments.shape.name(),
        dtype: arguments.dtype.name().to_owned(),
        rank: arguments.rank,
        batch: arguments.batch,
        tokens: arguments.tokens,
        steps: arguments.steps,
        checkpoint: arguments.checkpoint,
        device: arguments.device.clone(),
    };
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(())
}

/// Mean negative log likelihood of every token after the first, and its gradients.
fn backward(decoder: &Decoder, ids: &Tensor, by_layer: bool) -> anyhow::Result<(Tensor, GradStore)> {
    let (_, t) = ids.dims2()?;
    let inputs = ids.narrow(1, 0, t - 1)?.contiguous()?;
    let targets = ids.narrow(1, 1, t - 1)?;
    let weights = targets.ones_like()?;
    if by_layer {
        let loss = |logits: &Tensor| cross_entropy(logits, &targets, &weights);
        return Ok(decoder.backward_by_layer(&inputs, None, &Mode::Eval, loss)?);
    }
    let loss = decoder.loss(&inputs, None, (&targets, &weights), &Mode::Eval)?;
    let grads = loss.backward()?;
    Ok((loss, grads))
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
