//! The vocabulary of the stream and its signal processing: leads, packets, windows, segments, reports.
//!
//! Place: a leaf that every other package speaks; the agent pushes packets through `window`, `dsp` turns each
//! `window::Context` into a `segment::Segment`, and the node and the pipeline read segments and reports.
//! Invariant: pure. No clock, no global state and no I/O, with one exception: `wfdb` reads the files it is told to.
//! The same samples give the same segments bit for bit.

pub mod dsp;
pub mod event;
pub mod id;
pub mod lead;
pub mod letter;
pub mod limb;
pub mod packet;
pub mod report;
pub mod segment;
pub mod stretch;
pub mod topic;
pub mod wfdb;

mod wide;
pub mod window;
pub mod wire;

/// Rate of every window and segment, in hertz. AHA/ACC/HRS 2007 part I asks for 500 Hz for a 150 Hz pass band.
pub const SAMPLE_RATE_HZ: f64 = 500.0;
/// Samples a lead of one segment: 10 s at [`SAMPLE_RATE_HZ`].
pub const SEGMENT_SAMPLES: usize = 5000;
/// Samples a lead of context on each side of a segment: 5 s at [`SAMPLE_RATE_HZ`]. Zero-phase filters with a
/// 0.67 Hz corner are exact inside the segment with this much (ecg-practice: cold edges lie by 0.17 to 0.46 mV).
pub const CONTEXT_SAMPLES: usize = 2500;
/// Leads of a segment, in the order of [`lead::Lead::ALL`].
pub const LEADS: usize = 12;
