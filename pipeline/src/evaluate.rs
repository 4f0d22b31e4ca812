//! The ruler: a bundle's drafts against the cardiologists' reports, beside controls and baselines.
//!
//! Place: `meit-pipeline evaluate` and `score`. Controls show whether the ECG is read: drafts of another patient's ECG and of
//! a zeroed one. Baselines bound what templates give: the most frequent training report, and the report of the nearest
//! training ECG in the encoder's feature space. Invariant: the prompt is never part of a scored string.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use candle_core::{Device, Tensor};
use model::bundle::Bundle;
use model::generate::DecodeOptions;
use model::meit::EcgInput;
use model::mode::Mode;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use crate::dataset::{Ecg, PtbXl, Sample, load_ecgs};

/// One row of the comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub bleu4: f64,
    pub meteor: f64,
    pub rouge_l: f64,
    pub cider_d: f64,
    pub n: usize,
}

/// The comparison, as it is written to JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub bundle_id: String,
    pub model: Row,
    pub shuffled: Row,
    pub zeroed: Row,
    pub most_frequent: Row,
    pub knn: Row,
}

/// Scores with the pairs that made the model's row.
pub struct Evaluation {
    pub scores: Comparison,
    pairs: Vec<(String, String)>,
}

impl Evaluation {
    /// One hypothesis<TAB>reference a line.
    pub fn pairs_tsv(&self) -> String {
        self.pairs.iter().map(|(h, r)| format!("{h}\t{r}\n")).collect()
    }

    /// The comparison for people.
    pub fn table(&self) -> String {
        let s = &self.scores;
        let rows = [
            ("model", &s.model),
            ("ECG shuffled", &s.shuffled),
            ("ECG zeroed", &s.zeroed),
            ("most frequent", &s.most_frequent),
            ("kNN retrieval", &s.knn),
        ];
        let mut table = format!(
            "{:14} {:>7} {:>7} {:>7} {:>7} {:>5}\n",
            "", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr-D", "n"
        );
        for (name, r) in rows {
            table += &format!(
                "{name:14} {:7.4} {:7.4} {:7.4} {:7.4} {:5}\n",
                r.bleu4, r.meteor, r.rouge_l, r.cider_d, r.n
            );
        }
        table
    }
}

/// Drafts every recording of `folds` and scores it; `seed` draws the shuffled control.
///
/// # Errors
/// A bundle or recording that cannot be read; folds without a recording.
pub fn run(bundle: &Path, data: &PtbXl, folds: &[u8], seed: u64) -> anyhow::Result<Evaluation> {
    let bundle = Bundle::load(bundle, &Device::Cpu).context("load bundle")?;
    let recorded = |keep: bool| -> Vec<&Sample> {
        let samples = data.of_folds(|fold| folds.contains(&fold) == keep);
        samples.into_iter().filter(|s| s.header.is_some()).collect()
    };
    let (test, memory) = (recorded(true), recorded(false));
    ensure!(!test.is_empty(), "no recording in folds {folds:?}");
    let ecgs = load_ecgs(&test)?;
    let references: Vec<&str> = test.iter().map(|s| s.report.as_str()).collect();
    let drafts = draft(&bundle, &ecgs)?;
    let rotated = derangement(test.len(), seed);
    let zero = draft(&bundle, &[Ecg::default()])?;
    let frequent = most_frequent(&data.of_folds(|fold| !folds.contains(&fold)));
    let neighbours = nearest(&bundle, &ecgs, &load_ecgs(&memory)?)?;
    let n = test.len();
    let scores = Comparison {
        bundle_id: bundle.id().to_owned(),
        model: score(drafts.iter().map(String::as_str), &references),
        shuffled: score(rotated.iter().map(|&i| drafts[i].as_str()), &references),
        zeroed: score(std::iter::repeat_n(zero[0].as_str(), n), &references),
        most_frequent: score(std::iter::repeat_n(frequent.as_str(), n), &references),
        knn: score(neighbours.iter().map(|&i| memory[i].report.as_str()), &references),
    };
    let pairs = drafts
        .into_iter()
        .zip(references.into_iter().map(str::to_owned))
        .collect();
    Ok(Evaluation { scores, pairs })
}

