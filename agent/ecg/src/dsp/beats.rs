//! R peaks from all readable leads together, by two independent detectors.
//!
//! Place: after `filter`; `shapes`, `snr` and `measure` align on its peaks. Invariant: a peak's position depends on the window
//! alone; the second detector never moves a peak, it only says how far the first can be believed.
//! Methods: (1) the leads' slopes, each scaled by its own size, are summed and smoothed over 60 ms; peaks stand out of an
//! adaptive threshold with a 200 ms refractory time, search-back, and rejection of T waves, in the manner of Pan and Tompkins
//! 1985. (2) The leads' band-passed energy, where its 97 ms mean rises over its 611 ms mean, in the manner of Elgendi 2013.

use super::lanes::{self, Frame, median_of_block_maxima, wide};
use crate::{LEADS, SAMPLE_RATE_HZ, SEGMENT_SAMPLES};

const SLOPE_SPAN: usize = 5;
const SMOOTHING: usize = 30;
const REFRACTORY: usize = 100;
/// A peak within this distance of the one before must be this tall relative to it, or it is a T wave.
const T_WAVE_WITHIN: usize = 180;
const T_WAVE_SHARE: f32 = 0.5;
const THRESHOLD_SHARE: f32 = 0.3;
const SEARCH_BACK_SHARE: f32 = 0.15;
const SEARCH_BACK_RR: f64 = 1.6;
/// A pacing pulse after the low-pass: at most this wide at half its height, and this much higher than all within its reach.
const SPIKE_SAMPLES: usize = 5;
const SPIKE_REACH: usize = 60;
const SPIKE_SHARE: f32 = 0.35;
/// Longest time from an atrial pulse to its QRS, samples.
const CONDUCTION_MAX: usize = 175;
/// Two detections of one beat lie within 150 ms (the match window of EC57).
const MATCH_SAMPLES: usize = 75;
/// Band-pass of the second detector: difference of these two moving means, about 6 to 30 Hz.
const BAND_MEANS: [usize; 2] = [9, 45];
/// Elgendi's event and cycle means, samples, and his share of the mean energy that a rise must exceed.
const EVENT_MEAN: usize = 49;
const CYCLE_MEAN: usize = 305;
const RISE_SHARE: f32 = 0.08;
/// A rise that is shorter than this is no QRS, samples.
const RISE_SAMPLES_MIN: usize = 30;

/// Beats of one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beats {
    /// Sample indices of R peaks within the window, ascending.
    pub peaks: Vec<usize>,
    /// Agreement of the two detectors: matched detections over all detections, 0..=1; 0 where neither finds a beat.
    pub agreement: f32,
}

/// Buffers of the detectors.
#[derive(Debug, Default)]
pub struct Scratch {
    frames: Vec<Frame>,
    energy: Vec<f32>,
    smooth: Vec<f32>,
    cycle: Vec<f32>,
    magnitude: Vec<f32>,
    cumulative: Vec<f64>,
}

impl Scratch {
    fn resize(&mut self, n: usize) {
        self.frames.resize(n, [0.0; LEADS]);
        for series in [&mut self.energy, &mut self.smooth, &mut self.cycle, &mut self.magnitude] {
            series.resize(n, 0.0);
        }
    }
}

/// Finds the beats of a window of filtered frames in the readable leads.
pub fn detect(frames: &[Frame], readable: &[bool; LEADS], scratch: &mut Scratch) -> Beats {
    scratch.resize(frames.len());
    let peaks = by_slope(frames, readable, scratch);
    let agreement = agreement(&peaks, &by_energy(frames, readable, scratch));
    Beats { peaks, agreement }
}

fn by_slope(frames: &[Frame], readable: &[bool; LEADS], scratch: &mut Scratch) -> Vec<usize> {
    slopes(frames, &mut scratch.frames);
    let scale = median_of_block_maxima(&scratch.frames).map(|v| v.max(10.0));
    sum_scaled(&scratch.frames, &weights(readable, &scale), &mut scratch.energy);
    cumulate(&scratch.energy, &mut scratch.cumulative);
    mean_of(&scratch.cumulative, SMOOTHING, &mut scratch.smooth);
    magnitude(frames, &weights(readable, &[1.0; LEADS]), &mut scratch.magnitude);
    let (energy, magnitude) = (&scratch.smooth, &scratch.magnitude);
    let level = level(energy);
    if level <= 0.0 {
        return Vec::new();
    }
    let mut tops = local_maxima(energy, SEARCH_BACK_SHARE * level);
    drop_atrial_pulses(&mut tops, magnitude);
    let mut peaks = accept(energy, &tops, THRESHOLD_SHARE * level);
    search_back(energy, &tops, SEARCH_BACK_SHARE * level, &mut peaks);
    let mut refined: Vec<usize> = peaks.into_iter().map(|peak| largest_near(magnitude, peak)).collect();
    refined.dedup_by(|a, b| a.abs_diff(*b) < REFRACTORY / 2);
    refined
}

