//! The zero-phase filter chain: gap bridging, high-pass 0.67 Hz, low-pass 150 Hz, mains notch when the line is there.
//!
//! Place: first stage of `dsp::analyse`. Invariant: linear and the same on every lead, so Einthoven's identities survive; a
//! pure function of the context. Forward and backward passes cancel the phase, which keeps ST segments true: a causal
//! 0.67 Hz high-pass moves ST by 0.27 to 0.44 mV, this one by 0.007 to 0.022 mV (ecg-practice 1.1).
//! Source: AHA/ACC/HRS 2007 part I (pass band); Butterworth sections from the biquad crate's cookbook formulas.

use biquad::{Coefficients, Q_BUTTERWORTH_F64, ToHertz, Type};

use crate::{LEADS, SAMPLE_RATE_HZ};

/// One sample of every lead, microvolts.
pub type Frame = [f64; LEADS];

/// Quality factors of the two sections of a fourth-order Butterworth filter.
const Q_FOURTH_ORDER: [f64; 2] = [0.541_196_100_146_197, 1.306_562_964_876_376_5];
const Q_NOTCH: f64 = 30.0;

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

/// Baseline-free and band-limited leads, with the baseline that was removed.
pub struct Filtered {
    /// Filtered samples of the whole context.
    pub frames: Vec<Frame>,
    /// What the high-pass took away.
    pub baseline: Vec<Frame>,
}

/// Filters `frames` (no NaN left in them), each end first extended by `padding` samples of odd reflection so that the filters
/// start settled where there is no context.
pub fn zero_phase(frames: &[Frame], band: &Band, padding: [usize; 2]) -> Filtered {
    let high_passed = both_ways(
        frames,
        &[section(Type::HighPass, band.high_pass_hz, Q_BUTTERWORTH_F64)],
        padding,
    );
    let baseline = frames
        .iter()
        .zip(&high_passed)
        .map(|(x, y)| std::array::from_fn(|l| x[l] - y[l]))
        .collect();
    let mut rest: Vec<_> = Q_FOURTH_ORDER
        .iter()
        .map(|&q| section(Type::LowPass, band.low_pass_hz, q))
        .collect();
    rest.extend(band.notch_hz.map(|hz| section(Type::Notch, hz, Q_NOTCH)));
    Filtered {
        frames: both_ways(&high_passed, &rest, padding),
        baseline,
    }
}

fn section(kind: Type<f64>, hz: f64, q: f64) -> Coefficients<f64> {
    Coefficients::from_params(kind, SAMPLE_RATE_HZ.hz(), hz.hz(), q).expect("corners lie below 250 Hz by validation")
}

/// Runs the sections over the odd extension of `frames`, forwards and then backwards.
fn both_ways(frames: &[Frame], sections: &[Coefficients<f64>], padding: [usize; 2]) -> Vec<Frame> {
    let Some((first, last)) = frames.first().zip(frames.last()) else {
        return Vec::new();
    };
    let [before, after] = padding.map(|pad| pad.min(frames.len() - 1));
    let reflect = |edge: &Frame, inner: &Frame| std::array::from_fn(|l| 2.0 * edge[l] - inner[l]);
    let mut padded: Vec<Frame> = Vec::with_capacity(before + frames.len() + after);
    padded.extend((1..=before).rev().map(|i| reflect(first, &frames[i])));
    padded.extend_from_slice(frames);
    padded.extend((1..=after).map(|i| reflect(last, &frames[frames.len() - 1 - i])));
    run(padded.iter_mut(), sections);
    run(padded.iter_mut().rev(), sections);
    padded.drain(..before);
    padded.truncate(frames.len());
    padded
}

/// Runs all sections, each a transposed direct form II over all leads at once, started in the steady state of its first frame.
fn run<'a>(frames: impl Iterator<Item = &'a mut Frame>, sections: &[Coefficients<f64>]) {
    let mut states: Vec<[Frame; 2]> = Vec::with_capacity(sections.len());
    for frame in frames {
        for (index, c) in sections.iter().enumerate() {
            if states.len() == index {
                states.push(settled(c, frame));
            }
            let [s1, s2] = &mut states[index];
            for l in 0..LEADS {
                let x = frame[l];
                let y = c.b0 * x + s1[l];
                s1[l] = c.b1 * x - c.a1 * y + s2[l];
                s2[l] = c.b2 * x - c.a2 * y;
                frame[l] = y;
            }
        }
    }
}

/// State of a section that has seen `frame` for ever.
fn settled(c: &Coefficients<f64>, frame: &Frame) -> [Frame; 2] {
    let gain = (c.b0 + c.b1 + c.b2) / (1.0 + c.a1 + c.a2);
    [
        frame.map(|x| (gain - c.b0) * x),
        frame.map(|x| (c.b2 - c.a2 * gain) * x),
    ]
}

