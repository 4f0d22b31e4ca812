//! `meit bench dsp`: windows a second on one core, from samples to segment.
//!
//! Place: calls `ecg::dsp::analyse` as the agent does, on recordings with full context. Invariant: one thread does the work
//! and its own time on the processor is counted, so other programs on the machine change the figure little.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ecg::dsp::{DspConfig, analyse};
use ecg::window::Context;
use ecg::{CONTEXT_SAMPLES, SEGMENT_SAMPLES};
use serde::Serialize;

use crate::assets;

/// Seconds of signal in one window: a bed makes one window in this time.
const WINDOW_S: f64 = SEGMENT_SAMPLES as f64 / ecg::SAMPLE_RATE_HZ;

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
    /// The same by the wall clock, which other programs on the machine slow.
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
    // the first round plans, fills caches and grows buffers; it is not counted
    for context in contexts {
        std::hint::black_box(analyse(context, &config));
    }
    let (wall, own) = (Instant::now(), thread_time());
    let mut windows = 0;
    while wall.elapsed() < length {
        for context in contexts {
            std::hint::black_box(analyse(std::hint::black_box(context), &config));
        }
        windows += contexts.len() as u64;
    }
    let wall = wall.elapsed();
    let own = own
        .zip(thread_time())
        .map(|(from, to)| to - from)
        .filter(|own| !own.is_zero());
    let ms = |time: Duration| time.as_secs_f64() * 1e3 / windows as f64;
    let ms_per_window = ms(own.unwrap_or(wall));
    Figures {
        windows_per_s_per_core: 1e3 / ms_per_window,
        beds_per_core: 1e3 / ms_per_window * WINDOW_S,
        ms_per_window,
        wall_ms_per_window: ms(wall),
        windows,
        recordings: contexts.len(),
        clock: if own.is_some() { "thread" } else { "wall" },
        chain: config.chain_name(),
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
        for key in ["windows_per_s_per_core", "beds_per_core", "ms_per_window"] {
            assert!(figures[key].as_f64().unwrap() > 0.0, "{key}: {figures}");
        }
    }
}
