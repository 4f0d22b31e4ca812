//! Groups of like beats, aligned on one another.
//!
//! Place: after `beats`; `snr` measures the residual within groups, `measure` reads the largest. Invariant: every beat is in
//! exactly one group, so an ectopic beat is neither noise nor part of the dominant beat; all leads share one grouping and
//! one alignment.
//! Method: the QRS of all readable leads, each scaled to unit power, is compared with the median of the beats that are left;
//! those that correlate leave as one group, until none is left. Source: clustering of ecg-practice section 1.3.

use super::lanes::{Frame, dot, medians, wide};
use crate::LEADS;

/// Correlation of two beats of one shape. Noise as strong as the signal within QRS leaves 0.7 with a clean template.
const SAME_SHAPE_R_MIN: f64 = 0.75;
/// QRS around R, samples.
const BEFORE: usize = 40;
const AFTER: usize = 50;
/// Farthest that alignment moves a beat, samples.
const LAG_MAX: usize = 8;
/// Rounds of averaging and aligning a group's template.
const ROUNDS: usize = 2;

/// Frames of a template.
const LENGTH: usize = BEFORE + AFTER;

/// Buffers of the clustering.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Readable leads brought to unit power, the others zero.
    scaled: Vec<Frame>,
    /// Power of `scaled`, summed up to each frame.
    power: Vec<f64>,
    template: Vec<Frame>,
}

/// Groups of R positions: the largest first, of equal ones the earliest; members ascend.
pub fn group(frames: &[Frame], readable: &[bool; LEADS], peaks: &[usize], scratch: &mut Scratch) -> Vec<Vec<usize>> {
    scratch.scale(frames, readable);
    let whole = |p: usize| p >= BEFORE + LAG_MAX && p + AFTER + LAG_MAX <= frames.len();
    let (mut rest, cut): (Vec<usize>, Vec<usize>) = peaks.iter().partition(|&&p| whole(p));
    let mut groups: Vec<Vec<usize>> = cut.into_iter().map(|p| vec![p]).collect();
    while let Some(&first) = rest.first() {
        scratch.median_of(&rest);
        let mut found = scratch.matches(&rest);
        if found.len() < 2 {
            scratch.mean_of(&[first]);
            found = scratch.matches(&rest);
        }
        for _ in 0..ROUNDS {
            let aligned: Vec<usize> = found.iter().map(|&(_, to)| to).collect();
            if aligned.is_empty() {
                break;
            }
            scratch.mean_of(&aligned);
            found = scratch.matches(&rest);
        }
        if found.is_empty() {
            found.push((first, first));
        }
        rest.retain(|p| !found.iter().any(|(from, _)| from == p));
        groups.push(found.into_iter().map(|(_, to)| to).collect());
    }
    groups.sort_by(|a, b| b.len().cmp(&a.len()).then(a[0].cmp(&b[0])));
    groups
}

impl Scratch {
    fn scale(&mut self, frames: &[Frame], readable: &[bool; LEADS]) {
        let power = lead_power(frames);
        let weights: Frame = std::array::from_fn(|l| match readable[l] {
            true => 1.0 / power[l].sqrt().max(1.0),
            false => 0.0,
        });
        self.scaled.resize(frames.len(), [0.0; LEADS]);
        weigh(frames, &weights, &mut self.scaled);
        self.power.clear();
        self.power.push(0.0);
        let mut total = 0.0;
        for frame in &self.scaled {
            let squares = frame.map(|v| v * v);
            total += f64::from(super::lanes::sum(&squares));
            self.power.push(total);
        }
    }

    fn qrs(&self, peak: usize) -> &[Frame] {
        &self.scaled[peak - BEFORE..peak + AFTER]
    }

    /// Makes the template the median of the beats at `peaks`.
    fn median_of(&mut self, peaks: &[usize]) {
        let mut template = std::mem::take(&mut self.template);
        template.resize(LENGTH, [0.0; LEADS]);
        let rows: Vec<&[Frame]> = peaks.iter().map(|&p| self.qrs(p)).collect();
        medians(&rows, &mut template);
        self.template = template;
    }

    /// Makes the template the mean of the beats at `peaks`.
    fn mean_of(&mut self, peaks: &[usize]) {
        let mut template = std::mem::take(&mut self.template);
        template.clear();
        template.resize(LENGTH, [0.0; LEADS]);
        let share = 1.0 / peaks.len() as f32;
        for &peak in peaks {
            add(self.qrs(peak), share, &mut template);
        }
        self.template = template;
    }

