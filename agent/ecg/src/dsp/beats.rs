//! R peaks from all readable leads together.
//!
//! Place: after `filter`; `snr` and `measure` align on its peaks. Invariant: a peak's position depends on the window alone.
//! Method: the leads' slopes, each scaled by its own size, are summed and smoothed over 60 ms; peaks stand out of an adaptive
//! threshold with a 200 ms refractory time, search-back, and rejection of T waves, in the manner of Pan and Tompkins 1985.

use super::quality::LeadSignals;
use crate::SEGMENT_SAMPLES;

const SLOPE_SPAN: usize = 5;
const SMOOTHING: usize = 30;
const REFRACTORY: usize = 100;
/// A peak within this distance of the one before must be this tall relative to it, or it is a T wave.
const T_WAVE_WITHIN: usize = 180;
const T_WAVE_SHARE: f32 = 0.5;
const THRESHOLD_SHARE: f32 = 0.3;
const SEARCH_BACK_SHARE: f32 = 0.15;
const SEARCH_BACK_RR: f64 = 1.6;
const BLOCK: usize = 625;

/// Sample indices of R peaks within the window, ascending.
pub fn detect(signals: &[LeadSignals], readable: &[bool]) -> Vec<usize> {
    let energy = slope_energy(signals, readable);
    let mut maxima: Vec<f32> = energy
        .chunks(BLOCK)
        .map(|b| b.iter().copied().fold(0.0, f32::max))
        .collect();
    maxima.sort_by(f32::total_cmp);
    let level = maxima.get(maxima.len() / 2).copied().unwrap_or(0.0);
    if level <= 0.0 {
        return Vec::new();
    }
    let tops = local_maxima(&energy);
    let mut peaks = accept(&energy, &tops, THRESHOLD_SHARE * level);
    search_back(&energy, &tops, SEARCH_BACK_SHARE * level, &mut peaks);
    let mut refined: Vec<usize> = peaks.into_iter().map(|peak| refine(signals, readable, peak)).collect();
    refined.dedup_by(|a, b| a.abs_diff(*b) < REFRACTORY / 2);
    refined
}

/// Sum over leads of |slope| / that lead's typical extreme slope, smoothed.
fn slope_energy(signals: &[LeadSignals], readable: &[bool]) -> Vec<f32> {
    let mut sum = vec![0f32; SEGMENT_SAMPLES];
    for (signal, _) in signals.iter().zip(readable).filter(|(_, ok)| **ok) {
        let x = &signal.filtered;
        let slope: Vec<f32> = (0..SEGMENT_SAMPLES)
            .map(|i| (x[(i + SLOPE_SPAN).min(x.len() - 1)] - x[i.saturating_sub(SLOPE_SPAN)]).abs())
            .collect();
        let mut tops: Vec<f32> = slope
            .chunks(BLOCK)
            .map(|b| b.iter().copied().fold(0.0, f32::max))
            .collect();
        tops.sort_by(f32::total_cmp);
        let scale = tops[tops.len() / 2].max(10.0);
        sum.iter_mut().zip(&slope).for_each(|(s, v)| *s += (v / scale).min(2.0));
    }
    let mut cumulative = vec![0f64; SEGMENT_SAMPLES + 1];
    for (i, v) in sum.iter().enumerate() {
        cumulative[i + 1] = cumulative[i] + f64::from(*v);
    }
    (0..SEGMENT_SAMPLES)
        .map(|i| {
            let (from, to) = (
                i.saturating_sub(SMOOTHING / 2),
                (i + SMOOTHING / 2 + 1).min(SEGMENT_SAMPLES),
            );
            ((cumulative[to] - cumulative[from]) / (to - from) as f64) as f32
        })
        .collect()
}

/// Indices that are the largest within half a refractory time on both sides.
fn local_maxima(energy: &[f32]) -> Vec<usize> {
    let reach = REFRACTORY / 2;
    let is_top = |&i: &usize| {
        let (from, to) = (i.saturating_sub(reach), (i + reach + 1).min(energy.len()));
        energy[from..i].iter().all(|&v| v < energy[i]) && energy[i..to].iter().all(|&v| v <= energy[i])
    };
    (0..energy.len()).filter(is_top).collect()
}

fn accept(energy: &[f32], tops: &[usize], threshold: f32) -> Vec<usize> {
    let mut peaks: Vec<usize> = Vec::new();
    for &top in tops.iter().filter(|&&t| energy[t] >= threshold) {
        let Some(&last) = peaks.last() else {
            peaks.push(top);
            continue;
        };
        let distance = top - last;
        if distance < REFRACTORY {
            if energy[top] > energy[last] {
                peaks.pop();
                peaks.push(top);
            }
        } else if distance >= T_WAVE_WITHIN || energy[top] >= T_WAVE_SHARE * energy[last] {
            peaks.push(top);
        }
    }
    peaks
}

/// Fills gaps longer than 1.6 typical intervals with the tallest top between, where it reaches the lower threshold.
fn search_back(energy: &[f32], tops: &[usize], threshold: f32, peaks: &mut Vec<usize>) {
    let Some(typical) = median_interval(peaks) else { return };
    let gaps: Vec<(usize, usize)> = peaks.windows(2).map(|p| (p[0], p[1])).collect();
    for (from, to) in gaps
        .into_iter()
        .filter(|(a, b)| (b - a) as f64 > SEARCH_BACK_RR * typical)
    {
        let inside = tops
            .iter()
            .filter(|&&t| t > from + T_WAVE_WITHIN && t + REFRACTORY < to && energy[t] >= threshold);
        peaks.extend(inside.copied().max_by(|&a, &b| energy[a].total_cmp(&energy[b])));
    }
    peaks.sort_unstable();
}

/// Moves a peak to the largest vector magnitude within 50 ms.
fn refine(signals: &[LeadSignals], readable: &[bool], peak: usize) -> usize {
    let magnitude = |i: usize| -> f32 {
        signals
            .iter()
            .zip(readable)
            .filter(|(_, ok)| **ok)
            .map(|(s, _)| s.filtered[i] * s.filtered[i])
            .sum()
    };
    let range = peak.saturating_sub(25)..(peak + 26).min(SEGMENT_SAMPLES);
    range
        .max_by(|&a, &b| magnitude(a).total_cmp(&magnitude(b)).then(b.cmp(&a)))
        .unwrap_or(peak)
}

/// Median distance of neighbouring peaks, samples.
pub fn median_interval(peaks: &[usize]) -> Option<f64> {
    let mut intervals: Vec<usize> = peaks.windows(2).map(|p| p[1] - p[0]).collect();
    intervals.sort_unstable();
    intervals.get(intervals.len() / 2).map(|&rr| rr as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsp::testing::{beat_train, lead_signals};

    #[test]
    fn beats_are_found_where_they_are_at_every_rate() {
        for bpm in [40.0, 75.0, 150.0, 200.0] {
            let (signal, truth) = beat_train(bpm);
            let signals = lead_signals(&signal);
            let found = detect(&signals, &vec![true; signals.len()]);
            assert_eq!(found.len(), truth.len(), "{bpm} bpm: {found:?} but {truth:?}");
            assert!(
                found.iter().zip(&truth).all(|(a, b)| a.abs_diff(*b) <= 5),
                "{bpm} bpm: {found:?} but {truth:?}"
            );
        }
    }

    #[test]
    fn a_flat_window_has_no_beats() {
        let flat = vec![0.0; SEGMENT_SAMPLES];
        let signals = lead_signals(&flat);
        assert!(detect(&signals, &vec![true; signals.len()]).is_empty());
    }
}
