//! The statements that the encoder's head learns to name, and how sure it has to be.
//!
//! Place: between the reports and training's labels, and between the head's probabilities and the bundle's manifest. Invariant: a
//! threshold depends on predicted probabilities alone, never on the reports they are held to.

use std::collections::BTreeMap;

use model::findings::Finding;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use score::clinical::{Findings, Named, Tally, classes, findings};

/// Expected F1 below which a statement is never named: most of what it would say is wrong.
const EXPECTED_F1_MIN: f64 = 0.25;
/// Statements that say how fast and how regularly the heart beats.
const RHYTHM: [&str; 14] = [
    "SR", "SBRAD", "STACH", "SARRH", "AFIB", "AFLT", "SVTAC", "PSVT", "SVARR", "PACE", "BIGU", "TRIGU", "PVC", "PAC",
];
/// Threshold of a statement that is never named.
const NEVER: f32 = 1.0;

/// SCP-ECG codes that enough training reports name, in the order of the head's outputs.
pub struct Statements {
    codes: Vec<&'static str>,
    /// Training reports that name each.
    counts: Vec<usize>,
}

impl Statements {
    /// Those that at least `positives_min` of the reports affirm or hedge.
    pub fn of<'a>(reports: impl Iterator<Item = &'a str>, positives_min: usize) -> Self {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for report in reports {
            for code in named_in(&findings(report)) {
                *counts.entry(code).or_default() += 1;
            }
        }
        let count = |code: &str| counts.get(code).copied().unwrap_or(0);
        let kept = classes().iter().map(|class| (class.code, count(class.code)));
        let (codes, counts) = kept.filter(|(_, count)| *count >= positives_min).unzip();
        Self { codes, counts }
    }

    pub fn len(&self) -> usize {
        self.codes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    /// Places of those that a report names, rising.
    pub fn named(&self, report: &str) -> Vec<usize> {
        let found = findings(report);
        let named: Vec<&str> = named_in(&found).collect();
        let places = 0..self.codes.len();
        places.filter(|&at| named.contains(&self.codes[at])).collect()
    }

    /// Of these places those of a rhythm, or of beats that disturb one.
    pub fn rhythm(&self, places: &[usize]) -> Vec<usize> {
        let of_rhythm = |&at: &usize| RHYTHM.contains(&self.codes[at]);
        places.iter().copied().filter(of_rhythm).collect()
    }

    /// Names of these places, as the prompt tells them.
    pub fn names(&self, places: &[usize]) -> Vec<String> {
        places.iter().map(|&at| self.codes[at].to_ascii_lowercase()).collect()
    }

    /// `named` as a head that errs might tell it: each is missed with probability `missed`, and `made_up` are added on average, drawn
    /// as often as reports name them; one that is drawn twice, or is named anyway, is told once.
    pub fn mistaken(&self, named: &[usize], missed: f32, made_up: f32, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let mut told: Vec<usize> = named
            .iter()
            .copied()
            .filter(|_| rng.random::<f32>() >= missed)
            .collect();
        let draws = made_up.trunc() as usize + usize::from(rng.random::<f32>() < made_up.fract());
        told.extend((0..draws).filter_map(|_| self.draw(rng)));
        told.sort_unstable();
        told.dedup();
        told
    }

    /// A statement, drawn as often as reports name it; None where there is none.
    fn draw(&self, rng: &mut ChaCha8Rng) -> Option<usize> {
        let all: usize = self.counts.iter().sum();
        let mut left = rng.random_range(0..all.max(1));
        self.counts.iter().position(|&count| {
            let here = left < count;
            left = left.saturating_sub(count);
            here
        })
    }

    /// The manifest's entries for a head that gave these probabilities, recording by recording.
    pub fn with_thresholds(&self, probabilities: &[Vec<f32>]) -> Vec<Finding> {
        let places = 0..self.codes.len();
        let threshold = |at: usize| threshold(probabilities.iter().map(|row| row[at]).collect());
        let finding = |at: usize| Finding {
            name: self.codes[at].to_ascii_lowercase(),
            threshold: threshold(at),
        };
        places.map(finding).collect()
    }

    /// How well the lists that a head `told` agree with the recordings' own.
    pub fn agreement(&self, told: &[Vec<usize>], own: &[&[usize]]) -> Agreement {
        let set = |places: &[usize]| Named::from_codes(places.iter().map(|&at| self.codes[at]));
        let tally = Tally::of(told.iter().zip(own).map(|(told, own)| (set(told), set(own))));
        let extra = |a: &[usize], b: &[usize]| a.iter().filter(|at| !b.contains(at)).count();
        let (mut missed, mut made_up, mut positives) = (0, 0, 0);
        for (told, own) in told.iter().zip(own) {
            missed += extra(own, told);
            made_up += extra(told, own);
            positives += own.len();
        }
        Agreement {
            f1_macro: tally.f1_macro(&tally.frequent()),
            missed: missed as f64 / positives.max(1) as f64,
            made_up: made_up as f64 / own.len().max(1) as f64,
        }
    }
}

