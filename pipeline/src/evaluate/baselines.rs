//! Controls that show whether the ECG is read, and baselines that bound what templates give.
//!
//! Place: beside the model's row. Invariant: a baseline never sees a report of the patient that it answers for; it sees the memory,
//! and the scored cases only where there is no memory.

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

use super::cases::{Case, TestSet};
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

/// The most frequent report of the memory for each case; of the other patients' cases where there is no memory.
pub fn frequent(set: &TestSet) -> Vec<String> {
    if !set.memory_reports.is_empty() {
        return vec![most_frequent(&set.memory_reports); set.cases.len()];
    }
    let of_others = |case: &Case| {
        let others = set.cases.iter().filter(|other| other.patient != case.patient);
        most_frequent(&others.map(|other| other.report.clone()).collect::<Vec<_>>())
    };
    set.cases.par_iter().map(of_others).collect()
}

/// The report of the nearest memory recording of each case, whose readings these are; of the nearest case of another patient where
/// there is no memory. `None` where there is no other patient either.
///
/// # Errors
/// A recording that cannot be read.
pub fn retrieved(bundle: &Bundle, set: &TestSet, readings: &[Reading]) -> anyhow::Result<Option<Vec<String>>> {
    let queries = readings.iter().map(|reading| &reading.ecg);
    if !set.memory.is_empty() {
        let recordings = readings::read(&set.memory, |_, _| ())?;
        let reports: Vec<String> = set.memory.iter().map(|case| case.report.clone()).collect();
        return recalled(bundle, recordings.iter().map(|reading| &reading.ecg), &reports, queries).map(Some);
    }
    let (cases, features) = (&set.cases, features(bundle, queries)?);
    let is_other = |query: usize, at: usize| cases[query].patient != cases[at].patient;
    if (0..cases.len()).any(|query| !(0..cases.len()).any(|at| is_other(query, at))) {
        return Ok(None);
    }
    let nearest = nearest(&features, &features, is_other)?;
    Ok(Some(nearest.into_iter().map(|at| cases[at].report.clone()).collect()))
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
    let nearest = nearest(&queries, &memory, |_, _| true)?;
    Ok(nearest.into_iter().map(|at| reports[at].clone()).collect())
}

/// Index of the memory feature with the largest cosine with each query's, of those that `may` be its answer; the first of equals.
///
/// # Errors
/// A query that has none.
pub fn nearest(
    queries: &[Vec<f32>],
    memory: &[Vec<f32>],
    may: impl Fn(usize, usize) -> bool + Sync,
) -> anyhow::Result<Vec<usize>> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let nearest = |(query, q): (usize, &Vec<f32>)| {
        let allowed = (0..memory.len()).filter(|&at| may(query, at));
        let nearest = allowed.max_by(|&a, &b| dot(q, &memory[a]).total_cmp(&dot(q, &memory[b])).then(b.cmp(&a)));
        nearest.context("the retrieval memory is empty")
    };
    queries.par_iter().enumerate().map(nearest).collect()
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
        let queries = [vec![0.6, 0.8], vec![0.8, 0.6]];
        assert_eq!(nearest(&queries, &memory, |_, _| true).unwrap(), [0, 1]);
        assert_eq!(nearest(&queries, &memory, |query, at| at > query).unwrap(), [1, 2]);
        assert!(nearest(&queries, &[], |_, _| true).is_err());
    }

    #[test]
    fn the_most_frequent_report_is_the_first_of_equals() {
        let reports = ["b", "a", "b", "a", "c"].map(str::to_owned);
        assert_eq!(most_frequent(&reports), "a");
    }
}
