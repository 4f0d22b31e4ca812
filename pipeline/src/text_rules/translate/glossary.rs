//! A glossary of source phrases, and the tokens that it matches on.
//!
//! Place: between cleaned text and segments. Format of a line: source phrase, tab, English; longest phrase first. "~" at an
//! edge of the English side glues it to its neighbour ("suspected~"), "~," glues with a comma, a lone "~" is noise that is
//! not printed. Invariant: matching folds umlauts and ignores `. , / - ; "` inside a phrase.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use fancy_regex::Regex;

use super::pattern;

/// Characters that may stand between the words of a phrase.
const SKIPPED: &str = ",./-;\"'!*_`\\:";
/// Characters that are tokens of their own and may be part of a phrase.
const KEPT: &str = "()<>=+";

static TOKEN: LazyLock<Regex> = LazyLock::new(|| {
    let l = "a-zà-öø-ÿß#&|{}";
    pattern(&format!(
        r"[{l}][{l}0-9]*(?:-[{l}0-9]+)*(?:\((?:n|t|er|a|s)\)[a-z]*)?|\d+(?:[.,:]\d+)*[{l}]*(?:-[{l}]+)*|[^\s\w]"
    ))
});
static UE: LazyLock<Regex> = LazyLock::new(|| pattern("#(?=[a-z])"));
static ENGLISH: LazyLock<Regex> = LazyLock::new(|| pattern("[a-z]{2,}"));

/// Words, numbers and punctuation of a lower-case text.
pub(super) fn tokens(text: &str) -> Vec<String> {
    TOKEN
        .find_iter(text)
        .filter_map(Result::ok)
        .map(|m| m.as_str().to_owned())
        .collect()
}

/// Runs of at least two ASCII letters.
pub(super) fn english_words(text: &str) -> impl Iterator<Item = String> {
    ENGLISH
        .find_iter(text)
        .filter_map(Result::ok)
        .map(|m| m.as_str().to_owned())
}

/// Umlauts spelled out; PTB-XL's broken "#" before a letter stands for ü.
pub(super) fn fold(word: &str) -> String {
    let mut folded = String::with_capacity(word.len());
    for c in word.to_lowercase().chars() {
        match c {
            'ä' => folded.push_str("ae"),
            'ö' => folded.push_str("oe"),
            'ü' => folded.push_str("ue"),
            'ß' => folded.push_str("ss"),
            'å' => folded.push_str("aa"),
            other => folded.push(other),
        }
    }
    if folded.contains('#') {
        folded = UE.replace_all(&folded, "ue").into_owned();
    }
    folded
}

/// True for a token that takes part in phrases.
pub(super) fn is_word(token: &str) -> bool {
    token
        .chars()
        .next()
        .is_some_and(|c| c.is_alphanumeric() || "#&|{}".contains(c))
        || is_kept(token)
}

/// True for brackets and comparison signs.
pub(super) fn is_kept(token: &str) -> bool {
    token.chars().count() == 1 && KEPT.contains(token)
}

/// True for punctuation that phrases ignore.
pub(super) fn is_skipped(token: &str) -> bool {
    token.chars().count() == 1 && SKIPPED.contains(token)
}

/// The tokens of a text that take part in phrases.
pub(super) fn words(text: &str) -> Vec<String> {
    tokens(&text.to_lowercase())
        .into_iter()
        .filter(|t| is_word(t))
        .collect()
}

/// Phrases of one language.
pub(super) struct Glossary {
    english: HashMap<String, String>,
    /// Keys in the order of the file.
    keys: Vec<String>,
    /// Folded source words.
    pub vocabulary: HashSet<String>,
    /// English words of the right-hand sides.
    pub english_vocabulary: HashSet<String>,
    /// Words of the longest phrase.
    pub longest: usize,
    heads: HashMap<String, Vec<usize>>,
}

impl Glossary {
    pub fn parse(text: &str) -> Self {
        let mut glossary = Self {
            english: HashMap::new(),
            keys: Vec::new(),
            vocabulary: HashSet::new(),
            english_vocabulary: HashSet::new(),
            longest: 0,
            heads: HashMap::new(),
        };
        for line in text.lines() {
            let (source, english) = line.split_once('\t').unwrap_or((line, ""));
            let key = words(&fold(source));
            if key.is_empty() {
                continue;
            }
            glossary.longest = glossary.longest.max(key.len());
            glossary.english_vocabulary.extend(english_words(english));
            glossary.vocabulary.extend(key.iter().cloned());
            let (head, phrase) = (key[0].clone(), key.join(" "));
            if glossary.english.insert(phrase.clone(), english.to_owned()).is_none() {
                glossary.heads.entry(head).or_default().push(glossary.keys.len());
                glossary.keys.push(phrase);
            }
        }
        glossary
    }

    /// English of a folded phrase.
    pub fn get(&self, phrase: &str) -> Option<&str> {
        self.english.get(phrase).map(String::as_str)
    }

    /// Folded phrases in the order of the file.
    pub fn phrases(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(String::as_str)
    }

    /// Folded phrases whose first word is `head`, in the order of the file.
    pub fn phrases_from(&self, head: &str) -> impl Iterator<Item = &str> {
        let found = self.heads.get(head).map(Vec::as_slice).unwrap_or_default();
        found.iter().map(|&at| self.keys[at].as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_match_whatever_their_umlauts_and_punctuation() {
        let glossary = Glossary::parse("av-block 1. grades, möglich\tpossible first degree av block\n");
        let phrase: Vec<String> = words("AV-Block 1.grades / moeglich").iter().map(|w| fold(w)).collect();
        assert_eq!(glossary.get(&phrase.join(" ")), Some("possible first degree av block"));
    }
}
