//! The quality gate: what is wrong with each lead, and whether the window may be read.
//!
//! Place: after `snr` and `measure`; the agent routes by its decision. Invariant: a closed set of reasons; a window that is
//! rejected never reaches a model. Limits were set on PTB-XL folds 1 to 8 with MIT-BIH noise; docs/quality-gate.md has what
//! they come to on fold 9.

use serde::{Deserialize, Serialize};

use super::DspConfig;
use super::beats::{Beats, heart_rate_bpm};
use super::lanes::{Frame, wide};
use super::reversal::Swap;
use crate::segment::{Decision, LeadOrigin, LeadQuality, Reason};
use crate::{LEADS, SEGMENT_SAMPLES, limb};

/// Limits of the gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// A lead whose raw range over every second stays below this is flat, microvolts.
    pub flat_uv_max: f32,
    /// Seconds that must be flat (of ten).
    pub flat_seconds_min: usize,
    /// Range within which a lead holds its value, microvolts: one step of a converter of 5 uV.
    pub held_uv_max: f32,
    /// Whole blocks of 100 ms in a row that a lead must hold its value to be flat: 2 s.
    pub held_blocks_min: usize,
    /// Blocks in which all leads hold their values at once from which the window is rejected: 1 s.
    pub held_blocks_all_min: usize,
    /// Share of a lead's samples drawn in over gaps and impulses beyond which the window is marginal, 0..=1.
    pub drawn_share_marginal: f32,
    /// Share beyond which the lead must not be read, 0..=1.
    pub drawn_share_max: f32,
    /// Samples in a row at the lead's extreme value that count as saturation, at 500 Hz.
    pub saturated_run_min: usize,
    /// Magnitude below which a run at the extreme is no saturation, microvolts.
    pub saturated_uv_min: f32,
    /// A lead with a lower signal-to-noise ratio must not be read, decibels.
    pub snr_db_min: f32,
    /// Median ratio of the readable leads below which the window is rejected, decibels.
    pub snr_median_db_min: f32,
    /// Median ratio below which the window is marginal, decibels.
    pub snr_median_db_marginal: f32,
    /// Median over leads of the QRS's range that is believable, microvolts.
    pub amplitude_uv_min: f32,
    /// Median over leads of the QRS's range that is believable, microvolts.
    pub amplitude_uv_max: f32,
    /// Baseline wander beyond which a lead is flagged, microvolts peak to peak.
    pub baseline_uv_max: f32,
    /// Median over leads of the QRS's range below which the window is marginal, microvolts.
    pub amplitude_uv_low: f32,
    /// Line amplitude beyond which a lead is flagged, microvolts.
    pub mains_uv_max: f32,
    /// Line amplitude that the filter may leave; beyond it the lead must not be read, microvolts.
    pub mains_residual_uv_max: f32,
    /// Roughness (root mean square of the second difference) of a broad-band burst, microvolts.
    pub burst_uv_min: f32,
    /// Ratio of the mean QRS size before and after a step of the gain.
    pub gain_step_ratio_min: f32,
    /// Evidence from which electrodes look swapped: twice the log-likelihood ratio of `reversal`.
    pub reversal_evidence_min: f64,
    /// Pacing pulses that no device marked, from which the window is rejected as paced.
    pub pulses_min: usize,
    /// Usable leads below which the window is rejected.
    pub leads_usable_min: usize,
    /// Agreement of the two beat detectors below which the window is rejected, 0..=1.
    pub agreement_min: f32,
    /// Agreement below which the window is marginal, 0..=1.
    pub agreement_marginal: f32,
    /// Heart rates outside of these are flagged, beats a minute.
    pub heart_rate_bpm_min: f32,
    /// Heart rates outside of these are flagged, beats a minute.
    pub heart_rate_bpm_max: f32,
    /// Share of the time that a heart must rest between its beats; fibrillation of the ventricles does not, 0..=1.
    pub resting_share_min: f32,
    /// Share below which the window is marginal, 0..=1: broad beats at a high rate.
    pub resting_share_marginal: f32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flat_uv_max: 15.0,
            flat_seconds_min: 4,
            held_uv_max: 5.0,
            held_blocks_min: 19,
            held_blocks_all_min: 9,
            drawn_share_marginal: 0.05,
            drawn_share_max: 0.2,
            saturated_run_min: 25,
            saturated_uv_min: 3000.0,
            snr_db_min: 3.0,
            snr_median_db_min: 10.0,
            snr_median_db_marginal: 15.0,
            amplitude_uv_min: 100.0,
            amplitude_uv_max: 10_000.0,
            baseline_uv_max: 1500.0,
            amplitude_uv_low: 200.0,
            mains_uv_max: 150.0,
            mains_residual_uv_max: 50.0,
            burst_uv_min: 200.0,
            gain_step_ratio_min: 1.4,
            reversal_evidence_min: 17.0,
            pulses_min: 3,
            leads_usable_min: 8,
            agreement_min: 0.5,
            agreement_marginal: 0.8,
            heart_rate_bpm_min: 20.0,
            heart_rate_bpm_max: 250.0,
            resting_share_min: 0.44,
            resting_share_marginal: 0.52,
        }
    }
}

