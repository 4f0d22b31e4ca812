//! Whether the heart rests between its beats: in ventricular fibrillation, and in tachycardia like a sine, it does not.
//!
//! Place: reads the filtered frames before the gate. Invariant: told from the shape alone, neither from rate nor from the
//! beats, because the detectors agree well on the waves of a fibrillation that is smooth enough.

use super::lanes::{Frame, wide};
use crate::{LEADS, SEGMENT_SAMPLES};

/// Frames that are averaged to one: 20 ms keep the waves and lose the noise.
const STEP: usize = 10;
const STEPS: usize = SEGMENT_SAMPLES / STEP;
/// Steps left out on either side of the range, 0.6 % of them.
const OUTER: usize = 3;
/// Distance from the median that counts as rest, of the range.
const NEAR: f32 = 0.1;

/// Share of the time that the median lead of `readable` is near its median; none without such a lead.
pub fn resting_share(frames: &[Frame], readable: &[bool; LEADS]) -> Option<f32> {
    let mut steps = [[0.0; LEADS]; STEPS];
    averaged(frames, &mut steps);
    let mut shares: Vec<f32> = (0..LEADS)
        .filter(|&lead| readable[lead])
        .map(|lead| share(steps.map(|step| step[lead])))
        .collect();
    shares.sort_unstable_by(f32::total_cmp);
    shares.get(shares.len() / 2).copied()
}

fn share(mut lead: [f32; STEPS]) -> f32 {
    let median = *lead.select_nth_unstable_by(STEPS / 2, f32::total_cmp).1;
    let low = *lead[..STEPS / 2].select_nth_unstable_by(OUTER, f32::total_cmp).1;
    let high = *lead[STEPS / 2..]
        .select_nth_unstable_by(STEPS - STEPS / 2 - 1 - OUTER, f32::total_cmp)
        .1;
    let near = NEAR * (high - low);
    lead.iter().filter(|&&v| (v - median).abs() <= near).count() as f32 / STEPS as f32
}

wide! {
    /// Means of [`STEP`] frames.
    fn averaged(frames: &[Frame], steps: &mut [Frame; STEPS]) {
        for (step, frames) in steps.iter_mut().zip(frames.chunks_exact(STEP)) {
            for frame in frames {
                for l in 0..LEADS {
                    step[l] += frame[l];
                }
            }
            step.iter_mut().for_each(|v| *v /= STEP as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of a signal that all leads have, frames of 500 a second.
    fn share_of(signal: impl Fn(f32) -> f32) -> f32 {
        let frames: Vec<Frame> = (0..SEGMENT_SAMPLES)
            .map(|i| [signal(i as f32 / 500.0); LEADS])
            .collect();
        resting_share(&frames, &[true; LEADS]).unwrap()
    }

    #[test]
    fn a_sine_rests_as_long_as_its_slope_is_steep() {
        // asin(0.2) of a right angle: within a tenth of the range, a fifth of the amplitude, on either side
        let share = share_of(|t| 400.0 * (4.7 * std::f32::consts::TAU * t).sin());
        assert!((share - 0.128).abs() < 0.02, "{share}");
    }

    #[test]
    fn beats_rest_between_their_complexes() {
        let beat = |t: f32, rate: f32| 1000.0 * (-((t * rate).fract() / rate - 0.1).powi(2) / 0.0008).exp();
        assert!(share_of(|t| beat(t, 1.2)) > 0.85);
        assert!(share_of(|t| beat(t, 220.0 / 60.0)) > 0.6);
    }

    #[test]
    fn without_a_readable_lead_nothing_is_told() {
        assert_eq!(resting_share(&[[1.0; LEADS]; SEGMENT_SAMPLES], &[false; LEADS]), None);
    }
}
