//! METEOR: exact, stem and (with a synonym source) synonym matches, alpha 0.9, beta 3, gamma 0.5.
//!
//! Place: over `tokens::words_and_signs`. Invariant: the alignment is NLTK's greedy one from the last word to the first,
//! not the one with the fewest chunks. Source: nltk/translate/meteor_score.py.

use std::collections::BTreeSet;

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use crate::porter::stem;
use crate::tokens::Vocabulary;

const ALPHA: f64 = 0.9;
const BETA: i32 = 3;
const GAMMA: f64 = 0.5;

/// Gives the one-word synonyms of a word.
pub trait Synonyms: Sync {
    /// Lemma names without an underscore of every sense of the word.
    fn synonyms(&self, word: &str) -> BTreeSet<String>;
}

/// Stems, and synonyms of stems, of a whole vocabulary, looked up once.
pub struct Lexicon {
    /// Number of each token's stem.
    stems: Vec<u32>,
    /// Synonyms of each stem among the stems, sorted; none without a synonym source.
    synonyms: Option<FxHashMap<u32, Vec<u32>>>,
}

impl Lexicon {
    /// Numbers the stems of every token in `vocabulary`, which grows by those that were not in it.
    pub fn new(vocabulary: &mut Vocabulary, source: Option<&dyn Synonyms>) -> Self {
        let words = vocabulary.len();
        let spelled: Vec<String> = (0..words as u32)
            .into_par_iter()
            .map(|number| stem(vocabulary.token(number)))
            .collect();
        let stems: Vec<u32> = spelled.iter().map(|stem| vocabulary.number(stem)).collect();
        let mut own: Vec<u32> = stems.clone();
        own.sort_unstable();
        own.dedup();
        let known = &*vocabulary;
        let of = |source: &dyn Synonyms, stem: u32| {
            let names = source.synonyms(known.token(stem));
            let mut numbers: Vec<u32> = names.iter().filter_map(|name| known.get(name)).collect();
            numbers.sort_unstable();
            (stem, numbers)
        };
        let synonyms = source.map(|source| own.par_iter().map(|&stem| of(source, stem)).collect());
        Self { stems, synonyms }
    }

    /// METEOR of exact and stem matches, and with synonyms when there are any; tokens of the vocabulary.
    pub fn meteor(&self, hypothesis: &[u32], reference: &[u32]) -> (f64, Option<f64>) {
        let mut alignment = Alignment::new(hypothesis, reference);
        alignment.take(|word, other| word == other);
        for (_, word) in alignment.hypothesis.iter_mut().chain(&mut alignment.reference) {
            *word = self.stems[*word as usize];
        }
        alignment.take(|word, other| word == other);
        let lengths = (hypothesis.len(), reference.len());
        let stem_score = alignment.score(lengths);
        let full_score = self.synonyms.as_ref().map(|synonyms| {
            // NLTK hands the stems on to the synonym stage, so the words left stay stemmed
            alignment.take(|word, other| word == other || synonyms[&word].binary_search(&other).is_ok());
            alignment.score(lengths)
        });
        (stem_score, full_score)
    }
}

/// Matches and what they left over, each word with its place in its text.
struct Alignment {
    matches: Vec<(usize, usize)>,
    hypothesis: Vec<(usize, u32)>,
    reference: Vec<(usize, u32)>,
}

impl Alignment {
    fn new(hypothesis: &[u32], reference: &[u32]) -> Self {
        let place = |words: &[u32]| words.iter().copied().enumerate().collect();
        Self {
            matches: Vec::new(),
            hypothesis: place(hypothesis),
            reference: place(reference),
        }
    }

    /// Takes hypothesis words from the last to the first, each with the last free reference word that matches it.
    fn take(&mut self, matches: impl Fn(u32, u32) -> bool) {
        let reference = &mut self.reference;
        let mut left = Vec::with_capacity(self.hypothesis.len());
        for &(place, word) in self.hypothesis.iter().rev() {
            match reference.iter().rposition(|&(_, other)| matches(word, other)) {
                Some(at) => self.matches.push((place, reference.remove(at).0)),
                None => left.push((place, word)),
            }
        }
        left.reverse();
        self.hypothesis = left;
    }

    fn score(&mut self, (hypothesis, reference): (usize, usize)) -> f64 {
        if self.matches.is_empty() {
            return 0.0;
        }
        let count = self.matches.len() as f64;
        let precision = count / hypothesis as f64;
        let recall = count / reference as f64;
        let mean = precision * recall / (ALPHA * precision + (1.0 - ALPHA) * recall);
        let fragmentation = self.chunks() as f64 / count;
        (1.0 - GAMMA * fragmentation.powi(BETA)) * mean
    }

    /// Runs of matches that are adjacent in both texts.
    fn chunks(&mut self) -> usize {
        self.matches.sort_unstable();
        let breaks = self
            .matches
            .windows(2)
            .filter(|m| m[1] != (m[0].0 + 1, m[0].1 + 1))
            .count();
        breaks + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One(&'static str, &'static str);

    impl Synonyms for One {
        fn synonyms(&self, word: &str) -> BTreeSet<String> {
            (word == self.0).then(|| self.1.to_owned()).into_iter().collect()
        }
    }

    fn meteor(hypothesis: &str, reference: &str, source: Option<&dyn Synonyms>) -> (f64, Option<f64>) {
        let mut vocabulary = Vocabulary::default();
        let [hypothesis, reference] = [hypothesis, reference].map(|text| {
            let words = text.split_whitespace().map(str::to_lowercase);
            words.map(|word| vocabulary.number(&word)).collect::<Vec<u32>>()
        });
        Lexicon::new(&mut vocabulary, source).meteor(&hypothesis, &reference)
    }

    #[test]
    fn documented_example_of_nltk_without_synonyms() {
        let hypothesis =
            "It is a guide to action which ensures that the military always obeys the commands of the party";
        let reference = "It is a guide to action that ensures that the military will forever heed Party commands";
        let (stem, full) = meteor(hypothesis, reference, None);
        assert!((stem - 0.6944).abs() < 1e-4, "{stem}");
        assert_eq!(full, None);
    }

    #[test]
    fn nothing_in_common_is_zero_and_synonyms_are_in_common() {
        assert_eq!(meteor("non matching", "this is", None).0, 0.0);
        assert_eq!(meteor("", "", None).0, 0.0);
        // one word of one matches: precision and recall 1, one chunk of one match
        assert_eq!(meteor("cars", "auto", Some(&One("car", "auto"))), (0.0, Some(0.5)));
    }
}
