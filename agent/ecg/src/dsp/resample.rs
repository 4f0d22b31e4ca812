//! Polyphase resampling to 500 Hz on the absolute sample grid.
//!
//! Place: between a device's own rate and `window` or `wfdb`. Invariant: output sample t is a function of the source samples
//! around instant t alone, so any chunking gives the same bits; 500 Hz is the identity; a missing sample (NaN) makes every
//! output within the kernel's reach missing. Where the source begins and ends its end sample holds, where scipy takes zeros: the
//! first and last outputs within the kernel's reach differ from scipy's, by up to 203 uV on PTB-XL recordings.
//! Source: the kernel is that of scipy.signal.resample_poly: a sinc cut at the lower Nyquist rate under a Kaiser taper of
//! beta 5, ten zero crossings on each side.

use std::ops::Range;

use crate::SAMPLE_RATE_HZ;

/// Zero crossings of the sinc on each side.
const CROSSINGS: f64 = 10.0;
const KAISER_BETA: f64 = 5.0;
/// Phases that are tabulated at most.
const PHASES_MAX: i128 = 2000;
/// Phases that are tabulated for a rate with more of them, of which each output takes the two next to its own: a line between them
/// is off by 1/8 of the square of a step times the signal's second difference, below 0.01 uV for 5 mV at any frequency.
const PHASES_BETWEEN: i128 = 1000;
/// Steps between two zero crossings at which the prototype's gain is summed, at most.
const STEPS_MAX: i128 = 1000;

/// Source samples that an output needs on each side of its instant, at `rate_hz`.
pub fn reach(rate_hz: f64) -> usize {
    if rate_hz == SAMPLE_RATE_HZ {
        return 0;
    }
    (CROSSINGS * (rate_hz / SAMPLE_RATE_HZ).max(1.0)).ceil() as usize + 1
}

/// A whole recording at 500 Hz: `ceil(len * 500 / rate)` samples.
pub fn to_500_hz(samples: &[f32], rate_hz: f64) -> Vec<f32> {
    Resampler::new(rate_hz).whole(samples)
}

/// Samples of a range of which `source` holds some from `start` on; beyond it its first and last sample hold.
fn held(source: &[f32], start: i64, range: Range<i64>) -> Vec<f32> {
    let length = (range.end - range.start).max(0);
    let within = |index: i64| (index - start).clamp(0, source.len() as i64) as usize;
    let inner = within(range.start)..within(range.end).max(within(range.start));
    let mut out = Vec::with_capacity(length as usize);
    out.resize((start - range.start).clamp(0, length) as usize, source[0]);
    out.extend_from_slice(&source[inner]);
    out.resize(length as usize, source[source.len() - 1]);
    out
}

/// Where the device's sample grid and the 500 Hz grid meet; both start at the same instant.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// `down / up` is `rate / 500`.
    down: i128,
    up: i128,
}

impl Grid {
    /// Rates are taken to a millionth of a hertz.
    pub fn new(rate_hz: f64) -> Self {
        let (down, up) = lowest_terms((rate_hz * 1e6).round() as i128, (SAMPLE_RATE_HZ * 1e6) as i128);
        Self { down, up }
    }

    /// Last device sample at or before a 500 Hz sample.
    pub fn source_at_or_before(&self, sample: i64) -> i64 {
        (i128::from(sample) * self.down).div_euclid(self.up) as i64
    }

    /// First device sample at or after a 500 Hz sample.
    pub fn source_at_or_after(&self, sample: i64) -> i64 {
        -((-i128::from(sample) * self.down).div_euclid(self.up)) as i64
    }

    /// Last 500 Hz sample at or before a device sample.
    pub fn sample_at_or_before(&self, source: i64) -> i64 {
        (i128::from(source) * self.up).div_euclid(self.down) as i64
    }

    /// First 500 Hz sample at or after a device sample.
    pub fn sample_at_or_after(&self, source: i64) -> i64 {
        -((-i128::from(source) * self.up).div_euclid(self.down)) as i64
    }
}

