//! Precision, recall and F1 of the statements drafts name against those references name.
//!
//! Place: after [`findings`], over pairs of texts. Invariant: a class counts towards the macro mean only when enough
//! references name it, whatever the drafts say, so two models on one test set are averaged over the same classes.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use super::{Findings, classes, findings};

/// References that must name a class before it counts towards the macro mean.
pub const POSITIVES_MIN: usize = 20;

/// Counts and rates of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ClassAgreement {
    /// References that name it.
    pub positives: usize,
    /// Drafts that name it.
    pub named: usize,
    /// Pairs in which both do.
    pub both: usize,
    /// `both` over `named`; 0 of nothing.
    pub precision: f64,
    /// `both` over `positives`; 0 of nothing.
    pub recall: f64,
    /// Their harmonic mean.
    pub f1: f64,
}

impl ClassAgreement {
    fn rated(mut self) -> Self {
        let ratio = |a: usize, b: usize| if b == 0 { 0.0 } else { a as f64 / b as f64 };
        self.precision = ratio(self.both, self.named);
        self.recall = ratio(self.both, self.positives);
        self.f1 = ratio(2 * self.both, self.named + self.positives);
        self
    }
}

/// Agreement over a set of pairs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Agreement {
    /// Mean F1 of the classes with at least [`POSITIVES_MIN`] positives; none when no class has so many.
    pub f1_macro: Option<f64>,
    /// F1 of all mentions together, rare classes included.
    pub f1_micro: f64,
    /// Of the mentions that both make, those made with the same certainty; none without such a mention.
    pub certainty_agreement: Option<f64>,
    /// Classes in the macro mean.
    pub classes: usize,
    /// Every class that either side names.
    pub each: BTreeMap<&'static str, ClassAgreement>,
}

/// The statements a text names, as a set; bit i is the i-th of [`classes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Named(u128);

impl Named {
    /// Those affirmed or hedged.
    pub fn of(findings: &Findings) -> Self {
        let named = findings.iter().filter(|(_, certainty)| certainty.is_named());
        Self::from_codes(named.map(|(code, _)| *code))
    }

    /// Those of these codes; a code that is none of the 71 is left out.
    pub fn from_codes<'a>(codes: impl Iterator<Item = &'a str>) -> Self {
        let place = |code: &str| classes().iter().position(|class| class.code == code);
        Self(codes.filter_map(place).fold(0, |bits, at| bits | 1 << at))
    }

    /// Places in [`classes`], rising.
    fn places(self) -> impl Iterator<Item = usize> {
        let mut bits = self.0;
        std::iter::from_fn(move || {
            let place = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
            bits &= bits - 1;
            Some(place)
        })
    }
}

/// Counts of every class over pairs.
#[derive(Clone, Debug)]
pub struct Tally {
    counts: Vec<ClassAgreement>,
}

impl Tally {
    /// Over (hypothesis, reference) sets.
    pub fn of(pairs: impl Iterator<Item = (Named, Named)>) -> Self {
        let mut counts = vec![ClassAgreement::default(); classes().len()];
        for (hypothesis, reference) in pairs {
            hypothesis.places().for_each(|at| counts[at].named += 1);
            reference.places().for_each(|at| counts[at].positives += 1);
            Named(hypothesis.0 & reference.0)
                .places()
                .for_each(|at| counts[at].both += 1);
        }
        Self { counts }
    }

    /// Places in [`classes`] of those with at least [`POSITIVES_MIN`] positives.
    pub fn frequent(&self) -> Vec<usize> {
        let places = 0..self.counts.len();
        places
            .filter(|&at| self.counts[at].positives >= POSITIVES_MIN)
            .collect()
    }

    /// Mean F1 of these classes; none of none.
    pub fn f1_macro(&self, frequent: &[usize]) -> Option<f64> {
        let sum: f64 = frequent.iter().map(|&at| self.counts[at].rated().f1).sum();
        (!frequent.is_empty()).then(|| sum / frequent.len() as f64)
    }

    /// F1 of all mentions together.
    pub fn f1_micro(&self) -> f64 {
        let sum = self
            .counts
            .iter()
            .fold(ClassAgreement::default(), |sum, class| ClassAgreement {
                positives: sum.positives + class.positives,
                named: sum.named + class.named,
                both: sum.both + class.both,
                ..sum
            });
        sum.rated().f1
    }

    /// Classes that either side names, by code.
    pub fn each(&self) -> BTreeMap<&'static str, ClassAgreement> {
        let classes = classes().iter().zip(&self.counts);
        let seen = classes.filter(|(_, count)| count.named + count.positives > 0);
        seen.map(|(class, count)| (class.code, count.rated())).collect()
    }
}

/// Agreement of (hypothesis, reference) texts.
pub fn agreement(pairs: &[(String, String)]) -> Agreement {
    let found: Vec<(Findings, Findings)> = pairs.par_iter().map(|(h, r)| (findings(h), findings(r))).collect();
    agreement_of(found.iter().map(|(h, r)| (h, r)))
}

/// Agreement of findings already read, hypothesis first.
pub fn agreement_of<'a>(pairs: impl Iterator<Item = (&'a Findings, &'a Findings)> + Clone) -> Agreement {
    let tally = Tally::of(pairs.clone().map(|(h, r)| (Named::of(h), Named::of(r))));
    let (mut shared, mut same) = (0usize, 0usize);
    for (hypothesis, reference) in pairs {
        for (code, certainty) in hypothesis.iter().filter(|(_, certainty)| certainty.is_named()) {
            let Some(other) = reference.get(code).filter(|certainty| certainty.is_named()) else {
                continue;
            };
            shared += 1;
            same += usize::from(certainty == other);
        }
    }
    let frequent = tally.frequent();
    Agreement {
        f1_macro: tally.f1_macro(&frequent),
        f1_micro: tally.f1_micro(),
        certainty_agreement: (shared > 0).then(|| same as f64 / shared as f64),
        classes: frequent.len(),
        each: tally.each(),
    }
}
