//! ROUGE: the caption ROUGE-L of pycocoevalcap and the F1 scores of rouge_score.
//!
//! Place: [`caption_l`] over `tokens::caption`, the F1 scores over `tokens::alphanumeric`. Invariant: values in 0..=1.
//! Source: pycocoevalcap/rouge/rouge.py; rouge_score/rouge_scorer.py without its stemmer.

use crate::grams::Grams;
use crate::tokens::lcs;

const BETA: f64 = 1.2;

/// ROUGE-L with beta 1.2 over caption tokens; an empty text counts as one empty token.
pub fn caption_l(hypothesis: &[u32], reference: &[u32]) -> f64 {
    if hypothesis.is_empty() || reference.is_empty() {
        return if hypothesis.len() == reference.len() { 1.0 } else { 0.0 };
    }
    let common = lcs(hypothesis, reference) as f64;
    if common == 0.0 {
        return 0.0;
    }
    let precision = common / hypothesis.len() as f64;
    let recall = common / reference.len() as f64;
    let weight = BETA * BETA;
    (1.0 + weight) * precision * recall / (recall + weight * precision)
}

fn f1(common: usize, hypothesis: usize, reference: usize) -> f64 {
    if common == 0 {
        return 0.0;
    }
    let precision = common as f64 / hypothesis.max(1) as f64;
    let recall = common as f64 / reference.max(1) as f64;
    2.0 * precision * recall / (precision + recall)
}

/// ROUGE-1 and ROUGE-2 F1 over alphanumeric tokens.
pub fn n_f1(hypothesis: &[u32], reference: &[u32]) -> [f64; 2] {
    let common = Grams::of(hypothesis, 2).overlap(&Grams::of(reference, 2));
    std::array::from_fn(|k| {
        f1(
            common[k],
            hypothesis.len().saturating_sub(k),
            reference.len().saturating_sub(k),
        )
    })
}

/// ROUGE-L F1 over alphanumeric tokens.
pub fn l_f1(hypothesis: &[u32], reference: &[u32]) -> f64 {
    f1(lcs(hypothesis, reference), hypothesis.len(), reference.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_and_short_texts_score_as_the_libraries_do() {
        assert_eq!(caption_l(&[], &[]), 1.0);
        assert_eq!(caption_l(&[], &[1]), 0.0);
        assert_eq!(n_f1(&[1], &[1]), [1.0, 0.0]);
        assert_eq!(n_f1(&[1, 2], &[1, 2]), [1.0, 1.0]);
        assert!((l_f1(&[1, 2], &[1, 3, 2, 4]) - 2.0 / 3.0).abs() < 1e-12);
    }
}
