//! The plan: which bed plays which recording over which samples of its stream.
//!
//! Place: made before the replay starts; `replay` follows it and the demo looks references up in it.
//! Invariant: a function of the recordings, their number of plays, the beds and the seed. Play k of a bed covers the
//! bed's samples 5000k..5000(k + 1), so window k of a bed is exactly one recording.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use ecg::SEGMENT_SAMPLES;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::recording::Recording;

/// One recording on one bed.
#[derive(Clone, Debug)]
pub struct Play {
    /// What is played.
    pub recording: Arc<Recording>,
    /// Where on the bed's 500 Hz grid.
    pub samples: Range<i64>,
}

/// What one bed plays, in order.
#[derive(Clone, Debug)]
pub struct Bed {
    /// Its stream, "bed-01" and on.
    pub stream_id: String,
    /// Its recordings, end to end from sample 0.
    pub plays: Vec<Play>,
}

/// What every bed plays.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The beds.
    pub beds: Vec<Bed>,
}

impl Plan {
    /// Deals shuffled recordings out, one to each bed in turn, until every bed has `plays`; all are dealt before any
    /// comes again.
    pub fn deal(recordings: &[Arc<Recording>], beds: usize, plays: usize, seed: u64) -> Self {
        let mut order: Vec<usize> = (0..recordings.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let play = |bed: usize, play: usize| {
            let start = (play * SEGMENT_SAMPLES) as i64;
            Play {
                recording: Arc::clone(&recordings[order[(play * beds + bed) % order.len()]]),
                samples: start..start + SEGMENT_SAMPLES as i64,
            }
        };
        let bed = |bed: usize| Bed {
            stream_id: format!("bed-{:02}", bed + 1),
            plays: (0..plays).map(|k| play(bed, k)).collect(),
        };
        Self {
            beds: (0..beds).map(bed).collect(),
        }
    }

    /// The recording that plays at a sample of a stream.
    pub fn recording_at(&self, stream_id: &str, sample: i64) -> Option<&Recording> {
        let bed = self.beds.iter().find(|bed| bed.stream_id == stream_id)?;
        let play = bed.plays.iter().find(|play| play.samples.contains(&sample))?;
        Some(&play.recording)
    }

    /// Windows that a whole replay makes.
    pub fn windows(&self) -> usize {
        self.beds.iter().map(|bed| bed.plays.len()).sum()
    }

    /// Headers of the recordings that are played, each once, sorted.
    pub fn headers(&self) -> Vec<PathBuf> {
        let plays = self.beds.iter().flat_map(|bed| &bed.plays);
        let mut headers: Vec<PathBuf> = plays.map(|play| play.recording.header.clone()).collect();
        headers.sort();
        headers.dedup();
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recordings(count: usize) -> Vec<Arc<Recording>> {
        let recording = |index: usize| Recording {
            name: format!("r{index}"),
            header: format!("r{index}.hea").into(),
            comments: vec![],
            leads: vec![],
        };
        (0..count).map(|index| Arc::new(recording(index))).collect()
    }

    #[test]
    fn all_recordings_are_played_before_any_comes_again() {
        let plan = Plan::deal(&recordings(24), 4, 6, 7);
        assert_eq!((plan.windows(), plan.headers().len()), (24, 24));
        let longer = Plan::deal(&recordings(24), 4, 12, 7);
        assert_eq!(longer.headers().len(), 24);
    }

    #[test]
    fn a_sample_is_looked_up_in_its_beds_play() {
        let plan = Plan::deal(&recordings(5), 2, 3, 1);
        let name = |sample| {
            plan.recording_at("bed-02", sample)
                .map(|recording| recording.name.clone())
        };
        assert_eq!(name(0), Some(plan.beds[1].plays[0].recording.name.clone()));
        assert_eq!(name(4999), name(0));
        assert_eq!(name(5000), Some(plan.beds[1].plays[1].recording.name.clone()));
        assert_eq!((name(-1), name(15_000)), (None, None));
        assert!(plan.recording_at("bed-03", 0).is_none());
    }

    #[test]
    fn the_seed_decides_the_order() {
        let names = |seed| {
            let plan = Plan::deal(&recordings(24), 4, 6, seed);
            plan.beds[0]
                .plays
                .iter()
                .map(|play| play.recording.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(1), names(1));
        assert_ne!(names(1), names(2));
    }
}
