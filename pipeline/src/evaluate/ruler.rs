//! Scores of one set of hypotheses against the references, with their uncertainty.
//!
//! Place: under every row of the comparison. Invariant: all rows are scored against the same references and resampled with
//! the same seed, so that differences between rows are of the rows alone.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use score::clinical::{Findings, Named, Tally, findings};
use score::wordnet::WordNet;
use score::{Mode, PairScore, Scores};
use serde::Serialize;

/// One row of the comparison; higher is better in every metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Row {
    pub bleu4: f64,
    /// With WordNet's synonyms when a directory was given, of exact and stem matches otherwise.
    pub meteor: f64,
    pub rouge_l: f64,
    pub cider_d: f64,
    /// Over the classes that at least 20 references of the whole test set name; none when no class is so frequent.
    pub clinical_f1_macro: Option<f64>,
    pub clinical_f1_micro: f64,
    pub n: usize,
    /// 95 % percentile intervals of the metrics, lower and upper, by bootstrap over the recordings; none without resamples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intervals: Option<Intervals>,
}

/// Lower and upper end of each metric's interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Intervals {
    pub resamples: usize,
    pub bleu4: [f64; 2],
    pub meteor: [f64; 2],
    pub rouge_l: [f64; 2],
    pub cider_d: [f64; 2],
    pub clinical_f1_macro: Option<[f64; 2]>,
}

/// One set of hypotheses, scored pair by pair.
pub struct Scored {
    pub findings: Vec<Findings>,
    each: Vec<PairScore>,
    named: Vec<Named>,
}

impl Scored {
    /// Every text metric over all pairs.
    pub fn scores(&self) -> Scores {
        Scores::of(self.each.iter())
    }

    /// Every text metric over some pairs.
    pub fn scores_of(&self, pairs: &[usize]) -> Scores {
        Scores::of(pairs.iter().map(|&i| &self.each[i]))
    }
}

/// The references and how they are compared with.
pub struct Ruler {
    pub references: Vec<String>,
    pub findings: Vec<Findings>,
    named: Vec<Named>,
    frequent: Vec<usize>,
    wordnet: Option<WordNet>,
    resamples: usize,
    seed: u64,
}

impl Ruler {
    /// `resamples` of 0 gives no intervals.
    pub fn new(references: Vec<String>, wordnet: Option<WordNet>, resamples: usize, seed: u64) -> Self {
        let findings: Vec<Findings> = references.par_iter().map(|text| findings(text)).collect();
        let named: Vec<Named> = findings.iter().map(Named::of).collect();
        let frequent = Tally::of(named.iter().map(|&named| (named, named))).frequent();
        Self {
            references,
            findings,
            named,
            frequent,
            wordnet,
            resamples,
            seed,
        }
    }

    /// Each hypothesis with its reference.
    pub fn pairs(&self, hypotheses: &[String]) -> Vec<(String, String)> {
        hypotheses
            .iter()
            .cloned()
            .zip(self.references.iter().cloned())
            .collect()
    }

    /// Scores one hypothesis for each reference.
    pub fn score(&self, hypotheses: &[String]) -> Scored {
        let pairs = self.pairs(hypotheses);
        let synonyms = self
            .wordnet
            .as_ref()
            .map(|source| source as &dyn score::meteor::Synonyms);
        let findings: Vec<Findings> = hypotheses.par_iter().map(|text| findings(text)).collect();
        Scored {
            each: score::score_each(&pairs, synonyms, Mode::Clean),
            named: findings.iter().map(Named::of).collect(),
            findings,
        }
    }

    /// The row over all pairs, with intervals.
    pub fn row(&self, scored: &Scored) -> Row {
        let all: Vec<usize> = (0..self.references.len()).collect();
        let mut row = self.subset(scored, &all);
        row.intervals = (self.resamples > 0 && !all.is_empty()).then(|| self.intervals(scored));
        row
    }

    /// The row over some pairs, without intervals; document frequencies and classes are those of the whole set.
    pub fn subset(&self, scored: &Scored, pairs: &[usize]) -> Row {
        self.row_of(scored, pairs, &scored.scores_of(pairs))
    }