    /// Beats that have the template's shape, each with the position where it fits best.
    fn matches(&self, peaks: &[usize]) -> Vec<(usize, usize)> {
        let power = f64::from(dot(&self.template, &self.template));
        let fit = |&peak: &usize| {
            let best = |places: &mut dyn Iterator<Item = usize>| {
                places
                    .map(|at| (self.correlation(power, at), at))
                    .max_by(|x, y| x.0.total_cmp(&y.0).then(y.1.abs_diff(peak).cmp(&x.1.abs_diff(peak))))
            };
            // the correlation is smooth at this rate: every other place, then the best one's neighbours
            let (_, near) = best(&mut (peak - LAG_MAX..=peak + LAG_MAX).step_by(2))?;
            let (low, high) = ((near - 1).max(peak - LAG_MAX), (near + 1).min(peak + LAG_MAX));
            let (r, to) = best(&mut (low..=high))?;
            (r > SAME_SHAPE_R_MIN).then_some((peak, to))
        };
        peaks.iter().filter_map(fit).collect()
    }

    fn correlation(&self, template_power: f64, at: usize) -> f64 {
        let own = self.power[at + AFTER] - self.power[at - BEFORE];
        let norm = (own * template_power).sqrt();
        if norm > 0.0 {
            f64::from(dot(self.qrs(at), &self.template)) / norm
        } else {
            0.0
        }
    }
}

wide! {
    /// Mean square of each lead.
    fn lead_power(frames: &[Frame]) -> Frame {
        let mut sum = [0f64; LEADS];
        for block in frames.chunks(100) {
            let mut part = [0f32; LEADS];
            for frame in block {
                for l in 0..LEADS {
                    part[l] += frame[l] * frame[l];
                }
            }
            for l in 0..LEADS {
                sum[l] += f64::from(part[l]);
            }
        }
        sum.map(|v| (v / frames.len().max(1) as f64) as f32)
    }

    fn weigh(frames: &[Frame], weights: &Frame, out: &mut [Frame]) {
        for (out, frame) in out.iter_mut().zip(frames) {
            for l in 0..LEADS {
                out[l] = frame[l] * weights[l];
            }
        }
    }

    fn add(beat: &[Frame], share: f32, template: &mut [Frame]) {
        for (sum, frame) in template.iter_mut().zip(beat) {
            for l in 0..LEADS {
                sum[l] += share * frame[l];
            }
        }
    }
}

/// Median, the mean of the middle two for an even count.
pub(super) fn median(values: &mut [f32]) -> f32 {
    values.sort_unstable_by(f32::total_cmp);
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) {
        (values[half - 1] + values[half]) / 2.0
    } else {
        values[half]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsp::testing::{beat_train, on_all_leads, white_noise};

    fn grouped(signal: &[f32], peaks: &[usize]) -> Vec<Vec<usize>> {
        group(&on_all_leads(signal), &[true; LEADS], peaks, &mut Scratch::default())
    }

    #[test]
    fn misplaced_peaks_of_one_shape_are_aligned() {
        let (signal, truth) = beat_train(75.0);
        let noisy: Vec<f32> = signal
            .iter()
            .zip(white_noise(5000))
            .map(|(s, n)| s + 30.0 * n)
            .collect();
        let moved: Vec<usize> = truth.iter().enumerate().map(|(i, p)| p + i % 5).collect();
        let groups = grouped(&noisy, &moved);
        assert_eq!(groups.len(), 1);
        let shift = groups[0][0] as i64 - truth[0] as i64;
        assert!(
            groups[0]
                .iter()
                .zip(&truth)
                .all(|(a, b)| (*a as i64 - *b as i64 - shift).abs() <= 1),
            "{groups:?} but {truth:?}"
        );
    }

    #[test]
    fn bigeminy_makes_two_groups_and_every_beat_is_in_one() {
        let (mut signal, truth) = beat_train(75.0);
        for &p in truth.iter().skip(1).step_by(2) {
            for i in 0..120 {
                let x = (i as f32 - 60.0) / 18.0;
                signal[p - 60 + i] = -1500.0 * x * (-x * x / 2.0).exp();
            }
        }
        let groups = grouped(&signal, &truth);
        assert_eq!(groups.len(), 2, "{groups:?}");
        assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), truth.len());
    }

    #[test]
    fn no_beats_make_no_groups() {
        assert!(grouped(&[0.0; 5000], &[]).is_empty());
    }
}
