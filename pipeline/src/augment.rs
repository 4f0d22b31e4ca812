//! Seeded distortions of training recordings.
//!
//! Place: between the data set and a batch; never used in validation or serving. Invariant: a pure function of the recording
//! and the generator's state.

use ecg::{LEADS, SEGMENT_SAMPLES};
use model::init::standard_normal;
use model::morphology::{AMPLITUDES, BEAT, MEASURED};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

const SHIFT_SAMPLES_MAX: i64 = 1000;
const GAIN_SPREAD: f32 = 0.15;
const NOISE_SD_MV_MAX: f32 = 0.03;
const WANDER_MV_MAX: f32 = 0.1;
const LEAD_LOSS_PROBABILITY: f32 = 0.25;

/// Rotates in time, scales, adds white noise and slow wander, and sometimes silences one lead; in millivolts.
pub fn augment(ecg_uv: &[i16], rng: &mut ChaCha8Rng) -> Vec<f32> {
    let shift = rng.random_range(-SHIFT_SAMPLES_MAX..=SHIFT_SAMPLES_MAX);
    let gain = 1e-3 * (1.0 + rng.random_range(-GAIN_SPREAD..GAIN_SPREAD));
    let noise_sd = rng.random_range(0.0..NOISE_SD_MV_MAX);
    let lost = (rng.random::<f32>() < LEAD_LOSS_PROBABILITY).then(|| rng.random_range(0..LEADS));
    let mut out = Vec::with_capacity(ecg_uv.len());
    for lead in 0..LEADS {
        let samples = &ecg_uv[lead * SEGMENT_SAMPLES..(lead + 1) * SEGMENT_SAMPLES];
        if lost == Some(lead) {
            out.resize(out.len() + SEGMENT_SAMPLES, 0.0);
            continue;
        }
        let (cycles, phase): (f32, f32) = (rng.random_range(1.0..5.0), rng.random_range(0.0..std::f32::consts::TAU));
        let amplitude = rng.random_range(0.0..WANDER_MV_MAX);
        let step = std::f32::consts::TAU * cycles / SEGMENT_SAMPLES as f32;
        for i in 0..SEGMENT_SAMPLES {
            let source = (i as i64 + shift).rem_euclid(SEGMENT_SAMPLES as i64) as usize;
            let wander = amplitude * (phase + step * i as f32).sin();
            out.push(f32::from(samples[source]) * gain + wander + noise_sd * standard_normal(rng));
        }
    }
    out
}

/// Spread of what was measured, in the units of `morphology`.
const MEASURED_SD: f32 = 0.1;
const BEAT_SD_MV: f32 = 0.02;
/// Farthest that the dominant beat moves, in its own values.
const BEAT_SHIFT_MAX: i64 = 1;

/// Scales and moves the dominant beat, adds white noise to it and to what was measured, and sometimes silences one lead.
pub fn augment_morphology(values: &[f32], rng: &mut ChaCha8Rng) -> Vec<f32> {
    let gain = 1.0 + rng.random_range(-GAIN_SPREAD..GAIN_SPREAD);
    let lost = (rng.random::<f32>() < LEAD_LOSS_PROBABILITY).then(|| rng.random_range(0..LEADS));
    let shift = rng.random_range(-BEAT_SHIFT_MAX..=BEAT_SHIFT_MAX);
    let (measured, beats) = values.split_at(MEASURED + LEADS * AMPLITUDES);
    let mut out: Vec<f32> = measured
        .iter()
        .map(|v| v + MEASURED_SD * standard_normal(rng))
        .collect();
    for (lead, beat) in beats.chunks_exact(BEAT).enumerate() {
        if lost == Some(lead) {
            out.resize(out.len() + BEAT, 0.0);
            continue;
        }
        for i in 0..BEAT as i64 {
            let source = (i + shift).clamp(0, BEAT as i64 - 1) as usize;
            out.push(beat[source] * gain + BEAT_SD_MV * standard_normal(rng));
        }
    }
    out
}

/// The recording as it is, in millivolts.
pub fn millivolts(ecg_uv: &[i16]) -> Vec<f32> {
    ecg_uv.iter().map(|&v| f32::from(v) * 1e-3).collect()
}
