//! Noise of a known ratio on recordings, and the noise the paper's authors used.
//!
//! Place: refusal rates of `evaluate` and the robustness task of `benchmark`. Invariant: noise acts on the raw samples; its
//! power is measured against the filtered, baseline-free signal of the same lead; a recording's noise depends on the seed
//! and its place in the test set alone. Source: MIT-BIH Noise Stress Test Database; ecg_data_collator.py:304-312.

use std::path::Path;

use bedside::noise::{Noise, NoiseSource};
use ecg::SEGMENT_SAMPLES;
use ecg::lead::Lead;
use ecg::window::Context;
use model::init::standard_normal;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Samples of each channel of white noise; leads draw their ten seconds from random places in it.
const WHITE_SAMPLES: usize = 60 * SEGMENT_SAMPLES;
/// Channels of white noise, as many as the noise records have.
const WHITE_CHANNELS: usize = 2;
/// The authors' largest standard deviation, of a signal scaled to 0..1.
const AUTHORS_SD_MAX: f64 = 0.1;

/// What a recording is disturbed with.
pub struct Disturbance {
    /// "white", "bw", "em" or "ma".
    pub name: &'static str,
    source: NoiseSource,
}

impl Disturbance {
    /// White noise.
    pub fn white(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let channel = |_| -> Vec<f32> { (0..WHITE_SAMPLES).map(|_| standard_normal(&mut rng)).collect() };
        Self {
            name: "white",
            source: NoiseSource::new((0..WHITE_CHANNELS).map(channel).collect()),
        }
    }

    /// White noise, and the noise records of a directory when there is one.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn all(nstdb: Option<&Path>, seed: u64) -> anyhow::Result<Vec<Self>> {
        let mut all = vec![Self::white(seed)];
        for (name, noise) in [("bw", Noise::Bw), ("em", Noise::Em), ("ma", Noise::Ma)] {
            let source = nstdb.map(|folder| NoiseSource::load(folder, noise)).transpose()?;
            all.extend(source.flatten().map(|source| Self { name, source }));
        }
        Ok(all)
    }

    /// Adds noise `snr_db` below the variance of each lead of `clean`, the filtered samples of the same recording.
    pub fn add(&self, context: &mut Context, clean: &[i16], snr_db: f64, seed: u64, index: usize) {
        let mut rng = generator(seed, index);
        let lead_uv = |lead: Lead| -> Vec<f32> {
            let samples = &clean[lead.index() * SEGMENT_SAMPLES..][..SEGMENT_SAMPLES];
            samples.iter().map(|&sample| f32::from(sample)).collect()
        };
        let signal: Vec<(Lead, Vec<f32>)> = Lead::ALL.into_iter().map(|lead| (lead, lead_uv(lead))).collect();
        let mut noisy = signal.clone();
        self.source.add(&mut noisy, snr_db, &mut rng);
        for ((lead, noisy), (_, clean)) in noisy.iter().zip(&signal) {
            let window = &mut context.samples_uv[lead.index()][context.before..][..SEGMENT_SAMPLES];
            for (sample, (noisy, clean)) in window.iter_mut().zip(noisy.iter().zip(clean)) {
                *sample += noisy - clean;
            }
        }
    }
}

/// The authors' noise: one row of white noise on all leads over a random stretch of at most `proportion` of the recording,
/// with a random standard deviation of at most a tenth of the recording's range.
pub fn authors_segment_noise(context: &mut Context, proportion: f64, seed: u64, index: usize) {
    let mut rng = generator(seed, index);
    let finite = || context.samples_uv.iter().flatten().copied().filter(|v| v.is_finite());
    let (low, high) = finite().fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(v), high.max(v)));
    let range_uv = (high - low).max(0.0);
    let length = (rng.random::<f64>() * proportion * SEGMENT_SAMPLES as f64) as usize;
    let start = context.before + rng.random_range(0..=SEGMENT_SAMPLES - length);
    let sd_uv = (rng.random::<f64>() * AUTHORS_SD_MAX) as f32 * range_uv;
    let row: Vec<f32> = (0..length).map(|_| sd_uv * standard_normal(&mut rng)).collect();
    for lead in &mut context.samples_uv {
        let stretch = &mut lead[start..start + length];
        stretch
            .iter_mut()
            .zip(&row)
            .for_each(|(sample, noise)| *sample += noise);
    }
}

fn generator(seed: u64, index: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index as u64);
    rng
}

#[cfg(test)]
mod tests {
    use ecg::LEADS;

    use super::*;

    fn context(baseline_uv: f32) -> Context {
        let wave = |lead: usize| {
            (0..SEGMENT_SAMPLES)
                .map(|at| ((at * (lead + 1)) % 400) as f32 + baseline_uv)
                .collect()
        };
        Context::of("bed", (0..LEADS).map(wave).collect())
    }

    fn power(samples: impl Iterator<Item = f64> + Clone) -> f64 {
        let n = samples.clone().count() as f64;
        let mean = samples.clone().sum::<f64>() / n;
        samples.map(|v| (v - mean).powi(2)).sum::<f64>() / n
    }

    #[test]
    fn the_ratio_is_that_of_the_filtered_signal_whatever_the_baseline() {
        let (mut noisy, plain) = (context(5000.0), context(5000.0));
        let clean: Vec<i16> = context(0.0).samples_uv.concat().iter().map(|&v| v as i16).collect();
        Disturbance::white(1).add(&mut noisy, &clean, -6.0, 7, 3);
        for lead in [Lead::I, Lead::II, Lead::V1, Lead::V6] {
            let at = lead.index();
            let noise = noisy.samples_uv[at]
                .iter()
                .zip(&plain.samples_uv[at])
                .map(|(n, c)| f64::from(n - c));
            let signal = clean[at * SEGMENT_SAMPLES..][..SEGMENT_SAMPLES]
                .iter()
                .map(|&v| f64::from(v));
            let snr_db = 10.0 * (power(signal) / power(noise)).log10();
            assert!((snr_db + 6.0).abs() < 0.05, "{lead:?}: {snr_db}");
        }
    }

    #[test]
    fn the_authors_noise_is_one_row_on_a_stretch_and_small() {
        let plain = context(0.0);
        let mut disturbed = 0;
        for index in 0..20 {
            let mut noisy = context(0.0);
            authors_segment_noise(&mut noisy, 0.2, 7, index);
            let noise = |lead: usize| -> Vec<f32> {
                let pairs = noisy.samples_uv[lead].iter().zip(&plain.samples_uv[lead]);
                pairs.map(|(n, c)| n - c).collect()
            };
            let (first, last) = (noise(0), noise(11));
            assert!(
                first.iter().zip(&last).all(|(a, b)| (a - b).abs() < 1e-3),
                "one row on all leads"
            );
            let touched = first.iter().filter(|v| **v != 0.0).count();
            assert!(touched <= SEGMENT_SAMPLES / 5, "{touched}");
            disturbed += usize::from(touched > 0);
        }
        assert!(disturbed >= 15, "{disturbed} of 20");
    }
}
