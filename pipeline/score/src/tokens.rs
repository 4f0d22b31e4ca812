//! Tokenizers of the text metrics, and texts as numbers.
//!
//! Place: the first step of every metric. Invariant: splits as the reference implementations do, which are Python: its
//! white space and its word characters, not ASCII's. A number stands for one token, whichever tokenizer made it.

use rustc_hash::FxHashMap;

/// True for what Python's `str.split()` splits at.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// True for what Python's `\w` matches.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Words split on white space, a full stop being a word of its own start (`.` becomes ` .`).
pub fn caption(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).flat_map(|word| {
        let mut rest = word;
        std::iter::from_fn(move || {
            let first = rest.chars().next()?.len_utf8();
            let end = rest[first..].find('.').map_or(rest.len(), |at| first + at);
            let (token, left) = rest.split_at(end);
            rest = left;
            Some(token)
        })
    })
}

/// Runs of `[a-z0-9]` of lower-case text.
pub fn alphanumeric(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()))
        .filter(|word| !word.is_empty())
}

/// Matches of `\w+|[^\w\s]`: runs of word characters and single signs.
pub fn words_and_signs(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(is_space);
        let first = rest.chars().next()?;
        let end = match is_word(first) {
            true => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (token, left) = rest.split_at(end);
        rest = left;
        Some(token)
    })
}

/// Tokens and their numbers, counted from 0 in the order of first sight.
#[derive(Default)]
pub struct Vocabulary {
    numbers: FxHashMap<Box<str>, u32>,
    tokens: Vec<Box<str>>,
}

impl Vocabulary {
    /// The token's number, a new one at first sight.
    pub fn number(&mut self, token: &str) -> u32 {
        if let Some(&number) = self.numbers.get(token) {
            return number;
        }
        let number = self.tokens.len() as u32;
        self.numbers.insert(token.into(), number);
        self.tokens.push(token.into());
        number
    }

    /// The token's number if it was seen.
    pub fn get(&self, token: &str) -> Option<u32> {
        self.numbers.get(token).copied()
    }

    /// The token of a number.
    pub fn token(&self, number: u32) -> &str {
        &self.tokens[number as usize]
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// True before the first token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// Many texts as token numbers, one after the other.
#[derive(Default)]
pub struct Texts {
    numbers: Vec<u32>,
    ends: Vec<usize>,
}

impl Texts {
    /// Adds a text.
    pub fn push<'a>(&mut self, tokens: impl Iterator<Item = &'a str>, vocabulary: &mut Vocabulary) {
        self.numbers.extend(tokens.map(|token| vocabulary.number(token)));
        self.ends.push(self.numbers.len());
    }

    /// Token numbers of text `index`.
    pub fn get(&self, index: usize) -> &[u32] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.numbers[start..self.ends[index]]
    }
}

/// Length of the longest common subsequence: a zero bit of `row` is a place of `b` at which it grows.
///
/// Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
pub fn lcs(a: &[u32], b: &[u32]) -> usize {
    let mut row = vec![u64::MAX; b.len().div_ceil(64)];
    for x in a {
        let mut carry = false;
        for (bits, tokens) in row.iter_mut().zip(b.chunks(64)) {
            let equal = tokens.iter().rev().fold(0, |equal, y| (equal << 1) | u64::from(x == y));
            let kept = *bits & equal;
            let (sum, over) = bits.overflowing_add(kept);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            carry = over || over_again;
            *bits = sum | (*bits & !kept);
        }
    }
    // places behind the end of `b` equal nothing and stay ones
    row.iter().map(|bits| bits.count_zeros() as usize).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<'a>(tokens: impl Iterator<Item = &'a str>, wanted: &[&str]) {
        assert_eq!(tokens.collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn tokenizers_split_as_defined() {
        check(caption("af. v1-v3  ok."), &["af", ".", "v1-v3", "ok", "."]);
        check(caption("a.b.. ..é.c"), &["a", ".b", ".", ".", ".", ".é", ".c"]);
        check(alphanumeric("af, v1-v3. é9"), &["af", "v1", "v3", "9"]);
        check(
            words_and_signs("i, avl & v2: t_x."),
            &["i", ",", "avl", "&", "v2", ":", "t_x", "."],
        );
        check(words_and_signs(" \u{1c}"), &[]);
    }

    #[test]
    fn a_token_has_one_number_in_all_texts() {
        let (mut vocabulary, mut texts) = (Vocabulary::default(), Texts::default());
        for text in ["a b a", "", "b c"] {
            texts.push(caption(text), &mut vocabulary);
        }
        assert_eq!(
            [texts.get(0), texts.get(1), texts.get(2)],
            [&[0, 1, 0][..], &[], &[1, 2]]
        );
        assert_eq!(
            (vocabulary.len(), vocabulary.token(2), vocabulary.get("d")),
            (3, "c", None)
        );
    }

    #[test]
    fn longest_common_subsequence() {
        assert_eq!(lcs(&[1, 2, 3, 4], &[2, 9, 4, 1]), 2);
        assert_eq!(lcs(&[], &[2]), 0);
    }

    #[test]
    fn longest_common_subsequence_of_any_length_is_that_of_the_table() {
        let by_table = |a: &[u32], b: &[u32]| {
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
        };
        let mut state = 1u32;
        let mut text = |length| -> Vec<u32> {
            let next = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 16) % 5
            };
            (0..length).map(next).collect()
        };
        for (of_a, of_b) in [(1, 63), (64, 64), (65, 65), (40, 128), (200, 129), (300, 500)] {
            let (a, b) = (text(of_a), text(of_b));
            assert_eq!(lcs(&a, &b), by_table(&a, &b), "{of_a} and {of_b} tokens");
        }
    }
}
