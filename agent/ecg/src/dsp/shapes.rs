//! Groups of like beats, aligned on one another.
//!
//! Place: after `beats`; `snr` measures the residual within groups, `measure` reads the largest. Invariant: every beat is in
//! exactly one group, so an ectopic beat is neither noise nor part of the dominant beat; all leads share one grouping and
//! one alignment.
//! Method: the QRS of all readable leads, each scaled to unit power, is compared with the median of the beats that are left;
//! those that correlate leave as one group, until none is left. Source: clustering of ecg-practice section 1.3.

use super::quality::LeadSignals;

/// Correlation of two beats of one shape. Noise as strong as the signal within QRS leaves 0.7 with a clean template.
const SAME_SHAPE_R_MIN: f64 = 0.75;
/// QRS around R, samples.
const BEFORE: usize = 40;
const AFTER: usize = 50;
/// Farthest that alignment moves a beat, samples.
const LAG_MAX: usize = 8;
/// Rounds of averaging and aligning a group's template.
const ROUNDS: usize = 2;

/// Groups of R positions: the largest first, of equal ones the earliest; members ascend.
pub fn group(signals: &[LeadSignals], readable: &[bool], peaks: &[usize]) -> Vec<Vec<usize>> {
    let leads: Vec<Scaled> = signals
        .iter()
        .zip(readable)
        .filter(|(_, ok)| **ok)
        .map(|(signal, _)| Scaled::new(&signal.filtered))
        .collect();
    let length = signals.first().map_or(0, |signal| signal.filtered.len());
    let whole = |p: usize| p >= BEFORE + LAG_MAX && p + AFTER + LAG_MAX <= length;
    let (mut rest, cut): (Vec<usize>, Vec<usize>) = peaks.iter().partition(|&&p| whole(p));
    let mut groups: Vec<Vec<usize>> = cut.into_iter().map(|p| vec![p]).collect();
    while let Some(&first) = rest.first() {
        let mut template = combine(&leads, &rest, median);
        let mut found = matches(&leads, &template, &rest);
        if found.len() < 2 {
            template = combine(&leads, &[first], mean);
            found = matches(&leads, &template, &rest);
        }
        for _ in 0..ROUNDS {
            let aligned: Vec<usize> = found.iter().map(|&(_, to)| to).collect();
            if aligned.is_empty() {
                break;
            }
            template = combine(&leads, &aligned, mean);
            found = matches(&leads, &template, &rest);
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

/// A lead and the factor that brings it to unit power.
struct Scaled<'a> {
    samples: &'a [f32],
    weight: f32,
}

impl<'a> Scaled<'a> {
    fn new(samples: &'a [f32]) -> Self {
        let power = samples.iter().map(|&v| v * v).sum::<f32>() / samples.len().max(1) as f32;
        Self {
            samples,
            weight: 1.0 / power.sqrt().max(1.0),
        }
    }

    fn qrs(&self, peak: usize) -> &'a [f32] {
        &self.samples[peak - BEFORE..peak + AFTER]
    }
}

/// The template of beats at `peaks`: `by` over the beats at each sample, leads one after another.
fn combine(leads: &[Scaled], peaks: &[usize], by: fn(&mut [f32]) -> f32) -> Vec<f32> {
    let mut values = vec![0.0; peaks.len()];
    let mut template = Vec::with_capacity(leads.len() * (BEFORE + AFTER));
    for lead in leads {
        for i in 0..BEFORE + AFTER {
            values
                .iter_mut()
                .zip(peaks)
                .for_each(|(v, &p)| *v = lead.weight * lead.samples[p - BEFORE + i]);
            template.push(by(&mut values));
        }
    }
    template
}

fn mean(values: &mut [f32]) -> f32 {
    values.iter().sum::<f32>() / values.len() as f32
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

/// Beats that have the template's shape, each with the position where it fits best.
fn matches(leads: &[Scaled], template: &[f32], peaks: &[usize]) -> Vec<(usize, usize)> {
    let fit = |&peak: &usize| {
        let lags = (peak - LAG_MAX)..=(peak + LAG_MAX);
        let (r, to) = lags
            .map(|at| (correlation(leads, template, at), at))
            .max_by(|x, y| x.0.total_cmp(&y.0).then(y.1.abs_diff(peak).cmp(&x.1.abs_diff(peak))))?;
        (r > SAME_SHAPE_R_MIN).then_some((peak, to))
    };
    peaks.iter().filter_map(fit).collect()
}

fn correlation(leads: &[Scaled], template: &[f32], at: usize) -> f64 {
    let (mut dot, mut own, mut theirs) = (0f64, 0f64, 0f64);
    for (lead, shape) in leads.iter().zip(template.chunks_exact(BEFORE + AFTER)) {
        let (mut d, mut x, mut t) = (0f32, 0f32, 0f32);
        for (&v, &s) in lead.qrs(at).iter().zip(shape) {
            let v = lead.weight * v;
            d += v * s;
            x += v * v;
            t += s * s;
        }
        dot += f64::from(d);
        own += f64::from(x);
        theirs += f64::from(t);
    }
    let norm = (own * theirs).sqrt();
    if norm > 0.0 { dot / norm } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsp::testing::{beat_train, lead_signals, white_noise};

    #[test]
    fn misplaced_peaks_of_one_shape_are_aligned() {
        let (signal, truth) = beat_train(75.0);
        let noisy: Vec<f32> = signal
            .iter()
            .zip(white_noise(5000))
            .map(|(s, n)| s + 30.0 * n)
            .collect();
        let signals = lead_signals(&noisy);
        let moved: Vec<usize> = truth.iter().enumerate().map(|(i, p)| p + i % 5).collect();
        let groups = group(&signals, &vec![true; signals.len()], &moved);
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
        let signals = lead_signals(&signal);
        let groups = group(&signals, &vec![true; signals.len()], &truth);
        assert_eq!(groups.len(), 2, "{groups:?}");
        assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), truth.len());
    }

    #[test]
    fn no_beats_make_no_groups() {
        let flat = vec![0.0; 5000];
        assert!(group(&lead_signals(&flat), &[true; 12], &[]).is_empty());
    }
}
