//! The mains line: which frequency, how large in each lead, and how much a notch left.
//!
//! Place: before the filter (is there a line to take out?) and after it (the residual). Invariant: only a line counts: it must
//! stand above its surroundings in most seconds, so QRS complexes and broad-band noise are none.
//! Method: each second is correlated with the line and with its neighbours 5 Hz below and above; the amplitude is the median
//! over the seconds, so a grid that is off by some tenths of a hertz still reads true (at 0.3 Hz by 14 % low).

use std::f32::consts::TAU;

use super::lanes::{Frame, wide};
use crate::{LEADS, SAMPLE_RATE_HZ};

/// Samples of one second.
const SECOND: usize = SAMPLE_RATE_HZ as usize;
/// Seconds of a window.
const SECONDS: usize = crate::SEGMENT_SAMPLES / SECOND;
/// Distance of the neighbours, hertz.
const ASIDE_HZ: f64 = 5.0;
/// After so many samples the line and its neighbours all repeat, where the line is a multiple of 5 Hz.
const FOLD: usize = 100;
/// How far a line stands above its neighbours.
const ABOVE: f32 = 2.0;
/// Leads that must show the line.
const LEADS_MIN: usize = 3;

/// A frequency with its correlators, made once.
#[derive(Debug)]
pub struct Probe {
    /// The line's frequency, hertz.
    pub hz: f64,
    /// Samples that the tables cover.
    period: usize,
    /// Cosine and sine of the line and of the neighbours below and above.
    tables: [Vec<[f32; 2]>; 3],
}

impl Probe {
    /// A probe for one mains frequency.
    pub fn new(hz: f64) -> Self {
        let period = if hz.rem_euclid(ASIDE_HZ) == 0.0 { FOLD } else { SECOND };
        let table = |hz: f64| {
            let turn = |i: usize| (hz * i as f64 / SAMPLE_RATE_HZ).fract() as f32 * TAU;
            (0..period).map(|i| [turn(i).cos(), turn(i).sin()]).collect()
        };
        Self {
            hz,
            period,
            tables: [table(hz), table(hz - ASIDE_HZ), table(hz + ASIDE_HZ)],
        }
    }

    /// Amplitude of the line in each lead of a window, and how far it stands above twice its surroundings, microvolts.
    pub fn measure(&self, frames: &[Frame]) -> Line {
        let mut amplitude = [[0f32; LEADS]; SECONDS];
        let mut excess = [[0f32; LEADS]; SECONDS];
        let mut folded = [[0f32; LEADS]; SECOND];
        for (second, block) in frames.chunks_exact(SECOND).take(SECONDS).enumerate() {
            fold(block, &mut folded[..self.period]);
            let [line, below, above] = [0, 1, 2].map(|k| correlate(&folded[..self.period], &self.tables[k]));
            amplitude[second] = line;
            excess[second] = std::array::from_fn(|l| line[l] - ABOVE * below[l].max(above[l]));
        }
        Line {
            amplitude_uv: median(&mut amplitude),
            excess_uv: median(&mut excess),
        }
    }
}

/// A line as it was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Line {
    /// Microvolts from zero to peak.
    pub amplitude_uv: Frame,
    /// Above twice its surroundings, microvolts; negative where there is no line.
    pub excess_uv: Frame,
}

/// The line to take out: the one that the third-largest lead shows most, where that is at least `uv_min`.
pub fn strongest(probes: &[Probe], frames: &[Frame], uv_min: f32) -> Option<(usize, Line)> {
    let third = |line: &Line| {
        let mut sorted = line.excess_uv;
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        sorted[LEADS_MIN - 1]
    };
    let lines = probes.iter().map(|probe| probe.measure(frames)).enumerate();
    lines
        .map(|(index, line)| (third(&line), index, line))
        .filter(|(uv, ..)| *uv >= uv_min)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, index, line)| (index, line))
}

fn median(seconds: &mut [Frame; SECONDS]) -> Frame {
    std::array::from_fn(|l| {
        seconds.sort_unstable_by(|a, b| a[l].total_cmp(&b[l]));
        seconds[SECONDS / 2][l]
    })
}

wide! {
    /// Sums the block's periods.
    fn fold(block: &[Frame], folded: &mut [Frame]) {
        folded.fill([0.0; LEADS]);
        for period in block.chunks_exact(folded.len()) {
            for (sum, frame) in folded.iter_mut().zip(period) {
                for l in 0..LEADS {
                    sum[l] += frame[l];
                }
            }
        }
    }

    /// Amplitude of one frequency in each lane of a folded second.
    fn correlate(folded: &[Frame], table: &[[f32; 2]]) -> Frame {
        let (mut re, mut im) = ([0f32; LEADS], [0f32; LEADS]);
        for (frame, [cos, sin]) in folded.iter().zip(table) {
            for l in 0..LEADS {
                re[l] += frame[l] * cos;
                im[l] += frame[l] * sin;
            }
        }
        std::array::from_fn(|l| 2.0 / SECOND as f32 * (re[l] * re[l] + im[l] * im[l]).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsp::testing::{beat_train, white_noise};

    fn hum(hz: f64, uv: f32) -> Vec<Frame> {
        let (beats, _) = beat_train(75.0);
        let at = |i: usize| uv * (std::f64::consts::TAU * hz * i as f64 / SAMPLE_RATE_HZ + 1.0).sin() as f32;
        beats.iter().enumerate().map(|(i, v)| [v + at(i); LEADS]).collect()
    }

    fn found(frames: &[Frame]) -> Option<(usize, Line)> {
        strongest(&[Probe::new(50.0), Probe::new(60.0)], frames, 15.0)
    }

    #[test]
    fn a_line_is_found_with_its_frequency_and_size_even_when_the_grid_is_slow() {
        for (hz, index) in [(50.0, 0), (60.0, 1), (49.8, 0), (60.2, 1)] {
            let (at, line) = found(&hum(hz, 80.0)).unwrap();
            assert_eq!(at, index, "{hz} Hz");
            assert!((line.amplitude_uv[5] - 80.0).abs() < 8.0, "{hz} Hz: {line:?}");
        }
    }

    #[test]
    fn beats_and_white_noise_have_no_line() {
        assert_eq!(found(&hum(50.0, 0.0)), None);
        let noise: Vec<f32> = white_noise(5000).collect();
        assert_eq!(
            found(&noise.iter().map(|v| [150.0 * v; LEADS]).collect::<Vec<_>>()),
            None
        );
    }

    #[test]
    fn a_railway_line_needs_no_multiple_of_five() {
        let probes = [Probe::new(50.0 / 3.0)];
        let (_, line) = strongest(&probes, &hum(50.0 / 3.0, 100.0), 15.0).unwrap();
        assert!((line.amplitude_uv[0] - 100.0).abs() < 20.0, "{line:?}");
    }
}
