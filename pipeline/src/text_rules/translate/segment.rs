//! A source text cut into glossary phrases, lead lists, numbers and what is left.
//!
//! Place: between the glossary and `assemble`. Invariant: phrases are matched longest first over the whole text; every word
//! is counted once, as covered or not.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use fancy_regex::Regex;

use super::glossary::{Glossary, fold, is_kept, is_skipped, is_word, tokens};
use super::leads::{LEAD, NUMBER_LEAD, format_leads};
use super::pattern;

/// Longest phrase that is looked for, words.
const PHRASE_WORDS_MAX: usize = 12;

static NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\d[\d.,:]*(?:mm|mv|sec)?$"));
static PLAIN_NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\d[\d.,]*$"));
static DECIMAL_COMMA: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?<=\d),(?=\d)"));

/// What a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Phrase,
    Lead,
    Number,
    English,
    Punctuation,
    Missing,
}

/// A piece of English with its glue.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub text: String,
    pub glued_left: bool,
    pub glued_right: bool,
    pub comma: bool,
    pub kind: Kind,
}

impl Segment {
    fn new(english: &str, kind: Kind) -> Self {
        let inner = english.trim_matches('~');
        let (text, comma) = if kind == Kind::Punctuation {
            (inner, false)
        } else {
            (inner.trim_start_matches([',', ' ']).trim(), inner.starts_with(','))
        };
        Self {
            text: text.to_owned(),
            glued_left: english.starts_with('~'),
            glued_right: english.ends_with('~'),
            comma,
            kind,
        }
    }
}

/// What became of a text.
pub(super) struct Segmented {
    pub segments: Vec<Segment>,
    pub covered: usize,
    pub words: usize,
}

enum Mark {
    Free,
    Start(Segment),
    Inside,
}

/// Cuts a cleaned text; `used` counts the phrases that were found.
pub(super) fn segment(
    text: &str,
    glossary: &Glossary,
    english: &HashSet<String>,
    used: &mut HashMap<String, usize>,
) -> Segmented {
    let tokens = tokens(text);
    let folded: Vec<String> = tokens.iter().map(|t| fold(t)).collect();
    let marks = mark(&tokens, &folded, glossary, used);
    let cutter = Cutter {
        tokens,
        folded,
        marks,
        english,
        done: Segmented {
            segments: Vec::new(),
            covered: 0,
            words: 0,
        },
    };
    cutter.cut()
}

/// Longest phrases first, over the whole text.
fn mark(tokens: &[String], folded: &[String], glossary: &Glossary, used: &mut HashMap<String, usize>) -> Vec<Mark> {
    let n = tokens.len();
    let mut marks: Vec<Mark> = (0..n).map(|_| Mark::Free).collect();
    for size in (1..=glossary.longest.min(PHRASE_WORDS_MAX)).rev() {
        let mut at = 0;
        while at < n {
            let Some(places) = phrase_at(tokens, &marks, at, size) else {
                at += 1;
                continue;
            };
            let key = places.iter().map(|&p| folded[p].as_str()).collect::<Vec<_>>().join(" ");
            let Some(english) = glossary.get(&key) else {
                at += 1;
                continue;
            };
            let last = places[places.len() - 1];
            marks[at] = Mark::Start(Segment::new(english, Kind::Phrase));
            marks[at + 1..=last].iter_mut().for_each(|m| *m = Mark::Inside);
            *used.entry(key).or_default() += 1;
            at = last + 1;
        }
    }
    marks
}

/// Places of `size` free words from `at` on with nothing but skipped punctuation between them.
fn phrase_at(tokens: &[String], marks: &[Mark], at: usize, size: usize) -> Option<Vec<usize>> {
    if !matches!(marks[at], Mark::Free) || !is_word(&tokens[at]) {
        return None;
    }
    let mut places = vec![at];
    let mut next = at + 1;
    while next < tokens.len() && places.len() < size {
        if !matches!(marks[next], Mark::Free) {
            break;
        }
        if is_word(&tokens[next]) {
            places.push(next);
        } else if !is_skipped(&tokens[next]) {
            break;
        }
        next += 1;
    }
    (places.len() == size).then_some(places)
}

struct Cutter<'a> {
    tokens: Vec<String>,
    folded: Vec<String>,
    marks: Vec<Mark>,
    english: &'a HashSet<String>,
    done: Segmented,
}

