//! A heart rate for each report of the text stage, lent by a recording whose report names the same rhythm.
//!
//! Place: between the recordings' measurements and the rows of the text stage. Why: a decoder that reads many reports without a
//! rate learns words such as "with rapid ventricular response" as if they followed from the rhythm alone, and says them at 60 bpm.
//! Invariant: a rate is lent only where the report does not contradict it; a function of the reports, the recordings and the seed.

use std::collections::BTreeMap;

use ecg::segment::Measurements;
use model::checks::contradictions;
use rand::Rng as _;
use rayon::prelude::*;

use crate::batch::step_rng;
use crate::statements::Statements;
use crate::train_data::Told;

const STAGE_LEND: u64 = 6;
/// Recordings tried for one report.
const TRIES: usize = 8;

/// Lends rates and their variability to `reports`, none of which has measurements; how many got one.
pub(crate) fn lend(reports: &mut [Told], recorded: &[Told], statements: &Statements, seed: u64) -> usize {
    let mut lenders: BTreeMap<Vec<usize>, Vec<&Measurements>> = BTreeMap::new();
    for told in recorded
        .iter()
        .filter(|told| told.measurements.heart_rate_bpm.is_some())
    {
        lenders
            .entry(statements.rhythm(&told.named))
            .or_default()
            .push(&told.measurements);
    }
    let lent = reports.par_iter_mut().enumerate().map(|(at, told)| {
        let rhythm = statements.rhythm(&told.named);
        let Some(lenders) = lenders.get(&rhythm).filter(|_| !rhythm.is_empty()) else {
            return false;
        };
        let mut rng = step_rng(seed, STAGE_LEND, at as u64);
        let drawn = (0..TRIES).map(|_| rate_of(lenders[rng.random_range(0..lenders.len())]));
        let fitting = drawn
            .into_iter()
            .find(|rate| contradictions(&told.report, rate).is_empty());
        let found = fitting.is_some();
        told.measurements = fitting.unwrap_or_default();
        found
    });
    lent.filter(|lent| *lent).count()
}

fn rate_of(measured: &Measurements) -> Measurements {
    Measurements {
        heart_rate_bpm: measured.heart_rate_bpm,
        rr_sd_ms: measured.rr_sd_ms,
        ..Measurements::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(statements: &Statements, report: &str, bpm: Option<f32>) -> Told {
        Told {
            prompt: String::new(),
            report: report.to_owned(),
            measurements: Measurements {
                heart_rate_bpm: bpm,
                qrs_ms: Some(90.0),
                ..Measurements::default()
            },
            named: statements.named(report),
        }
    }

    #[test]
    fn a_rate_comes_from_the_same_rhythm_and_never_contradicts_the_report() {
        let (slow, fast) = (
            "atrial fibrillation.",
            "atrial fibrillation with rapid ventricular response.",
        );
        let statements = Statements::of([slow, "sinus rhythm."].into_iter(), 1);
        let recorded = [
            told(&statements, slow, Some(60.0)),
            told(&statements, slow, Some(130.0)),
            told(&statements, "sinus rhythm.", Some(75.0)),
            told(&statements, "sinus rhythm.", None),
        ];
        let unmeasured = |report| Told {
            measurements: Measurements::default(),
            ..told(&statements, report, None)
        };
        let reports = || -> Vec<Told> {
            let each = [fast, slow, "sinus rhythm.", "poor data quality."].into_iter().cycle();
            each.take(80).map(unmeasured).collect()
        };
        let mut once = reports();
        assert_eq!(lend(&mut once, &recorded, &statements, 1), 60);
        let rates = |of: usize| -> Vec<Option<f32>> {
            let each = once.iter().skip(of).step_by(4);
            each.map(|told| told.measurements.heart_rate_bpm).collect()
        };
        assert!(rates(0).iter().all(|bpm| *bpm == Some(130.0)));
        assert!(rates(1).contains(&Some(60.0)) && rates(1).contains(&Some(130.0)));
        assert!(rates(2).iter().all(|bpm| *bpm == Some(75.0)));
        assert!(rates(3).iter().all(Option::is_none));
        assert!(once.iter().all(|told| told.measurements.qrs_ms.is_none()));
        let mut again = reports();
        lend(&mut again, &recorded, &statements, 1);
        assert!(once.iter().zip(&again).all(|(a, b)| a.measurements == b.measurements));
    }
}
