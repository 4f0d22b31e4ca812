//! The last statement of a German or Swedish text that was cut off at 255 characters.
//!
//! Place: before segmentation. Invariant: the statement is completed where nearly all phrases that begin like it and occur
//! in the corpus agree on one English text; an ambiguous one is dropped, never guessed.

use std::collections::HashMap;
use std::sync::LazyLock;

use fancy_regex::Regex;

use super::counts::Counts;
use super::english::AGREEMENT;
use super::glossary::{Glossary, fold, words};
use super::pattern;

/// Words of the longest tail that is completed.
const TAIL_WORDS_MAX: usize = 7;

static UNINFLECTED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^(?:anterior|inferior|lateral|septal|anteroseptal|anterolateral|inferolateral|hochlateral)(?:en)?$")
});
static NEEDS_QUALIFIER: LazyLock<Regex> =
    LazyLock::new(|| pattern("(?:infarkt|myokardschaden|linkshypertrophie|myokardskada|ischemi|ischaemie)$"));
static HALF_STATEMENT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?:\s*\b[a-zäöü]+er)*\s+(?:infarkt|myokardschaden)$|\s+(?:hög )?[a-z]+ (?:infarkt|myokardskada)$")
});

fn hits(regex: &Regex, text: &str) -> bool {
    regex.is_match(text).unwrap_or(false)
}

/// The text with its last statement completed, dropped, or left where it is whole. `used` counts the corpus's phrases.
pub(super) fn mend(text: &str, glossary: &Glossary, used: &HashMap<String, usize>) -> String {
    let words = words(text);
    let folded: Vec<String> = words.iter().map(|w| fold(w)).collect();
    let Some(last) = folded.last() else {
        return text.to_owned();
    };
    let whole = glossary.vocabulary.contains(last) && last.chars().count() > 2 && !hits(&UNINFLECTED, last);
    let n = words.len();
    let mut decided = false;
    for k in (1..=TAIL_WORDS_MAX.min(n)).rev() {
        if k == 1 && whole && !hits(&NEEDS_QUALIFIER, last) {
            return text.to_owned();
        }
        let tail = folded[n - k..].join(" ");
        let candidates = continuations(glossary, used, &tail, k, &folded[n - k]);
        let Some((english, count)) = candidates.top() else {
            if k > 1 && glossary.get(&tail).is_some() {
                return text.to_owned();
            }
            continue;
        };
        if glossary.get(&tail).is_some()
            && whole
            && (!hits(&NEEDS_QUALIFIER, last) || tail.contains(" eller ") || tail.contains(" oder "))
        {
            return text.to_owned();
        }
        let agrees = count as f64 >= AGREEMENT * candidates.sum() as f64;
        if agrees && (k > 1 || tail.chars().count() >= 5) {
            return completed(text, &words[n - k..], glossary, used, (&tail, english));
        }
        decided = true;
        break;
    }
    if !decided && whole {
        return text.to_owned();
    }
    let without = cut_words(text, &words[n - 1..], r"[\s,./-]*");
    HALF_STATEMENT.replace_all(&without, "").into_owned()
}

/// English texts of the used phrases that begin with `tail`, with their counts.
fn continuations(glossary: &Glossary, used: &HashMap<String, usize>, tail: &str, k: usize, head: &str) -> Counts {
    let mut counts = Counts::default();
    let mut note = |key: &str| {
        let n = used.get(key).copied().unwrap_or(0);
        if n > 0 && key.starts_with(tail) && key != tail {
            counts.add(glossary.get(key).unwrap_or_default(), n);
        }
    };
    if k > 1 {
        glossary.phrases_from(head).for_each(&mut note);
    } else {
        glossary.phrases().for_each(&mut note);
    }
    counts
}

fn completed(
    text: &str,
    tail_words: &[String],
    glossary: &Glossary,
    used: &HashMap<String, usize>,
    (tail, english): (&str, &str),
) -> String {
    let mut best: Option<(&str, usize)> = None;
    for key in glossary.phrases() {
        if glossary.get(key) == Some(english) && key.starts_with(tail) {
            let n = used.get(key).copied().unwrap_or(0);
            if best.is_none_or(|(_, most)| n > most) {
                best = Some((key, n));
            }
        }
    }
    let phrase = best.map_or("", |(key, _)| key);
    format!("{} {phrase}", cut_words(text, tail_words, "").trim_end())
}

/// The text without these words at its end; `lead` matches what may stand before them.
fn cut_words(text: &str, words: &[String], lead: &str) -> String {
    let escaped: Vec<String> = words.iter().map(|w| fancy_regex::escape(w).into_owned()).collect();
    let end = pattern(&format!(r"{lead}{}\W*$", escaped.join(r"[\s,./-]*")));
    end.replace_all(text, "").into_owned()
}