    /// As [`Ruler::subset`], where the text metrics over the same pairs are at hand.
    pub fn row_of(&self, scored: &Scored, pairs: &[usize], scores: &Scores) -> Row {
        let tally = Tally::of(pairs.iter().map(|&i| (scored.named[i], self.named[i])));
        Row {
            bleu4: scores.bleu4,
            meteor: scores.meteor.unwrap_or(scores.meteor_stem),
            rouge_l: scores.rouge_l,
            cider_d: scores.cider_d,
            clinical_f1_macro: tally.f1_macro(&self.frequent),
            clinical_f1_micro: tally.f1_micro(),
            n: pairs.len(),
            intervals: None,
        }
    }

    /// Rows of the bootstrap's resamples; resample k is the same draw for every set of hypotheses.
    pub fn resampled(&self, scored: &Scored) -> Vec<Row> {
        let all: Vec<usize> = (0..self.references.len()).collect();
        let draws = self.draws(&all);
        draws.par_iter().map(|drawn| self.subset(scored, drawn)).collect()
    }

    /// The bootstrap's resamples of some pairs, as many draws as pairs each; none of no pairs.
    pub fn draws(&self, pairs: &[usize]) -> Vec<Vec<usize>> {
        let draw = |k: usize| {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(k as u64);
            pairs.iter().map(|_| pairs[rng.random_range(0..pairs.len())]).collect()
        };
        let resamples = if pairs.is_empty() { 0 } else { self.resamples };
        (0..resamples).into_par_iter().map(draw).collect()
    }

    fn intervals(&self, scored: &Scored) -> Intervals {
        let rows = self.resampled(scored);
        let over = |value: fn(&Row) -> f64| interval(rows.iter().map(value).collect());
        Intervals {
            resamples: rows.len(),
            bleu4: over(|r| r.bleu4),
            meteor: over(|r| r.meteor),
            rouge_l: over(|r| r.rouge_l),
            cider_d: over(|r| r.cider_d),
            clinical_f1_macro: (!self.frequent.is_empty()).then(|| over(|r| r.clinical_f1_macro.unwrap_or_default())),
        }
    }
}

/// The 2.5th and 97.5th percentile, by the nearest rank.
pub fn interval(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| {
        let rank = (share * values.len() as f64).ceil() as usize;
        values.get(rank.max(1) - 1).copied().unwrap_or_default()
    };
    [at(0.025), at(0.975)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(n: usize) -> Vec<String> {
        let text = |i: usize| {
            [
                "sinus rhythm. normal ecg",
                "atrial fibrillation",
                "left bundle branch block",
            ][i % 3]
        };
        (0..n).map(|i| text(i).to_owned()).collect()
    }

    #[test]
    fn the_references_themselves_score_perfectly_in_every_resample() {
        let ruler = Ruler::new(texts(90), None, 50, 1);
        let row = ruler.row(&ruler.score(&texts(90)));
        assert_eq!(
            (row.n, row.clinical_f1_macro, row.clinical_f1_micro),
            (90, Some(1.0), 1.0)
        );
        let intervals = row.intervals.unwrap();
        assert!((row.bleu4 - 1.0).abs() < 1e-6 && (row.rouge_l - 1.0).abs() < 1e-12);
        assert_eq!(intervals.rouge_l, [1.0, 1.0]);
        assert_eq!(intervals.clinical_f1_macro, Some([1.0, 1.0]));
    }

    #[test]
    fn intervals_hold_the_value_and_depend_on_the_seed_alone() {
        let mut hypotheses = texts(90);
        hypotheses[..30].fill("sinus rhythm".to_owned());
        let row = |seed| {
            let ruler = Ruler::new(texts(90), None, 200, seed);
            ruler.row(&ruler.score(&hypotheses))
        };
        let (a, b, other) = (row(1), row(1), row(2));
        assert_eq!(a, b);
        assert_ne!(a.intervals, other.intervals);
        let [low, high] = a.intervals.unwrap().rouge_l;
        assert!(low < a.rouge_l && a.rouge_l < high, "{low} {} {high}", a.rouge_l);
        assert!(high - low < 0.3);
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(interval(values), [25.0, 975.0]);
        assert_eq!(interval(vec![3.0]), [3.0, 3.0]);
    }
}
