//! Pacing pulses that no device marked, told by their shape.
//!
//! Place: on the repaired frames, before the low-pass hides them. Invariant: conservative, as a paced window is not drafted: a
//! pulse lasts at most 4 ms, at least three leads show it, and nothing within 50 ms is a third as sharp, so no QRS is one.
//! Source: fitted on PTB-XL's raw samples at 500 Hz; docs/quality-gate.md has what it finds. A device that samples slower or
//! filters its pulses away hides them: then only its own marks tell.

use super::lanes::{Frame, wide};
use crate::LEADS;

/// How far a pulse stands out of the line through the samples 4 ms before and after it, microvolts.
const PULSE_UV_MIN: f32 = 500.0;
/// Leads that must show it.
const LEADS_MIN: usize = 3;
/// Samples on each side of a sample that its line goes through.
const ASIDE: usize = 2;
/// Samples around a pulse that are its own, and those that must be smoother.
const OWN: usize = 4;
const AROUND: usize = 25;
/// How much sharper than its surroundings a pulse is.
const ALONE: f32 = 3.0;
/// Samples within which two pulses are one.
const APART: usize = 20;
/// Samples that are looked through at a time.
const BLOCK: usize = 50;

/// Pulses in a window of unfiltered frames.
pub fn pulses(frames: &[Frame]) -> usize {
    let centres = ASIDE..frames.len().saturating_sub(ASIDE);
    let (mut found, mut last) = (0, None);
    for start in centres.clone().step_by(BLOCK) {
        let block = start..(start + BLOCK).min(centres.end);
        // no sample of a block is sharper than the block
        if third_largest(sharpest(&frames[start - ASIDE..block.end + ASIDE])) <= PULSE_UV_MIN {
            continue;
        }
        for at in block {
            let is_near = last.is_some_and(|last| at - last < APART);
            if !is_near && is_pulse(frames, at) {
                found += 1;
                last = Some(at);
            }
        }
    }
    found
}

fn is_pulse(frames: &[Frame], at: usize) -> bool {
    let sharp = |at: usize| third_largest(sharpest(&frames[at - ASIDE..=at + ASIDE]));
    if sharp(at) <= PULSE_UV_MIN {
        return false;
    }
    let end = frames.len() - ASIDE;
    let top = (at..(at + OWN).min(end)).map(sharp).fold(0.0, f32::max);
    let around = (at.saturating_sub(AROUND).max(ASIDE)..(at + AROUND + 1).min(end)).filter(|k| k.abs_diff(at) > OWN);
    top > ALONE * around.map(sharp).fold(0.0, f32::max)
}

fn third_largest(mut frame: Frame) -> f32 {
    *frame.select_nth_unstable_by(LEADS - LEADS_MIN, f32::total_cmp).1
}

wide! {
    /// How far each lane stands out at most, of the frames that have [`ASIDE`] on both sides.
    fn sharpest(frames: &[Frame]) -> Frame {
        let mut most = [0f32; LEADS];
        for five in frames.windows(2 * ASIDE + 1) {
            for l in 0..LEADS {
                let (before, after) = (five[0][l], five[2 * ASIDE][l]);
                let out = (five[ASIDE][l] - (before + after) / 2.0).abs();
                let out = if (after - before).abs() < 0.5 * out { out } else { 0.0 };
                most[l] = if out > most[l] { out } else { most[l] };
            }
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsp::testing::{beat_train, on_all_leads};

    /// Beats with a pulse of `samples` samples and 0.8 mV, 60 ms before each R, in so many leads.
    fn paced(samples: usize, leads: usize) -> Vec<Frame> {
        let (signal, peaks) = beat_train(70.0);
        let mut frames = on_all_leads(&signal);
        for peak in peaks {
            for frame in &mut frames[peak - 60..peak - 60 + samples] {
                frame[..leads].iter_mut().for_each(|v| *v += 800.0);
            }
        }
        frames
    }

    #[test]
    fn a_pulse_of_one_or_two_samples_in_three_leads_is_one_and_beats_are_none() {
        let beats = beat_train(70.0).1.len();
        for samples in [1, 2] {
            assert_eq!(pulses(&paced(samples, 3)), beats, "{samples} samples");
            assert_eq!(pulses(&paced(samples, 2)), 0, "two leads");
        }
        assert_eq!(pulses(&paced(8, LEADS)), 0, "16 ms is no pulse");
        let tall: Vec<Frame> = on_all_leads(&beat_train(150.0).0)
            .into_iter()
            .map(|frame| frame.map(|v| 4.0 * v))
            .collect();
        assert_eq!(pulses(&tall), 0);
    }
}
