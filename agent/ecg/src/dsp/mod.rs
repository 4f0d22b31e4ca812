//! Signal processing of one window: filter, beats, signal-to-noise ratio, quality, measurements.
//!
//! Place: between `window` and the agent's route; training and one-shot reports call it too. Invariant: [`analyse`] is a pure
//! function of its context and configuration; every segment names the chain and version that made it.

pub mod beats;
pub mod filter;
pub mod measure;
pub mod quality;
pub mod resample;
pub mod shapes;
pub mod snr;
#[cfg(test)]
mod testing;

use serde::{Deserialize, Serialize};

use crate::segment::{LeadOrigin, LeadQuality, Reason, Segment};
use crate::window::Context;
use crate::{CONTEXT_SAMPLES, LEADS, SEGMENT_SAMPLES, id};
use filter::{Band, Frame};
use quality::LeadSignals;

/// Name of this chain of operations, in segments, ids and bundles.
pub const CHAIN: &str = "meit-dsp";
/// Raised whenever the same context would give other samples.
pub const CHAIN_VERSION: u32 = 1;

/// Corners and limits of the chain. Units are in the names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DspConfig {
    /// Zero-phase high-pass corner; 0.67 Hz is the most that AHA/ACC/HRS 2007 allows for ST segments.
    pub high_pass_hz: f64,
    /// Zero-phase low-pass corner.
    pub low_pass_hz: f64,
    /// Mains frequencies that are looked for.
    pub mains_hz: Vec<f64>,
    /// Line amplitude, in the third-largest lead, from which the notch is used.
    pub mains_notch_uv_min: f32,
    /// Longest gap that is bridged without a flag, samples at 500 Hz.
    pub gap_repair_samples: usize,
    /// Limits of the quality gate.
    pub quality: quality::Limits,
}

impl Default for DspConfig {
    fn default() -> Self {
        Self {
            high_pass_hz: 0.67,
            low_pass_hz: 150.0,
            mains_hz: vec![50.0, 60.0],
            mains_notch_uv_min: 15.0,
            gap_repair_samples: 10,
            quality: quality::Limits::default(),
        }
    }
}

impl DspConfig {
    /// Name and version of the chain, as bundles record it.
    pub fn chain_name(&self) -> String {
        format!("{CHAIN}/{CHAIN_VERSION}")
    }
}

/// Runs the whole chain on one window.
pub fn analyse(context: &Context, config: &DspConfig) -> Segment {
    let window = context.before..context.before + SEGMENT_SAMPLES;
    let (frames, gaps) = bridged(context, window.clone());
    let mains_hz = mains(&frames[window.clone()], config);
    let band = Band {
        high_pass_hz: config.high_pass_hz,
        low_pass_hz: config.low_pass_hz,
        notch_hz: mains_hz,
    };
    let padding = [context.before, context.after].map(|there| CONTEXT_SAMPLES.saturating_sub(there));
    let filtered = filter::zero_phase(&frames, &band, padding);
    let clean = &filtered.frames[window.clone()];
    let line = mains_hz.map_or([0.0; LEADS], |hz| filter::line_amplitude(&frames[window.clone()], hz));
    let signals: Vec<LeadSignals> = (0..LEADS)
        .map(|lead| LeadSignals {
            raw: context.samples_uv[lead].get(window.clone()).unwrap_or(&[]),
            filtered: column(clean, lead),
            baseline_uv: peak_to_peak(&column(&filtered.baseline[window.clone()], lead)),
            mains_uv: line[lead] as f32,
            gap_samples: gaps[lead],
            missing: context.origin[lead] == LeadOrigin::Missing,
            lead_off: context.lead_off[lead],
            saturated: context.saturated[lead],
        })
        .collect();
    let flags: Vec<Vec<Reason>> = signals.iter().map(|s| quality::signal_flags(s, config)).collect();
    let readable: Vec<bool> = flags.iter().map(|f| f.iter().all(quality::readable)).collect();
    let beats = beats::detect(&signals, &readable);
    let groups = shapes::group(&signals, &readable, &beats.peaks);
    let layout = snr::Layout::new(&groups, SEGMENT_SAMPLES);
    let snr_db = |lead: usize| {
        let layout = layout.as_ref().filter(|_| readable[lead])?;
        snr::window_power_db(&signals[lead].filtered, layout)
    };
    let mut measurements = measure::measure(&signals, &readable, &beats.peaks, &groups);
    measurements.mains_hz = mains_hz.map(|hz| hz as f32);
    let quality: [LeadQuality; LEADS] = std::array::from_fn(|lead| {
        quality::lead_quality(&signals[lead], &flags[lead], snr_db(lead), context.origin[lead], config)
    });
    let (decision, reasons) = quality::gate(&quality, &signals, &beats, context.paced, &config.quality);
    assemble(context, &signals, quality, measurements, decision, reasons)
}

