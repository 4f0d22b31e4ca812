//! PTB-XL's German and Swedish reports in English, by glossaries that cover its vocabulary.
//!
//! Place: between PTB-XL's table and the text rules. The translator first learns from the whole corpus (English words,
//! whole sentences, phrases in use), then translates each report. Invariant: only phrases of the shipped glossaries are
//! translated; a text of which too little is covered is dropped with its share, never guessed at.

mod assemble;
mod clean;
mod counts;
mod english;
mod glossary;
mod leads;
mod segment;
mod tail;

use std::collections::{HashMap, HashSet};

use fancy_regex::Regex;
use rayon::prelude::*;

use self::clean::{Clean, clean};
use self::counts::Counts;
use self::glossary::{Glossary, english_words, fold, words};

const GERMAN: &str = include_str!("../../data/glossary_de.tsv");
const SWEDISH: &str = include_str!("../../data/glossary_sv.tsv");
/// Share of a text's words that the glossary must cover.
pub const COVERED_MIN: f64 = 0.8;
/// English reports in which a word must occur to be known as English.
const ENGLISH_COUNT_MIN: usize = 3;
const ENGLISH_HINTS: [&str; 21] = [
    "the", "of", "with", "in", "is", "are", "this", "be", "to", "due", "may", "and", "not", "no", "or", "at", "that",
    "by", "for", "these", "it",
];
/// English words that mean something else in German.
const FALSE_FRIENDS: [&str; 8] = ["an", "is", "am", "so", "war", "die", "also", "be"];

/// Language of a source report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Language {
    English,
    German,
    Swedish,
    /// No word in it.
    None,
}

/// A report in English.
#[derive(Clone, Debug, PartialEq)]
pub struct Translation {
    pub language: Language,
    /// Sentences that end in full stops, lower case; empty where nothing was left.
    pub english: String,
    /// Share of the source's words that were understood.
    pub covered: f64,
}

/// Glossaries with what a corpus taught them.
pub struct Translator {
    german: Glossary,
    swedish: Glossary,
    vocabulary: HashSet<String>,
    passed_through: HashSet<String>,
    whole: Counts,
    used: [HashMap<String, usize>; 2],
}

/// Counts of the sentences of English reports.
fn whole_sentences<'a>(reports: impl Iterator<Item = (&'a Clean, &'a Language)>) -> Counts {
    let (mut whole, nothing) = (Counts::default(), Counts::default());
    for (clean, _) in reports.filter(|(_, language)| **language == Language::English) {
        for sentence in english::english(&clean.text, false, &nothing) {
            whole.add(&sentence, 1);
        }
    }
    whole
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the patterns are constants, or escaped words between constants")
}

impl Translator {
    /// Learns from the reports that are to be translated.
    pub fn learn(reports: &[&str]) -> Self {
        let mut translator = Self::untaught();
        let cleaned: Vec<Clean> = reports.par_iter().map(|report| clean(report)).collect();
        let languages = |t: &Self| -> Vec<Language> { cleaned.par_iter().map(|c| t.detect(&c.text)).collect() };
        let mut counts: HashMap<String, usize> = HashMap::new();
        for (clean, language) in cleaned.iter().zip(languages(&translator)) {
            if language == Language::English {
                english_words(&clean.text).for_each(|w| *counts.entry(w).or_default() += 1);
            }
        }
        let known = counts
            .into_iter()
            .filter(|(_, n)| *n >= ENGLISH_COUNT_MIN)
            .map(|(w, _)| w);
        translator.vocabulary.extend(known);
        let languages = languages(&translator);
        let kept = || cleaned.iter().zip(&languages).filter(|(clean, _)| !clean.cut);
        translator.whole = whole_sentences(kept());
        translator.used = [Language::German, Language::Swedish].map(|language| {
            let texts = kept().filter(|(_, l)| **l == language);
            translator.phrases_used(
                &texts.map(|(clean, _)| clean.text.as_str()).collect::<Vec<_>>(),
                language,
            )
        });
        translator.passed_through = translator
            .vocabulary
            .iter()
            .filter(|w| !FALSE_FRIENDS.contains(&w.as_str()))
            .cloned()
            .collect();
        translator
    }

