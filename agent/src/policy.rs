//! Which closed windows become segments: all, some, those on which something changed, or those asked for.
//!
//! Place: [`Policy::admits`] before the analysis, [`Changes::reports`] after it, before dispatch.
//! Invariant: an urgent window always becomes a segment. What a policy leaves out is counted, never lost in silence.
//! [`Policy::admits`] is a function of its arguments; [`Changes`] remembers one segment a stream, in bounded memory, and
//! after a restart reports each stream's first window, whose id is the same as ever.

use std::collections::HashMap;

use ecg::segment::{Decision, Reason, Segment};
use ecg::window::Context;
use serde::Deserialize;

/// Gateway times before this are no clock: the year 2000, microseconds since the Unix epoch.
const CLOCK_SET_US: i64 = 946_684_800_000_000;

/// Which windows become segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// Every one.
    Every,
    /// Those whose number on the stream's grid is a multiple of k.
    Kth,
    /// Those that differ from the last one reported, in rate, rhythm or quality.
    Change,
    /// Those that a monitor asks for as urgent.
    Demand,
}

/// The policy, from the settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Which windows.
    pub choice: Choice,
    /// k of [`Choice::Kth`].
    pub kth: u32,
    /// Distance of two windows' starts, samples at 500 Hz.
    pub stride: i64,
    /// Change of the heart rate that is reported, beats a minute.
    pub rate_bpm: f32,
    /// Change of RR deviation or QRS duration that is reported, milliseconds.
    pub rhythm_ms: f32,
    /// Longest time without a report, samples at 500 Hz.
    pub refresh_samples: i64,
    /// Age at which a window is shed, microseconds; 0 for never.
    pub freshness_us: i64,
    /// Streams that [`Changes`] remembers.
    pub streams_max: usize,
}

/// Why a closed window becomes no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Omitted {
    /// The policy does not ask for it.
    Policy,
    /// It is older than the freshness limit: a backlog, or an agent that cannot keep up.
    Stale,
}

impl Omitted {
    /// Every cause.
    pub const ALL: [Omitted; 2] = [Omitted::Policy, Omitted::Stale];

    /// Label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Omitted::Policy => "policy",
            Omitted::Stale => "stale",
        }
    }
}

impl Policy {
    /// Whether a window is analysed, `now_us` microseconds after the Unix epoch.
    ///
    /// # Errors
    /// [`Omitted`] when it is not.
    pub fn admits(&self, context: &Context, now_us: i64) -> Result<(), Omitted> {
        if context.stat {
            return Ok(());
        }
        let number = context.start_sample.div_euclid(self.stride);
        let asked = match self.choice {
            Choice::Every | Choice::Change => true,
            Choice::Kth => number.rem_euclid(i64::from(self.kth)) == 0,
            Choice::Demand => false,
        };
        if !asked {
            return Err(Omitted::Policy);
        }
        let has_clock = context.last_gateway_time_us >= CLOCK_SET_US;
        let age_us = now_us.saturating_sub(context.last_gateway_time_us);
        if self.freshness_us > 0 && has_clock && age_us > self.freshness_us {
            return Err(Omitted::Stale);
        }
        Ok(())
    }
}

/// What of a segment decides whether it is reported.
#[derive(Clone, Debug)]
pub struct Findings {
    pub(crate) stream_id: String,
    pub(crate) device_id: String,
    pub(crate) boot_id: u64,
    pub(crate) start_sample: i64,
    stat: bool,
    rate_bpm: Option<f32>,
    rr_sd_ms: Option<f32>,
    qrs_ms: Option<f32>,
    pub(crate) decision: Decision,
    pub(crate) reasons: Vec<Reason>,
}

impl Findings {
    /// Those of a segment.
    pub fn of(segment: &Segment) -> Self {
        let measured = &segment.measurements;
        Self {
            stream_id: segment.stream_id.clone(),
            device_id: segment.device_id.clone(),
            boot_id: segment.boot_id,
            start_sample: segment.start_sample,
            stat: segment.stat,
            rate_bpm: measured.heart_rate_bpm,
            rr_sd_ms: measured.rr_sd_ms,
            qrs_ms: measured.qrs_ms,
            decision: segment.decision,
            reasons: segment.reasons.clone(),
        }
    }

    /// The boot and whose it is.
    pub(crate) fn boot(&self) -> (&str, u64) {
        (&self.device_id, self.boot_id)
    }

    fn differ(&self, before: &Findings, policy: &Policy) -> bool {
        before.boot() != self.boot()
            || self.start_sample - before.start_sample >= policy.refresh_samples
            || before.decision != self.decision
            || before.reasons != self.reasons
            || moved(before.rate_bpm, self.rate_bpm, policy.rate_bpm)
            || moved(before.rr_sd_ms, self.rr_sd_ms, policy.rhythm_ms)
            || moved(before.qrs_ms, self.qrs_ms, policy.rhythm_ms)
    }
}

/// The last segment that was reported of each stream.
#[derive(Debug)]
pub struct Changes {
    policy: Policy,
    /// With the turn in which it was reported; the stream with the smallest is forgotten first.
    last: HashMap<String, (u64, Findings)>,
    turn: u64,
}

