//! Signal-to-noise ratio of a lead from its own beats.
//!
//! Place: after `shapes`. Invariant: unknown (None) rather than wrong: a ratio is given only where most beats repeat and the
//! signal is not far below the noise.
//! Definition `window_power`: mean power of the repeating beat over the window's whole length, over mean power of the residual,
//! in decibels; both after the filter chain. Beats are grouped by shape, so ectopic beats are no noise; the beat's window scales
//! with the RR interval and ends before the next beat's QRS; each beat may differ from its template by a gain and a shift in
//! time (respiration, sampling); the residual is corrected by n / (n - 1) for the template's own share of noise.
//! Source: ecg-practice section 1.3.

use super::beats::median_interval;

/// Beats that must repeat, and their share of all whole beats.
const BEATS_MIN: usize = 3;
const REPEATED_SHARE_MIN: f64 = 0.6;
/// Below this the estimate is no better than a guess, decibels.
const KNOWN_DB_MIN: f64 = -3.0;
/// Window around R: these shares of the median RR interval, at most so many samples (400 and 600 ms).
const BEFORE_SHARE: f64 = 0.40;
const AFTER_SHARE: f64 = 0.60;
const BEFORE_MAX: f64 = 200.0;
const AFTER_MAX: f64 = 300.0;
/// Share of the distance to the beat before that belongs to a beat, and samples that end before the next R.
const OWN_SHARE: f64 = 0.40;
const NEXT_MARGIN: usize = 60;
/// Converter steps of 1 uV make this much noise, uV squared.
const NOISE_FLOOR: f64 = 1.0 / 12.0;

/// Where each beat's window lies; the same for all leads.
pub struct Layout {
    /// Samples of the longest window before R and in all.
    before: usize,
    length: usize,
    /// Groups of two or more beats: R, and offsets from the longest window's start that belong to the beat.
    groups: Vec<Vec<(usize, usize, usize)>>,
    /// Mean length of the beats' windows over the mean RR interval, at most 1.
    coverage: f64,
}

impl Layout {
    /// The windows of grouped beats within `samples` samples; None where too few repeat.
    pub fn new(groups: &[Vec<usize>], samples: usize) -> Option<Self> {
        let mut peaks: Vec<usize> = groups.iter().flatten().copied().collect();
        peaks.sort_unstable();
        let rr = median_interval(&peaks)?;
        let before = (BEFORE_SHARE * rr).min(BEFORE_MAX) as usize;
        let after = (AFTER_SHARE * rr).min(AFTER_MAX) as usize;
        let window = |&peak: &usize| {
            let at = peaks.partition_point(|&p| p < peak);
            let own = at
                .checked_sub(1)
                .map_or(peak, |k| (OWN_SHARE * (peak - peaks[k]) as f64) as usize);
            let next = peaks
                .get(at + 1)
                .map_or(samples, |&n| n.saturating_sub(NEXT_MARGIN).max(peak));
            let from = peak - before.min(own).min(peak);
            let to = (peak + after).min(next).min(samples);
            (peak, from + before - peak, to + before - peak)
        };
        let groups: Vec<Vec<_>> = groups
            .iter()
            .filter(|members| members.len() >= 2)
            .map(|members| members.iter().map(window).collect())
            .collect();
        let repeated: usize = groups.iter().map(Vec::len).sum();
        if repeated < BEATS_MIN || (repeated as f64) < REPEATED_SHARE_MIN * peaks.len() as f64 {
            return None;
        }
        let covered: usize = groups.iter().flatten().map(|(_, from, to)| to - from).sum();
        let mean_rr = (peaks[peaks.len() - 1] - peaks[0]) as f64 / (peaks.len() - 1) as f64;
        Some(Self {
            before,
            length: before + after,
            groups,
            coverage: (covered as f64 / repeated as f64 / mean_rr).min(1.0),
        })
    }
}