/// One over the scale for a lead that is read, 0 for the others.
fn weights(readable: &[bool; LEADS], scale: &Frame) -> Frame {
    std::array::from_fn(|l| if readable[l] { 1.0 / scale[l] } else { 0.0 })
}

/// Median over eighths of the window of their largest value.
fn level(energy: &[f32]) -> f32 {
    let mut maxima: [f32; 8] = [0.0; 8];
    for (top, block) in maxima.iter_mut().zip(energy.chunks(energy.len().div_ceil(8))) {
        *top = block.iter().copied().fold(0.0, f32::max);
    }
    maxima.sort_unstable_by(f32::total_cmp);
    maxima[4]
}

wide! {
    /// Each lead's |slope| over 2 x [`SLOPE_SPAN`] samples, fewer at the ends.
    fn slopes(frames: &[Frame], out: &mut [Frame]) {
        let last = frames.len() - 1;
        for (i, out) in out.iter_mut().enumerate() {
            let (a, b) = (&frames[i.saturating_sub(SLOPE_SPAN)], &frames[(i + SLOPE_SPAN).min(last)]);
            for l in 0..LEADS {
                out[l] = (b[l] - a[l]).abs();
            }
        }
    }

    /// Sum over the leads of each, weighted, at most 2 a lead.
    fn sum_scaled(frames: &[Frame], weights: &Frame, out: &mut [f32]) {
        for (out, frame) in out.iter_mut().zip(frames) {
            let mut scaled = [0f32; LEADS];
            for l in 0..LEADS {
                let v = frame[l] * weights[l];
                scaled[l] = if v < 2.0 { v } else { 2.0 };
            }
            *out = lanes::sum(&scaled);
        }
    }

    /// Square root of the sum of squares over the readable leads.
    fn magnitude(frames: &[Frame], weights: &Frame, out: &mut [f32]) {
        for (out, frame) in out.iter_mut().zip(frames) {
            let mut squares = [0f32; LEADS];
            for l in 0..LEADS {
                squares[l] = frame[l] * frame[l] * weights[l];
            }
            *out = lanes::sum(&squares).sqrt();
        }
    }

    /// Mean over `width / 2` samples on each side of x, fewer at the ends; `cumulative` is x summed up.
    fn mean_of(cumulative: &[f64], width: usize, out: &mut [f32]) {
        let (n, half) = (out.len(), width / 2);
        let inner = half..n.saturating_sub(half).max(half);
        for i in (0..half.min(n)).chain(inner.end.min(n)..n) {
            let (from, to) = (i.saturating_sub(half), (i + half + 1).min(n));
            out[i] = ((cumulative[to] - cumulative[from]) / (to - from) as f64) as f32;
        }
        let whole = (2 * half + 1) as f64;
        for (i, out) in out.iter_mut().enumerate().take(inner.end).skip(inner.start) {
            *out = ((cumulative[i + half + 1] - cumulative[i - half]) / whole) as f32;
        }
    }

    /// Each lead's band-passed energy: the square of the difference of two moving means.
    ///
    /// Frames are whole microvolts, so the running sums are exact.
    fn band_energy(frames: &[Frame], out: &mut [Frame]) {
        let n = frames.len();
        let halves = BAND_MEANS.map(|width| width / 2);
        let mut sums = [[0f32; LEADS]; 2];
        for (sum, half) in sums.iter_mut().zip(halves) {
            for frame in &frames[..half.min(n)] {
                for l in 0..LEADS {
                    sum[l] += frame[l];
                }
            }
        }
        for i in 0..n {
            let mut means = [[0f32; LEADS]; 2];
            for k in 0..2 {
                let half = halves[k];
                if i + half < n {
                    let entering = &frames[i + half];
                    for l in 0..LEADS {
                        sums[k][l] += entering[l];
                    }
                }
                if i > half {
                    let leaving = &frames[i - half - 1];
                    for l in 0..LEADS {
                        sums[k][l] -= leaving[l];
                    }
                }
                let count = (i + half + 1).min(n) - i.saturating_sub(half);
                let share = 1.0 / count as f32;
                means[k] = sums[k].map(|v| v * share);
            }
            for l in 0..LEADS {
                let band = means[0][l] - means[1][l];
                out[i][l] = band * band;
            }
        }
    }
}