/// The context with gaps bridged, time-major, and each lead's longest gap inside the window.
fn bridged(context: &Context, window: std::ops::Range<usize>) -> (Vec<Frame>, [usize; LEADS]) {
    let length = window.end + context.after;
    let mut frames = vec![[0.0; LEADS]; length];
    let mut gaps = [0; LEADS];
    for lead in 0..LEADS {
        let mut samples: Vec<f64> = context.samples_uv[lead].iter().map(|&v| f64::from(v)).collect();
        samples.resize(length, f64::NAN);
        gaps[lead] = filter::bridge(&mut samples, window.clone());
        frames.iter_mut().zip(samples).for_each(|(frame, v)| frame[lead] = v);
    }
    (frames, gaps)
}

/// The mains frequency with the largest line, where at least three leads show it well above its surroundings.
fn mains(frames: &[Frame], config: &DspConfig) -> Option<f64> {
    let strength = |hz: f64| {
        let (line, below, above) = (
            filter::line_amplitude(frames, hz),
            filter::line_amplitude(frames, hz - 1.5),
            filter::line_amplitude(frames, hz + 1.5),
        );
        let mut excess: [f64; LEADS] = std::array::from_fn(|l| line[l] - 2.0 * below[l].max(above[l]));
        excess.sort_by(|a, b| b.total_cmp(a));
        excess[2]
    };
    let strongest = config
        .mains_hz
        .iter()
        .map(|&hz| (hz, strength(hz)))
        .max_by(|a, b| a.1.total_cmp(&b.1))?;
    (strongest.1 >= f64::from(config.mains_notch_uv_min)).then_some(strongest.0)
}

fn column(frames: &[Frame], lead: usize) -> Vec<f32> {
    frames.iter().map(|frame| frame[lead] as f32).collect()
}

fn peak_to_peak(samples: &[f32]) -> f32 {
    let (low, high) = samples
        .iter()
        .fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    (high - low).max(0.0)
}

