//! Before the filter: gaps are bridged, impulses taken out, and the context brought into frames of full length.
//!
//! Place: first stage of `dsp::analyse`. Invariant: what was repaired is counted, a lead's longest gap inside the window is
//! kept for the gate, and no NaN is left. The only stage that is not linear: a sample that is an impulse in one limb lead is
//! bridged in all six, so Einthoven's identities survive it.

use super::DspConfig;
use super::filter::{FRAMES, WINDOW};
use super::lanes::{Frame, wide};
use crate::lead::Lead;
use crate::segment::LeadOrigin;
use crate::stretch;
use crate::window::Context;
use crate::{CONTEXT_SAMPLES, LEADS, SEGMENT_SAMPLES};

/// Samples that an impulse lasts at most: 4 ms. Nothing that a heart makes rises and falls by millivolts so fast.
const SPIKE_SAMPLES_MAX: usize = 2;
/// Frames that are transposed at a time.
const TILE: usize = 64;

/// What was repaired in the window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Repairs {
    /// Longest gap of each lead inside the window, samples.
    pub gap_samples: [usize; LEADS],
    /// Samples of each lead inside the window that were drawn in, over gaps and impulses.
    pub drawn: [u32; LEADS],
}

/// Buffers of this stage.
#[derive(Debug, Default)]
pub struct Scratch {
    leads: [Vec<f32>; LEADS],
    spikes: Vec<usize>,
}

/// Fills `frames` with the context, repaired; where it is shorter than 5 s, with its odd reflection.
pub fn frames(context: &Context, config: &DspConfig, scratch: &mut Scratch, frames: &mut Vec<Frame>) -> Repairs {
    let length = context.before + SEGMENT_SAMPLES + context.after;
    let inside = context.before..context.before + SEGMENT_SAMPLES;
    frames.resize(FRAMES, [0.0; LEADS]);
    let first = CONTEXT_SAMPLES - context.before;
    let given = |lead: usize| context.samples_uv[lead].get(..length).unwrap_or(&[]);
    let plain = transpose(
        &std::array::from_fn(given),
        config.spike_uv_min,
        &mut frames[first..first + length],
    );
    let mut repairs = Repairs::default();
    let limb_plain = plain[..=Lead::AVF.index()].iter().all(|&p| p);
    if !limb_plain {
        let limb = 0..Lead::AVF.index() + 1;
        mend(context, config, limb, length, scratch);
    }
    for (lead, plain) in plain.iter().enumerate().skip(Lead::V1.index()) {
        if !plain {
            mend(context, config, lead..lead + 1, length, scratch);
        }
    }
    for (lead, plain) in plain.into_iter().enumerate() {
        let mended = if lead <= Lead::AVF.index() { !limb_plain } else { !plain };
        if mended {
            let drawn = bridge(&mut scratch.leads[lead], &inside);
            (repairs.gap_samples[lead], repairs.drawn[lead]) = drawn;
            if context.origin[lead] == LeadOrigin::Missing {
                repairs.drawn[lead] = 0;
            }
        } else {
            scratch.leads[lead].clear();
        }
        for bridged in stretch::within(&context.bridged[lead], &inside) {
            let samples = &context.samples_uv[lead][inside.clone()][bridged];
            // what is missing here is counted already
            let drawn = samples.iter().filter(|v| v.is_finite()).count();
            repairs.gap_samples[lead] = repairs.gap_samples[lead].max(drawn);
            repairs.drawn[lead] += drawn as u32;
        }
    }
    for (lead, mended) in scratch.leads.iter().enumerate() {
        for (frame, v) in frames[first..first + length].iter_mut().zip(mended) {
            frame[lead] = *v;
        }
    }
    reflect(frames, first, first + length);
    repairs
}