/// Bridges missing samples of one lead with straight lines, ends with the nearest sample, an empty lead with zeros.
///
/// Returns the longest gap that was bridged inside `window`.
pub fn bridge(samples: &mut [f64], window: std::ops::Range<usize>) -> usize {
    let mut longest = 0;
    let mut i = 0;
    while i < samples.len() {
        if samples[i].is_finite() {
            i += 1;
            continue;
        }
        let end = (i..samples.len())
            .find(|&k| samples[k].is_finite())
            .unwrap_or(samples.len());
        let before = i.checked_sub(1).map(|k| samples[k]);
        let after = samples.get(end).copied();
        let (from, to) = (before.or(after).unwrap_or(0.0), after.or(before).unwrap_or(0.0));
        let span = (end - i + 1) as f64;
        for (k, sample) in samples[i..end].iter_mut().enumerate() {
            *sample = from + (to - from) * (k + 1) as f64 / span;
        }
        longest = longest.max(end.min(window.end).saturating_sub(i.max(window.start)));
        i = end;
    }
    longest
}

/// Amplitude of the component at `hz` in each lead, microvolts peak, by correlation over whole periods.
pub fn line_amplitude(frames: &[Frame], hz: f64) -> Frame {
    let (mut re, mut im) = ([0.0; LEADS], [0.0; LEADS]);
    let (turn_sin, turn_cos) = (std::f64::consts::TAU * hz / SAMPLE_RATE_HZ).sin_cos();
    // a phasor turned by multiplication: its error after 5000 turns is below 1e-12
    let (mut sin, mut cos) = (0.0, 1.0);
    for frame in frames {
        for l in 0..LEADS {
            re[l] += frame[l] * cos;
            im[l] += frame[l] * sin;
        }
        (sin, cos) = (sin * turn_cos + cos * turn_sin, cos * turn_cos - sin * turn_sin);
    }
    std::array::from_fn(|l| 2.0 * re[l].hypot(im[l]) / frames.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(f: impl Fn(f64) -> f64) -> Vec<Frame> {
        (0..10_000).map(|i| [f(i as f64 / SAMPLE_RATE_HZ); LEADS]).collect()
    }

    fn band(notch_hz: Option<f64>) -> Band {
        Band {
            high_pass_hz: 0.67,
            low_pass_hz: 150.0,
            notch_hz,
        }
    }

    #[test]
    fn five_seconds_of_context_make_the_extension_immaterial() {
        let input = frames(|t| 900.0 * (std::f64::consts::TAU * 0.3 * t).sin() + 400.0 * (t * t).sin());
        let (with, without) = (
            zero_phase(&input, &band(None), [2500; 2]),
            zero_phase(&input, &band(None), [0; 2]),
        );
        for (a, b) in with.frames[2500..7500].iter().zip(&without.frames[2500..7500]) {
            assert!((a[0] - b[0]).abs() < 0.02, "{} {}", a[0], b[0]);
        }
    }

    #[test]
    fn the_pass_band_passes_without_delay_and_drift_goes() {
        let tone = |t: f64| 500.0 * (std::f64::consts::TAU * 10.0 * t).sin();
        let out = zero_phase(
            &frames(|t| tone(t) + 800.0 + 300.0 * (std::f64::consts::TAU * 0.1 * t).sin()),
            &band(None),
            [2500; 2],
        );
        for (i, frame) in out.frames.iter().enumerate().skip(2500).take(5000) {
            let error = (frame[3] - tone(i as f64 / SAMPLE_RATE_HZ)).abs();
            assert!(error < 5.0, "sample {i}: {error} uV");
        }
    }

    #[test]
    fn the_notch_removes_the_line_and_its_amplitude_is_measured() {
        let hum = frames(|t| 80.0 * (std::f64::consts::TAU * 50.0 * t + 1.0).sin());
        assert!((line_amplitude(&hum[..5000], 50.0)[0] - 80.0).abs() < 0.5);
        assert!(line_amplitude(&hum[..5000], 60.0)[0] < 1.0);
        let out = zero_phase(&hum, &band(Some(50.0)), [2500; 2]);
        assert!(out.frames[3000..7000].iter().all(|f| f[0].abs() < 1.0));
    }

    #[test]
    fn einthovens_identity_survives() {
        let mut input = frames(|t| 700.0 * (std::f64::consts::TAU * 7.0 * t).sin());
        for (i, frame) in input.iter_mut().enumerate() {
            frame[0] *= 0.3 + (i % 97) as f64 * 0.01;
            frame[2] = frame[1] - frame[0];
        }
        let out = zero_phase(&input, &band(Some(60.0)), [2500; 2]);
        assert!(out.frames.iter().all(|f| (f[0] + f[2] - f[1]).abs() < 1e-6));
    }

    #[test]
    fn gaps_are_bridged_and_measured_inside_the_window_only() {
        let mut samples = vec![f64::NAN, 1.0, f64::NAN, f64::NAN, 4.0, f64::NAN];
        assert_eq!(bridge(&mut samples, 1..5), 2);
        assert_eq!(samples, [1.0, 1.0, 2.0, 3.0, 4.0, 4.0]);
        let mut empty = vec![f64::NAN; 4];
        assert_eq!(bridge(&mut empty, 0..4), 4);
        assert_eq!(empty, [0.0; 4]);
    }
}