impl Limits {
    fn believe(&self, bpm: f32) -> bool {
        (self.heart_rate_bpm_min..=self.heart_rate_bpm_max).contains(&bpm)
    }
}

/// What is known of one lead before its beats are looked for.
#[derive(Clone, Debug, Default)]
pub struct LeadState {
    /// No samples at all.
    pub missing: bool,
    /// The device says that the electrode is off.
    pub lead_off: bool,
    /// The device marks it at the rail.
    pub saturated: bool,
    /// Longest stretch in which it holds its value, blocks of 100 ms.
    pub held_blocks: usize,
    /// A broad-band burst.
    pub burst: bool,
    pub baseline_uv: f32,
    pub mains_uv: f32,
    /// What the filter left of a line or its second harmonic.
    pub mains_residual_uv: f32,
    /// Longest bridged gap in the window, samples.
    pub gap_samples: usize,
    /// Samples that were drawn in over gaps and impulses.
    pub drawn: u32,
}

/// What the samples themselves say is wrong with a lead; sorted. `raw` are its unfiltered samples, NaN where missing.
pub fn signal_flags(raw: &[f32], lead: &LeadState, config: &DspConfig) -> Vec<Reason> {
    let limits = &config.quality;
    let seconds = Seconds::of(raw);
    let tests = [
        (
            Reason::Flat,
            lead.missing
                || seconds.flat(limits) >= limits.flat_seconds_min
                || lead.held_blocks >= limits.held_blocks_min,
        ),
        (Reason::Saturated, lead.saturated || is_saturated(raw, &seconds, limits)),
        (Reason::NonFinite, seconds.infinite),
        (Reason::LeadOff, lead.lead_off),
        (
            Reason::Mains,
            lead.mains_uv > limits.mains_uv_max || lead.mains_residual_uv > limits.mains_residual_uv_max,
        ),
        (Reason::Baseline, lead.baseline_uv > limits.baseline_uv_max),
        (Reason::Burst, lead.burst),
        (
            Reason::Gap,
            !lead.missing
                && (lead.gap_samples > config.gap_repair_samples || drawn_share(lead.drawn) > limits.drawn_share_max),
        ),
    ];
    tests
        .into_iter()
        .filter(|(_, wrong)| *wrong)
        .map(|(reason, _)| reason)
        .collect()
}

/// Share of a window that was drawn in, 0..=1.
fn drawn_share(samples: u32) -> f32 {
    samples as f32 / SEGMENT_SAMPLES as f32
}

/// A derived lead is no better than the two that it follows from: where one of them must not be read, neither must it, for the
/// same reasons, and its own ratio says nothing.
pub fn inherit(quality: &mut [LeadQuality; LEADS]) {
    let Some(sources) = limb::sources(&std::array::from_fn(|lead| quality[lead].origin)) else {
        return;
    };
    for source in sources.map(|source| quality[source].clone()) {
        if source.usable {
            continue;
        }
        for lead in quality.iter_mut().filter(|lead| lead.origin == LeadOrigin::Derived) {
            lead.usable = false;
            lead.snr_db = None;
            lead.flags.extend(&source.flags);
            lead.flags.sort_unstable();
            lead.flags.dedup();
        }
    }
}

/// True where nothing keeps a lead's beats from being read: wander and a line that the notch took out do not.
pub fn readable(flags: &[Reason], lead: &LeadState, limits: &Limits) -> bool {
    let passes = |flag: &Reason| matches!(flag, Reason::Baseline | Reason::Mains);
    flags.iter().all(passes) && lead.mains_residual_uv <= limits.mains_residual_uv_max
}

/// Range of each second of a lead, of its finite samples.
struct Seconds {
    ranges: [(f32, f32); SEGMENT_SAMPLES / SECOND],
    infinite: bool,
}

const SECOND: usize = crate::SAMPLE_RATE_HZ as usize;

