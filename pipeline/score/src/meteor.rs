//! METEOR: exact, stem and (with a synonym source) synonym matches, alpha 0.9, beta 3, gamma 0.5.
//!
//! Place: over `tokens::words_and_signs`. Invariant: the alignment is NLTK's greedy one from the last word to the first,
//! not the one with the fewest chunks. Source: nltk/translate/meteor_score.py.

use crate::porter::stem;
use std::collections::{BTreeSet, HashMap};

const ALPHA: f64 = 0.9;
const BETA: i32 = 3;
const GAMMA: f64 = 0.5;

/// A word and its place in its text.
type Placed = (usize, String);

/// Gives the one-word synonyms of a word.
pub trait Synonyms: Sync {
    /// Lemma names without an underscore of every sense of the word.
    fn synonyms(&self, word: &str) -> BTreeSet<String>;
}

/// Matches and what they left over.
struct Alignment {
    matches: Vec<(usize, usize)>,
    hypothesis: Vec<Placed>,
    reference: Vec<Placed>,
}

impl Alignment {
    fn new(hypothesis: &[String], reference: &[String]) -> Self {
        let place = |words: &[String]| words.iter().map(|word| word.to_lowercase()).enumerate().collect();
        Self {
            matches: Vec::new(),
            hypothesis: place(hypothesis),
            reference: place(reference),
        }
    }

    /// Takes hypothesis words from the last to the first, each with the last free reference word among its candidates.
    fn take(&mut self, candidates: impl Fn(&str) -> BTreeSet<String>) {
        let mut free: HashMap<&str, Vec<usize>> = HashMap::new();
        for (j, (_, word)) in self.reference.iter().enumerate() {
            free.entry(word).or_default().push(j);
        }
        let mut used_hypothesis = vec![false; self.hypothesis.len()];
        let mut used_reference = vec![false; self.reference.len()];
        for (i, (place, word)) in self.hypothesis.iter().enumerate().rev() {
            let last = |word: &String| free.get(word.as_str()).and_then(|places| places.last().copied());
            let Some(j) = candidates(word).iter().filter_map(last).max() else {
                continue;
            };
            let (reference_place, reference_word) = &self.reference[j];
            if let Some(places) = free.get_mut(reference_word.as_str()) {
                places.pop();
            }
            used_hypothesis[i] = true;
            used_reference[j] = true;
            self.matches.push((*place, *reference_place));
        }
        drop_used(&mut self.hypothesis, &used_hypothesis);
        drop_used(&mut self.reference, &used_reference);
    }

    /// NLTK hands the stems on to the synonym stage, so the words left stay stemmed.
    fn stem(&mut self) {
        for (_, word) in self.hypothesis.iter_mut().chain(&mut self.reference) {
            *word = stem(word);
        }
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

fn drop_used(words: &mut Vec<Placed>, used: &[bool]) {
    let mut flags = used.iter();
    words.retain(|_| !flags.next().copied().unwrap_or(false));
}

fn same(word: &str) -> BTreeSet<String> {
    BTreeSet::from([word.to_owned()])
}

/// METEOR of hypothesis tokens against reference tokens.
pub fn meteor(hypothesis: &[String], reference: &[String], synonyms: Option<&dyn Synonyms>) -> f64 {
    let mut alignment = Alignment::new(hypothesis, reference);
    alignment.take(same);
    alignment.stem();
    alignment.take(same);
    if let Some(source) = synonyms {
        alignment.take(|word| {
            let mut words = source.synonyms(word);
            words.insert(word.to_owned());
            words
        });
    }
    if alignment.matches.is_empty() {
        return 0.0;
    }
    let count = alignment.matches.len() as f64;
    let precision = count / hypothesis.len() as f64;
    let recall = count / reference.len() as f64;
    let mean = precision * recall / (ALPHA * precision + (1.0 - ALPHA) * recall);
    let fragmentation = alignment.chunks() as f64 / count;
    (1.0 - GAMMA * fragmentation.powi(BETA)) * mean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn documented_example_of_nltk_without_synonyms() {
        let hypothesis =
            words("It is a guide to action which ensures that the military always obeys the commands of the party");
        let reference =
            words("It is a guide to action that ensures that the military will forever heed Party commands");
        assert!((meteor(&hypothesis, &reference, None) - 0.6944).abs() < 1e-4);
    }

    #[test]
    fn nothing_in_common_is_zero() {
        assert_eq!(meteor(&words("non matching"), &words("this is"), None), 0.0);
        assert_eq!(meteor(&[], &[], None), 0.0);
    }
}