fn draft(bundle: &Bundle, ecgs: &[Ecg]) -> anyhow::Result<Vec<String>> {
    let options = DecodeOptions::default();
    let mut drafts = Vec::with_capacity(ecgs.len());
    for chunk in ecgs.chunks(64) {
        let chunk: Vec<EcgInput> = chunk.iter().map(Ecg::input).collect();
        drafts.extend(bundle.drafting().draft(&chunk, &options)?.into_iter().map(|d| d.text));
    }
    Ok(drafts)
}

fn score<'a>(hypotheses: impl Iterator<Item = &'a str>, references: &[&str]) -> Row {
    let pairs: Vec<(String, String)> = hypotheses
        .zip(references)
        .map(|(h, r)| (h.to_owned(), (*r).to_owned()))
        .collect();
    let scores = score::score_pairs(&pairs, &score::Options::default());
    Row {
        bleu4: scores.bleu4,
        meteor: scores.meteor_stem,
        rouge_l: scores.rouge_l,
        cider_d: scores.cider_d,
        n: pairs.len(),
    }
}

/// A seeded permutation of 0..n in which no element stays (for n > 1): a rotation of a shuffle.
fn derangement(n: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut image = vec![0; n];
    for (k, &from) in order.iter().enumerate() {
        image[from] = order[(k + 1) % n];
    }
    image
}

/// The report that occurs most often; of equals the first in the alphabet.
fn most_frequent(samples: &[&Sample]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for sample in samples {
        *counts.entry(&sample.report).or_default() += 1;
    }
    let best = counts
        .iter()
        .max_by_key(|(report, n)| (**n, std::cmp::Reverse(**report)));
    best.map(|(report, _)| (*report).to_owned()).unwrap_or_default()
}

/// Index of the memory ECG whose mean encoder feature has the largest cosine with each query's.
fn nearest(bundle: &Bundle, queries: &[Ecg], memory: &[Ecg]) -> anyhow::Result<Vec<usize>> {
    let (queries, memory) = (features(bundle, queries)?, features(bundle, memory)?);
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
fn features(bundle: &Bundle, ecgs: &[Ecg]) -> anyhow::Result<Vec<Vec<f32>>> {
    let drafting = bundle.drafting();
    let mut features = Vec::with_capacity(ecgs.len());
    for chunk in ecgs.chunks(16) {
        let chunk: Vec<EcgInput> = chunk.iter().map(Ecg::input).collect();
        let x: Tensor = drafting.input(&chunk.iter().collect::<Vec<_>>(), 0)?;
        let mean = drafting.model.encoder.forward(&x, &Mode::Eval)?.mean(1)?;
        let norm = mean.sqr()?.sum_keepdim(1)?.sqrt()?;
        features.extend(mean.broadcast_div(&norm)?.to_vec2::<f32>()?);
    }
    Ok(features)
}

/// Scores a file of hypothesis<TAB>reference lines and prints the result.
///
/// # Errors
/// A file that cannot be read; a line without a tab.
pub fn score_file(path: &Path, json: bool, each: bool, wordnet: Option<&Path>) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let split = |(i, line): (usize, &str)| {
        let pair = line
            .split_once('\t')
            .with_context(|| format!("{} line {}: no tab", path.display(), i + 1))?;
        anyhow::Ok((pair.0.to_lowercase(), pair.1.to_lowercase()))
    };
    let pairs = text.lines().enumerate().map(split).collect::<Result<Vec<_>, _>>()?;
    let options = score::Options {
        each,
        wordnet: wordnet.map(Path::to_owned),
    };
    let scores = serde_json::to_value(score::score_pairs(&pairs, &options))?;
    if json {
        println!("{scores}");
        return Ok(());
    }
    for (key, value) in scores.as_object().into_iter().flatten().filter(|(_, v)| v.is_number()) {
        println!("{key:12} {value}");
    }
    Ok(())
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
}
