//! Tokenizers of the text metrics and the n-gram counts and sequence lengths built on them.
//!
//! Place: the first step of every metric. Invariant: splits as the reference implementations do, which are Python: its
//! white space and its word characters, not ASCII's.

use std::collections::BTreeMap;

/// How often each n-gram occurs, in a fixed order.
pub type Counts<'a, 's> = BTreeMap<&'a [&'s str], usize>;

/// True for what Python's `str.split()` splits at.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// True for what Python's `\w` matches.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Words split on white space, a full stop being a word of its own start (`.` becomes ` .`).
pub fn caption(text: &str) -> Vec<String> {
    let spaced = text.replace('.', " .");
    spaced
        .split(is_space)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Runs of `[a-z0-9]` of the lower-cased text.
pub fn alphanumeric(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let keep = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    lower
        .split(|c| !keep(c))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Matches of `\w+|[^\w\s]`: runs of word characters and single signs.
pub fn words_and_signs(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut in_word = false;
    for c in text.chars() {
        if is_word(c) {
            match tokens.last_mut() {
                Some(word) if in_word => word.push(c),
                _ => tokens.push(c.to_string()),
            }
            in_word = true;
        } else {
            if !is_space(c) {
                tokens.push(c.to_string());
            }
            in_word = false;
        }
    }
    tokens
}

/// Borrowed view of owned tokens.
pub fn borrow(tokens: &[String]) -> Vec<&str> {
    tokens.iter().map(String::as_str).collect()
}

/// Counts of the n-grams of one length.
pub fn ngrams<'a, 's>(tokens: &'a [&'s str], n: usize) -> Counts<'a, 's> {
    let mut counts = Counts::new();
    for gram in tokens.windows(n) {
        *counts.entry(gram).or_insert(0) += 1;
    }
    counts
}

/// Occurrences two counts have in common.
pub fn overlap(a: &Counts<'_, '_>, b: &Counts<'_, '_>) -> usize {
    a.iter()
        .map(|(gram, count)| b.get(gram).map_or(0, |other| *other.min(count)))
        .sum()
}

/// Length of the longest common subsequence.
pub fn lcs(a: &[&str], b: &[&str]) -> usize {
    let mut row = vec![0usize; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokenizers_split_as_defined() {
        assert_eq!(caption("af. v1-v3  ok."), ["af", ".", "v1-v3", "ok", "."]);
        assert_eq!(caption("a.b"), ["a", ".b"]);
        assert_eq!(alphanumeric("AF, v1-v3. é9"), ["af", "v1", "v3", "9"]);
        assert_eq!(
            words_and_signs("i, avl & v2: t_x."),
            ["i", ",", "avl", "&", "v2", ":", "t_x", "."]
        );
        assert!(words_and_signs(" ").is_empty());
    }

    #[test]
    fn longest_common_subsequence() {
        assert_eq!(lcs(&["a", "b", "c", "d"], &["b", "x", "d", "a"]), 2);
        assert_eq!(lcs(&[], &["b"]), 0);
    }
}
