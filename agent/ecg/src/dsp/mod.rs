//! Signal processing of one window: filter, beats, signal-to-noise ratio, quality, measurements.
//!
//! Place: between `window` and the agent's route; training and one-shot reports call it too. Invariant: [`analyse`] is a pure
//! function of its context and configuration; every segment names the chain and version that made it.

pub mod artefacts;
pub mod beats;
pub mod dominant;
pub mod filter;
pub mod held;
pub mod lanes;
pub mod mains;
pub mod measure;
pub mod pacing;
pub mod quality;
pub mod repair;
pub mod resample;
pub mod rest;
pub mod reversal;
pub mod shapes;
pub mod shock;
pub mod snr;
#[cfg(test)]
mod testing;

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use crate::segment::{LeadOrigin, LeadQuality, Measurements, Segment};
use crate::window::Context;
use crate::{CONTEXT_SAMPLES, LEADS, SEGMENT_SAMPLES, id, stretch};
use beats::Beats;
use filter::{Band, Plan, WINDOW};
use lanes::{Frame, wide};
use mains::Probe;
use quality::{LeadState, WindowState};

/// Name of this chain of operations, in segments, ids and bundles.
pub const CHAIN: &str = "meit-dsp";
/// Raised whenever the same context would give other samples.
pub const CHAIN_VERSION: u32 = 2;

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
    /// How far one or two samples stand out of the line through their neighbours to be an impulse, microvolts.
    pub spike_uv_min: f32,
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
            spike_uv_min: 3000.0,
            quality: quality::Limits::default(),
        }
    }
}

impl DspConfig {
    /// Name and version of the chain, as bundles record it.
    pub fn chain_name(&self) -> String {
        format!("{CHAIN}/{CHAIN_VERSION}")
    }

    /// What passes, with a notch where there is a line to take out.
    pub fn band(&self, notch_hz: Option<f64>) -> Band {
        Band {
            high_pass_hz: self.high_pass_hz,
            low_pass_hz: self.low_pass_hz,
            notch_hz,
        }
    }
}

/// Runs the whole chain on one window.
///
/// Every thread keeps its plans and buffers; apart from the segment itself and short lists of beats nothing is allocated.
pub fn analyse(context: &Context, config: &DspConfig) -> Segment {
    analyse_in_full(context, config).segment
}

/// A segment and what it was told from.
pub struct Analysis {
    pub segment: Segment,
    pub beats: Beats,
    /// Pattern of the dominant beat, where it has one.
    pub pattern: Option<reversal::Pattern>,
    /// Share of the time that the median readable lead rests, 0..=1.
    pub resting_share: Option<f32>,
}

/// [`analyse`] with the beats and the pattern that the segment was told from: for evaluation.
pub fn analyse_in_full(context: &Context, config: &DspConfig) -> Analysis {
    thread_local! {
        static WORKSPACE: RefCell<Workspace> = RefCell::new(Workspace::default());
    }
    WORKSPACE.with_borrow_mut(|workspace| workspace.analyse(context, config))
}

/// Plans and buffers of one thread; they carry nothing from one window to the next but their memory.
#[derive(Default)]
struct Workspace {
    probes: Vec<Probe>,
    lines: Vec<mains::Line>,
    plans: Vec<Plan>,
    repair: repair::Scratch,
    /// Repaired context, 20 s.
    frames: Vec<Frame>,
    /// Filtered context, of which the window is valid.
    filtered: Vec<Frame>,
    roughness: Vec<Frame>,
    beats: beats::Scratch,
    shapes: shapes::Scratch,
    snr: snr::Scratch,
}

