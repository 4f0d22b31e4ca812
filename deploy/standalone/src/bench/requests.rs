//! `meit bench infer --requests N`: reports of unequal lengths, in refilled slots, in batches, and one by one.
//!
//! Place: beside `infer`, on the same random decoders, or on a bundle and recordings. Invariant: the three ways write the same
//! tokens and take turns, so that what else the machine does slows all of them.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use ecg::dsp::{DspConfig, analyse};
use model::bundle::Bundle;
use model::decoder::Decoder;
use model::generate::{DecodeOptions, generate_ragged};
use model::meit::{Drafting, EcgInput};
use model::refill::DraftRequest;
use model::slots::{Request, SlotLimits, Slots};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::infer;
use crate::assets;

/// Arguments beside those of `meit bench infer`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Requests of unequal lengths: --new tokens at most, a quarter of them at least. --batch is the number of slots.
    #[arg(long, value_name = "N")]
    pub requests: Option<usize>,
    /// Draft with this bundle instead of a random decoder, each report to its own end.
    #[arg(long, value_name = "DIR", requires = "requests")]
    bundle: Option<PathBuf>,
    /// Directory of WFDB recordings for the bundle; the shipped ones where not given.
    #[arg(long, value_name = "DIR", requires = "bundle")]
    recordings: Option<PathBuf>,
}

/// What was measured; seconds of each round, and quotients of medians.
#[derive(Serialize)]
struct Figures {
    refilled_seconds: Vec<f64>,
    batches_seconds: Vec<f64>,
    /// Each request by itself, as many side by side as there are cores.
    singly_seconds: Vec<f64>,
    refilled_tokens_per_s: f64,
    batches_to_refilled: f64,
    singly_to_refilled: f64,
    requests: usize,
    slots: usize,
    tokens: usize,
    tokens_of_shortest: usize,
    tokens_of_longest: usize,
    model: String,
    device: String,
}

/// When a request gets a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coming {
    /// As soon as one is free.
    Refilled,
    /// When all are free.
    Batches,
}

/// Measures and prints one JSON object.
///
/// # Errors
/// A size of zero; a bundle or recordings that cannot be read; a tensor operation that fails.
pub fn run(arguments: &infer::Arguments, own: &Arguments, count: usize) -> anyhow::Result<()> {
    ensure!(count > 0, "--requests must be at least 1");
    let device = model::device::open(&arguments.device)?;
    match &own.bundle {
        Some(dir) => {
            let bundle =
                Bundle::load_as(dir, &device, arguments.dtype).with_context(|| format!("load {}", dir.display()))?;
            let drafts = Drafts {
                drafting: bundle.drafting(),
                ecgs: ecgs(own, count)?,
                slots: arguments.batch,
            };
            measure(arguments, &drafts, bundle.manifest().name.clone())
        }
        None => {
            let decoder = arguments.shape.decoder(arguments.dtype, &device)?;
            let texts = Texts::new(decoder, arguments, count);
            measure(arguments, &texts, arguments.shape.name())
        }
    }
}

/// Something that writes texts; each way returns their lengths.
trait Writes {
    fn in_slots(&self, coming: Coming) -> anyhow::Result<Vec<usize>>;

    fn singly(&self) -> anyhow::Result<Vec<usize>>;
}