fn assemble(
    context: &Context,
    signals: &[LeadSignals],
    quality: [LeadQuality; LEADS],
    measurements: crate::segment::Measurements,
    decision: crate::segment::Decision,
    reasons: Vec<Reason>,
) -> Segment {
    let to_i16 = |v: f32| {
        if v.is_finite() {
            v.round().clamp(f32::from(i16::MIN), f32::from(i16::MAX)) as i16
        } else {
            0
        }
    };
    let raw: Vec<i16> = (0..LEADS * SEGMENT_SAMPLES)
        .map(|i| {
            to_i16(
                signals[i / SEGMENT_SAMPLES]
                    .raw
                    .get(i % SEGMENT_SAMPLES)
                    .copied()
                    .unwrap_or(f32::NAN),
            )
        })
        .collect();
    let filtered: Vec<i16> = signals
        .iter()
        .flat_map(|s| {
            s.filtered
                .iter()
                .map(|&v| if s.missing { 0 } else { to_i16(v) })
                .collect::<Vec<_>>()
        })
        .collect();
    let hashed: Vec<i16> = raw.iter().chain(&filtered).copied().collect();
    Segment {
        id: id::segment_id(
            &context.stream_id,
            context.boot_id,
            context.start_sample,
            CHAIN,
            CHAIN_VERSION,
        ),
        stream_id: context.stream_id.clone(),
        boot_id: context.boot_id,
        start_sample: context.start_sample,
        start_time_us: context.start_time_us,
        last_gateway_time_us: context.last_gateway_time_us,
        source_rate_hz: context.source_rate_hz,
        uv_per_unit: 1.0,
        samples_sha256: id::samples_sha256(&hashed),
        raw,
        filtered,
        quality,
        measurements,
        decision,
        reasons,
        chain: CHAIN.to_owned(),
        chain_version: CHAIN_VERSION,
        stat: context.stat,
        context_before: context.before == CONTEXT_SAMPLES,
        context_after: context.after == CONTEXT_SAMPLES,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{beat_train, white_noise};
    use super::*;
    use crate::lead::Lead;
    use crate::segment::Decision;

    /// The train on every lead, each with its own size, and noise of `noise_uv`.
    fn context(bpm: f64, noise_uv: f32) -> Context {
        let (signal, _) = beat_train(bpm);
        let noise: Vec<f32> = white_noise(LEADS * SEGMENT_SAMPLES).map(|v| noise_uv * v).collect();
        let lead = |l: usize| {
            let own = &noise[l * SEGMENT_SAMPLES..][..SEGMENT_SAMPLES];
            signal
                .iter()
                .zip(own)
                .map(|(s, n)| s * (0.5 + 0.1 * l as f32) + n)
                .collect()
        };
        Context {
            stream_id: "bed".into(),
            boot_id: 1,
            start_sample: 0,
            start_time_us: 0,
            last_gateway_time_us: 0,
            source_rate_hz: 500.0,
            samples_uv: (0..LEADS).map(lead).collect(),
            before: 0,
            after: 0,
            origin: [LeadOrigin::Measured; LEADS],
            lead_off: [false; LEADS],
            saturated: [false; LEADS],
            paced: false,
            stat: false,
        }
    }

    #[track_caller]
    fn check(context: &Context, decision: Decision, reasons: &[Reason]) {
        let segment = analyse(context, &DspConfig::default());
        assert_eq!((segment.decision, &segment.reasons[..]), (decision, reasons));
    }

    #[test]
    fn clean_beats_are_accepted_and_measured() {
        let segment = analyse(&context(72.0, 10.0), &DspConfig::default());
        assert_eq!((segment.decision, segment.reasons.len()), (Decision::Accept, 0));
        assert!((segment.measurements.heart_rate_bpm.unwrap() - 72.0).abs() < 0.5);
        assert!(segment.quality.iter().all(|q| q.usable && q.snr_db.unwrap() > 15.0));
        assert_eq!(segment.filtered.len(), LEADS * SEGMENT_SAMPLES);
    }

    #[test]
    fn noise_louder_than_the_beats_is_rejected() {
        check(
            &context(72.0, 400.0),
            Decision::Reject,
            &[Reason::SnrLow, Reason::LeadCount, Reason::RhythmUnusual],
        );
    }

    #[test]
    fn a_wrong_unit_is_told_by_the_size_of_qrs() {
        let mut wrong = context(72.0, 10.0);
        wrong.samples_uv.iter_mut().flatten().for_each(|v| *v *= 30.0);
        check(&wrong, Decision::Reject, &[Reason::UnitSuspect, Reason::Baseline]);
    }

    #[test]
    fn one_bad_lead_is_named_and_five_reject() {
        let mut off = context(72.0, 10.0);
        off.lead_off[Lead::V1.index()] = true;
        off.samples_uv[Lead::V2.index()].fill(3.0);
        off.samples_uv[Lead::V3.index()][1000..1200].fill(f32::NAN);
        off.samples_uv[Lead::V4.index()][1000] = f32::INFINITY;
        let named = [Reason::Flat, Reason::NonFinite, Reason::LeadOff, Reason::Gap];
        check(&off, Decision::Marginal, &named);
        off.saturated[Lead::V5.index()] = true;
        check(
            &off,
            Decision::Reject,
            &[
                Reason::Flat,
                Reason::Saturated,
                Reason::NonFinite,
                Reason::LeadOff,
                Reason::Gap,
                Reason::LeadCount,
            ],
        );
    }

    #[test]
    fn a_line_is_notched_out_and_paced_rhythm_is_rejected() {
        let mut hum = context(72.0, 10.0);
        for lead in &mut hum.samples_uv {
            for (i, v) in lead.iter_mut().enumerate() {
                *v += 100.0 * (std::f32::consts::TAU * 0.1 * i as f32).sin();
            }
        }
        let segment = analyse(&hum, &DspConfig::default());
        assert_eq!(segment.measurements.mains_hz, Some(50.0));
        assert!((segment.quality[3].mains_uv - 100.0).abs() < 5.0);
        assert!(segment.quality[3].snr_db.unwrap() > 15.0);
        hum.paced = true;
        check(&hum, Decision::Reject, &[Reason::Paced]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn no_context_panics_and_the_same_context_gives_the_same_segment(
            before in 0usize..=2500,
            after in 0usize..=2500,
            spikes in proptest::collection::vec((0usize..LEADS, 0usize..10_000, -40_000f32..40_000.0), 0..300),
            holes in proptest::collection::vec((0usize..LEADS, 0usize..10_000, 1usize..9000), 0..12),
            scale in 0f32..3.0,
        ) {
            let mut wild = context(90.0, 60.0);
            (wild.before, wild.after) = (before, after);
            for lead in &mut wild.samples_uv {
                let train: Vec<f32> = lead.iter().map(|v| v * scale).collect();
                *lead = train.iter().cycle().take(before + SEGMENT_SAMPLES + after).copied().collect();
            }
            for (lead, at, value) in spikes {
                let n = wild.samples_uv[lead].len();
                wild.samples_uv[lead][at % n] = value;
            }
            for (lead, at, length) in holes {
                let n = wild.samples_uv[lead].len();
                wild.samples_uv[lead][at % n..(at % n + length).min(n)].fill(f32::NAN);
            }
            let segment = analyse(&wild, &DspConfig::default());
            prop_assert!(segment.quality.iter().all(|q| q.snr_db.is_none_or(f32::is_finite)));
            prop_assert_eq!(segment, analyse(&wild, &DspConfig::default()));
        }
    }
}
