//! Recorded noise, added at a chosen signal-to-noise ratio.
//!
//! Place: between a recording and the packets that play it.
//! Invariant: a function of recording, noise record, ratio and generator state. Noise is drawn for the eight independent
//! leads and follows from I and II on the other limb leads, so Einthoven's identities survive, as they do when the
//! noise comes through the electrodes.
//! Source: MIT-BIH Noise Stress Test Database (records bw, em, ma: two channels, 360 Hz, 30 minutes).

use std::path::Path;

use ecg::dsp::resample;
use ecg::lead::Lead;
use ecg::segment::LeadOrigin;
use ecg::{LEADS, SEGMENT_SAMPLES, limb};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::BedsideError;
use crate::recording::is_independent;

/// Which noise is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Noise {
    /// None.
    #[default]
    None,
    /// Baseline wander.
    Bw,
    /// Electrode motion.
    Em,
    /// Muscle artefact.
    Ma,
}

impl std::str::FromStr for Noise {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "none" => Ok(Noise::None),
            "bw" => Ok(Noise::Bw),
            "em" => Ok(Noise::Em),
            "ma" => Ok(Noise::Ma),
            _ => Err(format!("{name:?} is none of none, bw, em, ma")),
        }
    }
}

/// A noise record on the 500 Hz grid.
pub struct NoiseSource {
    channels: Vec<Vec<f32>>,
}

impl NoiseSource {
    /// Noise of these channels, each at 500 Hz and at least ten seconds long.
    pub fn new(channels: Vec<Vec<f32>>) -> Self {
        Self { channels }
    }

    /// Reads a noise record from a directory of WFDB records; `None` for [`Noise::None`].
    ///
    /// # Errors
    /// [`BedsideError::Recording`] when it cannot be read, [`BedsideError::TooShort`] when it is shorter than 10 s.
    pub fn load(directory: &Path, noise: Noise) -> Result<Option<Self>, BedsideError> {
        let name = match noise {
            Noise::None => return Ok(None),
            Noise::Bw => "bw",
            Noise::Em => "em",
            Noise::Ma => "ma",
        };
        let header = directory.join(name).with_extension("hea");
        let record = ecg::wfdb::read(&header).map_err(|source| BedsideError::Recording {
            header: header.clone(),
            source,
        })?;
        let channel = |index| resample::to_500_hz(&record.signal_uv(index), record.rate_hz);
        let channels: Vec<Vec<f32>> = (0..record.signals.len()).map(channel).collect();
        if channels.is_empty() || channels.iter().any(|channel| channel.len() < SEGMENT_SAMPLES) {
            return Err(BedsideError::TooShort { header });
        }
        Ok(Some(Self { channels }))
    }

    /// Adds noise to 10 s of leads. Each independent lead gets its own excerpt, scaled to `snr_db` by window power: the
    /// variance of the lead over the variance of its noise. The other limb leads get what follows from I and II; without
    /// both, they get their own.
    pub fn add(&self, leads: &mut [(Lead, Vec<f32>)], snr_db: f64, rng: &mut impl Rng) {
        let mut noise = vec![Vec::new(); LEADS];
        let mut origin = [LeadOrigin::Missing; LEADS];
        let both = [Lead::I, Lead::II]
            .iter()
            .all(|limb| leads.iter().any(|(lead, _)| lead == limb));
        for (lead, samples) in leads.iter() {
            if !both || is_independent(*lead) {
                let channel = &self.channels[rng.random_range(0..self.channels.len())];
                let start = rng.random_range(0..=channel.len() - samples.len());
                noise[lead.index()] = scaled(&channel[start..start + samples.len()], samples, snr_db);
                origin[lead.index()] = LeadOrigin::Measured;
            }
        }
        if both {
            limb::derive(&mut noise, &mut origin);
        }
        for (lead, samples) in leads {
            samples
                .iter_mut()
                .zip(&noise[lead.index()])
                .for_each(|(sample, noise)| *sample += noise);
        }
    }
}

/// A noise excerpt without its mean, so loud that `signal` stands `snr_db` above it.
fn scaled(noise: &[f32], signal: &[f32], snr_db: f64) -> Vec<f32> {
    let (mean, power) = mean_and_variance(noise);
    let (_, signal_power) = mean_and_variance(signal);
    if power <= 0.0 {
        return vec![0.0; noise.len()];
    }
    let gain = (signal_power / 10f64.powf(snr_db / 10.0) / power).sqrt();
    noise
        .iter()
        .map(|&sample| ((f64::from(sample) - mean) * gain) as f32)
        .collect()
}

/// Mean and variance of the finite samples.
fn mean_and_variance(samples: &[f32]) -> (f64, f64) {
    let finite = || {
        samples
            .iter()
            .filter(|sample| sample.is_finite())
            .map(|&sample| f64::from(sample))
    };
    let count = finite().count().max(1) as f64;
    let mean = finite().sum::<f64>() / count;
    (
        mean,
        finite().map(|sample| (sample - mean).powi(2)).sum::<f64>() / count,
    )
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn source() -> NoiseSource {
        let wave = |scale: f32| (0..20_000).map(|at| scale * ((at * at) % 101) as f32).collect();
        NoiseSource {
            channels: vec![wave(1.0), wave(-3.0)],
        }
    }

    fn leads() -> Vec<(Lead, Vec<f32>)> {
        let wave = |lead: Lead| {
            (0..SEGMENT_SAMPLES)
                .map(|at| ((at + lead.index()) % 400) as f32)
                .collect()
        };
        Lead::ALL.into_iter().map(|lead| (lead, wave(lead))).collect()
    }

    #[test]
    fn the_noise_of_a_lead_has_the_power_that_was_asked_for() {
        let (clean, mut noisy) = (leads(), leads());
        source().add(&mut noisy, 6.0, &mut ChaCha8Rng::seed_from_u64(1));
        for index in [0, 1, 6, 11] {
            let noise: Vec<f32> = noisy[index]
                .1
                .iter()
                .zip(&clean[index].1)
                .map(|(noisy, clean)| noisy - clean)
                .collect();
            let ratio = mean_and_variance(&clean[index].1).1 / mean_and_variance(&noise).1;
            assert!((10.0 * ratio.log10() - 6.0).abs() < 0.01, "{ratio}");
        }
        // lead III's noise is II's less I's
        let difference = |index: usize| noisy[index].1[77] - clean[index].1[77];
        assert!((difference(2) - (difference(1) - difference(0))).abs() < 1e-2);
    }

    #[test]
    fn the_same_seed_adds_the_same_noise_and_another_seed_another() {
        let noisy = |seed| {
            let mut noisy = leads();
            source().add(&mut noisy, 6.0, &mut ChaCha8Rng::seed_from_u64(seed));
            noisy
        };
        assert_eq!(noisy(1), noisy(1));
        assert_ne!(noisy(1), noisy(2));
    }
}