impl Workspace {
    fn analyse(&mut self, context: &Context, config: &DspConfig) -> Analysis {
        let repairs = repair::frames(context, config, &mut self.repair, &mut self.frames);
        let window = &self.frames[WINDOW];
        probe_for(&mut self.probes, &config.mains_hz);
        mains::lines(&self.probes, window, &mut self.lines);
        let notch = mains::to_notch(&self.lines, config.mains_notch_uv_min);
        let notch_hz = notch.map(|probe| self.probes[probe].hz);
        let line = notch
            .or_else(|| mains::loudest(&self.lines))
            .map(|probe| self.lines[probe]);
        let plan = plan_for(&mut self.plans, config, notch_hz);
        let baseline_uv = filter::zero_phase(&self.frames, &mut self.filtered, plan);
        let clean = &mut self.filtered[WINDOW];
        to_whole_microvolts(clean);
        let clean = &*clean;
        let residual_uv = mains::residual(&self.probes, clean);
        let burst = artefacts::burst(window, &config.quality, &mut self.roughness);
        let held = held::longest(window, &unbroken(context, &repairs, config), config.quality.held_uv_max);
        let leads: [LeadState; LEADS] = std::array::from_fn(|lead| LeadState {
            missing: context.origin[lead] == LeadOrigin::Missing,
            lead_off: context.lead_off[lead],
            saturated: context.saturated[lead] || is_at_rail(context, lead, &config.quality),
            held_blocks: held.blocks[lead],
            burst: burst[lead],
            baseline_uv: baseline_uv[lead],
            mains_uv: line.map_or(0.0, |line| line.amplitude_uv[lead]),
            mains_residual_uv: residual_uv[lead],
            gap_samples: repairs.gap_samples[lead],
            drawn: repairs.drawn[lead],
        });
        let mut flags: [Vec<_>; LEADS] =
            std::array::from_fn(|lead| quality::signal_flags(raw(context, lead), &leads[lead], config));
        let readable = std::array::from_fn(|lead| quality::readable(&flags[lead], &leads[lead], &config.quality));
        let beats = beats::detect(clean, &readable, &mut self.beats);
        let groups = shapes::group(clean, &readable, &beats.peaks, &mut self.shapes);
        let layout = snr::Layout::new(&groups, SEGMENT_SAMPLES);
        let snr_db = layout.map_or([None; LEADS], |layout| {
            snr::window_power_db(clean, &layout, &mut self.snr)
        });
        let mut quality: [LeadQuality; LEADS] = std::array::from_fn(|lead| {
            let snr_db = snr_db[lead].filter(|_| readable[lead]);
            let flags = std::mem::take(&mut flags[lead]);
            quality::lead_quality(&leads[lead], flags, snr_db, context.origin[lead], &config.quality)
        });
        quality::inherit(&mut quality);
        let measured = std::array::from_fn(|lead| {
            readable[lead] && (quality[lead].usable || context.origin[lead] != LeadOrigin::Derived)
        });
        let (mut measurements, pattern) = measure::measure(clean, &measured, &beats.peaks, &groups);
        measurements.mains_hz = notch_hz.map(|hz| hz as f32);
        measurements.beat_agreement = Some(beats.agreement);
        let resting_share = rest::resting_share(clean, &readable);
        let dominant = groups.first().map_or(&[][..], Vec::as_slice);
        let state = WindowState {
            frames: clean,
            beats: &beats,
            paced: context.paced || pacing::pulses(window) >= config.quality.pulses_min,
            rate_doubted: context.rate_doubted,
            shocked: shock::is_seen(context, &config.quality),
            held_blocks_all: held.all_blocks,
            gain_step: artefacts::gain_step(clean, dominant, &config.quality),
            reversal: pattern.as_ref().map(reversal::evidence),
            resting_share,
        };
        let verdict = quality::gate(&quality, &state, &config.quality);
        Analysis {
            segment: assemble(context, clean, quality, measurements, verdict),
            beats,
            pattern,
            resting_share,
        }
    }
}

/// Makes the probes for `mains_hz`, unless they are there.
fn probe_for(probes: &mut Vec<Probe>, mains_hz: &[f64]) {
    if !probes.iter().map(|probe| probe.hz).eq(mains_hz.iter().copied()) {
        *probes = mains_hz.iter().copied().map(Probe::new).collect();
    }
}

/// The plan of the configured band with this notch; at most one a notch is kept.
fn plan_for<'a>(plans: &'a mut Vec<Plan>, config: &DspConfig, notch_hz: Option<f64>) -> &'a Plan {
    let band = config.band(notch_hz);
    let at = plans.iter().position(|plan| *plan.band() == band).unwrap_or_else(|| {
        plans.retain(|plan| plan.band().notch_hz != notch_hz);
        plans.push(Plan::new(band));
        plans.len() - 1
    });
    &plans[at]
}

/// A lead's unfiltered samples inside the window; empty where there are none.
fn raw(context: &Context, lead: usize) -> &[f32] {
    let window = context.before..context.before + SEGMENT_SAMPLES;
    context.samples_uv[lead].get(window).unwrap_or(&[])
}

