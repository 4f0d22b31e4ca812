//! CIDEr-D with real document frequencies over the references: n-grams up to 4, sigma 6, times 10.
//!
//! Place: over `tokens::caption`. Invariant: sums run in a fixed order, so a value does not depend on the threads.
//! Source: pycocoevalcap/cider/cider_scorer.py; Vedantam et al. 2015, section 5.

use crate::tokens::ngrams;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};

const ORDERS: usize = 4;
const SIGMA: f64 = 6.0;

/// Weighted n-grams of one text.
struct Vector<'a, 's> {
    weights: [BTreeMap<&'a [&'s str], f64>; ORDERS],
    norms: [f64; ORDERS],
    length: usize,
}

type Documents<'a, 's> = HashMap<&'a [&'s str], f64>;

/// How many references hold each n-gram.
fn document_frequencies<'a, 's>(pairs: &'a [(Vec<&'s str>, Vec<&'s str>)]) -> Documents<'a, 's> {
    let mut documents = Documents::new();
    for (_, reference) in pairs {
        for n in 1..=ORDERS {
            for gram in ngrams(reference, n).into_keys() {
                *documents.entry(gram).or_insert(0.0) += 1.0;
            }
        }
    }
    documents
}

fn vector<'a, 's>(tokens: &'a [&'s str], documents: &Documents<'_, '_>, log_count: f64) -> Vector<'a, 's> {
    let mut out = Vector {
        weights: Default::default(),
        norms: [0.0; ORDERS],
        length: 0,
    };
    for k in 0..ORDERS {
        let mut squares = 0.0;
        for (gram, count) in ngrams(tokens, k + 1) {
            let frequency = documents.get(gram).copied().unwrap_or(0.0).max(1.0);
            let weight = count as f64 * (log_count - frequency.ln());
            squares += weight * weight;
            out.weights[k].insert(gram, weight);
        }
        out.norms[k] = squares.sqrt();
    }
    // the reference implementation measures length in bigrams
    out.length = tokens.len().saturating_sub(1);
    out
}

fn similarity(hypothesis: &Vector<'_, '_>, reference: &Vector<'_, '_>) -> f64 {
    let delta = hypothesis.length as f64 - reference.length as f64;
    let penalty = (-(delta * delta) / (2.0 * SIGMA * SIGMA)).exp();
    let mut sum = 0.0;
    for k in 0..ORDERS {
        let mut value = 0.0;
        for (gram, weight) in &hypothesis.weights[k] {
            let other = reference.weights[k].get(gram).copied().unwrap_or(0.0);
            value += weight.min(other) * other;
        }
        let norm = hypothesis.norms[k] * reference.norms[k];
        if norm != 0.0 {
            value /= norm;
        }
        sum += value * penalty;
    }
    sum / ORDERS as f64 * 10.0
}

/// CIDEr-D of each pair of (hypothesis, reference) tokens.
pub fn cider_d(pairs: &[(Vec<&str>, Vec<&str>)]) -> Vec<f64> {
    let documents = document_frequencies(pairs);
    let log_count = (pairs.len() as f64).ln();
    let score = |(hypothesis, reference): &(Vec<&str>, Vec<&str>)| {
        let hypothesis = vector(hypothesis, &documents, log_count);
        let reference = vector(reference, &documents, log_count);
        similarity(&hypothesis, &reference)
    };
    pairs.par_iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_rare_text_scores_ten() {
        let pair = |words: &'static str| {
            let words: Vec<&str> = words.split(' ').collect();
            (words.clone(), words)
        };
        let each = cider_d(&[pair("a b c d e"), pair("f g h i j")]);
        assert!(each.iter().all(|c| (c - 10.0).abs() < 1e-9), "{each:?}");
    }

    #[test]
    fn one_pair_has_no_information() {
        assert_eq!(cider_d(&[(vec!["a"], vec!["a"])]), [0.0]);
        assert!(cider_d(&[]).is_empty());
    }
}