fn cumulate(x: &[f32], cumulative: &mut Vec<f64>) {
    let mut total = 0f64;
    cumulative.clear();
    cumulative.push(total);
    cumulative.extend(x.iter().map(|&v| {
        total += f64::from(v);
        total
    }));
}

/// Indices of at least `least` that are the largest within half a refractory time on both sides.
fn local_maxima(energy: &[f32], least: f32) -> Vec<usize> {
    let reach = REFRACTORY / 2;
    let is_top = |&i: &usize| {
        let (from, to) = (i.saturating_sub(reach), (i + reach + 1).min(energy.len()));
        // most samples have a larger neighbour: asked first, it saves the rest
        let stands_out = energy[i] >= least
            && (i == from || energy[i - 1] < energy[i])
            && (i + 1 == to || energy[i + 1] <= energy[i]);
        stands_out
            && energy[from..i].iter().rev().all(|&v| v < energy[i])
            && energy[i..to].iter().all(|&v| v <= energy[i])
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

/// The largest magnitude within 50 ms of a peak.
fn largest_near(magnitude: &[f32], peak: usize) -> usize {
    (peak.saturating_sub(25)..(peak + 26).min(magnitude.len()))
        .max_by(|&a, &b| magnitude[a].total_cmp(&magnitude[b]).then(b.cmp(&a)))
        .unwrap_or(peak)
}

/// Removes pacing pulses that a QRS of its own follows; a ventricular pulse stands for its QRS.
fn drop_atrial_pulses(tops: &mut Vec<usize>, magnitude: &[f32]) {
    let spike: Vec<bool> = tops.iter().map(|&top| is_spike(magnitude, top)).collect();
    let conducted = |i: usize| i + 1 < tops.len() && !spike[i + 1] && tops[i + 1] - tops[i] <= CONDUCTION_MAX;
    let kept = (0..tops.len()).filter(|&i| !(spike[i] && conducted(i)));
    *tops = kept.map(|i| tops[i]).collect();
}

/// True for a peak that is half as high for less than 10 ms and stands alone.
fn is_spike(magnitude: &[f32], peak: usize) -> bool {
    let top = largest_near(magnitude, peak);
    let (from, to) = (
        top.saturating_sub(SPIKE_REACH),
        (top + SPIKE_REACH + 1).min(magnitude.len()),
    );
    let high = |i: &usize| magnitude[*i] >= magnitude[top] / 2.0;
    let width = (from..top).rev().take_while(high).count() + (top..to).take_while(high).count();
    let mut around = (from..to).filter(|i| i.abs_diff(top) > SPIKE_SAMPLES);
    width <= SPIKE_SAMPLES && around.all(|i| magnitude[i] < SPIKE_SHARE * magnitude[top])
}

/// The second detector: middles of the rises of the leads' band-passed energy.
fn by_energy(frames: &[Frame], readable: &[bool; LEADS], scratch: &mut Scratch) -> Vec<usize> {
    band_energy(frames, &mut scratch.frames);
    let scale = median_of_block_maxima(&scratch.frames).map(|v| v.max(25.0));
    sum_scaled(&scratch.frames, &weights(readable, &scale), &mut scratch.energy);
    cumulate(&scratch.energy, &mut scratch.cumulative);
    mean_of(&scratch.cumulative, EVENT_MEAN, &mut scratch.smooth);
    mean_of(&scratch.cumulative, CYCLE_MEAN, &mut scratch.cycle);
    let mean = (scratch.cumulative[frames.len()] / frames.len() as f64) as f32;
    let (event, cycle) = (&scratch.smooth, &scratch.cycle);
    let rises = |i: usize| event[i] > cycle[i] + RISE_SHARE * mean;
    let mut beats: Vec<usize> = Vec::new();
    let mut start = 0;
    while start < SEGMENT_SAMPLES {
        let end = (start..SEGMENT_SAMPLES).find(|&i| !rises(i)).unwrap_or(SEGMENT_SAMPLES);
        // a beat that the window cuts is short
        let cut = start == 0 || end == SEGMENT_SAMPLES;
        if end > start && (cut || end - start >= RISE_SAMPLES_MIN) {
            let top = (start..end).fold(start, |top, i| if event[i] > event[top] { i } else { top });
            match beats.last_mut() {
                Some(last) if top - *last < REFRACTORY => {
                    if event[top] > event[*last] {
                        *last = top;
                    }
                }
                _ => beats.push(top),
            }
        }
        start = end.max(start) + 1;
    }
    beats
}

/// Matched detections over all detections; those of either list near the ends do not count where the other lacks them.
fn agreement(a: &[usize], b: &[usize]) -> f32 {
    let near = |x: usize, others: &[usize]| others.iter().any(|&o| o.abs_diff(x) <= MATCH_SAMPLES);
    let inside = |x: usize| (REFRACTORY..SEGMENT_SAMPLES - REFRACTORY).contains(&x);
    let (mut matched, mut all) = (0, 0);
    for (own, other) in [(a, b), (b, a)] {
        for &x in own {
            let found = near(x, other);
            matched += usize::from(found);
            all += usize::from(found || inside(x));
        }
    }
    if all == 0 { 0.0 } else { matched as f32 / all as f32 }
}

/// Rate by the mean interval, which is what counts in atrial fibrillation; None for fewer than two peaks.
pub fn heart_rate_bpm(peaks: &[usize]) -> Option<f32> {
    let (first, last) = peaks.first().zip(peaks.last()).filter(|(first, last)| first < last)?;
    let mean_rr = (last - first) as f32 / (peaks.len() - 1) as f32;
    Some(60.0 * SAMPLE_RATE_HZ as f32 / mean_rr)
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
    use crate::dsp::testing::{beat_train, on_all_leads, white_noise};

    fn found(signal: &[f32]) -> Beats {
        detect(&on_all_leads(signal), &[true; LEADS], &mut Scratch::default())
    }

    #[test]
    fn beats_are_found_where_they_are_at_every_rate() {
        for bpm in [40.0, 75.0, 150.0, 200.0] {
            let (signal, truth) = beat_train(bpm);
            let Beats { peaks, agreement } = found(&signal);
            assert_eq!(peaks.len(), truth.len(), "{bpm} bpm: {peaks:?} but {truth:?}");
            assert!(
                peaks.iter().zip(&truth).all(|(a, b)| a.abs_diff(*b) <= 5),
                "{bpm} bpm: {peaks:?} but {truth:?}"
            );
            assert_eq!(agreement, 1.0, "{bpm} bpm");
        }
    }

    #[test]
    fn the_last_beat_is_found_up_to_where_the_window_ends_in_its_qrs_and_so_is_the_first() {
        let (signal, truth) = beat_train(75.0);
        let last = truth[truth.len() - 1];
        for left in (8..160).step_by(4) {
            let mut moved = signal.clone();
            // the last R comes to lie `left` samples before the end
            moved.rotate_left(last + 1 + left);
            let peaks = found(&moved).peaks;
            let end = SEGMENT_SAMPLES - 1 - left;
            assert!(
                peaks.last().is_some_and(|p| p.abs_diff(end) <= 5),
                "{left} left: {peaks:?}"
            );
            moved.reverse();
            let peaks = found(&moved).peaks;
            assert!(
                peaks.first().is_some_and(|p| p.abs_diff(left) <= 5),
                "{left} before: {peaks:?}"
            );
        }
    }

    #[test]
    fn a_flat_window_has_no_beats() {
        assert_eq!(found(&[0.0; SEGMENT_SAMPLES]), Beats::default());
    }

    #[test]
    fn atrial_pacing_pulses_are_no_beats() {
        let (mut signal, truth) = beat_train(60.0);
        for p in &truth[1..] {
            signal[p - 110..p - 107].copy_from_slice(&[1500.0, 2500.0, 1000.0]);
        }
        let found = found(&signal).peaks;
        assert_eq!(found.len(), truth.len(), "{found:?} but {truth:?}");
    }

    #[test]
    fn the_detectors_disagree_on_noise() {
        let noise: Vec<f32> = white_noise(SEGMENT_SAMPLES).map(|v| 200.0 * v).collect();
        let beats = found(&noise);
        assert!(beats.agreement < 0.8, "{beats:?}");
    }
}
