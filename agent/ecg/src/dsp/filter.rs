//! The zero-phase filter chain: high-pass 0.67 Hz, low-pass 150 Hz, mains notch when the line is there.
//!
//! Place: after `repair`, on the window with 5 s on each side. Invariant: linear and the same on every lead, so Einthoven's
//! identities survive; a pure function of the context. Forward and backward passes cancel the phase, which keeps ST segments
//! true: a causal 0.67 Hz high-pass moves ST by 0.27 to 0.44 mV, this one by 0.007 to 0.022 mV (ecg-practice 1.1).
//! The high-pass needs all of the context and keeps its state in f64; the low-pass settles within `LOW_PASS_MARGIN` and the
//! notch within `NOTCH_MARGIN`, both in f32 (their rounding stays below 0.01 uV).
//! Source: AHA/ACC/HRS 2007 part I (pass band); Butterworth sections from the biquad crate's cookbook formulas.

use std::ops::{Add, Mul, Sub};

use biquad::{Coefficients, Q_BUTTERWORTH_F64, ToHertz, Type};

use super::lanes::{Frame, wide};
use crate::{CONTEXT_SAMPLES, LEADS, SAMPLE_RATE_HZ, SEGMENT_SAMPLES};

/// Frames of a window with full context on both sides.
pub const FRAMES: usize = SEGMENT_SAMPLES + 2 * CONTEXT_SAMPLES;
/// The window within them.
pub const WINDOW: std::ops::Range<usize> = CONTEXT_SAMPLES..CONTEXT_SAMPLES + SEGMENT_SAMPLES;

/// Quality factors of the two sections of a fourth-order Butterworth filter.
const Q_FOURTH_ORDER: [f64; 2] = [0.541_196_100_146_197, 1.306_562_964_876_376_5];
const Q_NOTCH: f64 = 30.0;
/// Samples around the window that the low-pass runs over: its slowest pole has decayed to 1e-9.
const LOW_PASS_MARGIN: usize = 100;
/// The same for the notch, whose envelope falls by e in 95 samples: 3e-5 of a line is left.
const NOTCH_MARGIN: usize = 1000;

/// What passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// Corner of the second-order Butterworth high-pass.
    pub high_pass_hz: f64,
    /// Corner of the fourth-order Butterworth low-pass.
    pub low_pass_hz: f64,
    /// Centre of the notch, where there is a line to take out.
    pub notch_hz: Option<f64>,
}

/// Coefficients of one band, made once and kept as long as the band stays.
#[derive(Debug)]
pub struct Plan {
    band: Band,
    high_pass: [Section<f64>; 1],
    low_pass: [Section<f32>; 2],
    notch: Option<Section<f32>>,
}

impl Plan {
    /// The filters of a band.
    pub fn new(band: Band) -> Self {
        let low_pass = |q| Section::new(Type::LowPass, band.low_pass_hz, q);
        Self {
            band,
            high_pass: [Section::new(Type::HighPass, band.high_pass_hz, Q_BUTTERWORTH_F64)],
            low_pass: Q_FOURTH_ORDER.map(low_pass),
            notch: band.notch_hz.map(|hz| Section::new(Type::Notch, hz, Q_NOTCH)),
        }
    }

    /// The band that it was made for.
    pub fn band(&self) -> &Band {
        &self.band
    }
}

/// Filters [`FRAMES`] frames without NaN into `out`, of which [`WINDOW`] is valid afterwards.
///
/// Returns each lead's baseline inside the window, peak to peak, microvolts.
pub fn zero_phase(frames: &[Frame], out: &mut Vec<Frame>, plan: &Plan) -> Frame {
    out.resize(frames.len(), [0.0; LEADS]);
    let margin = if plan.notch.is_some() {
        NOTCH_MARGIN
    } else {
        LOW_PASS_MARGIN
    };
    let near = WINDOW.start - margin..WINDOW.end + margin;
    high_pass(frames, out, near.start, &plan.high_pass);
    let baseline_uv = baseline_range(&frames[WINDOW], &out[WINDOW]);
    let near = &mut out[near];
    match plan.notch {
        Some(notch) => low_pass_and_notch(near, &[plan.low_pass[0], plan.low_pass[1], notch]),
        None => low_pass(near, &plan.low_pass),
    }
    baseline_uv
}