    fn phrases_used(&self, texts: &[&str], language: Language) -> HashMap<String, usize> {
        let (glossary, _) = self.glossary(language);
        let counted = texts.par_iter().map(|text| {
            let mut used = HashMap::new();
            segment::segment(text, glossary, &self.vocabulary, &mut used);
            used
        });
        counted.reduce(HashMap::new, |mut all, more| {
            more.into_iter()
                .for_each(|(phrase, n)| *all.entry(phrase).or_default() += n);
            all
        })
    }

    fn untaught() -> Self {
        let (german, swedish) = (Glossary::parse(GERMAN), Glossary::parse(SWEDISH));
        let hints = ENGLISH_HINTS.iter().map(|w| (*w).to_owned());
        let english = german.english_vocabulary.union(&swedish.english_vocabulary).cloned();
        Self {
            vocabulary: english.chain(hints).collect(),
            passed_through: HashSet::new(),
            german,
            swedish,
            whole: Counts::default(),
            used: [HashMap::new(), HashMap::new()],
        }
    }

    /// The report in English.
    pub fn translate(&self, report: &str) -> Translation {
        let Clean { text, cut } = clean(report);
        let language = self.detect(&text);
        let (sentences, covered) = match language {
            Language::None => (Vec::new(), 0.0),
            Language::English => (english::english(&text, cut, &self.whole), 1.0),
            Language::German | Language::Swedish => self.by_glossary(&text, cut, language),
        };
        let english = if sentences.is_empty() {
            String::new()
        } else {
            sentences.join(". ") + "."
        };
        Translation {
            language,
            english,
            covered,
        }
    }

    fn by_glossary(&self, text: &str, cut: bool, language: Language) -> (Vec<String>, f64) {
        let (glossary, at) = self.glossary(language);
        let mended;
        let text = if cut {
            mended = tail::mend(text, glossary, &self.used[at]);
            &mended
        } else {
            text
        };
        let done = segment::segment(text, glossary, &self.passed_through, &mut HashMap::new());
        let covered = done.covered as f64 / done.words.max(1) as f64;
        (assemble::tidy(&assemble::assemble(&done.segments)), covered)
    }

    fn glossary(&self, language: Language) -> (&Glossary, usize) {
        match language {
            Language::Swedish => (&self.swedish, 1),
            _ => (&self.german, 0),
        }
    }

    /// The language whose own words the text has most of; English words of its vocabulary break a tie.
    fn detect(&self, text: &str) -> Language {
        let words: Vec<String> = words(text)
            .iter()
            .filter(|w| w.starts_with(char::is_alphabetic))
            .map(|w| fold(w))
            .collect();
        if words.is_empty() {
            return Language::None;
        }
        let (de, sv, en) = (&self.german.vocabulary, &self.swedish.vocabulary, &self.vocabulary);
        let only = |a: &HashSet<String>, b: &HashSet<String>, c: &HashSet<String>| {
            words
                .iter()
                .filter(|w| a.contains(*w) && !b.contains(*w) && !c.contains(*w))
                .count() as f64
        };
        let hints = words.iter().filter(|w| ENGLISH_HINTS.contains(&w.as_str())).count() as f64;
        let own = [only(de, sv, en), only(en, de, sv) + 0.5 * hints, only(sv, de, en)];
        let known = |a: &HashSet<String>| words.iter().filter(|w| a.contains(*w)).count() as f64;
        let scores = if own.iter().all(|&s| s == 0.0) {
            [known(de), known(en), known(sv)]
        } else {
            own
        };
        // of equals the one whose code comes last: sv, en, de
        let ranked = [
            (scores[0], Language::German),
            (scores[1], Language::English),
            (scores[2], Language::Swedish),
        ];
        ranked
            .into_iter()
            .reduce(|best, next| if next.0 >= best.0 { next } else { best })
            .map_or(Language::None, |(_, language)| language)
    }
}
