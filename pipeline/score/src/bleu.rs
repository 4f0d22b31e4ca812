//! Corpus BLEU 1 to 4, one reference a hypothesis.
//!
//! Place: over the n-grams of `tokens::caption`. Invariant: finite for any input, empty texts included.
//! Source: pycocoevalcap/bleu/bleu_scorer.py (`compute_score`, option "closest"), with its two epsilons.

use crate::grams::{Grams, ORDERS};

/// Keeps a denominator from zero.
const SMALL: f64 = 1e-9;
/// Keeps a numerator from zero.
const TINY: f64 = 1e-15;

/// What BLEU needs of one pair, or the sum of it over many.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    hypothesis: usize,
    reference: usize,
    guess: [usize; ORDERS],
    correct: [usize; ORDERS],
}

impl Sums {
    /// Of one pair: token counts and n-grams of both texts.
    pub fn of(lengths: (usize, usize), hypothesis: &Grams, reference: &Grams) -> Self {
        Self {
            hypothesis: lengths.0,
            reference: lengths.1,
            guess: std::array::from_fn(|k| lengths.0.saturating_sub(k)),
            correct: hypothesis.overlap(reference),
        }
    }

    /// Adds another pair's.
    pub fn add(&mut self, other: &Self) {
        self.hypothesis += other.hypothesis;
        self.reference += other.reference;
        for k in 0..ORDERS {
            self.guess[k] += other.guess[k];
            self.correct[k] += other.correct[k];
        }
    }

    /// BLEU 1 to 4.
    pub fn bleu(&self) -> [f64; ORDERS] {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn bleu(hypothesis: &[u32], reference: &[u32]) -> [f64; ORDERS] {
        let grams = |tokens| Grams::of(tokens, ORDERS);
        Sums::of(
            (hypothesis.len(), reference.len()),
            &grams(hypothesis),
            &grams(reference),
        )
        .bleu()
    }

    #[test]
    fn same_text_scores_one_and_short_text_is_punished() {
        let words = [0, 1, 2, 3, 4];
        assert!(bleu(&words, &words).iter().all(|b| (b - 1.0).abs() < 1e-6));
        let short = bleu(&words[..4], &words);
        assert!((short[0] - (1.0f64 - 5.0 / 4.0).exp()).abs() < 1e-6);
    }

    #[test]
    fn empty_texts_are_finite() {
        assert!(bleu(&[], &[]).iter().all(|b| b.is_finite()));
    }
}