/// What a head names against what the reports name.
pub struct Agreement {
    /// Mean F1 of the statements that enough reports name; None where none is named so often.
    pub f1_macro: Option<f64>,
    /// Share of the reports' statements that it misses.
    pub missed: f64,
    /// Statements a recording that its report does not name.
    pub made_up: f64,
}

fn named_in(found: &Findings) -> impl Iterator<Item = &'static str> + '_ {
    found
        .iter()
        .filter(|(_, certainty)| certainty.is_named())
        .map(|(code, _)| *code)
}

/// Half of the largest F1 that these probabilities promise, which is where naming stops to raise it.
///
/// Source: Lipton, Elkan and Naryanaswamy 2014, "Optimal thresholding of classifiers to maximize F1 measure", theorem 1.
fn threshold(mut probabilities: Vec<f32>) -> f32 {
    probabilities.sort_unstable_by(|a, b| b.total_cmp(a));
    let all: f64 = probabilities.iter().map(|&p| f64::from(p)).sum();
    let mut named = 0.0;
    let mut best: f64 = 0.0;
    for (i, &p) in probabilities.iter().enumerate() {
        named += f64::from(p);
        best = best.max(2.0 * named / (i as f64 + 1.0 + all));
    }
    if best < EXPECTED_F1_MIN {
        NEVER
    } else {
        (best / 2.0) as f32
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const REPORTS: [&str; 4] = [
        "sinus rhythm. left ventricular hypertrophy.",
        "sinus rhythm. normal ecg.",
        "sinus rhythm. no left ventricular hypertrophy.",
        "atrial fibrillation.",
    ];

    fn statements() -> Statements {
        Statements::of(REPORTS.into_iter(), 1)
    }

    #[test]
    fn a_statement_counts_where_it_is_named_and_often_enough() {
        let names = |positives_min| {
            let statements = Statements::of(REPORTS.into_iter(), positives_min);
            statements.names(&(0..statements.len()).collect::<Vec<_>>())
        };
        assert_eq!(names(2), ["sr"]);
        assert!(names(1).contains(&"lvh".to_owned()));
        let all = statements();
        assert_eq!(all.names(&all.named(REPORTS[2])), ["sr"]);
    }

    #[test]
    fn certain_probabilities_are_cut_at_one_half_and_hopeless_ones_never_named() {
        assert!((threshold(vec![0.0, 1.0, 1.0, 0.0]) - 0.5).abs() < 1e-6);
        assert_eq!(threshold(vec![0.05; 100]), NEVER);
        // a doubtful statement is named at less: of 2 in 10, all that are above half of the best F1
        let doubtful = threshold(vec![0.6, 0.5, 0.4, 0.1, 0.1, 0.1, 0.1, 0.05, 0.03, 0.02]);
        assert!((0.2..0.4).contains(&doubtful), "{doubtful}");
    }

    #[test]
    fn mistakes_come_at_their_rates() {
        let (statements, mut rng) = (statements(), ChaCha8Rng::seed_from_u64(1));
        let named = statements.named(REPORTS[0]);
        assert_eq!(statements.mistaken(&named, 0.0, 0.0, &mut rng), named);
        assert_eq!(statements.mistaken(&named, 1.0, 0.0, &mut rng), Vec::<usize>::new());
        let told = (0..1000).map(|_| statements.mistaken(&named, 0.25, 0.0, &mut rng).len());
        let share = told.sum::<usize>() as f64 / (1000 * named.len()) as f64;
        assert!((share - 0.75).abs() < 0.05, "{share}");
        assert_eq!(statements.mistaken(&[], 0.0, 1.0, &mut rng).len(), 1);
    }

    #[test]
    fn agreement_counts_what_is_missed_and_what_is_made_up() {
        let statements = statements();
        let own: Vec<Vec<usize>> = REPORTS.iter().map(|report| statements.named(report)).collect();
        let own: Vec<&[usize]> = own.iter().map(Vec::as_slice).cycle().take(40).collect();
        let of = |p: &dyn Fn(usize, usize) -> bool| {
            let row = |row: usize| (0..statements.len()).filter(|&at| p(row, at)).collect();
            let told: Vec<Vec<usize>> = (0..own.len()).map(row).collect();
            statements.agreement(&told, &own)
        };
        let sure = of(&|row, at| own[row].contains(&at));
        assert_eq!((sure.f1_macro, sure.missed, sure.made_up), (Some(1.0), 0.0, 0.0));
        let silent = of(&|_, _| false);
        assert_eq!((silent.f1_macro, silent.missed, silent.made_up), (Some(0.0), 1.0, 0.0));
        let all = of(&|_, _| true);
        let positives = own.iter().map(|own| own.len()).sum::<usize>();
        assert_eq!(all.missed, 0.0);
        assert_eq!(
            all.made_up,
            (own.len() * statements.len() - positives) as f64 / own.len() as f64
        );
    }
}