/// Copies `leads` into scratch with everything that must be drawn in as NaN.
fn mend(context: &Context, config: &DspConfig, leads: std::ops::Range<usize>, length: usize, scratch: &mut Scratch) {
    scratch.spikes.clear();
    for lead in leads.clone() {
        let samples = &mut scratch.leads[lead];
        samples.clear();
        samples.extend(
            context.samples_uv[lead]
                .iter()
                .take(length)
                .map(|v| if v.is_finite() { *v } else { f32::NAN }),
        );
        samples.resize(length, f32::NAN);
        // a marked pacing pulse is one that must be seen
        if !context.paced {
            find_spikes(samples, config.spike_uv_min, &mut scratch.spikes);
        }
    }
    for lead in leads {
        for &at in &scratch.spikes {
            scratch.leads[lead][at] = f32::NAN;
        }
    }
}

/// Positions of runs of one or two samples that stand out of the line through their neighbours.
fn find_spikes(samples: &[f32], limit_uv: f32, spikes: &mut Vec<usize>) {
    let stands_out = |at: usize, run: usize| {
        let (left, right) = (samples[at - 1], samples[at + run]);
        let over = |k: usize| samples[at + k] - (left + (right - left) * (k + 1) as f32 / (run + 1) as f32);
        let all = |sign: f32| (0..run).all(|k| sign * over(k) > limit_uv);
        (right - left).abs() < limit_uv / 4.0 && (all(1.0) || all(-1.0))
    };
    let mut at = 1;
    while at + SPIKE_SAMPLES_MAX < samples.len() {
        // NaN compares false: only a jump between two finite samples starts an impulse
        let jump = (samples[at] - samples[at - 1]).abs() > limit_uv / 2.0;
        match (1..=SPIKE_SAMPLES_MAX).find(|&run| jump && stands_out(at, run)) {
            Some(run) => {
                spikes.extend(at..at + run);
                at += run + 1;
            }
            None => at += 1,
        }
    }
}

/// Bridges missing samples of one lead with straight lines, ends with the nearest sample, an empty lead with zeros.
///
/// Returns the longest gap and the number of samples that were bridged inside `window`.
fn bridge(samples: &mut [f32], window: &std::ops::Range<usize>) -> (usize, u32) {
    let (mut longest, mut drawn) = (0, 0);
    let mut i = 0;
    while i < samples.len() {
        if samples[i].is_finite() {
            i += 1;
            continue;
        }
        let end = (i..samples.len())
            .find(|&k| samples[k].is_finite())
            .unwrap_or(samples.len());
        let before = i.checked_sub(1).map(|k| samples[k]);
        let after = samples.get(end).copied();
        let (from, to) = (before.or(after).unwrap_or(0.0), after.or(before).unwrap_or(0.0));
        let span = (end - i + 1) as f32;
        for (k, sample) in samples[i..end].iter_mut().enumerate() {
            *sample = from + (to - from) * (k + 1) as f32 / span;
        }
        let inside = end.min(window.end).saturating_sub(i.max(window.start));
        longest = longest.max(inside);
        drawn += inside as u32;
        i = end;
    }
    (longest, drawn)
}

wide! {
    /// Lead-major samples to frames. Tells which leads are plain: there, finite, and without two neighbours that differ by half an
    /// impulse.
    fn transpose(leads: &[&[f32]; LEADS], limit_uv: f32, frames: &mut [Frame]) -> [bool; LEADS] {
        let limit = limit_uv / 2.0;
        let mut plain = [1u32; LEADS];
        let mut before: Frame = leads.map(|samples| samples.first().copied().unwrap_or(f32::NAN));
        let mut start = 0;
        for tile in frames.chunks_mut(TILE) {
            for (lead, samples) in leads.iter().enumerate() {
                for (frame, v) in tile.iter_mut().zip(samples.get(start..).unwrap_or(&[])) {
                    frame[lead] = *v;
                }
            }
            for frame in &*tile {
                for l in 0..LEADS {
                    // a difference with NaN or infinity in it compares false
                    plain[l] &= u32::from((frame[l] - before[l]).abs() <= limit);
                }
                before = *frame;
            }
            start += TILE;
        }
        plain.map(|plain| plain == 1)
    }

    /// Fills what lies outside of `first..end` with the odd reflection of what lies inside.
    fn reflect(frames: &mut [Frame], first: usize, end: usize) {
        let (left, right) = (frames[first], frames[end - 1]);
        for i in 1..=first {
            let inner = frames[first + i];
            frames[first - i] = std::array::from_fn(|l| 2.0 * left[l] - inner[l]);
        }
        for i in 0..frames.len() - end {
            let inner = frames[end - 2 - i];
            frames[end + i] = std::array::from_fn(|l| 2.0 * right[l] - inner[l]);
        }
    }
}

