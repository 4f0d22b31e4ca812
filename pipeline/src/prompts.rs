//! The instructions that a report is trained to answer: 32 written prompts and 256 rephrasings, shipped as data.
//!
//! Place: between a curated sample and its token row. Data: data/prompts.txt has 32 groups of a written prompt and its 8
//! rephrasings; data/prompt_frames.txt has frames that are put before prompts to make the largest set.
//! Invariant: a set covers all groups evenly, has no duplicate, and the prompt of a sample depends on its id and the seed
//! alone. Source: MEIT section 3.3 (32 written by hand, 256 rephrased, one drawn a sample); tables of 1, 128, 256 and 512.

use sha2::{Digest, Sha256};

const GROUPS: &str = include_str!("../data/prompts.txt");
const FRAMES: &str = include_str!("../data/prompt_frames.txt");
/// Sizes of sets.
pub const SIZES: [usize; 4] = [1, 128, 256, 512];

/// A set of prompts to draw from.
#[derive(Clone, Debug)]
pub struct Prompts {
    prompts: Vec<String>,
}

impl Prompts {
    /// The set of one of [`SIZES`]: the first written prompt alone, or as many of every group.
    ///
    /// # Errors
    /// Another size.
    pub fn of_size(size: usize) -> anyhow::Result<Self> {
        anyhow::ensure!(SIZES.contains(&size), "prompts is {size}: one of {SIZES:?}");
        let groups = groups();
        let each = size.div_ceil(groups.len());
        let framed = groups.into_iter().map(|group| with_frames(group, each));
        let prompts = framed.flatten().take(size).collect();
        Ok(Self { prompts })
    }

    /// One prompt for every sample.
    pub fn single(prompt: &str) -> Self {
        Self {
            prompts: vec![prompt.to_owned()],
        }
    }

    /// The prompt of a sample.
    pub fn draw(&self, sample: &str, seed: u64) -> &str {
        let digest = Sha256::digest(format!("prompt\0{seed}\0{sample}"));
        let number = digest.iter().take(8).fold(0u64, |n, b| n << 8 | u64::from(*b));
        &self.prompts[(number % self.prompts.len() as u64) as usize]
    }

    /// All of them.
    pub fn all(&self) -> &[String] {
        &self.prompts
    }
}

/// The written prompt of each group with its rephrasings.
fn groups() -> Vec<Vec<&'static str>> {
    GROUPS
        .trim()
        .split("\n\n")
        .map(|group| group.lines().collect())
        .collect()
}

/// The first `each` prompts of a group; frames before them where the group has too few.
fn with_frames(group: Vec<&str>, each: usize) -> Vec<String> {
    let framed = FRAMES
        .lines()
        .zip(&group)
        .map(|(frame, prompt)| format!("{frame} {prompt}"));
    let plain = group.iter().map(|prompt| (*prompt).to_owned());
    plain.chain(framed).take(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn thirty_two_written_prompts_have_eight_rephrasings_each() {
        let groups = groups();
        assert_eq!(groups.len(), 32);
        assert!(groups.iter().all(|group| group.len() == 9));
    }

    #[test]
    fn every_set_has_its_size_and_no_duplicate() {
        for size in SIZES {
            let set = Prompts::of_size(size).unwrap();
            let distinct: BTreeSet<&String> = set.all().iter().collect();
            assert_eq!(distinct.len(), size);
            assert!(set.all().iter().all(|p| p.len() > 10 && *p == p.to_lowercase()));
        }
        assert_eq!(Prompts::of_size(1).unwrap().all(), ["write the report of this ecg"]);
        assert!(Prompts::of_size(2).unwrap_err().to_string().contains('2'));
    }

    #[test]
    fn a_sample_keeps_its_prompt_and_samples_spread_over_the_set() {
        let set = Prompts::of_size(128).unwrap();
        assert_eq!(set.draw("ptbxl/00001", 1), set.draw("ptbxl/00001", 1));
        let drawn: BTreeSet<&str> = (0..1000).map(|i| set.draw(&format!("ptbxl/{i}"), 1)).collect();
        assert!(drawn.len() > 120, "{} of 128", drawn.len());
        let moved = (0..100)
            .filter(|i| set.draw(&i.to_string(), 1) != set.draw(&i.to_string(), 2))
            .count();
        assert!(moved > 90, "{moved} of 100");
    }
}
