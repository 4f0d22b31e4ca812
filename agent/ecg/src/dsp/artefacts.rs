//! Artefacts that are told by their shape: broad-band bursts and steps of the gain.
//!
//! Place: `burst` reads the repaired frames before the low-pass hides it; `gain_step` reads the filtered dominant beats.
//! Invariant: neither is a matter of rhythm or rate: QRS complexes, pacing pulses and ectopic beats are no bursts, and a beat
//! of another shape is no step.

use super::lanes::{Frame, wide};
use super::quality::Limits;
use crate::LEADS;

/// Samples of the blocks that bursts are counted in: 100 ms.
const BLOCK: usize = 50;
/// Blocks in a row that make a burst: longer than any QRS, paced or not.
const BURST_BLOCKS: usize = 3;
/// How far a burst stands above the lead's median block.
const BURST_OVER_MEDIAN: f32 = 6.0;
/// QRS around R, samples.
const BEFORE: usize = 40;
const AFTER: usize = 50;
/// Beats on each side of a step.
const SIDE_MIN: usize = 3;
/// How far the smallest beat of the larger side stands above the largest of the other.
const SEPARATION_MIN: f32 = 1.15;
/// Root mean square of QRS from which its gain can be told, microvolts.
const QRS_UV_MIN: f32 = 50.0;

/// Leads with a broad-band burst in these unfiltered frames.
pub fn burst(frames: &[Frame], limits: &Limits, roughness: &mut Vec<Frame>) -> [bool; LEADS] {
    block_roughness(frames, roughness);
    let blocks = &roughness[..];
    std::array::from_fn(|l| {
        let mut sorted: [f32; crate::SEGMENT_SAMPLES / BLOCK] = [0.0; crate::SEGMENT_SAMPLES / BLOCK];
        sorted.iter_mut().zip(blocks).for_each(|(s, block)| *s = block[l]);
        let middle = sorted.len() / 2;
        let median = *sorted.select_nth_unstable_by(middle, f32::total_cmp).1;
        let limit = limits.burst_uv_min.max(BURST_OVER_MEDIAN * median);
        blocks
            .windows(BURST_BLOCKS)
            .any(|run| run.iter().all(|block| block[l] > limit))
    })
}

/// Leads whose gain steps inside the window, told by the beats of one shape at `peaks`.
pub fn gain_step(frames: &[Frame], peaks: &[usize], limits: &Limits) -> [bool; LEADS] {
    let whole: Vec<usize> = peaks
        .iter()
        .copied()
        .filter(|&p| p >= BEFORE && p + AFTER <= frames.len())
        .collect();
    if whole.len() < 2 * SIDE_MIN {
        return [false; LEADS];
    }
    let sizes: Vec<Frame> = whole
        .iter()
        .map(|&p| root_mean_square(&frames[p - BEFORE..p + AFTER]))
        .collect();
    std::array::from_fn(|l| {
        (SIDE_MIN..=sizes.len() - SIDE_MIN).any(|split| {
            let (left, right) = sizes.split_at(split);
            let range = |side: &[Frame]| {
                side.iter().fold((f32::MAX, 0f32), |(low, high), size| {
                    (low.min(size[l]), high.max(size[l]))
                })
            };
            let mean = |side: &[Frame]| side.iter().map(|size| size[l]).sum::<f32>() / side.len() as f32;
            let ((low_left, high_left), (low_right, high_right)) = (range(left), range(right));
            let (a, b) = (mean(left), mean(right));
            let (apart, ratio) = if a > b {
                (low_left / high_right, a / b)
            } else {
                (low_right / high_left, b / a)
            };
            a.max(b) >= QRS_UV_MIN && apart >= SEPARATION_MIN && ratio >= limits.gain_step_ratio_min
        })
    })
}

wide! {
    /// Root mean square of the second difference in each block: white noise of 1 uV gives 2.4 uV, QRS some tens.
    fn block_roughness(frames: &[Frame], out: &mut Vec<Frame>) {
        out.clear();
        for start in (0..frames.len()).step_by(BLOCK) {
            let block = &frames[start..(start + BLOCK).min(frames.len())];
            let mut sum = [0f32; LEADS];
            for three in block.windows(3) {
                for l in 0..LEADS {
                    let bend = three[2][l] - 2.0 * three[1][l] + three[0][l];
                    sum[l] += bend * bend;
                }
            }
            let share = 1.0 / (block.len().max(3) - 2) as f32;
            out.push(sum.map(|v| (v * share).sqrt()));
        }
    }

    fn root_mean_square(frames: &[Frame]) -> Frame {
        let mut sum = [0f32; LEADS];
        for frame in frames {
            for l in 0..LEADS {
                sum[l] += frame[l] * frame[l];
            }
        }
        sum.map(|v| (v / frames.len().max(1) as f32).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsp::testing::{beat_train, on_all_leads, white_noise};

    #[test]
    fn half_a_second_of_diathermy_is_a_burst_and_beats_and_pulses_are_none() {
        let limits = Limits::default();
        let (mut signal, peaks) = beat_train(180.0);
        for p in &peaks {
            signal[p - 30..p - 28].copy_from_slice(&[2500.0, 1500.0]);
        }
        let found = |signal: &[f32]| burst(&on_all_leads(signal), &limits, &mut Vec::new())[0];
        assert!(!found(&signal), "beats and pulses");
        let noise: Vec<f32> = white_noise(5000).collect();
        let loud = |i: usize, uv: f32| if (2000..2250).contains(&i) { uv * noise[i] } else { 0.0 };
        let mixed = |uv: f32| (0..5000).map(|i| signal[i] + loud(i, uv)).collect::<Vec<_>>();
        assert!(found(&mixed(1500.0)));
        assert!(!found(&mixed(5.0)));
        let steady: Vec<f32> = signal.iter().zip(&noise).map(|(s, n)| s + 100.0 * n).collect();
        assert!(!found(&steady), "noise all the time is not a burst");
    }

    #[test]
    fn a_doubled_gain_is_a_step_and_breathing_and_alternans_are_none() {
        let limits = Limits::default();
        let (signal, peaks) = beat_train(75.0);
        let stepped = |gain: &dyn Fn(usize) -> f32| {
            let scaled: Vec<f32> = signal.iter().enumerate().map(|(i, v)| v * gain(i)).collect();
            gain_step(&on_all_leads(&scaled), &peaks, &limits)[7]
        };
        assert!(stepped(&|i| if i > 2600 { 2.0 } else { 1.0 }));
        assert!(stepped(&|i| if i > 1500 { 0.5 } else { 1.0 }));
        assert!(!stepped(&|i| 1.0 + 0.25 * (i as f32 / 350.0).sin()), "breathing");
        assert!(!stepped(&|i| if (i / 400) % 2 == 0 { 1.5 } else { 1.0 }), "alternans");
    }
}
