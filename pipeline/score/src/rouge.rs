//! ROUGE: the caption ROUGE-L of pycocoevalcap and the F1 scores of rouge_score.
//!
//! Place: [`caption_l`] over `tokens::caption`, the F1 scores over `tokens::alphanumeric`. Invariant: values in 0..=1.
//! Source: pycocoevalcap/rouge/rouge.py; rouge_score/rouge_scorer.py without its stemmer.

use crate::tokens::{lcs, ngrams, overlap};

const BETA: f64 = 1.2;

/// ROUGE-L with beta 1.2 over caption tokens; an empty text counts as one empty token.
pub fn caption_l(hypothesis: &[&str], reference: &[&str]) -> f64 {
    let blank: &[&str] = &[""];
    let hypothesis = if hypothesis.is_empty() { blank } else { hypothesis };
    let reference = if reference.is_empty() { blank } else { reference };
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

/// ROUGE-N F1 over alphanumeric tokens.
pub fn n_f1(hypothesis: &[&str], reference: &[&str], n: usize) -> f64 {
    let common = overlap(&ngrams(hypothesis, n), &ngrams(reference, n));
    f1(
        common,
        (hypothesis.len() + 1).saturating_sub(n),
        (reference.len() + 1).saturating_sub(n),
    )
}

/// ROUGE-L F1 over alphanumeric tokens.
pub fn l_f1(hypothesis: &[&str], reference: &[&str]) -> f64 {
    f1(lcs(hypothesis, reference), hypothesis.len(), reference.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_and_short_texts_score_as_the_libraries_do() {
        assert_eq!(caption_l(&[], &[]), 1.0);
        assert_eq!(caption_l(&[], &["a"]), 0.0);
        assert_eq!(n_f1(&["a"], &["a"], 2), 0.0);
        assert_eq!(n_f1(&["a", "b"], &["a", "b"], 2), 1.0);
        assert!((l_f1(&["a", "b"], &["a", "c", "b", "d"]) - 2.0 / 3.0).abs() < 1e-12);
    }
}
