//! Whether a candidate may replace the champion: not worse on any listed metric by more than its margin.
//!
//! Place: after evaluation, before promotion. Invariant: pure; a metric that is missing or not finite keeps the champion,
//! and every line of the decision says its numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Scores by metric name.
pub type Metrics = BTreeMap<String, f64>;

/// 95 % intervals of candidate minus champion, by metric.
pub type Intervals = BTreeMap<String, [f64; 2]>;

/// Section `pipeline.gate`: metrics with the largest loss that is no inferiority.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Margins {
    /// Metrics of which more is better.
    pub higher: BTreeMap<String, f64>,
    /// Metrics of which less is better.
    pub lower: BTreeMap<String, f64>,
    /// Test samples below which nothing is promoted.
    pub samples_min: usize,
    /// Resamples behind the intervals of the differences; 0 gives none.
    pub resamples: usize,
    /// Whether the whole interval of a difference must be within its margin, and not the difference alone.
    pub by_interval: bool,
}

impl Margins {
    /// Every listed metric.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.higher.keys().chain(self.lower.keys())
    }
}

/// A metric's name and its slice: "rouge_l@sex=female" is of the slice "sex=female".
pub fn slice_of(name: &str) -> (&str, Option<&str>) {
    match name.split_once('@') {
        Some((metric, slice)) => (metric, Some(slice)),
        None => (name, None),
    }
}

/// One metric's verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub metric: String,
    pub champion: Option<f64>,
    pub candidate: Option<f64>,
    /// 95 % interval of candidate minus champion.
    #[serde(default)]
    pub difference: Option<[f64; 2]>,
    pub margin: f64,
    pub passed: bool,
}

/// decision.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub promote: bool,
    /// What kept the champion; empty when promoted.
    pub reasons: Vec<String>,
    pub lines: Vec<Line>,
    pub samples: usize,
}

/// Compares candidate and champion, which were scored on the same `samples` test samples.
pub fn decide(
    margins: &Margins,
    champion: &Metrics,
    candidate: &Metrics,
    differences: &Intervals,
    samples: usize,
) -> Decision {
    let mut decision = Decision {
        promote: false,
        reasons: Vec::new(),
        lines: Vec::new(),
        samples,
    };
    if samples < margins.samples_min {
        let reason = format!("{samples} test samples, at least {} are needed", margins.samples_min);
        decision.reasons.push(reason);
    }
    let higher = margins.higher.iter().map(|(name, margin)| (name, *margin, 1.0));
    let lower = margins.lower.iter().map(|(name, margin)| (name, *margin, -1.0));
    for (metric, margin, sign) in higher.chain(lower) {
        let known = |scores: &Metrics| scores.get(metric).copied().filter(|score| score.is_finite());
        let (old, new) = (known(champion), known(candidate));
        let difference = differences
            .get(metric)
            .copied()
            .filter(|ends| ends.iter().all(|end| end.is_finite()));
        let worst = match (margins.by_interval, old, new) {
            (true, ..) => difference.map(|[low, high]| (low * sign).min(high * sign)),
            (false, Some(old), Some(new)) => Some((new - old) * sign),
            (false, ..) => None,
        };
        let passed = old.is_some() && new.is_some() && worst.is_some_and(|worst| worst >= -margin);
        if !passed {
            let show = |score: Option<f64>| score.map_or("unknown".to_owned(), |s| format!("{s:.4}"));
            let ends = difference.map_or(String::new(), |[low, high]| {
                format!(", difference {low:.4} to {high:.4}")
            });
            decision.reasons.push(format!(
                "{metric}: candidate {}, champion {}{ends}, margin {margin}",
                show(new),
                show(old)
            ));
        }
        decision.lines.push(Line {
            metric: metric.clone(),
            champion: old,
            candidate: new,
            difference,
            margin,
            passed,
        });
    }
    if decision.lines.is_empty() {
        decision.reasons.push("no metric is listed".to_owned());
    }
    decision.promote = decision.reasons.is_empty();
    decision
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(pairs: &[(&str, f64)]) -> Metrics {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    fn margins() -> Margins {
        Margins {
            higher: metrics(&[("bleu4", 0.01)]),
            lower: metrics(&[("abstain_rate", 0.02)]),
            samples_min: 5,
            ..Margins::default()
        }
    }

    #[track_caller]
    fn check(bleu4: f64, abstain: f64, samples: usize, reasons: &[&str]) {
        let champion = metrics(&[("bleu4", 0.30), ("abstain_rate", 0.10)]);
        let candidate = metrics(&[("bleu4", bleu4), ("abstain_rate", abstain)]);
        let decision = decide(&margins(), &champion, &candidate, &Intervals::new(), samples);
        assert_eq!(decision.promote, reasons.is_empty(), "{decision:?}");
        assert_eq!(decision.reasons.len(), reasons.len(), "{decision:?}");
        for (got, want) in decision.reasons.iter().zip(reasons) {
            assert!(got.contains(want), "{got} has no {want}");
        }
    }

    #[test]
    fn a_loss_within_its_margin_is_no_inferiority() {
        check(0.31, 0.10, 5, &[]);
        check(0.2901, 0.1199, 5, &[]);
        check(0.2899, 0.10, 5, &["bleu4"]);
        check(0.31, 0.1201, 5, &["abstain_rate"]);
    }

    #[test]
    fn what_is_unknown_keeps_the_champion() {
        check(f64::NAN, 0.10, 5, &["bleu4: candidate unknown"]);
        check(0.5, 0.0, 4, &["4 test samples"]);
        let one = metrics(&[("bleu4", 0.3)]);
        assert!(
            !decide(&margins(), &one, &one, &Intervals::new(), 9).promote,
            "a metric is missing"
        );
        assert!(
            !decide(&Margins::default(), &one, &one, &Intervals::new(), 9).promote,
            "nothing is compared"
        );
    }

    #[test]
    fn by_interval_the_whole_difference_must_be_within_its_margin() {
        let margins = Margins {
            by_interval: true,
            ..margins()
        };
        let same = metrics(&[("bleu4", 0.30), ("abstain_rate", 0.10)]);
        let promotes = |bleu4: [f64; 2], abstain: [f64; 2]| {
            let differences = [("bleu4".to_owned(), bleu4), ("abstain_rate".to_owned(), abstain)].into();
            decide(&margins, &same, &same, &differences, 9).promote
        };
        assert!(promotes([-0.009, 0.3], [-0.5, 0.019]));
        assert!(!promotes([-0.011, 0.3], [-0.5, 0.019]));
        assert!(!promotes([-0.009, 0.3], [-0.5, 0.021]));
        assert!(!promotes([f64::NAN, 0.3], [0.0, 0.0]));
        let decision = decide(&margins, &same, &same, &Intervals::new(), 9);
        assert_eq!(
            decision.reasons.len(),
            2,
            "an interval that is unknown keeps the champion"
        );
    }

    #[test]
    fn a_name_with_a_slice_is_taken_apart() {
        assert_eq!(slice_of("rouge_l@sex=female"), ("rouge_l", Some("sex=female")));
        assert_eq!(slice_of("rouge_l"), ("rouge_l", None));
    }
}
