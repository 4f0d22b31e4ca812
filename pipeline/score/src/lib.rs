//! Text metrics of generated reports against references: BLEU, ROUGE, CIDEr-D, METEOR, and the statements both name.
//!
//! Place: after drafting, in evaluation and in the promotion gate; nothing of a prompt is ever in a scored text, but for
//! [`Mode::Reference`]. Invariant: a pure function of the pairs (and of the WordNet files, when given); every value equals
//! that of the library the field uses (pycocoevalcap, rouge_score, nltk) to 1e-6.

pub mod bleu;
pub mod cider;
pub mod clinical;
pub mod grams;
pub mod meteor;
pub mod porter;
pub mod reference;
pub mod rouge;
pub mod tokens;
pub mod wordnet;

use std::path::PathBuf;

use grams::{Grams, ORDERS};
use meteor::{Lexicon, Synonyms};
use rayon::prelude::*;
use serde::Serialize;
use tokens::{Texts, Vocabulary};
use wordnet::{WordNet, WordNetError};

/// What to compute besides the corpus values.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Also give the values of each pair.
    pub each: bool,
    /// Directory of WordNet 3.0; without it METEOR with synonyms is left out.
    pub wordnet: Option<PathBuf>,
}

/// Which document frequencies CIDEr-D weighs n-grams by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Those of the references.
    #[default]
    Clean,
    /// None: every n-gram weighs the same, as in the authors' scoring.
    Reference,
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

/// What one pair adds to the corpus values, so that any subset can be scored without its texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairScore {
    /// Its part of BLEU.
    pub bleu: bleu::Sums,
    /// Caption ROUGE-L.
    pub rouge_l: f64,
    /// CIDEr-D, by the document frequencies of the whole corpus.
    pub cider_d: f64,
    /// ROUGE-1 and ROUGE-2 F1.
    pub rouge_n_f: [f64; 2],
    /// ROUGE-L F1.
    pub rouge_l_f: f64,
    /// METEOR of exact and stem matches.
    pub meteor_stem: f64,
    /// METEOR with synonyms.
    pub meteor: Option<f64>,
}

/// Mean; zero of nothing.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0usize);
    for value in values {
        sum += value;
        count += 1;
    }
    if count == 0 { 0.0 } else { sum / count as f64 }
}

impl Scores {
    /// The corpus values of these pairs; CIDEr-D keeps the document frequencies the pairs were scored with.
    pub fn of<'a>(pairs: impl Iterator<Item = &'a PairScore> + Clone) -> Self {
        let mut sums = bleu::Sums::default();
        pairs.clone().for_each(|pair| sums.add(&pair.bleu));
        let [bleu1, bleu2, bleu3, bleu4] = sums.bleu();
        let over = |value: fn(&PairScore) -> f64| mean(pairs.clone().map(value));
        let has_synonyms = pairs.clone().next().is_some_and(|pair| pair.meteor.is_some());
        Self {
            pairs: pairs.clone().count(),
            bleu1,
            bleu2,
            bleu3,
            bleu4,
            rouge_l: over(|p| p.rouge_l),
            cider_d: over(|p| p.cider_d),
            rouge1_f: over(|p| p.rouge_n_f[0]),
            rouge2_f: over(|p| p.rouge_n_f[1]),
            rouge_l_f: over(|p| p.rouge_l_f),
            meteor_stem: over(|p| p.meteor_stem),
            meteor: has_synonyms.then(|| over(|p| p.meteor.unwrap_or_default())),
            ..Self::default()
        }
    }

    /// With the values of each pair.
    pub fn with_each(mut self, pairs: &[PairScore]) -> Self {
        let each = |value: fn(&PairScore) -> f64| Some(pairs.iter().map(value).collect());
        self.rouge_l_each = each(|p| p.rouge_l);
        self.cider_d_each = each(|p| p.cider_d);
        self.meteor_stem_each = each(|p| p.meteor_stem);
        self.meteor_each = self.meteor.and_then(|_| each(|p| p.meteor.unwrap_or_default()));
        self
    }
}

/// Scores (hypothesis, reference) pairs, all text lower-cased first.
///
/// # Errors
/// A WordNet directory that is given and cannot be read.
pub fn score_pairs(pairs: &[(String, String)], options: &Options) -> Result<Scores, WordNetError> {
    let source = options.wordnet.as_deref().map(WordNet::open).transpose()?;
    let each = score_each(
        pairs,
        source.as_ref().map(|source| source as &dyn Synonyms),
        Mode::Clean,
    );
    let scores = Scores::of(each.iter());
    Ok(if options.each { scores.with_each(&each) } else { scores })
}

/// Scores each (hypothesis, reference) pair, all text lower-cased first.
pub fn score_each(pairs: &[(String, String)], synonyms: Option<&dyn Synonyms>, mode: Mode) -> Vec<PairScore> {
    let texts: Vec<String> = pairs
        .par_iter()
        .flat_map_iter(|(hypothesis, reference)| [hypothesis.to_lowercase(), reference.to_lowercase()])
        .collect();
    let mut vocabulary = Vocabulary::default();
    let [mut captions, mut plain, mut words] = std::array::from_fn(|_| Texts::default());
    for text in &texts {
        words.push(tokens::words_and_signs(text), &mut vocabulary);
    }
    // the stems of these words only; the other tokenizers add words that METEOR never sees
    let lexicon = Lexicon::new(&mut vocabulary, synonyms);
    for text in &texts {
        captions.push(tokens::caption(text), &mut vocabulary);
        plain.push(tokens::alphanumeric(text), &mut vocabulary);
    }
    let grams: Vec<Grams> = (0..texts.len())
        .into_par_iter()
        .map(|text| Grams::of(captions.get(text), ORDERS))
        .collect();
    let weights = match mode {
        Mode::Clean => cider::Weights::inverse_frequency(grams.iter().skip(1).step_by(2)),
        Mode::Reference => cider::Weights::equal(),
    };
    let score = |pair: usize| {
        let (h, r) = (2 * pair, 2 * pair + 1);
        let lengths = (captions.get(h).len(), captions.get(r).len());
        let (meteor_stem, meteor) = lexicon.meteor(words.get(h), words.get(r));
        PairScore {
            bleu: bleu::Sums::of(lengths, &grams[h], &grams[r]),
            rouge_l: rouge::caption_l(captions.get(h), captions.get(r)),
            cider_d: weights.cider_d(lengths, &grams[h], &grams[r]),
            rouge_n_f: rouge::n_f1(plain.get(h), plain.get(r)),
            rouge_l_f: rouge::l_f1(plain.get(h), plain.get(r)),
            meteor_stem,
            meteor,
        }
    };
    (0..pairs.len()).into_par_iter().map(score).collect()
}

#[cfg(test)]
mod tests;