wide! {
    /// Forwards over all frames, backwards down to `start`.
    fn high_pass(frames: &[Frame], out: &mut [Frame], start: usize, sections: &[Section<f64>; 1]) {
        run(frames.iter().copied().zip(out.iter_mut()), sections);
        run(in_place(&mut out[start..]).rev(), sections);
    }

    fn low_pass(frames: &mut [Frame], sections: &[Section<f32>; 2]) {
        run(in_place(frames), sections);
        run(in_place(frames).rev(), sections);
    }

    fn low_pass_and_notch(frames: &mut [Frame], sections: &[Section<f32>; 3]) {
        run(in_place(frames), sections);
        run(in_place(frames).rev(), sections);
    }

    /// Peak to peak of what the high-pass took away.
    fn baseline_range(raw: &[Frame], high_passed: &[Frame]) -> Frame {
        let (mut low, mut high) = ([f32::MAX; LEADS], [f32::MIN; LEADS]);
        for (x, y) in raw.iter().zip(high_passed) {
            for l in 0..LEADS {
                let v = x[l] - y[l];
                low[l] = if v < low[l] { v } else { low[l] };
                high[l] = if v > high[l] { v } else { high[l] };
            }
        }
        std::array::from_fn(|l| high[l] - low[l])
    }
}

fn in_place(frames: &mut [Frame]) -> impl DoubleEndedIterator<Item = (Frame, &mut Frame)> {
    frames.iter_mut().map(|frame| (*frame, frame))
}

/// Runs all sections, each a transposed direct form II over all leads at once, from a frame to its place, started in the steady
/// state of the first.
#[inline(always)]
fn run<'a, const N: usize, R: Real>(frames: impl Iterator<Item = (Frame, &'a mut Frame)>, sections: &[Section<R>; N]) {
    let mut frames = frames.peekable();
    let Some((first, _)) = frames.peek() else { return };
    let mut level: [R; LEADS] = first.map(R::of);
    let mut states = [[[R::of(0.0); LEADS]; 2]; N];
    for (c, [s1, s2]) in sections.iter().zip(&mut states) {
        for l in 0..LEADS {
            let y = c.gain * level[l];
            s1[l] = y - c.b[0] * level[l];
            s2[l] = c.b[2] * level[l] - c.a[1] * y;
            level[l] = y;
        }
    }
    for (frame, out) in frames {
        let mut x: [R; LEADS] = frame.map(R::of);
        for (c, [s1, s2]) in sections.iter().zip(&mut states) {
            for l in 0..LEADS {
                let y = c.b[0] * x[l] + s1[l];
                s1[l] = c.b[1] * x[l] - c.a[0] * y + s2[l];
                s2[l] = c.b[2] * x[l] - c.a[1] * y;
                x[l] = y;
            }
        }
        *out = x.map(R::to_f32);
    }
}

/// A second-order section: numerator, denominator without its leading 1, gain of a constant.
#[derive(Clone, Copy, Debug)]
struct Section<R> {
    b: [R; 3],
    a: [R; 2],
    gain: R,
}

impl<R: Real> Section<R> {
    fn new(kind: Type<f64>, hz: f64, q: f64) -> Self {
        let c = Coefficients::from_params(kind, SAMPLE_RATE_HZ.hz(), hz.hz(), q)
            .expect("corners lie below 250 Hz by validation");
        Self {
            b: [c.b0, c.b1, c.b2].map(R::rounded),
            a: [c.a1, c.a2].map(R::rounded),
            gain: R::rounded((c.b0 + c.b1 + c.b2) / (1.0 + c.a1 + c.a2)),
        }
    }
}

/// The two float types that sections run in.
trait Real: Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> {
    fn of(v: f32) -> Self;
    fn rounded(v: f64) -> Self;
    fn to_f32(self) -> f32;
}

impl Real for f32 {
    fn of(v: f32) -> Self {
        v
    }
    fn rounded(v: f64) -> Self {
        v as f32
    }
    fn to_f32(self) -> f32 {
        self
    }
}

