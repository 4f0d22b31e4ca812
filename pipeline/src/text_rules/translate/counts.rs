//! Counts that remember the order in which their keys came.
//!
//! Place: what the translator learns from a corpus. Invariant: iteration is in order of first appearance, so a tie is broken
//! the same way each time.

use std::collections::HashMap;

#[derive(Default)]
pub(super) struct Counts {
    places: HashMap<String, usize>,
    entries: Vec<(String, usize)>,
}

impl Counts {
    pub fn add(&mut self, key: &str, n: usize) {
        if let Some(&at) = self.places.get(key) {
            self.entries[at].1 += n;
            return;
        }
        self.places.insert(key.to_owned(), self.entries.len());
        self.entries.push((key.to_owned(), n));
    }

    pub fn get(&self, key: &str) -> usize {
        self.places.get(key).map_or(0, |&at| self.entries[at].1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, usize)> {
        self.entries.iter().map(|(key, n)| (key.as_str(), *n))
    }

    pub fn sum(&self) -> usize {
        self.entries.iter().map(|(_, n)| n).sum()
    }

    /// The key with the largest count, the first of equals.
    pub fn top(&self) -> Option<(&str, usize)> {
        let best = self.iter().map(|(_, n)| n).max()?;
        self.iter().find(|(_, n)| *n == best)
    }
}