/// The ratio of one filtered lead in decibels; None where it cannot be told.
pub fn window_power_db(samples: &[f32], layout: &Layout) -> Option<f32> {
    let (mut total, mut noise, mut count) = (0.0, 0.0, 0usize);
    for group in &layout.groups {
        let (template, beats) = template(samples, layout, group);
        for &(peak, from, to) in group {
            let beat = &samples[peak + from - layout.before..peak + to - layout.before];
            let fit = Fit::new(beat, &template, from);
            for (i, &v) in beat.iter().enumerate().filter(|(i, _)| beats[from + i] >= 2.0) {
                let n = beats[from + i];
                let residual = f64::from(v) - fit.at(&template, from + i);
                noise += residual * residual * n / (n - 1.0);
                total += f64::from(v) * f64::from(v);
                count += 1;
            }
        }
    }
    let noise = (noise / count.max(1) as f64).max(NOISE_FLOOR);
    let signal = (total / count.max(1) as f64 - noise) * layout.coverage;
    let db = 10.0 * (signal / noise).log10();
    (db >= KNOWN_DB_MIN).then_some(db as f32)
}

/// Mean beat of a group and the number of beats at each of its samples.
fn template(samples: &[f32], layout: &Layout, group: &[(usize, usize, usize)]) -> (Vec<f64>, Vec<f64>) {
    let (mut sum, mut beats) = (vec![0.0; layout.length], vec![0.0; layout.length]);
    for &(peak, from, to) in group {
        for i in from..to {
            sum[i] += f64::from(samples[peak + i - layout.before]);
            beats[i] += 1.0;
        }
    }
    let mean = |(s, n): (&f64, &f64)| if *n > 0.0 { s / n } else { 0.0 };
    (sum.iter().zip(&beats).map(mean).collect(), beats)
}

/// Least squares of one beat on the template and its slope: a gain and a shift in time.
struct Fit {
    gain: f64,
    shift: f64,
}

impl Fit {
    fn new(beat: &[f32], template: &[f64], from: usize) -> Self {
        let (mut tt, mut ts, mut ss, mut xt, mut xs) = (1e-9, 0.0, 1e-9, 0.0, 0.0);
        for (i, &v) in beat.iter().enumerate() {
            let (x, t, s) = (f64::from(v), template[from + i], slope(template, from + i));
            tt += t * t;
            ts += t * s;
            ss += s * s;
            xt += x * t;
            xs += x * s;
        }
        let determinant = tt * ss - ts * ts;
        Self {
            gain: (xt * ss - xs * ts) / determinant,
            shift: (xs * tt - xt * ts) / determinant,
        }
    }

    fn at(&self, template: &[f64], i: usize) -> f64 {
        self.gain * template[i] + self.shift * slope(template, i)
    }
}

fn slope(template: &[f64], i: usize) -> f64 {
    (template[(i + 1).min(template.len() - 1)] - template[i.saturating_sub(1)]) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsp::shapes;
    use crate::dsp::testing::{beat_train, lead_signals, white_noise};

    fn read_db(samples: &[f32], peaks: &[usize]) -> Option<f32> {
        let signals = lead_signals(samples);
        let groups = shapes::group(&signals, &vec![true; signals.len()], peaks);
        window_power_db(samples, &Layout::new(&groups, samples.len())?)
    }

    #[test]
    fn known_mixes_are_read_within_three_decibels() {
        for bpm in [40.0, 50.0, 75.0, 120.0, 150.0] {
            let (signal, peaks) = beat_train(bpm);
            let power = signal.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / signal.len() as f64;
            for db in [0.0, 6.0, 12.0, 18.0, 24.0] {
                let sd = (power / 10f64.powf(db / 10.0)).sqrt();
                let mixed: Vec<f32> = signal
                    .iter()
                    .zip(white_noise(signal.len()))
                    .map(|(s, n)| s + sd as f32 * n)
                    .collect();
                let got = read_db(&mixed, &peaks).unwrap_or_else(|| panic!("{bpm} bpm at {db} dB is unknown"));
                assert!((f64::from(got) - db).abs() < 3.0, "{bpm} bpm at {db} dB: read {got}");
            }
        }
    }

    #[test]
    fn a_gain_that_breathes_is_no_noise() {
        let (signal, peaks) = beat_train(75.0);
        let breathing: Vec<f32> = signal
            .iter()
            .enumerate()
            .map(|(i, s)| s * (1.0 + 0.15 * (i as f32 / 300.0).sin()))
            .collect();
        assert!(read_db(&breathing, &peaks).unwrap() > 28.0);
    }

    #[test]
    fn noise_without_beats_is_unknown() {
        let noise: Vec<f32> = white_noise(5000).map(|v| 300.0 * v).collect();
        let peaks = [300, 800, 1300, 1800, 2300, 2800, 3300, 3800, 4300];
        assert_eq!(read_db(&noise, &peaks), None);
        assert_eq!(read_db(&noise, &[2500]), None);
    }
}