impl Cutter<'_> {
    fn cut(mut self) -> Segmented {
        let mut at = 0;
        while at < self.tokens.len() {
            at = self.take(at);
        }
        self.done
    }

    fn push(&mut self, english: &str, kind: Kind) {
        self.done.segments.push(Segment::new(english, kind));
    }

    fn free(&self, at: usize) -> bool {
        matches!(self.marks[at], Mark::Free)
    }

    fn token(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", String::as_str)
    }

    /// Takes what stands at a place and returns the next one.
    fn take(&mut self, at: usize) -> usize {
        if let Mark::Start(segment) = &self.marks[at] {
            let segment = segment.clone();
            return self.take_phrase(at, segment);
        }
        let token = self.tokens[at].clone();
        if is_word(&token) && self.is_lead(at) {
            return self.take_leads(at);
        }
        if !is_word(&token) || is_kept(&token) {
            self.push(&format!("~{token}"), Kind::Punctuation);
            return at + 1;
        }
        if NUMBER.is_match(&token).unwrap_or(false) {
            return self.take_number(at, token);
        }
        self.done.words += 1;
        if self.folded[at] == "r" {
            self.done.covered += 1;
            self.push("~avr", Kind::Lead);
        } else if self.english.contains(&token) {
            self.done.covered += 1;
            self.push(&format!("~{token}~"), Kind::English);
        } else {
            self.push("~", Kind::Missing);
        }
        at + 1
    }

    fn take_phrase(&mut self, at: usize, segment: Segment) -> usize {
        let mut end = at + 1;
        while end < self.tokens.len() && matches!(self.marks[end], Mark::Inside) {
            end += 1;
        }
        let counted = self.tokens[at..end]
            .iter()
            .filter(|t| is_word(t) && !is_kept(t))
            .count();
        self.done.words += counted;
        self.done.covered += counted;
        if !segment.text.is_empty() {
            self.done.segments.push(segment);
        }
        end
    }

    fn take_number(&mut self, at: usize, mut number: String) -> usize {
        let mut end = at;
        let to = self.token(at + 2).to_owned();
        if self.token(at + 1) == "-"
            && at + 2 < self.tokens.len()
            && self.free(at + 2)
            && PLAIN_NUMBER.is_match(&to).unwrap_or(false)
        {
            number = format!("{number}-{to}");
            end = at + 2;
        }
        self.push(&format!("~{}", DECIMAL_COMMA.replace_all(&number, ".")), Kind::Number);
        end + 1
    }

    fn is_lead(&self, at: usize) -> bool {
        let (f, next) = (self.folded[at].as_str(), self.token(at + 1));
        let previous = at.checked_sub(1).map_or("", |p| self.token(p));
        let is = |f: &str| LEAD.is_match(f).unwrap_or(false);
        if f == "v" && !(is_number(next) || next == ",") {
            return false;
        }
        is(f)
            || f == "r"
                && ([",", "in", "über"].contains(&previous)
                    || next == "," && self.folded.get(at + 2).is_some_and(|f| is(f)))
    }

    fn take_leads(&mut self, at: usize) -> usize {
        let mut items = vec![self.folded[at].clone()];
        let mut end = at + 1;
        if items[0] == "v" && is_number(self.token(at + 1)) {
            items = vec![format!("v{}", self.token(at + 1))];
            end = at + 2;
        }
        let n = self.tokens.len();
        while end < n && self.free(end) {
            let mut k = end;
            while k < n && self.free(k) && self.tokens[k].chars().count() == 1 && ",+/.-&".contains(&self.tokens[k]) {
                k += 1;
            }
            if k >= n || !self.free(k) || !self.continues(&items, end, k) {
                break;
            }
            let separator = self.tokens[end..k].concat();
            if self.folded[k] == "v" && is_number(self.token(k + 1)) {
                self.folded[k + 1] = format!("v{}", self.tokens[k + 1]);
                k += 1;
            }
            let f = self.folded[k].clone();
            let last = items.last_mut().expect("it starts with one");
            let digit = f.strip_prefix('v').unwrap_or(&f);
            let is_chest = digit.len() == 1 && ("1"..="6").contains(&digit);
            if separator.contains('-') && last.starts_with('v') && is_chest {
                *last = format!("{last}-{digit}");
            } else if separator.contains('-') && last == "i" && f == "iii" {
                *last = "i-iii".to_owned();
            } else {
                items.push(f);
            }
            end = k + 1;
        }
        if items.iter().any(|i| i == "ll") || items.iter().any(|i| i == "avl") && items.iter().any(|i| i == "l") {
            items.iter_mut().filter(|i| *i == "l").for_each(|i| *i = "i".to_owned());
        } else if items == ["l", "l"] {
            items = vec!["i".to_owned(), "avl".to_owned()];
        }
        self.done.words += items.len();
        self.done.covered += items.len();
        let leads = format_leads(&items);
        if !leads.is_empty() {
            self.push(&format!("~{leads}"), Kind::Lead);
        }
        end
    }

    /// True when the word at `k`, after separators from `end` on, goes on with a list of leads.
    fn continues(&self, items: &[String], end: usize, k: usize) -> bool {
        let (f, last) = (&self.folded[k], &items[items.len() - 1]);
        let is_number_lead = |f: &str| NUMBER_LEAD.is_match(f).unwrap_or(false);
        LEAD.is_match(f).unwrap_or(false)
            || f == "r" && k > end
            || is_number_lead(f) && (last.starts_with('v') || is_number_lead(last))
    }
}

fn is_number(token: &str) -> bool {
    !token.is_empty() && token.chars().all(|c| c.is_ascii_digit())
}
