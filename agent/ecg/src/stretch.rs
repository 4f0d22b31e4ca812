//! Stretches: ascending ranges of samples, apart from one another, that carry a mark.
//!
//! Place: `window` and `wfdb` mark what they see on a device's own samples, which resampling hides; `dsp` reads the marks.
//! Invariant: positions count from the first sample of the lead that carries them.

use std::ops::Range;

use crate::dsp::resample::Grid;

/// Marked ranges of one lead.
pub type Stretches = Vec<Range<usize>>;

/// Stretches of device samples, the first of which has the index `start`, on the 500 Hz grid from `range.start` on, cut to `range`.
pub fn at_500_hz(device: &[Range<usize>], start: i64, grid: &Grid, range: &Range<i64>) -> Stretches {
    let place = |index: usize| grid.sample_at_or_after(start + index as i64);
    let inside = |sample: i64| (sample.clamp(range.start, range.end) - range.start) as usize;
    let stretches = device.iter().map(|d| inside(place(d.start))..inside(place(d.end)));
    stretches.filter(|stretch| !stretch.is_empty()).collect()
}

/// What of the stretches lies in `window`, counted from its start.
pub fn within<'a>(stretches: &'a [Range<usize>], window: &'a Range<usize>) -> impl Iterator<Item = Range<usize>> + 'a {
    let inside = |at: usize| at.clamp(window.start, window.end) - window.start;
    let cut = stretches.iter().map(move |s| inside(s.start)..inside(s.end));
    cut.filter(|stretch| !stretch.is_empty())
}

/// What either has.
pub fn union(a: &[Range<usize>], b: &[Range<usize>]) -> Stretches {
    let mut all = [a, b].concat();
    all.sort_unstable_by_key(|stretch| stretch.start);
    let mut joined: Stretches = Vec::with_capacity(all.len());
    for stretch in all {
        match joined.last_mut() {
            Some(last) if stretch.start <= last.end => last.end = last.end.max(stretch.end),
            _ => joined.push(stretch),
        }
    }
    joined
}

/// What both have.
pub fn both(a: &[Range<usize>], b: &[Range<usize>]) -> Stretches {
    let (mut common, mut i, mut j) = (Stretches::new(), 0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        let shared = x.start.max(y.start)..x.end.min(y.end);
        if !shared.is_empty() {
            common.push(shared);
        }
        if x.end < y.end {
            i += 1;
        } else {
            j += 1;
        }
    }
    common
}

/// Runs of true.
pub fn of(marks: &[bool]) -> Stretches {
    let mut at = 0;
    let runs = marks.chunk_by(|a, b| a == b).map(|run| {
        at += run.len();
        (run[0], at - run.len()..at)
    });
    runs.filter(|(marked, _)| *marked).map(|(_, run)| run).collect()
}

/// Device samples in a row at a lead's extreme value that are kept as a stretch; who reads it asks for more.
const RAIL_RUN_MIN: usize = 4;

/// Stretches of samples at the largest or the smallest value; a missing sample (NaN) ends one.
pub fn at_rail(samples: &[f32]) -> Stretches {
    let mut extremes = (f32::MAX, f32::MIN);
    for &v in samples {
        // NaN compares false
        extremes.0 = if v < extremes.0 { v } else { extremes.0 };
        extremes.1 = if v > extremes.1 { v } else { extremes.1 };
    }
    let (mut found, mut at) = (Vec::new(), 0);
    for run in samples.chunk_by(|a, b| a == b) {
        let value = run[0];
        if run.len() >= RAIL_RUN_MIN && (value == extremes.0 || value == extremes.1) {
            found.push(at..at + run.len());
        }
        at += run.len();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_stretches_come_to_lie_on_the_500_hz_grid_and_are_cut_to_the_range() {
        // 250 Hz: device samples 110..115 are 500 Hz samples 220..230, and 120 is 240
        let (grid, device) = (Grid::new(250.0), [10..15, 20..21]);
        assert_eq!(at_500_hz(&device, 100, &grid, &(200..1000)), [20..30, 40..42]);
        assert_eq!(at_500_hz(&device, 100, &grid, &(224..241)), [0..6, 16..17]);
        assert!(at_500_hz(&device, 100, &grid, &(242..1000)).is_empty());
    }

    #[test]
    fn a_window_sees_its_part_and_touching_stretches_are_one() {
        let list = [2..5, 8..9, 20..30];
        assert_eq!(within(&list, &(4..25)).collect::<Vec<_>>(), [0..1, 4..5, 16..21]);
        assert_eq!(union(&[2..5, 8..9], &[4..8, 20..30]), [2..9, 20..30]);
        assert_eq!(both(&[2..5, 8..12], &[4..9, 11..30]), [4..5, 8..9, 11..12]);
        assert_eq!(of(&[true, true, false, true]), [0..2, 3..4]);
    }

    #[test]
    fn runs_at_either_extreme_are_at_the_rail_and_others_and_short_ones_are_not() {
        let (top, inner, short) = ([9.0; 4], [7.0; 5], [1.0, 1.0, 1.0, f32::NAN, 1.0]);
        let samples = [&top[..], &inner, &top, &short].concat();
        assert_eq!(at_rail(&samples), [0..4, 9..13]);
        assert!(at_rail(&[]).is_empty());
    }
}