fn lowest_terms(a: i128, b: i128) -> (i128, i128) {
    let (mut x, mut y) = (a.max(1), b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a.max(1) / x, b / x)
}

/// Kernel weights of one device rate, by phase.
pub struct Resampler {
    grid: Grid,
    /// Weights at even steps from one source sample to the next, both included.
    phases: Vec<Vec<f64>>,
    /// Steps between two source samples.
    steps: i128,
    rate_hz: f64,
    gain: f64,
}

impl Resampler {
    pub fn new(rate_hz: f64) -> Self {
        let grid = Grid::new(rate_hz);
        let mut resampler = Self {
            grid,
            phases: Vec::new(),
            steps: if grid.up <= PHASES_MAX { grid.up } else { PHASES_BETWEEN },
            rate_hz,
            gain: 1.0,
        };
        // scipy scales the whole prototype to unit gain
        let steps = grid.down.max(grid.up).min(STEPS_MAX) as i64;
        let reach = CROSSINGS as i64 * steps;
        let sum: f64 = (-reach..=reach).map(|n| prototype(n as f64 / steps as f64)).sum();
        resampler.gain = steps as f64 / sum;
        resampler.phases = (0..=resampler.steps)
            .map(|p| resampler.weights(p as f64 / resampler.steps as f64))
            .collect();
        resampler
    }

    /// A whole recording at 500 Hz.
    pub fn whole(&self, samples: &[f32]) -> Vec<f32> {
        self.at_grid(samples, 0, 0..self.grid.sample_at_or_after(samples.len() as i64))
    }

    /// Samples `range` of the 500 Hz grid from `source`, whose first sample has the device index `start`.
    ///
    /// Source samples outside of the slice are taken as its nearest end; an empty slice gives NaN.
    pub fn at_grid(&self, source: &[f32], start: i64, range: Range<i64>) -> Vec<f32> {
        if source.is_empty() {
            return range.map(|_| f32::NAN).collect();
        }
        if self.rate_hz == SAMPLE_RATE_HZ {
            return held(source, start, range);
        }
        let reach = reach(self.rate_hz) as i64;
        let mut place = self.place(range.start);
        let mut out = Vec::with_capacity((range.end - range.start).max(0) as usize);
        for _ in range {
            out.push(self.output(source, place.centre - reach - start, &place));
            self.advance(&mut place);
        }
        out
    }

    /// Where output `t` lies among the source samples.
    fn place(&self, t: i64) -> Place {
        let position = i128::from(t) * self.grid.down;
        Place {
            centre: position.div_euclid(self.grid.up) as i64,
            phase: position.rem_euclid(self.grid.up),
        }
    }

    /// On to the next output.
    fn advance(&self, place: &mut Place) {
        place.centre += (self.grid.down / self.grid.up) as i64;
        place.phase += self.grid.down % self.grid.up;
        if place.phase >= self.grid.up {
            place.phase -= self.grid.up;
            place.centre += 1;
        }
    }

    /// One output from the source samples from index `first` on.
    fn output(&self, source: &[f32], first: i64, place: &Place) -> f32 {
        let scaled = place.phase * self.steps;
        let (step, rest) = ((scaled / self.grid.up) as usize, scaled % self.grid.up);
        let at_step = weighted(&self.phases[step], source, first);
        if rest == 0 {
            return at_step as f32;
        }
        let share = rest as f64 / self.grid.up as f64;
        (at_step + share * (weighted(&self.phases[step + 1], source, first) - at_step)) as f32
    }

    /// Weights of the source samples around an instant that lies `offset` after its centre sample.
    fn weights(&self, offset: f64) -> Vec<f64> {
        let reach = reach(self.rate_hz) as i64;
        let scale = 1.0 / (self.rate_hz / SAMPLE_RATE_HZ).max(1.0);
        (-reach..=reach)
            .map(|k| self.gain * scale * prototype((k as f64 - offset) * scale))
            .collect()
    }
}

/// Source sample at or before an output, and how far behind it the output lies, in parts of the grid.
struct Place {
    centre: i64,
    phase: i128,
}

