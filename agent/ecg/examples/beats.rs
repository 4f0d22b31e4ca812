//! Beats of whole recordings, window by window as the agent sees them, one JSON line a recording: for tests/peers/qrs.py.
//!
//! `cargo run --release -p ecg --example beats -- HEADER...`
//!
//! Each line has the record's name and the positions of R at the recording's own rate. Windows lie end to end with 5 s of context;
//! a beat that two windows find at their joint counts once.

use ecg::dsp::{DspConfig, analyse_in_full};
use ecg::{SAMPLE_RATE_HZ, SEGMENT_SAMPLES};

/// Two detections at a joint closer than this are one beat, samples: 150 ms.
const ONE_BEAT: usize = 75;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for header in std::env::args().skip(1) {
        let leads = ecg::wfdb::read(header.as_ref())?.leads()?;
        let mut beats: Vec<usize> = Vec::new();
        let starts = (0..).step_by(SEGMENT_SAMPLES);
        for context in starts.map_while(|start| leads.context(start)) {
            let start = context.start_sample as usize;
            for peak in analyse_in_full(&context, &DspConfig::default()).beats.peaks {
                if beats.last().is_none_or(|last| start + peak >= last + ONE_BEAT) {
                    beats.push(start + peak);
                }
            }
        }
        let own_rate = |beat: usize| (beat as f64 * leads.rate_hz / SAMPLE_RATE_HZ).round() as u64;
        let positions: Vec<u64> = beats.into_iter().map(own_rate).collect();
        println!(
            "{}",
            serde_json::json!({ "record": header, "rate_hz": leads.rate_hz, "beats": positions })
        );
    }
    Ok(())
}
