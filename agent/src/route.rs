//! Where a segment goes: to a model, urgent or routine, or to the rejects.
//!
//! Place: between `dsp::analyse` and `dispatch`.
//! Invariant: pure; a function of the gate's decision and the monitor's urgency alone.

use ecg::segment::{Decision, Segment};
use ecg::topic;

/// A segment's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// To be drafted, urgently.
    Stat,
    /// To be drafted.
    Routine,
    /// Not to be drafted.
    Reject,
}

impl Route {
    /// Every route.
    pub const ALL: [Route; 3] = [Route::Stat, Route::Routine, Route::Reject];

    /// Label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Route::Stat => "stat",
            Route::Routine => "routine",
            Route::Reject => "reject",
        }
    }

    /// The topic that the route leads to.
    pub fn topic(self) -> &'static str {
        match self {
            Route::Stat => topic::SEGMENTS_STAT,
            Route::Routine => topic::SEGMENTS,
            Route::Reject => topic::REJECTS,
        }
    }
}

/// The way of a segment: rejects are never drafted, however urgent.
pub fn route(segment: &Segment) -> Route {
    match (segment.decision, segment.stat) {
        (Decision::Reject, _) => Route::Reject,
        (Decision::Accept | Decision::Marginal, true) => Route::Stat,
        (Decision::Accept | Decision::Marginal, false) => Route::Routine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::segment;

    #[test]
    fn only_the_decision_and_the_urgency_choose_the_way() {
        for (decision, stat, way) in [
            (Decision::Accept, false, Route::Routine),
            (Decision::Marginal, false, Route::Routine),
            (Decision::Accept, true, Route::Stat),
            (Decision::Marginal, true, Route::Stat),
            (Decision::Reject, false, Route::Reject),
            (Decision::Reject, true, Route::Reject),
        ] {
            assert_eq!(route(&segment(decision, stat)), way, "{decision:?} {stat}");
        }
    }

    #[test]
    fn each_way_leads_to_its_own_topic() {
        assert_eq!(
            Route::ALL.map(Route::topic),
            [topic::SEGMENTS_STAT, topic::SEGMENTS, topic::REJECTS]
        );
    }
}