impl Seconds {
    fn of(raw: &[f32]) -> Self {
        let mut ranges = [(f32::MAX, f32::MIN); SEGMENT_SAMPLES / SECOND];
        let mut infinite = false;
        for (range, second) in ranges.iter_mut().zip(raw.chunks(SECOND)) {
            *range = extremes(second);
            if range.0 == f32::NEG_INFINITY || range.1 == f32::INFINITY {
                infinite = true;
                let finite = second.iter().copied().filter(|v| v.is_finite());
                *range = finite.fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(v), h.max(v)));
            }
        }
        Self { ranges, infinite }
    }

    fn flat(&self, limits: &Limits) -> usize {
        self.ranges
            .iter()
            .filter(|(low, high)| high - low < limits.flat_uv_max)
            .count()
    }
}

wide! {
    /// Smallest and largest sample; NaN counts for neither.
    pub(super) fn extremes(samples: &[f32]) -> (f32, f32) {
        const LANES: usize = 16;
        let (mut low, mut high) = ([f32::MAX; LANES], [f32::MIN; LANES]);
        let blocks = samples.chunks_exact(LANES);
        for (l, &v) in blocks.remainder().iter().enumerate() {
            low[l] = if v < low[l] { v } else { low[l] };
            high[l] = if v > high[l] { v } else { high[l] };
        }
        for block in blocks {
            for l in 0..LANES {
                low[l] = if block[l] < low[l] { block[l] } else { low[l] };
                high[l] = if block[l] > high[l] { block[l] } else { high[l] };
            }
        }
        let low = low.into_iter().fold(f32::MAX, f32::min);
        (low, high.into_iter().fold(f32::MIN, f32::max))
    }

    /// Range of each lead within 60 ms of `peak`.
    fn range_near(frames: &[Frame], peak: usize) -> Frame {
        let (mut low, mut high) = ([f32::MAX; LEADS], [f32::MIN; LEADS]);
        for frame in &frames[peak.saturating_sub(30)..(peak + 31).min(frames.len())] {
            for l in 0..LEADS {
                low[l] = if frame[l] < low[l] { frame[l] } else { low[l] };
                high[l] = if frame[l] > high[l] { frame[l] } else { high[l] };
            }
        }
        std::array::from_fn(|l| high[l] - low[l])
    }
}

fn is_saturated(raw: &[f32], seconds: &Seconds, limits: &Limits) -> bool {
    let (low, high) = seconds
        .ranges
        .iter()
        .fold((f32::MAX, f32::MIN), |(l, h), r| (l.min(r.0), h.max(r.1)));
    let longest_run = |rail: f32| {
        let (mut run, mut longest) = (0, 0);
        for &v in raw.iter().filter(|v| v.is_finite()) {
            run = if v == rail { run + 1 } else { 0 };
            longest = longest.max(run);
        }
        longest
    };
    let at_rail = |rail: f32| rail.abs() >= limits.saturated_uv_min && longest_run(rail) >= limits.saturated_run_min;
    at_rail(low) || at_rail(high)
}

/// The published quality of a lead.
pub fn lead_quality(
    lead: &LeadState,
    flags: Vec<Reason>,
    snr_db: Option<f32>,
    origin: LeadOrigin,
    limits: &Limits,
) -> LeadQuality {
    let mut flags = flags;
    let mut usable = readable(&flags, lead, limits);
    if usable && snr_db.is_none_or(|db| db < limits.snr_db_min) {
        flags.push(Reason::SnrLow);
        flags.sort_unstable();
        usable = false;
    }
    LeadQuality {
        snr_db,
        baseline_uv: lead.baseline_uv,
        mains_uv: lead.mains_uv,
        mains_residual_uv: lead.mains_residual_uv,
        drawn_samples: lead.drawn,
        flags,
        origin,
        usable,
    }
}

/// What is known of the window as a whole.
pub struct WindowState<'a> {
    /// Filtered frames.
    pub frames: &'a [Frame],
    pub beats: &'a Beats,
    pub paced: bool,
    /// The samples come at another rate than their label says.
    pub rate_doubted: bool,
    /// All leads were at the rail within 5 s before the window, or in it.
    pub shocked: bool,
    /// Longest stretch in which all leads hold their values at once, blocks of 100 ms.
    pub held_blocks_all: usize,
    /// Leads whose gain steps.
    pub gain_step: [bool; LEADS],
    /// The likeliest swap of electrodes and the evidence for it.
    pub reversal: Option<(Swap, f64)>,
    /// Share of the time that the heart rests between its beats, 0..=1; none without a readable lead.
    pub resting_share: Option<f32>,
}

