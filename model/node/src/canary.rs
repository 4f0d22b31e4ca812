//! Whether a new generation abstains or contradicts the measurements much more often than the one before.
//!
//! Place: told of every delivered draft; asked by the registry's watcher. Invariant: pure counts by bundle; a verdict needs
//! enough drafts of both, and without enough of the old one only a majority of bad drafts counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ecg::report::DraftReport;
use serde::{Deserialize, Serialize};

/// Share of bad drafts that is too many whatever came before.
const SHARE_MAX: f64 = 0.5;

/// When a new generation is taken back.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CanaryLimits {
    /// Drafts of a generation before it is judged.
    pub drafts_min: u64,
    /// Largest rise of the share of drafts whose text was unfit.
    pub abstain_rise_max: f64,
    /// Largest rise of the share of drafts that contradict the measurements.
    pub contradiction_rise_max: f64,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    drafts: u64,
    abstained: u64,
    contradicted: u64,
}

/// Counts of drafts by bundle; clones share them.
#[derive(Clone, Default)]
pub struct Canary {
    counts: Arc<Mutex<BTreeMap<String, Counts>>>,
}

impl Canary {
    /// A draft was delivered. Segments that no model saw say nothing about one.
    pub fn take(&self, draft: &DraftReport) {
        if draft.finish_reason == crate::draft::NOT_RUN {
            return;
        }
        let mut counts = self.counts.lock().expect("no code panics while it holds this lock");
        let counts = counts.entry(draft.bundle.bundle_id.clone()).or_default();
        counts.drafts += 1;
        counts.abstained += u64::from(draft.abstain.is_some());
        counts.contradicted += u64::from(!draft.contradictions.is_empty());
    }

    /// Why `new` should be taken back for `old`, if it should.
    pub fn verdict(&self, old: &str, new: &str, limits: &CanaryLimits) -> Option<String> {
        let counts = self.counts.lock().expect("no code panics while it holds this lock");
        let of = |id: &str| counts.get(id).copied().unwrap_or_default();
        let (old, new) = (of(old), of(new));
        if new.drafts < limits.drafts_min {
            return None;
        }
        let share = |part: u64, all: u64| part as f64 / all.max(1) as f64;
        let judge = |name: &str, part: fn(&Counts) -> u64, rise_max: f64| {
            let now = share(part(&new), new.drafts);
            let known = old.drafts >= limits.drafts_min;
            let before = share(part(&old), old.drafts);
            let too_many = if known {
                now - before > rise_max
            } else {
                now > SHARE_MAX
            };
            too_many.then(|| format!("share of {name} is {now:.3} in {} drafts, was {before:.3}", new.drafts))
        };
        judge("texts unfit to be read", |c| c.abstained, limits.abstain_rise_max)
            .or_else(|| judge("contradictions", |c| c.contradicted, limits.contradiction_rise_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::{Times, drafted};
    use crate::testing::{author, segment, text};

    fn limits() -> CanaryLimits {
        CanaryLimits {
            drafts_min: 10,
            abstain_rise_max: 0.2,
            contradiction_rise_max: 0.2,
        }
    }

    /// Ten drafts of a bundle, so many of them without a letter.
    fn drafts(canary: &Canary, bundle: &str, unfit: usize) {
        for i in 0..10 {
            let mut by = author();
            by.bundle.bundle_id = bundle.to_owned();
            let words = if i < unfit { "..." } else { "sinus rhythm" };
            canary.take(&drafted(&segment(i as i64), &text(words), &by, &Times::default()));
        }
    }

    #[track_caller]
    fn check(old: Option<usize>, new: usize, taken_back: bool) {
        let canary = Canary::default();
        if let Some(unfit) = old {
            drafts(&canary, "old", unfit);
        }
        drafts(&canary, "new", new);
        assert_eq!(canary.verdict("old", "new", &limits()).is_some(), taken_back);
    }

    #[test]
    fn a_jump_is_a_rise_beyond_the_limit() {
        check(Some(1), 2, false);
        check(Some(1), 4, true);
        check(Some(5), 6, false);
        check(None, 5, false);
        check(None, 6, true);
        assert_eq!(
            Canary::default().verdict("old", "new", &limits()),
            None,
            "nothing was drafted yet"
        );
    }
}
