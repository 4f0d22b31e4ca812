//! Synthetic beats for the tests of this module.

use super::lanes::Frame;
use crate::window::Context;
use crate::{LEADS, SEGMENT_SAMPLES};

/// Ten seconds of P-QRS-T beats at `bpm`, microvolts, and the R peaks' indices.
pub fn beat_train(bpm: f64) -> (Vec<f32>, Vec<usize>) {
    let rr = 500.0 * 60.0 / bpm;
    let squeeze = (rr / 400.0).min(1.0);
    let peaks: Vec<usize> = (0..)
        .map(|k| (150.0 + k as f64 * rr).round() as usize)
        .take_while(|&p| p < 4850)
        .collect();
    let bump = |x: f64, centre: f64, width: f64, height: f64| height * (-((x - centre) / width).powi(2) / 2.0).exp();
    let signal = (0..SEGMENT_SAMPLES)
        .map(|i| {
            let at = |p: &usize| {
                let x = i as f64 - *p as f64;
                bump(x, -75.0 * squeeze, 10.0 * squeeze, 120.0)
                    + bump(x, -11.0, 4.0, -100.0)
                    + bump(x, 0.0, 5.0, 1000.0)
                    + bump(x, 11.0, 4.0, -200.0)
                    + bump(x, 140.0 * squeeze, 20.0 * squeeze, 250.0)
            };
            peaks.iter().map(at).sum::<f64>() as f32
        })
        .collect();
    (signal, peaks)
}

/// The same trace on all leads, in whole microvolts as the filter leaves it.
pub fn on_all_leads(signal: &[f32]) -> Vec<Frame> {
    signal.iter().map(|v| [v.round(); LEADS]).collect()
}

/// A window without context: the train on every lead, each with its own size, and noise of `noise_uv`.
pub fn context(bpm: f64, noise_uv: f32) -> Context {
    let (signal, _) = beat_train(bpm);
    let noise: Vec<f32> = white_noise(LEADS * SEGMENT_SAMPLES).map(|v| noise_uv * v).collect();
    let lead = |l: usize| {
        let own = &noise[l * SEGMENT_SAMPLES..][..SEGMENT_SAMPLES];
        signal
            .iter()
            .zip(own)
            .map(|(s, n)| s * (0.5 + 0.1 * l as f32) + n)
            .collect()
    };
    Context {
        boot_id: 1,
        ..Context::of("bed", (0..LEADS).map(lead).collect())
    }
}

/// Seeded noise of unit variance: the sum of twelve uniform draws of a linear congruential generator.
pub fn white_noise(n: usize) -> impl Iterator<Item = f32> {
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    (0..n).map(move |_| {
        let mut sum = -6.0;
        for _ in 0..12 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            sum += (state >> 40) as f32 / (1u64 << 24) as f32;
        }
        sum
    })
}
