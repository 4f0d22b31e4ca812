//! The n-grams of a text, n from 1 to 4, each as one integer, with how often they occur.
//!
//! Place: between the tokens and BLEU, ROUGE-N and CIDEr-D. Invariant: sorted, shorter n-grams first, each once; n-grams of
//! different length never have the same integer.

/// Longest n-gram.
pub const ORDERS: usize = 4;
/// Bits of a token in an n-gram's integer.
const TOKEN_BITS: u32 = 32;

/// An n-gram: its tokens' numbers plus one, the last in the lowest bits.
pub type Gram = u128;

/// Sorted n-grams with their counts.
pub struct Grams {
    counts: Vec<(Gram, u32)>,
}

/// Length of an n-gram.
pub fn order(gram: Gram) -> usize {
    (Gram::BITS - gram.leading_zeros()).div_ceil(TOKEN_BITS) as usize
}

impl Grams {
    /// The n-grams of 1 to `longest` tokens.
    pub fn of(tokens: &[u32], longest: usize) -> Self {
        let mut all: Vec<Gram> = Vec::with_capacity(longest * tokens.len());
        for start in 0..tokens.len() {
            let mut gram: Gram = 0;
            for &token in tokens[start..].iter().take(longest) {
                gram = (gram << TOKEN_BITS) | (Gram::from(token) + 1);
                all.push(gram);
            }
        }
        all.sort_unstable();
        let mut counts: Vec<(Gram, u32)> = Vec::with_capacity(all.len());
        for gram in all {
            match counts.last_mut() {
                Some((last, count)) if *last == gram => *count += 1,
                _ => counts.push((gram, 1)),
            }
        }
        Self { counts }
    }

    /// Each n-gram with its count, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Gram, u32)> {
        self.counts.iter().copied()
    }

    /// Calls `both` with each n-gram that both texts have, and its two counts.
    pub fn shared(&self, other: &Self, mut both: impl FnMut(Gram, u32, u32)) {
        let mut theirs = other.counts.iter().peekable();
        for &(gram, mine) in &self.counts {
            while theirs.next_if(|(their, _)| *their < gram).is_some() {}
            if let Some((_, their)) = theirs.next_if(|(their, _)| *their == gram) {
                both(gram, mine, *their);
            }
        }
    }

    /// Occurrences in common, by the n-grams' length from 1.
    pub fn overlap(&self, other: &Self) -> [usize; ORDERS] {
        let mut common = [0; ORDERS];
        self.shared(other, |gram, mine, their| {
            common[order(gram) - 1] += mine.min(their) as usize
        });
        common
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grams_are_counted_and_told_apart_by_length() {
        // the largest token number there can be needs all its bits
        let last = u32::MAX - 1;
        let grams = Grams::of(&[0, last, 0, last], 4);
        let counts: Vec<(usize, u32)> = grams.iter().map(|(gram, count)| (order(gram), count)).collect();
        assert_eq!(counts, [(1, 2), (1, 2), (2, 2), (2, 1), (3, 1), (3, 1), (4, 1)]);
        assert_eq!(grams.overlap(&Grams::of(&[0, last], 4)), [2, 1, 0, 0]);
        assert_eq!(grams.overlap(&Grams::of(&[], 4)), [0; 4]);
    }
}
