//! `meit bench infer`: tokens a second of a decoder with random weights.
//!
//! Place: calls `model::generate` as a draft does, greedy, without a stop token. Invariant: prompt and decoding are timed
//! apart, by the wall clock, so other programs on the machine slow both.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use candle_core::{DType, Device, Tensor};
use model::decoder::Decoder;
use model::generate::{DecodeOptions, generate};
use model::served::ServedWeights;
use pipeline::benchmark::cost::memory_kib_max;
use serde::Serialize;

use super::requests;
use super::shape::Shape;

/// Arguments of `meit bench infer`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[arg(long, value_enum, default_value = "110m")]
    pub shape: Shape,
    #[arg(long, default_value = "f32")]
    pub dtype: ServedWeights,
    /// Rows decoded together.
    #[arg(long, default_value_t = 1)]
    pub batch: usize,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 32)]
    pub prompt: usize,
    /// Tokens decoded in each row.
    #[arg(long = "new", default_value_t = 64)]
    pub new_tokens: usize,
    /// cpu, or cuda, cuda:N in a build with that feature.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Runs, of which the fastest counts.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    #[command(flatten)]
    requests: requests::Arguments,
}

/// What was measured.
#[derive(Serialize)]
struct Figures {
    tokens_per_s: f64,
    /// Weights read while decoding, over the time of decoding.
    weight_gb_per_s: f64,
    /// Prompt and decoding together.
    seconds: f64,
    prompt_seconds: f64,
    decode_seconds: f64,
    weight_bytes_per_token: f64,
    /// Largest resident memory of this process.
    peak_rss_mb: f64,
    shape: String,
    dtype: String,
    batch: usize,
    prompt: usize,
    new: usize,
    device: String,
}

/// Measures and prints one JSON object.
///
/// # Errors
/// A size of zero; a device that is not there; a tensor operation that fails.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let sizes = [arguments.batch, arguments.prompt, arguments.runs];
    ensure!(
        sizes.iter().all(|&n| n > 0) && arguments.new_tokens > 1,
        "--batch, --prompt and --runs must be at least 1 and --new at least 2"
    );
    if let Some(count) = arguments.requests.requests {
        return requests::run(arguments, &arguments.requests, count);
    }
    let device = model::device::open(&arguments.device)?;
    let decoder = arguments.shape.decoder(arguments.dtype, &device)?;
    seconds(&decoder, arguments, 2, &device)?; // the first run makes the pages and threads of all others
    let (mut whole, mut prompt_alone) = (f64::MAX, f64::MAX);
    for _ in 0..arguments.runs {
        prompt_alone = prompt_alone.min(seconds(&decoder, arguments, 1, &device)?);
        whole = whole.min(seconds(&decoder, arguments, arguments.new_tokens, &device)?);
    }
    let steps = (arguments.new_tokens - 1) as f64;
    let decode = whole - prompt_alone;
    let bytes = arguments.shape.bytes_per_token(arguments.dtype);
    let figures = Figures {
        tokens_per_s: steps * arguments.batch as f64 / decode,
        weight_gb_per_s: bytes * steps / decode / 1e9,
        seconds: whole,
        prompt_seconds: prompt_alone,
        decode_seconds: decode,
        weight_bytes_per_token: bytes,
        peak_rss_mb: memory_kib_max().context("VmHWM in /proc/self/status")? * 1024.0 / 1e6,
        shape: arguments.shape.name(),
        dtype: arguments.dtype.name().to_owned(),
        batch: arguments.batch,
        prompt: arguments.prompt,
        new: arguments.new_tokens,
        device: arguments.device.clone(),
    };
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(())
}

/// Wall time of a prompt and `new_tokens` tokens after it, in every row.
fn seconds(decoder: &Decoder, arguments: &Arguments, new_tokens: usize, device: &Device) -> anyhow::Result<f64> {
    let vocabulary = decoder.architecture().vocab_size;
    let ids = Tensor::rand(0f32, vocabulary as f32, (arguments.batch, arguments.prompt), device)?;
    let options = DecodeOptions {
        tokens_max: new_tokens,
        ..DecodeOptions::default()
    };
    let started = Instant::now();
    let rows = generate(decoder, &ids.to_dtype(DType::U32)?, None, None, &options)?;
    ensure!(
        rows.iter().all(|row| row.ids.len() == new_tokens),
        "a row ended before {new_tokens} tokens"
    );
    Ok(started.elapsed().as_secs_f64())
}