impl Changes {
    /// Nothing reported yet.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            last: HashMap::new(),
            turn: 0,
        }
    }

    /// Whether a segment goes on its way; remembers it when it does. True for every segment unless the policy is
    /// [`Choice::Change`].
    pub fn reports(&mut self, findings: &Findings) -> bool {
        if self.policy.choice != Choice::Change {
            return true;
        }
        let before = self.last.get(&findings.stream_id);
        let changed = before.is_none_or(|(_, before)| findings.differ(before, &self.policy));
        let reports = findings.stat || changed;
        if reports {
            self.remember(findings.clone());
        }
        reports
    }

    fn remember(&mut self, findings: Findings) {
        if self.last.len() >= self.policy.streams_max && !self.last.contains_key(&findings.stream_id) {
            let oldest = self.last.iter().min_by_key(|(_, (turn, _))| *turn);
            if let Some(oldest) = oldest.map(|(stream_id, _)| stream_id.clone()) {
                self.last.remove(&oldest);
            }
        }
        self.turn += 1;
        self.last.insert(findings.stream_id.clone(), (self.turn, findings));
    }
}

/// True when a value came, went, or moved by `by` or more.
fn moved(before: Option<f32>, now: Option<f32>, by: f32) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => (now - before).abs() >= by,
        (before, now) => before.is_some() != now.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, segment};

    const NOW_US: i64 = 1_700_000_000_000_000;
    const POLICY: Policy = Policy {
        choice: Choice::Every,
        kth: 3,
        stride: 5000,
        rate_bpm: 10.0,
        rhythm_ms: 40.0,
        refresh_samples: 150_000,
        freshness_us: 60_000_000,
        streams_max: 2,
    };

    fn admitted(choice: Choice, stat: bool) -> Vec<i64> {
        let policy = Policy { choice, ..POLICY };
        let starts = (0..7).map(|number| number * 5000);
        starts
            .filter(|&start| policy.admits(&context(start, NOW_US, stat), NOW_US).is_ok())
            .collect()
    }

    #[test]
    fn the_choice_picks_windows_by_their_place_on_the_grid() {
        assert_eq!(admitted(Choice::Every, false).len(), 7);
        assert_eq!(admitted(Choice::Change, false).len(), 7);
        assert_eq!(admitted(Choice::Kth, false), [0, 15_000, 30_000]);
        assert!(admitted(Choice::Demand, false).is_empty());
    }

    #[test]
    fn an_urgent_window_is_admitted_under_every_choice_and_at_every_age() {
        for choice in [Choice::Every, Choice::Kth, Choice::Change, Choice::Demand] {
            assert_eq!(admitted(choice, true).len(), 7, "{choice:?}");
        }
        assert_eq!(POLICY.admits(&context(0, NOW_US - 1_000_000_000, true), NOW_US), Ok(()));
    }

    #[test]
    fn an_old_window_is_shed_unless_its_gateway_has_no_clock_or_there_is_no_limit() {
        let check = |gateway_us, limit_us, expected| {
            let policy = Policy {
                freshness_us: limit_us,
                ..POLICY
            };
            assert_eq!(policy.admits(&context(0, gateway_us, false), NOW_US), expected);
        };
        check(NOW_US - 60_000_000, 60_000_000, Ok(()));
        check(NOW_US - 60_000_001, 60_000_000, Err(Omitted::Stale));
        check(NOW_US - 60_000_001, 0, Ok(()));
        check(1_000_000, 60_000_000, Ok(()));
        check(NOW_US + 60_000_001, 60_000_000, Ok(()));
    }

    /// A segment of stream, number, rate, RR deviation and decision.
    fn measured(stream: &str, number: i64, rate_bpm: f32, rr_sd_ms: f32, decision: Decision) -> Segment {
        let mut segment = segment(decision, false);
        segment.stream_id = stream.into();
        segment.start_sample = number * 5000;
        segment.measurements.heart_rate_bpm = Some(rate_bpm);
        segment.measurements.rr_sd_ms = Some(rr_sd_ms);
        segment
    }

    #[test]
    fn a_change_of_rate_rhythm_or_quality_is_reported_and_nothing_else() {
        let mut changes = Changes::new(Policy {
            choice: Choice::Change,
            ..POLICY
        });
        let accept = Decision::Accept;
        for (number, rate, rr_sd, decision, reports) in [
            (0, 70.0, 20.0, accept, true),
            (1, 75.0, 20.0, accept, false),
            (2, 79.9, 50.0, accept, false),
            (3, 80.0, 50.0, accept, true),
            (4, 80.0, 100.0, accept, true),
            (5, 80.0, 100.0, Decision::Reject, true),
            (6, 80.0, 100.0, Decision::Reject, false),
            (7, 80.0, 100.0, accept, true),
            (36, 80.0, 100.0, accept, false),
            (37, 80.0, 100.0, accept, true),
        ] {
            let segment = measured("a", number, rate, rr_sd, decision);
            assert_eq!(changes.reports(&Findings::of(&segment)), reports, "window {number}");
        }
        let mut unmeasured = measured("a", 38, 80.0, 100.0, accept);
        unmeasured.measurements.heart_rate_bpm = None;
        assert!(changes.reports(&Findings::of(&unmeasured)), "the rate went");
    }

    #[test]
    fn streams_are_remembered_up_to_a_bound_and_every_policy_but_change_reports_all() {
        let mut changes = Changes::new(Policy {
            choice: Choice::Change,
            ..POLICY
        });
        for (stream, reports) in [
            ("a", true),
            ("b", true),
            ("a", false),
            ("c", true),
            ("b", false),
            ("a", true),
        ] {
            let segment = measured(stream, 0, 70.0, 20.0, Decision::Accept);
            assert_eq!(changes.reports(&Findings::of(&segment)), reports, "{stream}");
            assert!(changes.last.len() <= 2);
        }
        let mut every = Changes::new(POLICY);
        let same = measured("a", 0, 70.0, 20.0, Decision::Accept);
        let same = Findings::of(&same);
        assert!(every.reports(&same) && every.reports(&same));
    }
}
