//! How often drafts contradict what was measured, how often there is none, and how noise is refused.
//!
//! Place: beside the text metrics. Invariant: the checks are those a node runs on every draft.

use std::collections::BTreeMap;
use std::path::Path;

use ecg::segment::Decision;
use model::checks::contradictions;
use model::validate::validate;
use serde::Serialize;

use super::cases::Case;
use super::noise::Disturbance;
use super::readings::{Reading, read};

/// Recordings whose noisy versions are put before the gate.
const NOISY_RECORDINGS: usize = 200;
/// Ratios at which they are, decibels.
const NOISY_SNR_DB: [f64; 3] = [6.0, 0.0, -6.0];

/// Rates over the test set.
#[derive(Clone, Debug, Serialize)]
pub struct Safety {
    /// Of the drafts a node would publish, those that contradict the measurements.
    pub contradiction_rate: f64,
    /// The same of the references: what the measurement and the rules themselves get wrong.
    pub contradiction_rate_references: f64,
    /// Recordings without a draft, of all.
    pub abstain_rate: f64,
    /// Of them, those the gate refused before the model; the others had a text unfit to be read.
    pub refused: usize,
    /// Of noisy versions of the recordings, those the gate rejects, by noise and ratio in decibels.
    pub noise_refusal: BTreeMap<&'static str, BTreeMap<String, f64>>,
    /// Recordings behind each figure of `noise_refusal`.
    pub noise_refusal_n: usize,
}

/// Judges the drafts of the readings; `nstdb` adds recorded noise to the white one.
///
/// # Errors
/// A recording or noise record that cannot be read.
pub fn safety(
    cases: &[Case],
    readings: &[Reading],
    drafts: &[String],
    nstdb: Option<&Path>,
    seed: u64,
) -> anyhow::Result<Safety> {
    let published: Vec<(&Reading, &String)> = readings
        .iter()
        .zip(drafts)
        .filter(|(reading, draft)| !reading.refused && validate(draft).is_ok())
        .collect();
    let references = readings
        .iter()
        .zip(cases)
        .map(|(reading, case)| (reading, &case.report));
    let noisy = &cases[..cases.len().min(NOISY_RECORDINGS)];
    let mut noise_refusal = BTreeMap::new();
    for disturbance in Disturbance::all(nstdb, seed)? {
        let mut by_ratio = BTreeMap::new();
        for snr_db in NOISY_SNR_DB {
            let disturbed = read(noisy, |index, context| {
                disturbance.add(context, &readings[index].ecg.filtered, snr_db, seed, index);
            })?;
            let rejected = disturbed.iter().filter(|r| r.decision == Decision::Reject).count();
            by_ratio.insert(format!("{snr_db}"), share(rejected, noisy.len()));
        }
        noise_refusal.insert(disturbance.name, by_ratio);
    }
    Ok(Safety {
        contradiction_rate: contradiction_rate(published.iter().copied()),
        contradiction_rate_references: contradiction_rate(references),
        abstain_rate: share(readings.len() - published.len(), readings.len()),
        refused: readings.iter().filter(|reading| reading.refused).count(),
        noise_refusal,
        noise_refusal_n: noisy.len(),
    })
}

/// Of the texts, those with at least one statement that the measurements contradict.
pub fn contradiction_rate<'a>(texts: impl Iterator<Item = (&'a Reading, &'a String)>) -> f64 {
    let (mut contradicting, mut all) = (0, 0);
    for (reading, text) in texts {
        all += 1;
        contradicting += usize::from(!contradictions(text, &reading.ecg.measurements).is_empty());
    }
    share(contradicting, all)
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use ecg::segment::Measurements;

    use super::*;
    use crate::dataset::Ecg;

    #[test]
    fn contradictions_are_counted_by_text() {
        let reading = Reading {
            ecg: Ecg {
                filtered: Vec::new(),
                measurements: Measurements {
                    heart_rate_bpm: Some(80.0),
                    ..Measurements::default()
                },
            },
            decision: Decision::Accept,
            refused: false,
        };
        let texts = [
            "sinus bradycardia, rate 40",
            "sinus rhythm",
            "normal ecg",
            "sinus tachycardia",
        ]
        .map(str::to_owned);
        assert_eq!(contradiction_rate(texts.iter().map(|text| (&reading, text))), 0.5);
        assert_eq!(contradiction_rate(std::iter::empty()), 0.0);
    }
}
