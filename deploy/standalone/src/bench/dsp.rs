//! `meit bench dsp`: windows a second on one core, from samples to segment.
//!
//! Place: calls `ecg::dsp::analyse` as the agent does, on recordings with full context. Invariant: one thread does the work
//! and its own time on the processor is counted, so other programs on the machine change the figure little.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ecg::dsp::filter::{self, Plan};
use ecg::dsp::{DspConfig, analyse, repair};
use ecg::window::Context;
use ecg::{CONTEXT_SAMPLES, SEGMENT_SAMPLES};
use serde::Serialize;

use crate::assets;

/// Seconds of signal in one window: a bed makes one window in this time.
const WINDOW_S: f64 = SEGMENT_SAMPLES as f64 / ecg::SAMPLE_RATE_HZ;

/// Of the time that the whole chain is measured for, the filters are measured for one part in so many.
const FILTERS_SHARE: u32 = 4;

/// Arguments of `meit bench dsp`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Directory of WFDB recordings; the shipped ones where not given.
    #[arg(long, value_name = "DIR")]
    recordings: Option<PathBuf>,
    /// Time to measure for, seconds.
    #[arg(long, default_value_t = 5.0, value_name = "S")]
    seconds: f64,
}

/// What was measured.
#[derive(Serialize)]
struct Figures {
    windows_per_s_per_core: f64,
    beds_per_core: f64,
    ms_per_window: f64,
    /// Of them, bridging of gaps and the filters: what SciPy's sosfiltfilt is held against.
    filter_ms_per_window: f64,
    /// ms_per_window by the wall clock, which other programs on the machine slow.
    wall_ms_per_window: f64,
    windows: u64,
    recordings: usize,
    /// "thread" where the thread's own time is known, or "wall".
    clock: &'static str,
    chain: String,
}

/// Runs the whole chain over the recordings, again and again, on this thread.
///
/// # Errors
/// No recording that can be read; a time that is not positive.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(
        arguments.seconds > 0.0,
        "--seconds is {}, must be above 0",
        arguments.seconds
    );
    let headers = bedside::recording::find(&[assets::recordings(arguments.recordings.as_deref())?])?;
    let contexts: Vec<Context> = headers
        .iter()
        .map(|header| {
            let record = ecg::wfdb::read(header)?;
            Ok(surrounded(record.context()?))
        })
        .collect::<Result<_, ecg::wfdb::WfdbError>>()
        .context("read the recordings")?;
    ensure!(!contexts.is_empty(), "no recordings");
    let figures = measure(&contexts, Duration::from_secs_f64(arguments.seconds));
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

fn measure(contexts: &[Context], length: Duration) -> Figures {
    let config = DspConfig::default();
    let whole = repeat(contexts, length, |context| {
        std::hint::black_box(analyse(context, &config));
    });
    let plan = Plan::new(config.band(None));
    let (mut scratch, mut frames, mut filtered) = (repair::Scratch::default(), Vec::new(), Vec::new());
    let filters = repeat(contexts, length / FILTERS_SHARE, |context| {
        repair::frames(context, &config, &mut scratch, &mut frames);
        std::hint::black_box(filter::zero_phase(&frames, &mut filtered, &plan));
    });
    Figures {
        windows_per_s_per_core: 1e3 / whole.ms,
        beds_per_core: 1e3 / whole.ms * WINDOW_S,
        ms_per_window: whole.ms,
        filter_ms_per_window: filters.ms,
        wall_ms_per_window: whole.wall_ms,
        windows: whole.windows,
        recordings: contexts.len(),
        clock: if whole.is_own { "thread" } else { "wall" },
        chain: config.chain_name(),
    }
}

/// Time of one piece of work a window.
struct Spent {
    ms: f64,
    wall_ms: f64,
    windows: u64,
    /// The thread's own time is known.
    is_own: bool,
}

/// Does a piece of work on every context, again and again for `length`.
fn repeat(contexts: &[Context], length: Duration, mut work: impl FnMut(&Context)) -> Spent {
    // the first round plans, fills caches and grows buffers; it is not counted
    contexts.iter().for_each(&mut work);
    let (wall, own) = (Instant::now(), thread_time());
    let mut windows = 0;
    while wall.elapsed() < length {
        for context in contexts {
            work(std::hint::black_box(context));
        }
        windows += contexts.len() as u64;
    }
    let wall = wall.elapsed();
    let own = own
        .zip(thread_time())
        .map(|(from, to)| to - from)
        .filter(|own| !own.is_zero());
    let ms = |time: Duration| time.as_secs_f64() * 1e3 / windows as f64;
    Spent {
        ms: ms(own.unwrap_or(wall)),
        wall_ms: ms(wall),
        windows,
        is_own: own.is_some(),
    }
}

/// Time that this thread has spent on a processor, where the system tells it (Linux).
fn thread_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// The window with full context on both sides, made of its own end and start.
fn surrounded(context: Context) -> Context {
    let around = |lead: &Vec<f32>| {
        let window = &lead[context.before..context.before + SEGMENT_SAMPLES];
        let (before, after) = (&window[SEGMENT_SAMPLES - CONTEXT_SAMPLES..], &window[..CONTEXT_SAMPLES]);
        [before, window, after].concat()
    };
    Context {
        samples_uv: context.samples_uv.iter().map(around).collect(),
        before: CONTEXT_SAMPLES,
        after: CONTEXT_SAMPLES,
        ..context
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_recordings_are_measured_with_full_context() {
        let headers = bedside::recording::find(&[assets::recordings(None).unwrap()]).unwrap();
        let context = surrounded(ecg::wfdb::read(&headers[0]).unwrap().context().unwrap());
        assert_eq!(context.samples_uv[0].len(), SEGMENT_SAMPLES + 2 * CONTEXT_SAMPLES);
        let figures = serde_json::to_value(measure(&[context], Duration::from_millis(20))).unwrap();
        for key in [
            "windows_per_s_per_core",
            "beds_per_core",
            "ms_per_window",
            "filter_ms_per_window",
        ] {
            assert!(figures[key].as_f64().unwrap() > 0.0, "{key}: {figures}");
        }
    }
}
