//! A segment: ten seconds of twelve leads, raw and filtered, with quality, measurements and a decision.
//!
//! Place: written by `dsp::analyse`, routed by the agent, carried on `ecg.segments.v1`, read by the node and the pipeline.
//! Invariant: a segment is a pure function of its context and chain; `samples_sha256` binds a report to the samples.
//! Shapes: `raw` and `filtered` are 12 x 5000, lead-major, standard lead order, `uv_per_unit` microvolts a unit.

mod codec;
mod steps;

use serde::{Deserialize, Serialize};

pub use self::codec::{SEGMENT_BYTES_MAX, SegmentError};
use crate::LEADS;

/// Ten seconds of twelve leads on one stream's absolute 500 Hz grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// [`crate::id::segment_id`] of stream, device, boot, start sample, chain and chain version.
    pub id: String,
    /// The stream (a monitor's feed), a pseudonym; never a patient.
    pub stream_id: String,
    /// The device that sampled, a pseudonym; empty in segments of before it was carried.
    pub device_id: String,
    /// The device's boot, from the context; a new boot restarts the sample index.
    pub boot_id: u64,
    /// First sample on the stream's own 500 Hz grid.
    pub start_sample: i64,
    /// Device time of the first sample, microseconds since the Unix epoch.
    pub start_time_us: i64,
    /// Gateway time of the last packet that contributed, microseconds since the Unix epoch.
    pub last_gateway_time_us: i64,
    /// Rate at which the device sampled, in hertz, before resampling.
    pub source_rate_hz: f64,
    /// Microvolts a unit of `raw` and `filtered`.
    pub uv_per_unit: f32,
    /// 12 x 5000 samples, lead-major, as they came (resampled, missing samples 0).
    pub raw: Vec<i16>,
    /// 12 x 5000 samples, lead-major, after the filter chain.
    pub filtered: Vec<i16>,
    /// Quality of each lead, in the standard order.
    pub quality: [LeadQuality; LEADS],
    /// What was measured.
    pub measurements: Measurements,
    /// The gate's verdict.
    pub decision: Decision,
    /// Why, when not accepted outright; sorted, no duplicates.
    pub reasons: Vec<Reason>,
    /// Name of the filter chain.
    pub chain: String,
    /// Version of the filter chain.
    pub chain_version: u32,
    /// True when the monitor asked for an urgent reading.
    pub stat: bool,
    /// The device's own filter; the narrowest that a packet of the window names.
    pub filter_class: FilterClass,
    /// True when the full context before the segment was there.
    pub context_before: bool,
    /// True when the full context after the segment was there.
    pub context_after: bool,
    /// SHA-256 of the raw samples followed by the filtered ones, 16-bit little endian.
    pub samples_sha256: String,
}

/// The gate's verdict on a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Good enough for a draft.
    Accept,
    /// Drafted, with its shortcomings named.
    Marginal,
    /// Not drafted.
    Reject,
}

impl Decision {
    /// Every decision.
    pub const ALL: [Decision; 3] = [Decision::Accept, Decision::Marginal, Decision::Reject];

    /// Label value: "accept", "marginal", "reject".
    pub fn as_str(self) -> &'static str {
        match self {
            Decision::Accept => "accept",
            Decision::Marginal => "marginal",
            Decision::Reject => "reject",
        }
    }
}

/// Why a lead or a segment is less than good; a closed set, so it is safe as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No signal.
    Flat,
    /// At the converter's rail.
    Saturated,
    /// Not-a-number or missing samples.
    NonFinite,
    /// Signal-to-noise ratio under the limit.
    SnrLow,
    /// The device reports the electrode off.
    LeadOff,
    /// Amplitude off by orders of magnitude: wrong unit.
    UnitSuspect,
    /// Amplitude steps inside the segment.
    GainStep,
    /// Residual mains interference.
    Mains,
    /// Baseline wander.
    Baseline,
    /// Broad-band burst, such as diathermy.
    Burst,
    /// Samples are missing.
    Gap,
    /// Pacing pulses are marked.
    Paced,
    /// Too few leads.
    LeadCount,
    /// Electrodes look swapped.
    ReversalSuspected,
    /// Sampling rate disagrees with the clock.
    RateMismatch,
    /// Rhythm outside of what the detectors read.
    RhythmUnusual,
    /// Amplitude under the limit.
    AmplitudeLow,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 17] = [
        Reason::Flat,
        Reason::Saturated,
        Reason::NonFinite,
        Reason::SnrLow,
        Reason::LeadOff,
        Reason::UnitSuspect,
        Reason::GainStep,
        Reason::Mains,
        Reason::Baseline,
        Reason::Burst,
        Reason::Gap,
        Reason::Paced,
        Reason::LeadCount,
        Reason::ReversalSuspected,
        Reason::RateMismatch,
        Reason::RhythmUnusual,
        Reason::AmplitudeLow,
    ];

    /// Label value, as in JSON: "snr_low".
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Flat => "flat",
            Reason::Saturated => "saturated",
            Reason::NonFinite => "non_finite",
            Reason::SnrLow => "snr_low",
            Reason::LeadOff => "lead_off",
            Reason::UnitSuspect => "unit_suspect",
            Reason::GainStep => "gain_step",
            Reason::Mains => "mains",
            Reason::Baseline => "baseline",
            Reason::Burst => "burst",
            Reason::Gap => "gap",
            Reason::Paced => "paced",
            Reason::LeadCount => "lead_count",
            Reason::ReversalSuspected => "reversal_suspected",
            Reason::RateMismatch => "rate_mismatch",
            Reason::RhythmUnusual => "rhythm_unusual",
            Reason::AmplitudeLow => "amplitude_low",
        }
    }
}

