//! Corpus BLEU 1 to 4, one reference a hypothesis.
//!
//! Place: over `tokens::caption`. Invariant: finite for any input, empty texts included.
//! Source: pycocoevalcap/bleu/bleu_scorer.py (`compute_score`, option "closest"), with its two epsilons.

use crate::tokens::{ngrams, overlap};

/// Keeps a denominator from zero.
const SMALL: f64 = 1e-9;
/// Keeps a numerator from zero.
const TINY: f64 = 1e-15;

/// Longest n-gram counted.
pub const ORDERS: usize = 4;

/// Sums of one pair or of a whole corpus.
#[derive(Clone, Copy, Default)]
struct Sums {
    hypothesis: usize,
    reference: usize,
    guess: [usize; ORDERS],
    correct: [usize; ORDERS],
}

impl Sums {
    fn of(hypothesis: &[&str], reference: &[&str]) -> Self {
        let mut sums = Self {
            hypothesis: hypothesis.len(),
            reference: reference.len(),
            ..Self::default()
        };
        for k in 0..ORDERS {
            sums.guess[k] = hypothesis.len().saturating_sub(k);
            sums.correct[k] = overlap(&ngrams(hypothesis, k + 1), &ngrams(reference, k + 1));
        }
        sums
    }

    fn add(&mut self, other: &Self) {
        self.hypothesis += other.hypothesis;
        self.reference += other.reference;
        for k in 0..ORDERS {
            self.guess[k] += other.guess[k];
            self.correct[k] += other.correct[k];
        }
    }

    fn bleu(&self) -> [f64; ORDERS] {
        let ratio = (self.hypothesis as f64 + TINY) / (self.reference as f64 + SMALL);
        let brevity = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
        let mut product = 1.0;
        let mut scores = [0.0; ORDERS];
        for (k, score) in scores.iter_mut().enumerate() {
            product *= (self.correct[k] as f64 + TINY) / (self.guess[k] as f64 + SMALL);
            *score = product.powf(1.0 / (k + 1) as f64) * brevity;
        }
        scores
    }
}

/// BLEU 1 to 4 over all pairs of (hypothesis, reference) tokens.
pub fn bleu(pairs: &[(Vec<&str>, Vec<&str>)]) -> [f64; ORDERS] {
    let mut total = Sums::default();
    for (hypothesis, reference) in pairs {
        total.add(&Sums::of(hypothesis, reference));
    }
    total.bleu()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_text_scores_one_and_short_text_is_punished() {
        let words = vec!["a", "b", "c", "d", "e"];
        let same = bleu(&[(words.clone(), words.clone())]);
        assert!(same.iter().all(|b| (b - 1.0).abs() < 1e-6));
        let short = bleu(&[(words[..4].to_vec(), words)]);
        assert!((short[0] - (1.0f64 - 5.0 / 4.0).exp()).abs() < 1e-6);
    }

    #[test]
    fn empty_texts_are_finite() {
        let none = bleu(&[(vec![], vec![])]);
        assert!(none.iter().all(|b| b.is_finite()));
    }
}
