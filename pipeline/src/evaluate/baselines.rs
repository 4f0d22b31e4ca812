//! Controls that show whether the ECG is read, and baselines that bound what templates give.
//!
//! Place: beside the model's row. Invariant: baselines see only the memory, never a test report.

use std::collections::BTreeMap;

use anyhow::Context;
use candle_core::Tensor;
use model::bundle::Bundle;
use model::meit::EcgInput;
use model::mode::Mode;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::cases::Case;
use super::readings::{self, Reading};
use crate::dataset::Ecg;

/// Recordings that are encoded in one call.
const ENCODE_CHUNK: usize = 16;

/// A seeded permutation of 0..n in which no element stays (for n > 1): a rotation of a shuffle.
pub fn derangement(n: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut image = vec![0; n];
    for (k, &from) in order.iter().enumerate() {
        image[from] = order[(k + 1) % n];
    }
    image
}

/// The report that occurs most often; of equals the first in the alphabet.
pub fn most_frequent(reports: &[String]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for report in reports {
        *counts.entry(report).or_default() += 1;
    }
    let best = counts
        .iter()
        .max_by_key(|(report, n)| (**n, std::cmp::Reverse(**report)));
    best.map(|(report, _)| (*report).to_owned()).unwrap_or_default()
}

/// The report of the nearest memory recording of each reading.
///
/// # Errors
/// An empty memory, a recording that cannot be read.
pub fn retrieved(bundle: &Bundle, memory: &[Case], readings: &[Reading]) -> anyhow::Result<Vec<String>> {
    let recordings = readings::read(memory, |_, _| ())?;
    let reports: Vec<String> = memory.iter().map(|case| case.report.clone()).collect();
    let queries = readings.iter().map(|reading| &reading.ecg);
    recalled(bundle, recordings.iter().map(|reading| &reading.ecg), &reports, queries)
}

/// Of `reports`, which are of the ECGs in `memory`, that of the nearest one to each query.
///
/// # Errors
/// An empty memory, a tensor operation that fails.
pub fn recalled<'a>(
    bundle: &Bundle,
    memory: impl Iterator<Item = &'a Ecg>,
    reports: &[String],
    queries: impl Iterator<Item = &'a Ecg>,
) -> anyhow::Result<Vec<String>> {
    let (queries, memory) = (features(bundle, queries)?, features(bundle, memory)?);
    let nearest = nearest(&queries, &memory)?;
    Ok(nearest.into_iter().map(|at| reports[at].clone()).collect())
}

/// Index of the memory feature with the largest cosine with each query's; the first of equals.
///
/// # Errors
/// An empty memory.
pub fn nearest(queries: &[Vec<f32>], memory: &[Vec<f32>]) -> anyhow::Result<Vec<usize>> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let nearest = |q: &Vec<f32>| {
        (0..memory.len()).max_by(|&a, &b| dot(q, &memory[a]).total_cmp(&dot(q, &memory[b])).then(b.cmp(&a)))
    };
    queries
        .par_iter()
        .map(|q| nearest(q).context("the retrieval memory is empty"))
        .collect()
}

/// Mean encoder feature of each ECG, at unit length.
///
/// # Errors
/// A tensor operation that fails.
pub fn features<'a>(bundle: &Bundle, ecgs: impl Iterator<Item = &'a Ecg>) -> anyhow::Result<Vec<Vec<f32>>> {
    let drafting = bundle.drafting();
    let ecgs: Vec<&Ecg> = ecgs.collect();
    let mut features = Vec::with_capacity(ecgs.len());
    for chunk in ecgs.chunks(ENCODE_CHUNK) {
        let chunk: Vec<EcgInput> = chunk.iter().map(|ecg| ecg.input()).collect();
        let x: Tensor = drafting.input(&chunk.iter().collect::<Vec<_>>(), 0)?;
        let mean = drafting.model.encoder.forward(&x, &Mode::Eval)?.mean(1)?;
        let norm = mean.sqr()?.sum_keepdim(1)?.sqrt()?;
        features.extend(mean.broadcast_div(&norm)?.to_vec2::<f32>()?);
    }
    Ok(features)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shuffled_control_gives_every_patient_the_ecg_of_another() {
        let image = derangement(7, 3);
        assert!(image.iter().enumerate().all(|(i, &j)| i != j), "{image:?}");
        let mut sorted = image.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..7).collect::<Vec<_>>());
    }

    #[test]
    fn the_nearest_is_by_angle_and_the_first_of_equals() {
        let memory = [vec![0.0, 1.0], vec![1.0, 0.0], vec![1.0, 0.0]];
        assert_eq!(nearest(&[vec![0.6, 0.8], vec![0.8, 0.6]], &memory).unwrap(), [0, 1]);
        assert!(nearest(&[vec![1.0, 0.0]], &[]).is_err());
    }

    #[test]
    fn the_most_frequent_report_is_the_first_of_equals() {
        let reports = ["b", "a", "b", "a", "c"].map(str::to_owned);
        assert_eq!(most_frequent(&reports), "a");
    }
}