fn measure(arguments: &infer::Arguments, writes: &dyn Writes, model: String) -> anyhow::Result<()> {
    let mut seconds = [const { Vec::new() }; 3];
    let mut lengths = Vec::new();
    for round in 0..=arguments.runs {
        let ways: [&dyn Fn() -> anyhow::Result<Vec<usize>>; 3] = [
            &|| writes.in_slots(Coming::Refilled),
            &|| writes.in_slots(Coming::Batches),
            &|| writes.singly(),
        ];
        for (way, seconds) in ways.into_iter().zip(&mut seconds) {
            let started = Instant::now();
            let written = way()?;
            ensure!(
                lengths.is_empty() || written == lengths,
                "one way wrote other lengths than another: {written:?}, {lengths:?}"
            );
            lengths = written;
            // the first round fills caches and is not counted
            if round > 0 {
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
    }
    let [refilled, batches, singly] = seconds;
    let tokens = lengths.iter().sum();
    let figures = Figures {
        refilled_tokens_per_s: tokens as f64 / median(&refilled),
        batches_to_refilled: median(&batches) / median(&refilled),
        singly_to_refilled: median(&singly) / median(&refilled),
        refilled_seconds: refilled,
        batches_seconds: batches,
        singly_seconds: singly,
        requests: lengths.len(),
        slots: arguments.batch,
        tokens,
        tokens_of_shortest: lengths.iter().copied().min().unwrap_or(0),
        tokens_of_longest: lengths.iter().copied().max().unwrap_or(0),
        model,
        device: arguments.device.clone(),
    };
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Requests to a decoder with random weights.
struct Texts {
    decoder: Decoder,
    prompts: Vec<Vec<u32>>,
    /// New tokens of each.
    lengths: Vec<usize>,
    limits: SlotLimits,
}

impl Texts {
    fn new(decoder: Decoder, arguments: &infer::Arguments, count: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let (new, vocabulary) = (arguments.new_tokens, decoder.architecture().vocab_size as u32);
        let prompt = |rng: &mut ChaCha8Rng| (0..arguments.prompt).map(|_| rng.random_range(0..vocabulary)).collect();
        Self {
            prompts: (0..count).map(|_| prompt(&mut rng)).collect(),
            lengths: (0..count).map(|_| rng.random_range(new.div_ceil(4)..=new)).collect(),
            limits: SlotLimits {
                slots: arguments.batch,
                tokens: arguments.prompt + new,
            },
            decoder,
        }
    }
}

impl Writes for Texts {
    fn in_slots(&self, coming: Coming) -> anyhow::Result<Vec<usize>> {
        let mut slots = Slots::new(self.decoder.clone(), self.limits, None, DecodeOptions::default());
        let mut lengths = vec![0; self.prompts.len()];
        let mut waiting = self.prompts.iter().zip(&self.lengths).enumerate();
        loop {
            let free = slots.free();
            if coming == Coming::Refilled || free == self.limits.slots {
                let some = waiting.by_ref().take(free).map(|(key, (prompt, &tokens_max))| Request {
                    key,
                    prompt,
                    tokens_max,
                    adapter: None,
                });
                slots.admit(&some.collect::<Vec<_>>(), None)?;
            }
            slots.step()?;
            for (key, written) in slots.ended() {
                lengths[key] = written.ids.len();
            }
            if slots.running() == 0 && waiting.len() == 0 {
                return Ok(lengths);
            }
        }
    }

    fn singly(&self) -> anyhow::Result<Vec<usize>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let requests: Vec<(&Vec<u32>, usize)> = self.prompts.iter().zip(self.lengths.iter().copied()).collect();
        let write = |share: &[(&Vec<u32>, usize)]| -> anyhow::Result<Vec<usize>> {
            let written = share.iter().map(|&(prompt, tokens_max)| {
                let options = DecodeOptions {
                    tokens_max,
                    ..DecodeOptions::default()
                };
                let rows = generate_ragged(&self.decoder, &[prompt], None, None, &options, &|| {})?;
                Ok(rows.iter().map(|row| row.ids.len()).sum())
            });
            written.collect()
        };
        let parts: Vec<anyhow::Result<Vec<usize>>> = std::thread::scope(|scope| {
            let shares = requests.chunks(requests.len().div_ceil(cores));
            let threads: Vec<_> = shares.map(|share| scope.spawn(move || write(share))).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .map(|part| part.expect("a writing thread does not panic"))
                .collect()
        });
        Ok(parts.into_iter().collect::<anyhow::Result<Vec<_>>>()?.concat())
    }
}

/// Reports about recordings.
struct Drafts<'a> {
    drafting: &'a Drafting,
    ecgs: Vec<EcgInput>,
    slots: usize,
}

/// Tokens of a prompt and a report, at most.
const DRAFT_TOKENS: usize = 512;

impl Writes for Drafts<'_> {
    fn in_slots(&self, coming: Coming) -> anyhow::Result<Vec<usize>> {
        let limits = SlotLimits {
            slots: self.slots,
            tokens: DRAFT_TOKENS,
        };
        let mut slots = self.drafting.refill(limits, &DecodeOptions::default())?;
        let mut lengths = vec![0; self.ecgs.len()];
        let mut waiting = self.ecgs.iter().enumerate();
        while !slots.is_empty() || waiting.len() > 0 {
            if coming == Coming::Refilled || slots.is_empty() {
                let some = waiting.by_ref().take(slots.free()).map(|(key, ecg)| DraftRequest {
                    key,
                    ecg,
                    adapter: None,
                });
                slots.admit(&some.collect::<Vec<_>>())?;
            }
            for (key, draft) in slots.step()? {
                lengths[key] = draft.tokens as usize;
            }
        }
        Ok(lengths)
    }

    fn singly(&self) -> anyhow::Result<Vec<usize>> {
        let drafts = self.drafting.draft(&self.ecgs, &DecodeOptions::default())?;
        Ok(drafts.iter().map(|draft| draft.tokens as usize).collect())
    }
}

/// As many ECGs as there are requests, recording after recording and from the first again.
fn ecgs(own: &Arguments, count: usize) -> anyhow::Result<Vec<EcgInput>> {
    let headers = bedside::recording::find(&[assets::recordings(own.recordings.as_deref())?])?;
    let read = headers.iter().take(count).map(|header| {
        let record = ecg::wfdb::read(header)?;
        Ok(EcgInput::from(&analyse(&record.context()?, &DspConfig::default())))
    });
    let ecgs: Vec<EcgInput> = read
        .collect::<Result<_, ecg::wfdb::WfdbError>>()
        .context("read the recordings")?;
    ensure!(!ecgs.is_empty(), "no recordings");
    Ok(ecgs.iter().cycle().take(count).cloned().collect())
}
