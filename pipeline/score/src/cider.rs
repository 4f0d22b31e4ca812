//! CIDEr-D: n-grams up to 4, weighted by how few references hold them, sigma 6, times 10.
//!
//! Place: over the n-grams of `tokens::caption`. Invariant: sums run in a fixed order, so a value does not depend on the
//! threads. Source: pycocoevalcap/cider/cider_scorer.py; Vedantam et al. 2015, section 5.

use rustc_hash::FxHashMap;

use crate::grams::{Gram, Grams, ORDERS, order};

const SIGMA: f64 = 6.0;

/// How much an n-gram weighs.
pub struct Weights {
    /// Weight of an n-gram by the number of references that hold it; at 0 as at 1.
    by_frequency: Vec<f64>,
    documents: FxHashMap<Gram, u32>,
}

impl Weights {
    /// Inverse document frequencies over the references.
    pub fn inverse_frequency<'a>(references: impl ExactSizeIterator<Item = &'a Grams>) -> Self {
        let log_count = (references.len() as f64).ln();
        let by_frequency = (0..=references.len())
            .map(|n| log_count - (n.max(1) as f64).ln())
            .collect();
        let mut documents: FxHashMap<Gram, u32> = FxHashMap::default();
        for (gram, _) in references.flat_map(Grams::iter) {
            *documents.entry(gram).or_insert(0) += 1;
        }
        Self {
            by_frequency,
            documents,
        }
    }

    /// Every n-gram weighs the same, as in the authors' scoring: all document frequencies are 1 there, and the constant
    /// that is left cancels in the cosine. A batch of one pair would give 0 there, and gives its cosine here.
    pub fn equal() -> Self {
        Self {
            by_frequency: vec![1.0],
            documents: FxHashMap::default(),
        }
    }

    fn of(&self, gram: Gram) -> f64 {
        let frequency = self.documents.get(&gram).copied().unwrap_or(0);
        self.by_frequency[frequency as usize]
    }

    /// Norms of a text's weighted n-gram vectors.
    fn norms(&self, grams: &Grams) -> [f64; ORDERS] {
        let mut squares = [0.0; ORDERS];
        for (gram, count) in grams.iter() {
            let weight = f64::from(count) * self.of(gram);
            squares[order(gram) - 1] += weight * weight;
        }
        squares.map(f64::sqrt)
    }

    /// CIDEr-D of one pair: token counts and n-grams of both texts.
    pub fn cider_d(&self, lengths: (usize, usize), hypothesis: &Grams, reference: &Grams) -> f64 {
        let mut products = [0.0; ORDERS];
        hypothesis.shared(reference, |gram, mine, their| {
            let weight = self.of(gram);
            let (mine, their) = (f64::from(mine) * weight, f64::from(their) * weight);
            products[order(gram) - 1] += mine.min(their) * their;
        });
        let (mine, their) = (self.norms(hypothesis), self.norms(reference));
        let cosines = (0..ORDERS).map(|k| match mine[k] * their[k] {
            0.0 => products[k],
            norm => products[k] / norm,
        });
        // the reference implementation measures length in bigrams
        let delta = lengths.0.saturating_sub(1) as f64 - lengths.1.saturating_sub(1) as f64;
        let penalty = (-(delta * delta) / (2.0 * SIGMA * SIGMA)).exp();
        cosines.map(|cosine| cosine * penalty).sum::<f64>() / ORDERS as f64 * 10.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cider(pairs: &[(&[u32], &[u32])], weights: impl Fn(&[Grams]) -> Weights) -> Vec<f64> {
        let references: Vec<Grams> = pairs.iter().map(|(_, r)| Grams::of(r, ORDERS)).collect();
        let weights = weights(&references);
        let score = |(h, r): &(&[u32], &[u32])| {
            weights.cider_d((h.len(), r.len()), &Grams::of(h, ORDERS), &Grams::of(r, ORDERS))
        };
        pairs.iter().map(score).collect()
    }

    #[test]
    fn same_rare_text_scores_ten() {
        let (a, b): (&[u32], &[u32]) = (&[0, 1, 2, 3, 4], &[5, 6, 7, 8, 9]);
        let each = cider(&[(a, a), (b, b)], |r| Weights::inverse_frequency(r.iter()));
        assert!(each.iter().all(|c| (c - 10.0).abs() < 1e-9), "{each:?}");
    }

    #[test]
    fn one_pair_has_no_information_unless_all_grams_weigh_the_same() {
        let pair: [(&[u32], &[u32]); 1] = [(&[0, 1, 2, 3], &[0, 1, 2, 3])];
        assert_eq!(cider(&pair, |r| Weights::inverse_frequency(r.iter())), [0.0]);
        assert!((cider(&pair, |_| Weights::equal())[0] - 10.0).abs() < 1e-9);
    }
}