/// Pass band that the device applied before it sent the samples, from widest to narrowest; carried, never undone.
///
/// Source: 60601-2-25 (carts) and 60601-2-27 (monitors); a 40 Hz feed makes QRS amplitudes and ST segments look smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterClass {
    /// Not told.
    #[default]
    Unspecified,
    /// 0.05 to 150 Hz or wider.
    Diagnostic,
    /// About 0.5 to 40 Hz.
    Monitor,
    /// Narrower still.
    Strong,
}

/// Where a lead's samples come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeadOrigin {
    /// Sampled by the device from its own electrodes.
    Measured,
    /// Computed exactly from other limb leads (Einthoven, Goldberger).
    Derived,
    /// Estimated by a lead transform, such as EASI; not equal to a standard lead.
    Reconstructed,
    /// Not there.
    #[default]
    Missing,
}

/// Quality of one lead of one segment; by default that of a lead which is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeadQuality {
    /// Signal-to-noise ratio in decibels, window-power definition (beat template against residual); `None` = unknown.
    pub snr_db: Option<f32>,
    /// Peak-to-peak baseline wander, microvolts.
    pub baseline_uv: f32,
    /// Amplitude before filtering at the mains frequency that is louder, microvolts; without a line what QRS and noise have there.
    pub mains_uv: f32,
    /// Amplitude of the largest line or second harmonic after filtering, microvolts; 0 where none stands out.
    #[serde(default)]
    pub mains_residual_uv: f32,
    /// Samples that were drawn in over gaps and impulses.
    #[serde(default)]
    pub drawn_samples: u32,
    /// What is wrong with this lead; sorted.
    pub flags: Vec<Reason>,
    /// Where the samples come from.
    pub origin: LeadOrigin,
    /// False when the lead must not be read.
    pub usable: bool,
}

/// What was measured on a segment; `None` where it is not measurable.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Measurements {
    /// Mean heart rate, beats a minute.
    pub heart_rate_bpm: Option<f32>,
    /// Standard deviation of the RR intervals, milliseconds.
    pub rr_sd_ms: Option<f32>,
    /// Root mean square of the differences of successive RR intervals, milliseconds.
    pub rmssd_ms: Option<f32>,
    /// PR interval, milliseconds.
    pub pr_ms: Option<f32>,
    /// QRS duration, milliseconds.
    pub qrs_ms: Option<f32>,
    /// QT interval, milliseconds.
    pub qt_ms: Option<f32>,
    /// QT interval corrected for rate by Fridericia's formula, milliseconds.
    pub qtc_ms: Option<f32>,
    /// Frontal QRS axis, degrees.
    pub axis_degrees: Option<f32>,
    /// Beats found.
    pub beats: u32,
    /// Agreement of two independent beat detectors, 0..=1.
    #[serde(default)]
    pub beat_agreement: Option<f32>,
    /// Mains frequency found, hertz.
    pub mains_hz: Option<f32>,
    /// Amplitudes of each lead in the standard order; empty where no QRS could be delineated.
    #[serde(default)]
    pub leads: Vec<LeadAmplitudes>,
}

/// Amplitudes of one lead of the dominant beat above the level before QRS, millivolts; `None` where the lead is not readable.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct LeadAmplitudes {
    /// Largest positive deflection within QRS, 0 where there is none.
    pub r_mv: Option<f32>,
    /// Largest negative deflection from R to the end of QRS, 0 where there is none.
    pub s_mv: Option<f32>,
    /// ST level 60 ms after the end of QRS.
    pub st_mv: Option<f32>,
}