/// Leads that are there and have no gap beyond those that are bridged; a straight line over one holds nothing.
fn unbroken(context: &Context, repairs: &repair::Repairs, config: &DspConfig) -> [bool; LEADS] {
    std::array::from_fn(|lead| {
        context.origin[lead] != LeadOrigin::Missing && repairs.gap_samples[lead] <= config.gap_repair_samples
    })
}

/// True where the device's own samples stay at a rail; its value, unlike its shape, comes through resampling.
fn is_at_rail(context: &Context, lead: usize, limits: &quality::Limits) -> bool {
    let window = context.before..context.before + SEGMENT_SAMPLES;
    stretch::within(&context.at_rail[lead], &window).any(|at| shock::stays_at_rail(raw(context, lead), &at, limits))
}

/// Frames that are brought to lead-major order at a time.
const TILE: usize = 64;
/// Largest magnitude of a sample that a segment can carry, microvolts.
const SAMPLE_UV_MAX: f32 = i16::MAX as f32;

/// 1.5 x 2^23: a sum with it has no place for a fraction, so the sum is rounded to even and its low bits are the whole number.
const NO_FRACTION: f32 = 12_582_912.0;

/// The nearest whole number of a value within [`SAMPLE_UV_MAX`], ties to even; a cast of `round_ties_even` costs a branch a sample.
#[inline(always)]
fn whole(v: f32) -> i16 {
    (v + NO_FRACTION).to_bits() as i16
}

wide! {
    /// Rounds to the microvolts that the segment carries, so all that follows can be told from the segment alone.
    fn to_whole_microvolts(frames: &mut [Frame]) {
        for v in frames.as_flattened_mut() {
            *v = v.clamp(-SAMPLE_UV_MAX, SAMPLE_UV_MAX).round_ties_even();
        }
    }

    /// Whole microvolts in frames to lead-major samples.
    fn lead_major(frames: &[Frame], out: &mut [i16]) {
        let mut numbers = [[0i16; LEADS]; TILE];
        let mut start = 0;
        for tile in frames.chunks(TILE) {
            for (out, frame) in numbers.iter_mut().zip(tile) {
                for l in 0..LEADS {
                    out[l] = whole(frame[l]);
                }
            }
            for lead in 0..LEADS {
                let samples = &mut out[lead * SEGMENT_SAMPLES + start..][..tile.len()];
                for (sample, frame) in samples.iter_mut().zip(&numbers) {
                    *sample = frame[lead];
                }
            }
            start += tile.len();
        }
    }

    /// Rounds to whole microvolts; what is not finite becomes 0.
    fn rounded(samples: &[f32], out: &mut [i16]) {
        for (out, &v) in out.iter_mut().zip(samples) {
            let v = if v.is_finite() { v } else { 0.0 };
            *out = whole(v.clamp(-SAMPLE_UV_MAX, SAMPLE_UV_MAX));
        }
    }
}

