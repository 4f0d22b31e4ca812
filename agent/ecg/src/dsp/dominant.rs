//! The dominant beat of ten seconds, lead by lead: what morphology is read from.
//!
//! Place: after the chain, on a segment's filtered samples; the model's findings read it. Invariant: a pure function of the samples
//! and of which leads are readable; ectopic beats are not part of it.

use super::beats;
use super::lanes::{Frame, medians};
use super::shapes;
use crate::LEADS;

/// Samples of the beat before R: 300 ms.
pub const BEFORE: usize = 150;
/// Samples of the beat from R on: 500 ms.
pub const AFTER: usize = 250;

/// The most frequent shape of beat.
#[derive(Clone, Debug, PartialEq)]
pub struct Dominant {
    /// Median of its beats, [`BEFORE`] + [`AFTER`] samples with R at `BEFORE`, microvolts.
    pub beat: Vec<Frame>,
    /// Beats that lie whole in the window.
    pub members: usize,
    /// Shapes of beats in the window.
    pub shapes: usize,
    /// Beats in the window, of every shape.
    pub beats: usize,
}

/// Of a window of filtered frames; None where no beat lies whole in it. Beats are looked for in the readable leads.
pub fn dominant(frames: &[Frame], readable: &[bool; LEADS]) -> Option<Dominant> {
    let peaks = beats::detect(frames, readable, &mut beats::Scratch::default()).peaks;
    let groups = shapes::group(frames, readable, &peaks, &mut shapes::Scratch::default());
    let whole = |p: &&usize| **p >= BEFORE && **p + AFTER <= frames.len();
    let members = groups.first()?.iter().filter(whole);
    let rows: Vec<&[Frame]> = members.map(|&p| &frames[p - BEFORE..p + AFTER]).collect();
    if rows.is_empty() {
        return None;
    }
    let mut beat = vec![[0.0; LEADS]; BEFORE + AFTER];
    medians(&rows, &mut beat);
    Some(Dominant {
        beat,
        members: rows.len(),
        shapes: groups.len(),
        beats: peaks.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SEGMENT_SAMPLES;
    use crate::dsp::testing::{beat_train, on_all_leads};

    #[test]
    fn the_median_of_equal_beats_is_each_of_them() {
        let (signal, truth) = beat_train(60.0);
        let found = dominant(&on_all_leads(&signal), &[true; LEADS]).unwrap();
        assert_eq!((found.shapes, found.beats), (1, truth.len()));
        let near = |p: usize| {
            let error = |shift: usize| {
                let own = |i: usize| signal[p + i + shift - 5 - BEFORE];
                (10..BEFORE + AFTER - 10)
                    .map(|i| (found.beat[i][0] - own(i)).abs())
                    .fold(0.0, f32::max)
            };
            (0..11).map(error).fold(f32::MAX, f32::min)
        };
        assert!(near(truth[2]) < 20.0, "{} microvolts", near(truth[2]));
    }

    #[test]
    fn a_flat_window_has_none() {
        assert_eq!(dominant(&[[0.0; LEADS]; SEGMENT_SAMPLES], &[true; LEADS]), None);
    }
}