impl Real for f64 {
    fn of(v: f32) -> Self {
        f64::from(v)
    }
    fn rounded(v: f64) -> Self {
        v
    }
    fn to_f32(self) -> f32 {
        self as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(f: impl Fn(f64) -> f64) -> Vec<Frame> {
        (0..FRAMES)
            .map(|i| [f(i as f64 / SAMPLE_RATE_HZ) as f32; LEADS])
            .collect()
    }

    fn filtered(input: &[Frame], notch_hz: Option<f64>) -> Vec<Frame> {
        let band = Band {
            high_pass_hz: 0.67,
            low_pass_hz: 150.0,
            notch_hz,
        };
        let mut out = Vec::new();
        zero_phase(input, &mut out, &Plan::new(band));
        out[WINDOW].to_vec()
    }

    #[test]
    fn five_seconds_of_context_make_its_ends_immaterial() {
        let input = frames(|t| 900.0 * (std::f64::consts::TAU * 0.3 * t).sin() + 400.0 * (t * t).sin());
        let mut other = input.clone();
        // another start and end of the context: a step of 1 mV in its first and last tenth of a second
        other[..50].iter_mut().for_each(|f| f[0] += 1000.0);
        other[FRAMES - 50..].iter_mut().for_each(|f| f[0] += 1000.0);
        for (a, b) in filtered(&input, None).iter().zip(&filtered(&other, None)) {
            assert!((a[0] - b[0]).abs() < 0.02, "{} {}", a[0], b[0]);
        }
    }

    #[test]
    fn the_pass_band_passes_without_delay_and_drift_goes() {
        let tone = |t: f64| 500.0 * (std::f64::consts::TAU * 10.0 * t).sin();
        let out = filtered(
            &frames(|t| tone(t) + 800.0 + 300.0 * (std::f64::consts::TAU * 0.1 * t).sin()),
            None,
        );
        for (i, frame) in out.iter().enumerate() {
            let error = (f64::from(frame[3]) - tone((i + CONTEXT_SAMPLES) as f64 / SAMPLE_RATE_HZ)).abs();
            assert!(error < 5.0, "sample {i}: {error} uV");
        }
    }

    #[test]
    fn the_notch_removes_the_line() {
        let hum = frames(|t| 80.0 * (std::f64::consts::TAU * 50.0 * t + 1.0).sin());
        assert!(filtered(&hum, Some(50.0)).iter().all(|f| f[0].abs() < 1.0));
        assert!(filtered(&hum, None).iter().any(|f| f[0] > 70.0));
    }

    #[test]
    fn einthovens_identity_survives() {
        let mut input = frames(|t| 700.0 * (std::f64::consts::TAU * 7.0 * t).sin());
        for (i, frame) in input.iter_mut().enumerate() {
            frame[0] *= 0.3 + (i % 97) as f32 * 0.01;
            frame[2] = frame[1] - frame[0];
        }
        let out = filtered(&input, Some(60.0));
        assert!(out.iter().all(|f| (f[0] + f[2] - f[1]).abs() < 0.01));
    }

    /// A deep S wave of 2 mV and 80 ms, level before and after: the chain must not bend the level after it.
    #[test]
    fn st_behind_a_deep_s_wave_moves_less_than_25_microvolts() {
        for rr in [0.5, 0.8, 1.2] {
            let train = frames(|t| {
                let x = t % rr - 0.2;
                let bump =
                    |centre: f64, width: f64, height: f64| height * (-((x - centre) / width).powi(2) / 2.0).exp();
                bump(0.0, 0.010, 300.0) + bump(0.035, 0.014, -2000.0)
            });
            let out = filtered(&train, None);
            let beats = (0..12).map(|k| ((k as f64 * rr + 0.2) * SAMPLE_RATE_HZ) as usize);
            for r in beats.filter(|r| WINDOW.contains(r) && r + 80 < WINDOW.end && r - 50 > WINDOW.start) {
                let at = |offset: i64| out[(r as i64 - WINDOW.start as i64 + offset) as usize][0];
                // level before QRS and 60 ms after the end of S
                let shift = at(70) - at(-40);
                assert!(shift.abs() < 25.0, "RR {rr} s: ST shifted by {shift} uV");
            }
        }
    }
}
