//! ECGs that a bundle must draft before it serves.
//!
//! Place: where bundles are made and verified, and where a node takes a new generation. Invariant: the same each time; they ask
//! whether a model works at all, not whether it is right.

use ecg::segment::Measurements;
use ecg::{LEADS, SAMPLE_RATE_HZ, SEGMENT_SAMPLES};

use crate::error::{Error, Result};
use crate::generate::DecodeOptions;
use crate::meit::{Drafting, EcgInput};

/// Names of [`ecgs`], in their order.
pub const NAMES: [&str; 2] = ["regular rhythm at 60", "regular rhythm at 110"];
/// Amplitude of R in each lead, millivolts, of a normal frontal and horizontal axis.
const R_MV: [f32; LEADS] = [0.8, 1.2, 0.4, -1.0, 0.2, 0.8, -0.5, -0.8, 0.3, 1.2, 1.4, 1.1];
/// Waves of a beat: centre after the R peak and width, seconds; amplitude as a share of R.
const WAVES: [(f32, f32, f32); 5] = [
    (-0.16, 0.025, 0.12),
    (-0.035, 0.010, -0.10),
    (0.0, 0.012, 1.0),
    (0.035, 0.010, -0.15),
    (0.28, 0.050, 0.25),
];

/// New tokens of [`check`]: one from the prompt, one from the cache.
const TOKENS: usize = 2;

/// Drafts the beginning of a text for the first of [`ecgs`].
///
/// # Errors
/// Whatever drafting fails with; [`Error::Smoke`].
pub fn check(drafting: &Drafting) -> Result<()> {
    let options = DecodeOptions {
        tokens_max: TOKENS,
        ..DecodeOptions::default()
    };
    for (name, drafted) in NAMES.into_iter().zip(drafting.draft(&ecgs()[..1], &options)?) {
        if !(drafted.logprob_mean.is_finite() && drafted.logprob_min.is_finite()) {
            return Err(Error::Smoke { name });
        }
    }
    Ok(())
}

/// Synthetic ECGs.
pub fn ecgs() -> Vec<EcgInput> {
    vec![rhythm(60.0), rhythm(110.0)]
}

fn rhythm(rate_bpm: f32) -> EcgInput {
    let period = 60.0 / rate_bpm;
    let beat = |seconds: f32| {
        let after = (seconds + period / 2.0).rem_euclid(period) - period / 2.0;
        let waves = WAVES
            .iter()
            .map(|(centre, width, share)| share * (-((after - centre) / width).powi(2) / 2.0).exp());
        waves.sum::<f32>()
    };
    let shape: Vec<f32> = (0..SEGMENT_SAMPLES)
        .map(|i| beat(i as f32 / SAMPLE_RATE_HZ as f32))
        .collect();
    EcgInput {
        millivolts: R_MV.iter().flat_map(|r| shape.iter().map(move |v| v * r)).collect(),
        measurements: Measurements {
            heart_rate_bpm: Some(rate_bpm),
            ..Measurements::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_have_the_shape_and_size_of_ecgs() {
        for ecg in ecgs() {
            assert_eq!(ecg.millivolts.len(), LEADS * SEGMENT_SAMPLES);
            let peak = ecg.millivolts.iter().fold(0f32, |peak, v| peak.max(v.abs()));
            assert!((1.0..2.0).contains(&peak), "{peak}");
        }
    }
}
