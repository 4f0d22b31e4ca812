//! The quality gate: what is wrong with each lead, and whether the window may be read.
//!
//! Place: after `snr` and `measure`; the agent routes by its decision. Invariant: a closed set of reasons; a window that is
//! rejected never reaches a model. Limits were set on 2,652 PTB-XL recordings: 0.3 % of them are rejected as they are; with
//! MIT-BIH em or ma noise of each lead's own power (0 dB) 83 to 90 % of every twelfth, at -6 dB all.

use serde::{Deserialize, Serialize};

use super::DspConfig;
use super::beats::{Beats, heart_rate_bpm};
use crate::segment::{Decision, LeadOrigin, LeadQuality, Reason};
use crate::{LEADS, SEGMENT_SAMPLES};

/// Limits of the gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// A lead whose raw range over every second stays below this is flat, microvolts.
    pub flat_uv_max: f32,
    /// Seconds that must be flat (of ten).
    pub flat_seconds_min: usize,
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
    /// Line amplitude beyond which a lead is flagged, microvolts.
    pub mains_uv_max: f32,
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
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flat_uv_max: 15.0,
            flat_seconds_min: 4,
            saturated_run_min: 25,
            saturated_uv_min: 3000.0,
            snr_db_min: 0.0,
            snr_median_db_min: 7.0,
            snr_median_db_marginal: 10.0,
            amplitude_uv_min: 100.0,
            amplitude_uv_max: 10_000.0,
            baseline_uv_max: 1500.0,
            mains_uv_max: 150.0,
            leads_usable_min: 8,
            agreement_min: 0.5,
            agreement_marginal: 0.8,
            heart_rate_bpm_min: 20.0,
            heart_rate_bpm_max: 250.0,
        }
    }
}

/// One lead of the window, as the stages after the filter see it.
pub struct LeadSignals<'a> {
    /// Samples before filtering, microvolts, NaN where missing.
    pub raw: &'a [f32],
    /// Filtered samples, microvolts.
    pub filtered: Vec<f32>,
    pub baseline_uv: f32,
    pub mains_uv: f32,
    /// Longest bridged gap in the window, samples.
    pub gap_samples: usize,
    pub missing: bool,
    pub lead_off: bool,
    pub saturated: bool,
}

/// What the samples themselves say is wrong with a lead; sorted.
pub fn signal_flags(lead: &LeadSignals, config: &DspConfig) -> Vec<Reason> {
    let limits = &config.quality;
    let tests = [
        (Reason::Flat, lead.missing || is_flat(lead.raw, limits)),
        (Reason::Saturated, lead.saturated || is_saturated(lead.raw, limits)),
        (Reason::NonFinite, lead.raw.iter().any(|v| v.is_infinite())),
        (Reason::LeadOff, lead.lead_off),
        (Reason::Mains, lead.mains_uv > limits.mains_uv_max),
        (Reason::Baseline, lead.baseline_uv > limits.baseline_uv_max),
        (
            Reason::Gap,
            !lead.missing && lead.gap_samples > config.gap_repair_samples,
        ),
    ];
    tests
        .into_iter()
        .filter(|(_, wrong)| *wrong)
        .map(|(reason, _)| reason)
        .collect()
}

/// True for a flag that leaves a lead's beats readable.
pub fn readable(flag: &Reason) -> bool {
    matches!(flag, Reason::Baseline | Reason::Mains)
}

fn is_flat(raw: &[f32], limits: &Limits) -> bool {
    let range = |second: &[f32]| {
        let finite = second.iter().copied().filter(|v| v.is_finite());
        let (low, high) = finite.fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(v), h.max(v)));
        high - low
    };
    raw.chunks(SEGMENT_SAMPLES / 10)
        .filter(|second| range(second) < limits.flat_uv_max)
        .count()
        >= limits.flat_seconds_min
}

fn is_saturated(raw: &[f32], limits: &Limits) -> bool {
    let finite = || raw.iter().copied().filter(|v| v.is_finite());
    let (low, high) = finite().fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(v), h.max(v)));
    let longest_run = |rail: f32| {
        let (mut run, mut longest) = (0, 0);
        for v in finite() {
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
    lead: &LeadSignals,
    flags: &[Reason],
    snr_db: Option<f32>,
    origin: LeadOrigin,
    config: &DspConfig,
) -> LeadQuality {
    let mut flags = flags.to_vec();
    let low = |db: f32| db < config.quality.snr_db_min;
    if snr_db.is_none_or(low) && flags.iter().all(readable) {
        flags.push(Reason::SnrLow);
    }
    flags.sort_unstable();
    let usable = flags.iter().all(readable);
    LeadQuality {
        snr_db,
        baseline_uv: lead.baseline_uv,
        mains_uv: lead.mains_uv,
        flags,
        origin,
        usable,
    }
}

/// Decides on the whole window; reasons are sorted and unique.
pub fn gate(
    quality: &[LeadQuality; LEADS],
    signals: &[LeadSignals],
    beats: &Beats,
    paced: bool,
    limits: &Limits,
) -> (Decision, Vec<Reason>) {
    let mut rejects: Vec<Reason> = Vec::new();
    let mut concerns: Vec<Reason> = quality.iter().flat_map(|q| q.flags.iter().copied()).collect();
    let usable: Vec<usize> = (0..LEADS).filter(|&lead| quality[lead].usable).collect();
    // an unknown ratio counts as the worst: noise hides the beats
    let ratios = quality.iter().zip(signals).filter(|(_, s)| !s.missing);
    let snr_db = median(ratios.map(|(q, _)| q.snr_db.unwrap_or(f32::MIN)));
    let amplitude_uv = median(
        usable
            .iter()
            .map(|&lead| qrs_range(&signals[lead].filtered, &beats.peaks)),
    );
    let bpm = heart_rate_bpm(&beats.peaks);
    let tests = [
        (Reason::LeadCount, usable.len() < limits.leads_usable_min, false),
        (
            Reason::UnitSuspect,
            amplitude_uv.is_some_and(|uv| !(limits.amplitude_uv_min..=limits.amplitude_uv_max).contains(&uv)),
            false,
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
        (
            Reason::RhythmUnusual,
            !bpm.is_some_and(|bpm| (limits.heart_rate_bpm_min..=limits.heart_rate_bpm_max).contains(&bpm)),
            false,
        ),
        (Reason::Paced, paced, false),
    ];
    for (reason, reject, concern) in tests {
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

/// Median over beats of the range within 60 ms of R.
fn qrs_range(samples: &[f32], peaks: &[usize]) -> f32 {
    let range = |&peak: &usize| super::peak_to_peak(&samples[peak.saturating_sub(30)..(peak + 31).min(samples.len())]);
    median(peaks.iter().map(range)).unwrap_or(0.0)
}

fn median(values: impl Iterator<Item = f32>) -> Option<f32> {
    let mut values: Vec<f32> = values.collect();
    values.sort_by(f32::total_cmp);
    values.get(values.len() / 2).copied()
}
