//! Loss of signal: stretches in which leads hold one value.
//!
//! Place: on the repaired frames, before the filter. Invariant: only a value that does not move counts; noise, wander and a
//! resting heart do. On 884 recordings of PTB-XL, also as a monitor would send them (0.5 to 40 Hz, 5 uV a step), no lead stays
//! within 5 uV for longer than 0.5 s, nor do all leads together for longer than 0.1 s; but a cable that is out, a device
//! that pads, and a feed that holds its last value do for as long as it lasts.

use super::lanes::{Frame, wide};
use crate::{LEADS, SEGMENT_SAMPLES};

/// Samples of a block: 100 ms. A stretch of n blocks and one has n whole ones in it, wherever it begins.
const BLOCK: usize = 50;
/// Blocks of a window.
const BLOCKS: usize = SEGMENT_SAMPLES / BLOCK;

/// Longest stretches of a window without a signal, in whole blocks of 100 ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub blocks: [usize; LEADS],
    /// Every lead that counts at once.
    pub all_blocks: usize,
}

/// The longest stretches in which leads stay within `uv_max`; the leads that do not `count` hold nothing.
pub fn longest(frames: &[Frame], counts: &[bool; LEADS], uv_max: f32) -> Held {
    let mut held = Held::default();
    let mut own = [Run::default(); LEADS];
    let mut all = [Run::default(); LEADS];
    for block in frames.chunks_exact(BLOCK).take(BLOCKS) {
        let (low, high) = range(block);
        if (0..LEADS).all(|l| high[l] - low[l] > uv_max) {
            (own, all) = ([Run::default(); LEADS], [Run::default(); LEADS]);
            continue;
        }
        for lead in (0..LEADS).filter(|&lead| counts[lead]) {
            own[lead] = own[lead].then(low[lead], high[lead], uv_max);
            held.blocks[lead] = held.blocks[lead].max(own[lead].blocks);
        }
        let counted = || (0..LEADS).filter(|&lead| counts[lead]);
        let joined: [Run; LEADS] = std::array::from_fn(|l| all[l].joined(low[l], high[l]));
        all = if counted().all(|l| joined[l].spans(uv_max)) {
            joined
        } else if counted().all(|l| high[l] - low[l] <= uv_max) {
            std::array::from_fn(|l| Run::default().joined(low[l], high[l]))
        } else {
            [Run::default(); LEADS]
        };
        let blocks = counted().map(|l| all[l].blocks).max().unwrap_or(0);
        held.all_blocks = held.all_blocks.max(blocks);
    }
    held
}

/// Blocks in a row and the range of their samples.
#[derive(Clone, Copy)]
struct Run {
    blocks: usize,
    low: f32,
    high: f32,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            blocks: 0,
            low: f32::MAX,
            high: f32::MIN,
        }
    }
}

impl Run {
    fn joined(self, low: f32, high: f32) -> Self {
        Self {
            blocks: self.blocks + 1,
            low: self.low.min(low),
            high: self.high.max(high),
        }
    }

    fn spans(&self, uv_max: f32) -> bool {
        self.high - self.low <= uv_max
    }

    /// The run with the next block, or one that begins with it, or none.
    fn then(self, low: f32, high: f32, uv_max: f32) -> Self {
        let tries = [self.joined(low, high), Self::default().joined(low, high)];
        tries.into_iter().find(|run| run.spans(uv_max)).unwrap_or_default()
    }
}

wide! {
    /// Smallest and largest value of each lane.
    fn range(frames: &[Frame]) -> (Frame, Frame) {
        let (mut low, mut high) = ([f32::MAX; LEADS], [f32::MIN; LEADS]);
        for frame in frames {
            for l in 0..LEADS {
                low[l] = if frame[l] < low[l] { frame[l] } else { low[l] };
                high[l] = if frame[l] > high[l] { frame[l] } else { high[l] };
            }
        }
        (low, high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsp::testing::{beat_train, white_noise};

    /// Beats and a little noise, in which the leads of `held` hold their value over `stretch`.
    fn frames(stretch: std::ops::Range<usize>, held: std::ops::Range<usize>) -> Vec<Frame> {
        let noise: Vec<f32> = white_noise(SEGMENT_SAMPLES).collect();
        let (beats, _) = beat_train(60.0);
        let mut frames: Vec<Frame> = beats.iter().zip(&noise).map(|(v, n)| [v + 3.0 * n; LEADS]).collect();
        for lead in held {
            frames[stretch.clone()].iter_mut().for_each(|frame| frame[lead] = -40.0);
        }
        frames
    }

    #[test]
    fn a_stretch_is_as_long_as_its_whole_blocks_and_noise_holds_nothing() {
        let all = [true; LEADS];
        let held = longest(&frames(1020..2020, 0..LEADS), &all, 5.0);
        assert_eq!((held.all_blocks, held.blocks), (19, [19; LEADS]));
        let one = longest(&frames(1020..2020, 3..4), &all, 5.0);
        assert_eq!((one.all_blocks, one.blocks[3], one.blocks[4]), (0, 19, 0));
        assert_eq!(longest(&frames(0..0, 0..0), &all, 5.0), Held::default());
    }

    #[test]
    fn leads_that_do_not_count_hold_nothing_and_keep_no_other_from_it() {
        let counts: [bool; LEADS] = std::array::from_fn(|lead| lead < 8);
        let held = longest(&frames(1000..1500, 0..8), &counts, 5.0);
        assert_eq!((held.all_blocks, held.blocks[7], held.blocks[8]), (10, 10, 0));
        assert_eq!(longest(&frames(0..0, 0..0), &[false; LEADS], 5.0), Held::default());
    }
}