fn assemble(
    context: &Context,
    clean: &[Frame],
    quality: [LeadQuality; LEADS],
    measurements: Measurements,
    (decision, reasons): (crate::segment::Decision, Vec<crate::segment::Reason>),
) -> Segment {
    let mut raw_samples = vec![0i16; LEADS * SEGMENT_SAMPLES];
    for (lead, out) in raw_samples.chunks_exact_mut(SEGMENT_SAMPLES).enumerate() {
        rounded(raw(context, lead), out);
    }
    let mut filtered = vec![0i16; LEADS * SEGMENT_SAMPLES];
    lead_major(clean, &mut filtered);
    Segment {
        id: id::segment_id(
            &context.stream_id,
            (&context.device_id, context.boot_id),
            context.start_sample,
            CHAIN,
            CHAIN_VERSION,
        ),
        stream_id: context.stream_id.clone(),
        device_id: context.device_id.clone(),
        boot_id: context.boot_id,
        start_sample: context.start_sample,
        start_time_us: context.start_time_us,
        last_gateway_time_us: context.last_gateway_time_us,
        source_rate_hz: context.source_rate_hz,
        uv_per_unit: 1.0,
        samples_sha256: id::samples_sha256(&[&raw_samples, &filtered]),
        raw: raw_samples,
        filtered,
        quality,
        measurements,
        decision,
        reasons,
        chain: CHAIN.to_owned(),
        chain_version: CHAIN_VERSION,
        stat: context.stat,
        filter_class: context.filter_class,
        context_before: context.before == CONTEXT_SAMPLES,
        context_after: context.after == CONTEXT_SAMPLES,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::context;
    use super::*;
    use crate::lead::Lead;
    use crate::segment::{Decision, Reason};

    #[track_caller]
    fn check(context: &Context, decision: Decision, reasons: &[Reason]) {
        let segment = analyse(context, &DspConfig::default());
        assert_eq!((segment.decision, &segment.reasons[..]), (decision, reasons));
    }

    #[test]
    fn whole_microvolts_are_those_of_rounding_ties_to_even() {
        let noise = testing::white_noise(20_000).map(|v| 8000.0 * v);
        let ties = (-70..70).map(|half| half as f32 / 2.0);
        let ends = [SAMPLE_UV_MAX, -SAMPLE_UV_MAX, 32_766.5, -32_766.5, 0.0, -0.0];
        for v in noise.chain(ties).chain(ends) {
            let v = v.clamp(-SAMPLE_UV_MAX, SAMPLE_UV_MAX);
            assert_eq!(i32::from(whole(v)), v.round_ties_even() as i32, "{v}");
        }
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
        // thirtyfold noise is as sharp as pulses
        let reasons = [Reason::UnitSuspect, Reason::Baseline, Reason::Paced];
        check(&wrong, Decision::Reject, &reasons);
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
    fn a_signal_that_every_lead_loses_for_a_second_rejects_and_one_that_is_lost_for_two_names_the_lead() {
        let lost = |leads: std::ops::Range<usize>, samples: usize| {
            let mut context = context(72.0, 10.0);
            for lead in &mut context.samples_uv[leads] {
                lead[2050..2050 + samples].fill(-3.0);
            }
            analyse(&context, &DspConfig::default())
        };
        let all = lost(0..LEADS, 500);
        assert_eq!((all.decision, all.reasons), (Decision::Reject, vec![Reason::Flat]));
        assert_eq!(lost(0..LEADS, 400).decision, Decision::Accept);
        let three = lost(8..11, 1000);
        assert_eq!(
            (three.decision, three.reasons),
            (Decision::Marginal, vec![Reason::Flat])
        );
        let usable: Vec<usize> = (0..LEADS).filter(|&lead| three.quality[lead].usable).collect();
        assert_eq!(usable, [0, 1, 2, 3, 4, 5, 6, 7, 11]);
        assert_eq!(lost(8..11, 900).decision, Decision::Accept);
    }

    #[test]
    fn drawn_in_samples_are_limited_by_their_share_however_short_each_gap_is() {
        let masked = |run: usize, period: usize| {
            let mut context = context(72.0, 10.0);
            for lead in &mut context.samples_uv {
                let at = lead.iter_mut().enumerate();
                at.filter(|(i, _)| i % period < run).for_each(|(_, v)| *v = f32::NAN);
            }
            analyse(&context, &DspConfig::default())
        };
        // 4, 6, 19, 21 and 91 % of the samples in gaps of up to 20 ms
        assert_eq!(masked(4, 100).decision, Decision::Accept);
        let some = masked(6, 100);
        assert_eq!((some.decision, some.reasons), (Decision::Marginal, vec![Reason::Gap]));
        assert_eq!(some.quality[0].drawn_samples, 300);
        assert_eq!(masked(4, 21).decision, Decision::Marginal);
        for (run, period) in [(4, 19), (10, 11)] {
            let most = masked(run, period);
            assert_eq!(most.decision, Decision::Reject);
            assert!(most.quality.iter().all(|q| q.flags == [Reason::Gap] && !q.usable));
        }
    }

    #[test]
    fn a_derived_lead_is_no_better_than_those_it_follows_from() {
        type Fault<'a> = &'a dyn Fn(&mut Context);
        let faults: [(Fault, Reason); 5] = [
            (&|context| context.lead_off[Lead::II.index()] = true, Reason::LeadOff),
            (&|context| context.saturated[Lead::II.index()] = true, Reason::Saturated),
            (&|context| context.samples_uv[Lead::II.index()].fill(7.0), Reason::Flat),
            (
                &|context| context.samples_uv[Lead::II.index()][900..1000].fill(f32::NAN),
                Reason::Gap,
            ),
            (
                // an open electrode: noise that is no flat line
                &|context| {
                    let noise = testing::white_noise(SEGMENT_SAMPLES).map(|v| 30.0 * v);
                    context.samples_uv[Lead::II.index()] = noise.collect();
                },
                Reason::SnrLow,
            ),
        ];
        for (fault, reason) in faults {
            let mut eight = context(72.0, 10.0);
            fault(&mut eight);
            let limb = [Lead::III, Lead::AVR, Lead::AVL, Lead::AVF].map(Lead::index);
            limb.iter().for_each(|&lead| eight.origin[lead] = LeadOrigin::Missing);
            crate::limb::derive(&mut eight.samples_uv, &mut eight.origin);
            let segment = analyse(&eight, &DspConfig::default());
            for lead in limb {
                let quality = &segment.quality[lead];
                assert!(
                    !quality.usable && quality.flags.contains(&reason),
                    "{reason:?}: {quality:?}"
                );
            }
            assert!(segment.quality[Lead::I.index()].usable);
            assert_eq!(segment.measurements.axis_degrees, None, "{reason:?}");
            assert_eq!(segment.decision, Decision::Reject, "seven leads are too few");
        }
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

    #[test]
    fn a_line_that_the_filter_leaves_keeps_its_leads_from_being_read() {
        let with = |leads: std::ops::Range<usize>, hz: f32, uv: f32| {
            let mut hum = context(72.0, 10.0);
            for lead in &mut hum.samples_uv[leads] {
                for (i, v) in lead.iter_mut().enumerate() {
                    *v += uv * (std::f32::consts::TAU * (hz / 500.0 * i as f32).fract()).sin();
                }
            }
            analyse(&hum, &DspConfig::default())
        };
        // too few leads for the notch
        let two = with(6..8, 50.0, 140.0);
        assert_eq!((two.decision, two.reasons), (Decision::Marginal, vec![Reason::Mains]));
        assert_eq!(two.measurements.mains_hz, None);
        for (lead, quality) in two.quality.iter().enumerate() {
            assert_eq!(quality.usable, !(6..8).contains(&lead), "lead {lead}");
            assert_eq!(
                quality.mains_uv > 130.0,
                !quality.usable,
                "lead {lead}: {} uV",
                quality.mains_uv
            );
        }
        // a grid that is slow, and a harmonic, which no notch takes out
        for hz in [49.2, 100.0] {
            let all = with(0..LEADS, hz, 100.0);
            assert_eq!(all.decision, Decision::Reject, "{hz} Hz");
            assert!(
                all.quality.iter().all(|q| q.mains_residual_uv > 60.0),
                "{hz} Hz: {:?}",
                all.quality[0]
            );
        }
    }

    #[test]
    fn a_burst_a_step_of_the_gain_and_small_beats_are_named() {
        let mut burst = context(72.0, 10.0);
        let noise: Vec<f32> = testing::white_noise(300).collect();
        for lead in &mut burst.samples_uv[..6] {
            lead[2000..2300]
                .iter_mut()
                .zip(&noise)
                .for_each(|(v, n)| *v += 2000.0 * n);
        }
        check(&burst, Decision::Reject, &[Reason::Burst, Reason::LeadCount]);
        let mut step = context(72.0, 10.0);
        step.samples_uv
            .iter_mut()
            .for_each(|lead| lead[2600..].iter_mut().for_each(|v| *v *= 2.0));
        check(&step, Decision::Reject, &[Reason::GainStep]);
        let mut small = context(72.0, 10.0);
        small.samples_uv.iter_mut().flatten().for_each(|v| *v *= 0.13);
        check(&small, Decision::Marginal, &[Reason::AmplitudeLow]);
    }

    #[test]
    fn neither_the_thread_nor_the_windows_before_change_a_segment() {
        let config = DspConfig::default();
        let mut hum = context(61.0, 30.0);
        for (i, v) in hum.samples_uv.iter_mut().flat_map(|lead| lead.iter_mut().enumerate()) {
            *v += 100.0 * (std::f32::consts::TAU * 0.1 * i as f32).sin();
        }
        hum.samples_uv[4][700..900].fill(f32::NAN);
        let plain = context(72.0, 10.0);
        let first = analyse(&plain, &config);
        let with_hum = analyse(&hum, &config);
        assert_eq!(analyse(&plain, &config), first);
        let elsewhere = std::thread::spawn({
            let (plain, hum, config) = (plain.clone(), hum.clone(), config.clone());
            move || (analyse(&hum, &config), analyse(&plain, &config))
        });
        assert_eq!(elsewhere.join().unwrap(), (with_hum, first));
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