/// Decides on the whole window; reasons are sorted and unique.
pub fn gate(quality: &[LeadQuality; LEADS], window: &WindowState, limits: &Limits) -> (Decision, Vec<Reason>) {
    let beats = window.beats;
    let usable = || (0..LEADS).filter(|&lead| quality[lead].usable);
    // an unknown ratio counts as the worst: noise hides the beats
    let ratios = quality.iter().filter(|q| q.origin != LeadOrigin::Missing);
    let snr_db = median(ratios.map(|q| q.snr_db.unwrap_or(f32::MIN)));
    let ranges = qrs_ranges(window.frames, &beats.peaks);
    let amplitude_uv = median(usable().map(|lead| ranges[lead]));
    let stepped = usable().filter(|&lead| window.gain_step[lead]).count();
    let rate_believable = heart_rate_bpm(&beats.peaks).is_some_and(|bpm| limits.believe(bpm));
    let drawn = quality.iter().map(|q| q.drawn_samples).max().unwrap_or(0);
    let tests = [
        (
            Reason::Flat,
            window.held_blocks_all >= limits.held_blocks_all_min,
            false,
        ),
        (Reason::Gap, false, drawn_share(drawn) > limits.drawn_share_marginal),
        (Reason::LeadCount, usable().count() < limits.leads_usable_min, false),
        (
            Reason::UnitSuspect,
            amplitude_uv.is_some_and(|uv| !(limits.amplitude_uv_min..=limits.amplitude_uv_max).contains(&uv)),
            false,
        ),
        (
            Reason::AmplitudeLow,
            false,
            amplitude_uv.is_some_and(|uv| uv < limits.amplitude_uv_low),
        ),
        (Reason::GainStep, stepped > 0, false),
        (
            Reason::ReversalSuspected,
            false,
            window
                .reversal
                .is_some_and(|(_, evidence)| evidence >= limits.reversal_evidence_min),
        ),
        below(
            Reason::SnrLow,
            snr_db,
            limits.snr_median_db_min,
            limits.snr_median_db_marginal,
        ),
        below(
            Reason::RhythmUnusual,
            Some(beats.agreement),
            limits.agreement_min,
            limits.agreement_marginal,
        ),
        (Reason::RhythmUnusual, !rate_believable, false),
        below(
            Reason::RhythmUnusual,
            Some(window.resting_share.unwrap_or(1.0)),
            limits.resting_share_min,
            limits.resting_share_marginal,
        ),
        (Reason::Paced, window.paced, false),
        (Reason::RateMismatch, window.rate_doubted, false),
        (Reason::Saturated, window.shocked, false),
    ];
    decide(quality.iter().flat_map(|q| q.flags.iter().copied()).collect(), &tests)
}

/// The decision that tests of the window (reason, to reject, to be concerned) and concerns about its leads come to.
fn decide(mut concerns: Vec<Reason>, tests: &[(Reason, bool, bool)]) -> (Decision, Vec<Reason>) {
    let mut rejects: Vec<Reason> = Vec::new();
    for &(reason, reject, concern) in tests {
        if reject {
            rejects.push(reason);
        } else if concern {
            concerns.push(reason);
        }
    }
    let decision = match (rejects.is_empty(), concerns.is_empty()) {
        (false, _) => Decision::Reject,
        (true, false) => Decision::Marginal,
        (true, true) => Decision::Accept,
    };
    rejects.extend(concerns);
    rejects.sort_unstable();
    rejects.dedup();
    (decision, rejects)
}

/// A reason to reject below one limit and to be concerned below the other; no value is below both.
fn below(reason: Reason, value: Option<f32>, reject: f32, concern: f32) -> (Reason, bool, bool) {
    let under = |limit: f32| value.is_none_or(|v| v < limit);
    (reason, under(reject), under(concern))
}

/// Median over the beats of each lead's range within 60 ms of R.
fn qrs_ranges(frames: &[Frame], peaks: &[usize]) -> Frame {
    let mut ranges: Vec<Frame> = peaks.iter().map(|&peak| range_near(frames, peak)).collect();
    std::array::from_fn(|l| {
        ranges.sort_unstable_by(|a, b| a[l].total_cmp(&b[l]));
        ranges.get(ranges.len() / 2).map_or(0.0, |range| range[l])
    })
}

fn median(values: impl Iterator<Item = f32>) -> Option<f32> {
    let mut values: Vec<f32> = values.collect();
    values.sort_by(f32::total_cmp);
    values.get(values.len() / 2).copied()
}