/// Sum of the source samples from index `first` on by their weights; beyond its ends the nearest sample holds.
fn weighted(weights: &[f64], source: &[f32], first: i64) -> f64 {
    let inside = usize::try_from(first)
        .ok()
        .and_then(|first| source.get(first..first + weights.len()));
    match inside {
        Some(samples) => weights.iter().zip(samples).map(|(w, &v)| w * f64::from(v)).sum(),
        None => {
            let at = |index: i64| source[index.clamp(0, source.len() as i64 - 1) as usize];
            weights
                .iter()
                .zip(first..)
                .map(|(w, index)| w * f64::from(at(index)))
                .sum()
        }
    }
}

/// Tapered sinc at `x` zero crossings from its centre.
fn prototype(x: f64) -> f64 {
    let inside = 1.0 - (x / CROSSINGS).powi(2);
    if inside < 0.0 {
        return 0.0;
    }
    let sinc = if x == 0.0 {
        1.0
    } else {
        (std::f64::consts::PI * x).sin() / (std::f64::consts::PI * x)
    };
    sinc * bessel_i0(KAISER_BETA * inside.sqrt()) / bessel_i0(KAISER_BETA)
}

/// Modified Bessel function of the first kind, order 0, by its power series.
fn bessel_i0(x: f64) -> f64 {
    let quarter = x * x / 4.0;
    let (mut term, mut sum) = (1.0, 1.0);
    for k in 1..60 {
        term *= quarter / (k as f64 * k as f64);
        sum += term;
        if term < 1e-17 * sum {
            break;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 3 Hz and a 17 Hz sine, 1 mV each, well inside every rate's band.
    fn signal(t: f64) -> f64 {
        1000.0 * ((6.0 * std::f64::consts::PI * t).sin() + (34.0 * std::f64::consts::PI * t).cos())
    }

    #[test]
    fn every_device_rate_comes_out_within_two_microvolts_of_the_true_signal() {
        for rate in [
            100.0, 125.0, 128.0, 240.0, 250.0, 256.0, 257.0, 300.0, 360.0, 400.0, 1000.0, 249.89,
        ] {
            let source: Vec<f32> = (0..(10.0 * rate) as usize)
                .map(|i| signal(i as f64 / rate) as f32)
                .collect();
            let out = to_500_hz(&source, rate);
            let length = (source.len() as f64 * 500.0 / rate).ceil();
            assert_eq!(out.len(), length as usize, "{rate} Hz: ten seconds stay ten seconds");
            for (t, &got) in out.iter().enumerate().skip(250).take(4400) {
                let error = (f64::from(got) - signal(t as f64 / 500.0)).abs();
                // the kernel's own pass-band ripple is below 2e-3 (scipy's is the same)
                assert!(error < 4.0, "{rate} Hz sample {t}: error {error} uV");
            }
        }
    }

    /// Outputs 500, 671, ... 1355 of scipy 1.17 `resample_poly(x, up, down)` in f64; x is four seconds, rounded to f32, of
    /// 1000 (sin 6 pi t + cos 34 pi t) + 200 sin 62 pi t.
    const SCIPY: [(f64, [f32; 6]); 14] = [
        (100.0, [1000.6505, 434.6784, -180.8685, -651.7677, 679.6219, 1647.4247]),
        (125.0, [1000.6366, 434.3161, -181.5637, -652.4237, 679.9515, 1647.8922]),
        (128.0, [1000.6751, 434.2766, -181.5928, -652.5682, 679.844, 1647.5733]),
        (240.0, [1000.6742, 434.6363, -181.2623, -651.9376, 679.9526, 1647.2374]),
        (250.0, [1000.5175, 434.6201, -181.099, -652.3806, 679.8706, 1_646.941]),
        (256.0, [1000.6751, 434.7746, -181.3189, -652.6708, 679.9764, 1647.0868]),
        (257.0, [1000.6751, 434.8034, -181.5316, -652.6732, 679.3914, 1_647.341]),
        (300.0, [1000.6505, 434.9856, -181.7019, -652.6032, 679.4511, 1647.4247]),
        (360.0, [1000.6742, 435.0625, -181.7745, -652.8962, 679.3148, 1647.7403]),
        (400.0, [1000.6505, 434.5609, -182.2213, -652.9978, 679.5601, 1647.4247]),
        (1000.0, [1000.8294, 434.6595, -181.4058, -652.2874, 679.6039, 1647.1432]),
        (249.89, [1000.6364, 434.6295, -181.4129, -652.0988, 679.3274, 1647.6117]),
        (500.05, [1000.7974, 434.8923, -181.1311, -652.2034, 679.6569, 1647.3341]),
        (999.7, [1001.0896, 434.707, -181.5617, -652.6354, 679.5998, 1647.3707]),
    ];

    #[test]
    fn nominal_and_drifting_rates_agree_with_scipy_within_two_microvolts() {
        use std::f64::consts::PI;
        let signal = |t: f64| 1000.0 * ((6.0 * PI * t).sin() + (34.0 * PI * t).cos()) + 200.0 * (62.0 * PI * t).sin();
        for (rate, expected) in SCIPY {
            let source: Vec<f32> = (0..(4.0 * rate) as usize)
                .map(|i| signal(i as f64 / rate) as f32)
                .collect();
            let out = to_500_hz(&source, rate);
            for (k, want) in expected.into_iter().enumerate() {
                let got = out[500 + 171 * k];
                assert!((got - want).abs() < 2.0, "{rate} Hz: {got} uV, scipy {want}");
            }
        }
    }

    #[test]
    fn a_rate_of_many_phases_comes_within_a_hundredth_of_a_microvolt_of_its_own_weights() {
        for rate in [249.89, 333.33, 500.05, 999.7] {
            // 5 mV near the edge of the band, where a line between two phases is worst
            let source: Vec<f32> = (0..1000)
                .map(|i| 5000.0 * (std::f32::consts::TAU * 0.45 * i as f32).sin())
                .collect();
            let resampler = Resampler::new(rate);
            assert!(resampler.steps < resampler.grid.up, "{rate} Hz has many phases");
            let out = resampler.at_grid(&source, 0, 100..700);
            for (t, got) in (100..700).zip(out) {
                let place = resampler.place(t);
                let own = resampler.weights(place.phase as f64 / resampler.grid.up as f64);
                let want = weighted(&own, &source, place.centre - reach(rate) as i64);
                // f32 itself rounds 5 mV by 0.0003 uV
                assert!(
                    (f64::from(got) - want).abs() < 0.01,
                    "{rate} Hz sample {t}: {got} uV, not {want}"
                );
            }
        }
    }

    #[test]
    fn any_chunk_has_the_bits_of_the_whole() {
        for rate in [125.0, 249.89, 360.0, 1000.0] {
            let source: Vec<f32> = (0..2000).map(|i| signal(i as f64 / rate) as f32).collect();
            let resampler = Resampler::new(rate);
            let whole = resampler.at_grid(&source, 0, 100..600);
            let reach = reach(rate) as i64;
            for from in (100..600).step_by(100) {
                let first = (from as f64 * rate / 500.0).floor() as i64 - reach;
                let last = ((from + 100) as f64 * rate / 500.0).ceil() as i64 + reach;
                let part = &source[first as usize..last as usize];
                let chunk = resampler.at_grid(part, first, from..from + 100);
                assert_eq!(
                    chunk,
                    whole[(from - 100) as usize..from as usize],
                    "{rate} Hz from {from}"
                );
            }
        }
    }

    #[test]
    fn five_hundred_hertz_is_the_identity_and_a_missing_sample_stays_missing() {
        let mut source: Vec<f32> = (0..100).map(|i| i as f32).collect();
        source[50] = f32::NAN;
        let out = Resampler::new(500.0).at_grid(&source, -10, -10..90);
        assert!(out.iter().zip(&source).all(|(a, b)| a.to_bits() == b.to_bits()));
        let up = Resampler::new(250.0).at_grid(&source, 0, 0..200);
        assert!(up[100].is_nan() && up[81].is_nan() && !up[60].is_nan() && !up[130].is_nan());
    }
}
