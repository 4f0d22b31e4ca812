//! The mains line: which frequency, how large in each lead, and how much a notch left.
//!
//! Place: before the filter (is there a line to take out?) and after it (the residual). Invariant: only a line counts: it must
//! stand above its surroundings in most seconds, so QRS complexes and broad-band noise are none.
//! Method: each second is correlated with the line and with its neighbours 5 Hz below and above; the amplitude is the median
//! over the seconds, so a grid that is off by some tenths of a hertz still reads true (at 0.3 Hz by 14 % low). What the filter
//! left is correlated over 200 ms instead, so a line 0.8 Hz off still reads 96 %, and so is the second harmonic.

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
/// Distance of the neighbours behind the filter, hertz: two widths of what 200 ms resolve.
const RESIDUAL_ASIDE_HZ: f64 = 10.0;
/// Amplitude below which nothing is told behind the filter, microvolts.
const RESIDUAL_UV_MIN: f32 = 20.0;
/// Stretches of 200 ms that are measured behind the filter: of eight the first and the sixth, so that no steady rhythm has its QRS
/// in all of them.
const BLOCKS: usize = 12;
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
    /// The line and its second harmonic, as they are looked for behind the filter.
    left: [Tone; 2],
}

impl Probe {
    /// A probe for one mains frequency.
    pub fn new(hz: f64) -> Self {
        let period = if hz.rem_euclid(ASIDE_HZ) == 0.0 { FOLD } else { SECOND };
        Self {
            hz,
            period,
            tables: [hz, hz - ASIDE_HZ, hz + ASIDE_HZ].map(|hz| table(hz, period)),
            left: [Tone::new(hz), Tone::new(2.0 * hz)],
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

/// Measures every probe's line.
pub fn lines(probes: &[Probe], frames: &[Frame], lines: &mut Vec<Line>) {
    lines.clear();
    lines.extend(probes.iter().map(|probe| probe.measure(frames)));
}

/// The line that any lead shows most.
pub fn loudest(lines: &[Line]) -> Option<usize> {
    let most = |line: &Line| line.excess_uv.into_iter().fold(f32::MIN, f32::max);
    (0..lines.len()).max_by(|&a, &b| most(&lines[a]).total_cmp(&most(&lines[b])))
}

/// The line to take out: the one that the third-largest lead shows most, where that is at least `uv_min`.
pub fn to_notch(lines: &[Line], uv_min: f32) -> Option<usize> {
    let third = |line: &Line| {
        let mut sorted = line.excess_uv;
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        sorted[LEADS_MIN - 1]
    };
    let found = (0..lines.len()).map(|index| (third(&lines[index]), index));
    found
        .filter(|(uv, _)| *uv >= uv_min)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, index)| index)
}

/// Amplitude of the largest line or second harmonic that a filtered window has, in each lead; 0 where none stands above twice its
/// surroundings, microvolts.
pub fn residual(probes: &[Probe], frames: &[Frame]) -> Frame {
    let mut left = [0f32; LEADS];
    for tone in probes.iter().flat_map(|probe| &probe.left) {
        let amplitude = tone.amplitude(frames, 0);
        if amplitude.iter().all(|&uv| uv < RESIDUAL_UV_MIN) {
            continue;
        }
        let (below, above) = (tone.amplitude(frames, 1), tone.amplitude(frames, 2));
        for lead in 0..LEADS {
            if amplitude[lead] > ABOVE * below[lead].max(above[lead]) {
                left[lead] = left[lead].max(amplitude[lead]);
            }
        }
    }
    left
}

/// A frequency and its neighbours, correlated over [`FOLD`] samples.
#[derive(Debug)]
struct Tone {
    tables: [Vec<[f32; 2]>; 3],
}

impl Tone {
    fn new(hz: f64) -> Self {
        Self {
            tables: [hz, hz - RESIDUAL_ASIDE_HZ, hz + RESIDUAL_ASIDE_HZ].map(|hz| table(hz, FOLD)),
        }
    }

    /// Median over a quarter of the stretches of 200 ms of one table's amplitude, in each lead.
    fn amplitude(&self, frames: &[Frame], table: usize) -> Frame {
        let mut blocks = [[0f32; LEADS]; BLOCKS];
        for (at, block) in blocks.iter_mut().enumerate() {
            let first = FOLD * (4 * at + at % 2);
            *block = correlate(&frames[first..first + FOLD], &self.tables[table]);
        }
        median(&mut blocks).map(|uv| uv * (SECOND / FOLD) as f32)
    }
}

/// Cosine and sine of a frequency over `length` samples.
fn table(hz: f64, length: usize) -> Vec<[f32; 2]> {
    let turn = |i: usize| (hz * i as f64 / SAMPLE_RATE_HZ).fract() as f32 * TAU;
    (0..length).map(|i| [turn(i).cos(), turn(i).sin()]).collect()
}

/// The upper median of each lane.
fn median(rows: &mut [Frame]) -> Frame {
    std::array::from_fn(|l| {
        rows.sort_unstable_by(|a, b| a[l].total_cmp(&b[l]));
        rows[rows.len() / 2][l]
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

    fn mains() -> [Probe; 2] {
        [50.0, 60.0].map(Probe::new)
    }

    fn found_by(probes: &[Probe], frames: &[Frame]) -> Option<(usize, Line)> {
        let mut all = Vec::new();
        lines(probes, frames, &mut all);
        to_notch(&all, 15.0).map(|index| (index, all[index]))
    }

    fn found(frames: &[Frame]) -> Option<(usize, Line)> {
        found_by(&mains(), frames)
    }

    #[test]
    fn a_line_behind_the_filter_is_seen_off_its_frequency_and_in_its_second_harmonic() {
        for hz in [50.0, 49.2, 60.5, 100.0, 99.0, 120.0] {
            let left = residual(&mains(), &hum(hz, 100.0));
            assert!((left[3] - 100.0).abs() < 12.0, "{hz} Hz: {left:?}");
        }
    }

    #[test]
    fn beats_and_broad_noise_leave_no_line_behind_the_filter() {
        assert_eq!(residual(&mains(), &hum(50.0, 0.0)), [0.0; LEADS]);
        let noise: Vec<Frame> = white_noise(5000).map(|v| [100.0 * v; LEADS]).collect();
        assert_eq!(residual(&mains(), &noise), [0.0; LEADS]);
    }

    #[test]
    fn a_line_in_two_leads_is_measured_and_not_notched() {
        let mut frames = hum(50.0, 0.0);
        for (frame, with) in frames.iter_mut().zip(hum(50.0, 150.0)) {
            frame[6..8].copy_from_slice(&with[6..8]);
        }
        assert_eq!(found(&frames), None);
        let mut all = Vec::new();
        lines(&mains(), &frames, &mut all);
        let line = all[loudest(&all).unwrap()];
        assert!((line.amplitude_uv[7] - 150.0).abs() < 10.0, "{line:?}");
        assert!(residual(&mains(), &frames)[8] == 0.0 && residual(&mains(), &frames)[6] > 140.0);
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
        let (_, line) = found_by(&probes, &hum(50.0 / 3.0, 100.0)).unwrap();
        assert!((line.amplitude_uv[0] - 100.0).abs() < 20.0, "{line:?}");
    }
}