const _: () = assert!(
    SEGMENT_SAMPLES > CONTEXT_SAMPLES,
    "a window must be long enough to reflect"
);
const _: () = assert!(WINDOW.end - WINDOW.start == SEGMENT_SAMPLES);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsp::testing::context;

    fn repaired(context: &Context) -> (Vec<Frame>, Repairs) {
        let mut out = Vec::new();
        let repairs = frames(context, &DspConfig::default(), &mut Scratch::default(), &mut out);
        (out, repairs)
    }

    #[test]
    fn gaps_are_bridged_and_measured_inside_the_window_only() {
        let mut samples = vec![f32::NAN, 1.0, f32::NAN, f32::NAN, 4.0, f32::NAN];
        assert_eq!(bridge(&mut samples, &(1..5)), (2, 2));
        assert_eq!(samples, [1.0, 1.0, 2.0, 3.0, 4.0, 4.0]);
        let mut empty = vec![f32::NAN; 4];
        assert_eq!(bridge(&mut empty, &(0..4)), (4, 4));
        assert_eq!(empty, [0.0; 4]);
    }

    #[test]
    fn a_clean_context_passes_unchanged_and_its_ends_are_reflected() {
        let clean = context(72.0, 10.0);
        let (out, repairs) = repaired(&clean);
        assert_eq!(repairs, Repairs::default());
        for (lead, x) in clean.samples_uv.iter().enumerate() {
            assert_eq!(out[WINDOW.start + 77][lead], x[77]);
            assert_eq!(out[WINDOW.start - 9][lead], 2.0 * x[0] - x[9]);
            assert_eq!(out[WINDOW.end - 1 + 9][lead], 2.0 * x[4999] - x[4990]);
        }
    }

    #[test]
    fn an_impulse_is_drawn_over_in_all_limb_leads_and_counted_and_a_paced_one_stays() {
        let mut hit = context(72.0, 10.0);
        let clean = repaired(&hit).0;
        hit.samples_uv[Lead::II.index()][1000] += 9000.0;
        hit.samples_uv[Lead::II.index()][1001] += 8000.0;
        hit.samples_uv[Lead::V3.index()][2000] -= 9000.0;
        let (out, repairs) = repaired(&hit);
        for lead in 0..6 {
            assert_eq!((repairs.drawn[lead], repairs.gap_samples[lead]), (2, 2), "lead {lead}");
        }
        assert_eq!(
            (repairs.drawn[Lead::V3.index()], repairs.drawn[Lead::V4.index()]),
            (1, 0)
        );
        let error = |at: usize, lead: Lead| {
            (out[WINDOW.start + at][lead.index()] - clean[WINDOW.start + at][lead.index()]).abs()
        };
        assert!(error(1000, Lead::II) < 60.0 && error(1001, Lead::I) < 60.0 && error(2000, Lead::V3) < 60.0);
        hit.paced = true;
        assert_eq!(repaired(&hit).1, Repairs::default());
    }

    #[test]
    fn a_tall_qrs_is_no_impulse() {
        let mut tall = context(72.0, 0.0);
        tall.samples_uv.iter_mut().flatten().for_each(|v| *v *= 8.0);
        assert_eq!(repaired(&tall).1, Repairs::default());
    }
}
