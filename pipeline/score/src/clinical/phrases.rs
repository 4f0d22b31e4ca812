//! The phrases that name a class, looked up in a sentence.
//!
//! Place: between the words and their certainty. Invariant: of two mentions where one's words are among the other's, the
//! one with more words counts: "incomplete right bundle branch block" is no "right bundle branch block".

use std::collections::HashMap;
use std::sync::LazyLock;

use super::words::{COMMA, is_lead};
use super::{classes, rows};

/// Words a gap may hold; names of leads do not count.
const GAP_MAX: usize = 4;
/// Words that start or end another statement, which no gap crosses.
const STATEMENT_WORDS: [&str; 14] = [
    "block",
    "rhythm",
    "ecg",
    "axis",
    "hypertrophy",
    "fascicular",
    "bundle",
    "fibrillation",
    "infarct",
    "ischemia",
    "wave",
    "segment",
    "normal",
    "premature",
];

/// One place of a phrase: any of these words, or a gap.
enum Place {
    Words(Vec<&'static str>),
    Gap,
}

struct Phrase {
    codes: Vec<&'static str>,
    /// After the first word.
    rest: Vec<Place>,
}

/// Phrases by each word they may start with.
static PHRASES: LazyLock<HashMap<&'static str, Vec<Phrase>>> = LazyLock::new(|| {
    let mut phrases: HashMap<&'static str, Vec<Phrase>> = HashMap::new();
    for fields in rows(include_str!("../../data/phrases.tsv")) {
        let [codes, phrase] = fields[..] else {
            panic!("phrases.tsv: {fields:?} is not codes, phrase")
        };
        let codes: Vec<&str> = codes.split(',').filter(|code| *code != "-").collect();
        let known = |code: &&str| classes().iter().any(|class| class.code == *code);
        assert!(codes.iter().all(known), "phrases.tsv: {codes:?} are not all SCP codes");
        let (first, rest) = phrase.split_once(' ').unwrap_or((phrase, ""));
        for word in first.split('|') {
            let rest = rest.split_terminator(' ').map(place).collect();
            phrases.entry(word).or_default().push(Phrase {
                codes: codes.clone(),
                rest,
            });
        }
    }
    phrases
});

fn place(text: &'static str) -> Place {
    match text {
        "*" => Place::Gap,
        words => Place::Words(words.split('|').collect()),
    }
}

/// A phrase found in a sentence.
pub struct Mention {
    /// What it names; empty for phrases that only keep others from matching.
    pub codes: &'static [&'static str],
    /// Index of its first word.
    pub first: usize,
    /// Index of its last word.
    pub last: usize,
    words: Vec<usize>,
}

/// The mentions of a sentence that are not part of a larger one.
pub fn mentions(sentence: &[String]) -> Vec<Mention> {
    let mut found: Vec<Mention> = Vec::new();
    for (at, word) in sentence.iter().enumerate() {
        for phrase in PHRASES.get(word.as_str()).into_iter().flatten() {
            let mut words = vec![at];
            if follow(sentence, at + 1, &phrase.rest, &mut words) {
                found.push(Mention {
                    codes: &phrase.codes,
                    first: at,
                    last: words[words.len() - 1],
                    words,
                });
            }
        }
    }
    let larger =
        |a: &Mention, b: &Mention| a.words.len() > b.words.len() && b.words.iter().all(|w| a.words.contains(w));
    let keeps: Vec<bool> = found.iter().map(|b| !found.iter().any(|a| larger(a, b))).collect();
    let mut keep = keeps.into_iter();
    found.retain(|_| keep.next().unwrap_or(true));
    found
}

/// Where the words that may speak of a mention end: at the next mention, unless the two are joined by "and" or "or".
pub fn reach(sentence: &[String], mentions: &[Mention], last: usize) -> usize {
    let mut last = last;
    loop {
        let next = mentions.iter().filter(|m| m.first > last).min_by_key(|m| m.first);
        let Some(next) = next else { return sentence.len() };
        let between = &sentence[last + 1..next.first];
        if !matches!(between, [word] if word == "and" || word == "or") {
            return next.first;
        }
        last = next.last;
    }
}

/// Matches the rest of a phrase from a word on, nearest words first, and notes where.
fn follow(sentence: &[String], at: usize, rest: &[Place], words: &mut Vec<usize>) -> bool {
    match rest {
        [] => true,
        [Place::Words(any), rest @ ..] => {
            if !sentence.get(at).is_some_and(|word| any.contains(&word.as_str())) {
                return false;
            }
            words.push(at);
            let matched = follow(sentence, at + 1, rest, words);
            if !matched {
                words.pop();
            }
            matched
        }
        [Place::Gap, rest @ ..] => {
            let (mut at, mut gap) = (at, 0);
            loop {
                if follow(sentence, at, rest, words) {
                    return true;
                }
                let Some(word) = sentence.get(at) else { return false };
                gap += usize::from(!is_lead(word));
                if gap > GAP_MAX || word == COMMA || STATEMENT_WORDS.contains(&word.as_str()) {
                    return false;
                }
                at += 1;
            }
        }
    }
}
