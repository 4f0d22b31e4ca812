//! Signal-to-noise ratio of a lead from its own beats.
//!
//! Place: after `beats`. Invariant: unknown (None) rather than wrong: a ratio is given only where most beats repeat.
//! Definition `window_power`: mean power of the beat template over mean power of the residual, in decibels, with the residual
//! corrected by n / (n - 1) for the template's own share of noise. Beats are clustered by shape (r > 0.8), so that ectopic
//! beats are no noise, and the window scales with the RR interval. Source: ecg-practice section 1.3.

use super::beats::median_interval;

const SAME_SHAPE_R_MIN: f64 = 0.8;
/// Share of the beats that must lie in clusters of two or more.
const CLUSTERED_SHARE_MIN: f64 = 0.5;
const BEATS_MIN: usize = 3;
/// Window around R: at most 250 ms before and 420 ms after, at most these shares of the median RR.
const BEFORE_MAX: f64 = 125.0;
const AFTER_MAX: f64 = 210.0;
const BEFORE_SHARE: f64 = 0.32;
const AFTER_SHARE: f64 = 0.55;

/// The ratio in decibels; None where it cannot be told.
pub fn window_power_db(samples: &[f32], peaks: &[usize]) -> Option<f32> {
    let rr = median_interval(peaks)?;
    let before = (BEFORE_SHARE * rr).min(BEFORE_MAX) as usize;
    let after = (AFTER_SHARE * rr).min(AFTER_MAX) as usize;
    let beats: Vec<Vec<f64>> = peaks
        .iter()
        .filter(|&&p| p >= before && p + after <= samples.len())
        .map(|&p| centred(&samples[p - before..p + after]))
        .collect();
    if beats.len() < BEATS_MIN {
        return None;
    }
    let clusters = cluster(&beats);
    let repeated: Vec<&Vec<usize>> = clusters.iter().filter(|c| c.len() >= 2).collect();
    let clustered: usize = repeated.iter().map(|c| c.len()).sum();
    if (clustered as f64) < CLUSTERED_SHARE_MIN * beats.len() as f64 {
        return None;
    }
    let (mut signal, mut noise, mut count) = (0.0, 0.0, 0.0);
    for members in repeated {
        let n = members.len() as f64;
        let template = mean(&beats, members);
        let residual: f64 = members.iter().map(|&b| distance(&beats[b], &template)).sum::<f64>() / n * n / (n - 1.0);
        signal += n * (power(&template) - residual / n).max(0.0);
        noise += n * residual;
        count += n;
    }
    let (signal, noise) = (signal / count, (noise / count).max(1e-3));
    (signal > 0.0).then(|| (10.0 * (signal / noise).log10()) as f32)
}

/// Groups beats by correlation with the running mean of each group, the best group first.
pub(super) fn cluster(beats: &[Vec<f64>]) -> Vec<Vec<usize>> {
    let mut clusters: Vec<Vec<usize>> = Vec::new();
    for (b, beat) in beats.iter().enumerate() {
        let scored = clusters
            .iter()
            .enumerate()
            .map(|(c, members)| (c, correlation(beat, &mean(beats, members))));
        match scored.max_by(|x, y| x.1.total_cmp(&y.1)) {
            Some((c, r)) if r > SAME_SHAPE_R_MIN => clusters[c].push(b),
            _ => clusters.push(vec![b]),
        }
    }
    clusters
}

fn mean(beats: &[Vec<f64>], members: &[usize]) -> Vec<f64> {
    (0..beats[members[0]].len())
        .map(|i| members.iter().map(|&b| beats[b][i]).sum::<f64>() / members.len() as f64)
        .collect()
}

fn centred(samples: &[f32]) -> Vec<f64> {
    let mean = samples.iter().map(|&v| f64::from(v)).sum::<f64>() / samples.len().max(1) as f64;
    samples.iter().map(|&v| f64::from(v) - mean).collect()
}

fn power(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum::<f64>() / x.len().max(1) as f64
}

fn distance(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / x.len().max(1) as f64
}

fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let dot: f64 = x.iter().zip(y).map(|(a, b)| a * b).sum();
    let norm = (x.iter().map(|v| v * v).sum::<f64>() * y.iter().map(|v| v * v).sum::<f64>()).sqrt();
    if norm > 0.0 { dot / norm } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsp::testing::{beat_train, white_noise};

    #[test]
    fn known_mixes_are_read_within_three_decibels() {
        for bpm in [50.0, 75.0, 120.0] {
            let (signal, peaks) = beat_train(bpm);
            let power = signal.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / signal.len() as f64;
            for db in [0.0, 6.0, 12.0, 18.0] {
                let sd = (power / 10f64.powf(db / 10.0)).sqrt();
                let mixed: Vec<f32> = signal
                    .iter()
                    .zip(white_noise(signal.len()))
                    .map(|(s, n)| s + sd as f32 * n)
                    .collect();
                // the template's window holds the beat's power more densely than the whole trace does
                let rr = 30_000.0 / bpm;
                let window = (BEFORE_SHARE * rr).min(BEFORE_MAX) + (AFTER_SHARE * rr).min(AFTER_MAX);
                let denser = 10.0 * (rr / window).log10();
                match window_power_db(&mixed, &peaks) {
                    Some(got) => {
                        let error = f64::from(got) - db - denser;
                        assert!(
                            error.abs() < 3.0,
                            "{bpm} bpm at {db} dB: read {got}, expected {}",
                            db + denser
                        );
                    }
                    None => assert!(db < 6.0, "{bpm} bpm at {db} dB is unknown"),
                }
            }
        }
    }

    #[test]
    fn noise_without_beats_is_unknown() {
        let noise: Vec<f32> = white_noise(5000).map(|v| 300.0 * v).collect();
        assert_eq!(
            window_power_db(&noise, &[300, 800, 1300, 1800, 2300, 2800, 3300, 3800, 4300]),
            None
        );
        assert_eq!(window_power_db(&noise, &[2500]), None);
    }
}
