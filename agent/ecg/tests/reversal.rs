//! Swapped electrodes on the shipped recordings, through the whole chain.
//!
//! Place: tests `dsp::reversal` with real beats: each recording is rewired by the swap's map and read again. Invariant: swaps are
//! flagged, correctly placed electrodes are not.

#![allow(clippy::unwrap_used)] // every function here is part of a test

use std::path::{Path, PathBuf};

use ecg::dsp::reversal::{LEADS, Swap};
use ecg::dsp::{DspConfig, analyse};
use ecg::limb;
use ecg::segment::{LeadOrigin, Reason};
use ecg::window::Context;

fn recordings(directory: &Path, headers: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            recordings(&path, headers);
        } else if path.extension().is_some_and(|e| e == "hea") {
            headers.push(path);
        }
    }
}

/// The recording as these swapped electrodes would have given it.
fn rewired(context: &Context, swap: Swap) -> Context {
    let mut rewired = context.clone();
    for i in 0..context.samples_uv[0].len() {
        let mut leads = LEADS.map(|lead| context.samples_uv[lead][i]);
        swap.apply(&mut leads);
        for (lead, v) in LEADS.into_iter().zip(leads) {
            rewired.samples_uv[lead][i] = v;
        }
    }
    let mut origin = rewired.origin;
    origin[2..6].fill(LeadOrigin::Missing);
    limb::derive(&mut rewired.samples_uv, &mut origin);
    rewired
}

#[test]
fn swapped_electrodes_are_suspected_and_placed_ones_are_not() {
    let mut headers = Vec::new();
    recordings(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/ptbxl"),
        &mut headers,
    );
    let contexts: Vec<Context> = headers
        .iter()
        .map(|header| ecg::wfdb::read(header).unwrap().context().unwrap())
        .collect();
    assert!(contexts.len() >= 20, "{} recordings", contexts.len());
    let suspected = |context: &Context| {
        let segment = analyse(context, &DspConfig::default());
        segment.reasons.contains(&Reason::ReversalSuspected)
    };
    let share = |found: usize| found as f64 / contexts.len() as f64;
    let false_share = share(contexts.iter().filter(|context| suspected(context)).count());
    assert!(false_share <= 0.05, "{false_share} of the recordings as they are");
    for (swap, at_least) in [
        (Swap::RaLa, 0.85),
        (Swap::RaLl, 0.85),
        (Swap::LaLl, 0.4),
        (Swap::V(1, 2), 0.75),
        (Swap::V(1, 5), 0.9),
        (Swap::V(2, 6), 0.9),
        (Swap::V(3, 5), 0.85),
    ] {
        let found = share(
            contexts
                .iter()
                .filter(|context| suspected(&rewired(context, swap)))
                .count(),
        );
        assert!(found >= at_least, "{swap:?}: {found}");
    }
}
