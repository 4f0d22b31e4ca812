//! Text metrics of generated reports against references: BLEU, ROUGE, CIDEr-D and METEOR.
//!
//! Place: after drafting, in evaluation and in the promotion gate; nothing of a prompt is ever in a scored text.
//! Invariant: a pure function of the pairs (and of the WordNet files, when given); every value equals that of the library
//! the field uses (pycocoevalcap, rouge_score, nltk) to 1e-6.

pub mod bleu;
pub mod cider;
pub mod meteor;
pub mod porter;
pub mod rouge;
pub mod tokens;
pub mod wordnet;

use meteor::Synonyms;
use rayon::prelude::*;
use serde::Serialize;
use std::path::PathBuf;
use wordnet::WordNet;

/// What to compute besides the corpus values.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Also give the values of each pair.
    pub each: bool,
    /// Directory of WordNet 3.0; without it METEOR with synonyms is left out.
    pub wordnet: Option<PathBuf>,
}

/// Values over all pairs, and of each pair on demand; the JSON keys are those of tests/golden/metrics/metrics.json.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Scores {
    /// Number of pairs.
    pub pairs: usize,
    /// Corpus BLEU-1.
    pub bleu1: f64,
    /// Corpus BLEU-2.
    pub bleu2: f64,
    /// Corpus BLEU-3.
    pub bleu3: f64,
    /// Corpus BLEU-4.
    pub bleu4: f64,
    /// Mean caption ROUGE-L, beta 1.2.
    pub rouge_l: f64,
    /// Mean CIDEr-D.
    pub cider_d: f64,
    /// Mean ROUGE-1 F1.
    pub rouge1_f: f64,
    /// Mean ROUGE-2 F1.
    pub rouge2_f: f64,
    /// Mean ROUGE-L F1.
    #[serde(rename = "rougeL_f")]
    pub rouge_l_f: f64,
    /// Mean METEOR of exact and stem matches.
    pub meteor_stem: f64,
    /// Mean METEOR with synonyms; none without WordNet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meteor: Option<f64>,
    /// Caption ROUGE-L of each pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rouge_l_each: Option<Vec<f64>>,
    /// CIDEr-D of each pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cider_d_each: Option<Vec<f64>>,
    /// METEOR of exact and stem matches of each pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meteor_stem_each: Option<Vec<f64>>,
    /// METEOR with synonyms of each pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meteor_each: Option<Vec<f64>>,
}

/// Mean; zero of nothing.
fn mean(values: &[f64]) -> f64 {
    if values.is_empty() {
        0.0
    } else {
        values.iter().sum::<f64>() / values.len() as f64
    }
}

/// Both texts of each pair as tokens of one kind.
fn tokenize(pairs: &[(String, String)], split: fn(&str) -> Vec<String>) -> Vec<(Vec<String>, Vec<String>)> {
    pairs
        .par_iter()
        .map(|(h, r)| (split(&h.to_lowercase()), split(&r.to_lowercase())))
        .collect()
}

/// Borrowed view of tokenized pairs.
fn borrow(pairs: &[(Vec<String>, Vec<String>)]) -> Vec<(Vec<&str>, Vec<&str>)> {
    pairs
        .iter()
        .map(|(h, r)| (tokens::borrow(h), tokens::borrow(r)))
        .collect()
}

/// Scores (hypothesis, reference) pairs, all text lower-cased first.
///
/// `meteor` is none if the WordNet directory cannot be read; [`score_pairs_with`] lets the caller see that error.
pub fn score_pairs(pairs: &[(String, String)], options: &Options) -> Scores {
    let source = options.wordnet.as_deref().and_then(|folder| WordNet::open(folder).ok());
    score_pairs_with(
        pairs,
        options.each,
        source.as_ref().map(|source| source as &dyn Synonyms),
    )
}

/// Scores (hypothesis, reference) pairs with a synonym source already open.
pub fn score_pairs_with(pairs: &[(String, String)], each: bool, synonyms: Option<&dyn Synonyms>) -> Scores {
    let mut scores = Scores {
        pairs: pairs.len(),
        ..Scores::default()
    };
    captions(pairs, each, &mut scores);
    rouge_f1(pairs, &mut scores);
    let words = tokenize(pairs, tokens::words_and_signs);
    let values = |source| {
        words
            .par_iter()
            .map(|(h, r)| meteor::meteor(h, r, source))
            .collect::<Vec<f64>>()
    };
    let stem_values = values(None);
    scores.meteor_stem = mean(&stem_values);
    scores.meteor_stem_each = each.then_some(stem_values);
    if synonyms.is_some() {
        let full = values(synonyms);
        scores.meteor = Some(mean(&full));
        scores.meteor_each = each.then_some(full);
    }
    scores
}

fn captions(pairs: &[(String, String)], each: bool, scores: &mut Scores) {
    let owned = tokenize(pairs, tokens::caption);
    let words = borrow(&owned);
    [scores.bleu1, scores.bleu2, scores.bleu3, scores.bleu4] = bleu::bleu(&words);
    let rouge: Vec<f64> = words.par_iter().map(|(h, r)| rouge::caption_l(h, r)).collect();
    scores.rouge_l = mean(&rouge);
    scores.rouge_l_each = each.then_some(rouge);
    let cider = cider::cider_d(&words);
    scores.cider_d = mean(&cider);
    scores.cider_d_each = each.then_some(cider);
}

fn rouge_f1(pairs: &[(String, String)], scores: &mut Scores) {
    let owned = tokenize(pairs, tokens::alphanumeric);
    let words = borrow(&owned);
    let one: Vec<f64> = words.par_iter().map(|(h, r)| rouge::n_f1(h, r, 1)).collect();
    let two: Vec<f64> = words.par_iter().map(|(h, r)| rouge::n_f1(h, r, 2)).collect();
    let longest: Vec<f64> = words.par_iter().map(|(h, r)| rouge::l_f1(h, r)).collect();
    scores.rouge1_f = mean(&one);
    scores.rouge2_f = mean(&two);
    scores.rouge_l_f = mean(&longest);
}

#[cfg(test)]
mod tests;
