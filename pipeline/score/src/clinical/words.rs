//! A report as sentences of plain words: one spelling, one language, one number.
//!
//! Place: before the phrases. Invariant: words are lower-case, without plural endings; the only sign left is the comma, and
//! none stands between the names of leads.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::rows;

/// The comma, at which cues and gaps end.
pub const COMMA: &str = ",";

type Term = (Vec<String>, Vec<&'static str>);

/// Terms by their first word, longest first.
static TERMS: LazyLock<HashMap<String, Vec<Term>>> = LazyLock::new(|| {
    let mut terms: HashMap<String, Vec<Term>> = HashMap::new();
    for fields in rows(include_str!("../../data/terms.tsv")) {
        let [from, to] = fields[..] else {
            panic!("terms.tsv: {fields:?} is not from, to")
        };
        let from: Vec<String> = from.split(' ').map(|word| singular(word.to_owned())).collect();
        let of_first = terms.entry(from[0].clone()).or_default();
        of_first.push((from, to.split(' ').collect()));
    }
    for list in terms.values_mut() {
        list.sort_by_key(|(from, _)| std::cmp::Reverse(from.len()));
    }
    terms
});

/// True for the name of a lead or a part of one: "ii", "avl", "v3", and the "5" of "v4,5".
pub fn is_lead(word: &str) -> bool {
    matches!(word, "i" | "ii" | "iii" | "avr" | "avl" | "avf")
        || word.strip_prefix('v').unwrap_or(word).parse::<u32>().is_ok()
}

/// The sentences of a text, each as words.
pub fn sentences(text: &str) -> Vec<Vec<String>> {
    let mut sentences = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let text = text
        .to_lowercase()
        .replace("(s)", "")
        .replace("(es)", "")
        .replace("(n)", "")
        .replace("(t)", " t ");
    let mut chars = text.chars().peekable();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        let decimal = c == '.' && before.is_ascii_digit() && chars.peek().is_some_and(char::is_ascii_digit);
        if c.is_alphanumeric() || decimal {
            word.push(c);
        } else {
            close(&mut word, &mut words);
            match c {
                '.' | ';' | '\n' => sentences.extend(finish(&mut words)),
                ',' | '(' | ')' | ':' | '?' => words.push(COMMA.to_owned()),
                _ => {}
            }
        }
        before = c;
    }
    close(&mut word, &mut words);
    sentences.extend(finish(&mut words));
    sentences
}

fn close(word: &mut String, words: &mut Vec<String>) {
    if !word.is_empty() {
        words.push(singular(std::mem::take(word)));
    }
}

/// The word without an English plural ending.
fn singular(mut word: String) -> String {
    let keeps = ["ss", "us", "is", "as"].iter().any(|end| word.ends_with(end));
    if word.len() < 4 || keeps || !word.ends_with('s') {
        return word;
    }
    if word.ends_with("ies") {
        word.truncate(word.len() - 3);
        word.push('y');
    } else if word.ends_with("xes") {
        word.truncate(word.len() - 2);
    } else {
        word.pop();
    }
    word
}

/// Ends a sentence: commas between leads go, terms are replaced; none of no words.
fn finish(words: &mut Vec<String>) -> Option<Vec<String>> {
    let words = std::mem::take(words);
    let lead_at = |at: usize| words.get(at).is_some_and(|word| is_lead(word));
    let kept = |at: usize| words[at] != COMMA || !(at > 0 && lead_at(at - 1) && lead_at(at + 1));
    let plain: Vec<&str> = (0..words.len()).filter(|&at| kept(at)).map(|at| &*words[at]).collect();
    let replaced = replace(&plain);
    replaced.iter().any(|word| word != COMMA).then_some(replaced)
}

fn replace(words: &[&str]) -> Vec<String> {
    let mut out = Vec::with_capacity(words.len());
    let mut at = 0;
    while at < words.len() {
        let term = TERMS
            .get(words[at])
            .and_then(|terms| terms.iter().find(|(from, _)| starts(&words[at..], from)));
        match term {
            Some((from, to)) => {
                out.extend(to.iter().map(|&word| word.to_owned()));
                at += from.len();
            }
            None => {
                out.push(words[at].to_owned());
                at += 1;
            }
        }
    }
    out
}

fn starts(words: &[&str], with: &[String]) -> bool {
    words.len() >= with.len() && words.iter().zip(with).all(|(word, with)| word == with)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, sentences_wanted: &[&str]) {
        let got: Vec<String> = sentences(text).iter().map(|s| s.join(" ")).collect();
        assert_eq!(got, sentences_wanted);
    }

    #[test]
    fn sentences_end_at_full_stops_but_not_inside_numbers() {
        check(
            "Sinus rhythm. PR 0.22 sec; Normal ECG",
            &["sinus rhythm", "pr 0.22 sec", "normal ecg"],
        );
    }

    #[test]
    fn spelling_plural_and_language_are_made_one() {
        check("T waves are low in I, aVL, V5,6", &["t wave are low in i avl v5 6"]);
        check(
            "premature ventricular contraction(s), LBBB",
            &["premature ventricular contraction , left bundle branch block"],
        );
        check("Inferiorer Infarkt", &["inferior infarct"]);
        check("non-specific ST-T changes", &["nonspecific st t change"]);
        check(" ... ", &[]);
    }
}
