//! The clocks by which silence is measured, one a partition: each stands still while the partition's broker is not heard.
//!
//! Place: read by the main loop wherever the silence of a stream or a monitor counts. Invariant: time in which nothing could
//! be heard is no silence, so an outage neither gives up the samples of an open window nor closes one without the context
//! that still waits at the gateway.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Longest time between two looks at the brokers' signs of life, without what a broker may hold a fetch back: the client
/// reports once a second. Partitions that are paused are not read from, and not heard either.
const LOOKS: Duration = Duration::from_secs(2);
/// Longest time that gateways get to come back after their broker did: librdkafka's longest pause between two attempts,
/// 10 s, and half of it by chance. Pauses double, so one is never much longer than the outage was.
const GATEWAYS_BACK: Duration = Duration::from_secs(15);

/// What is known of the partitions' brokers.
#[derive(Debug)]
pub(crate) struct Hearing {
    /// Time without a sign of life that is no outage yet.
    quiet: Duration,
    partitions: HashMap<i32, Clock>,
}

#[derive(Debug)]
struct Clock {
    heard: Instant,
    /// Until then it stands still, however often its broker is heard.
    resumes: Instant,
    /// How far it is behind.
    away: Duration,
}

impl Hearing {
    /// Nothing heard yet; a broker holds a fetch that finds nothing back for so long.
    pub(crate) fn new(fetch_wait: Duration) -> Self {
        Self {
            quiet: LOOKS + fetch_wait,
            partitions: HashMap::new(),
        }
    }

    /// Notes when the brokers of partitions were last heard.
    pub(crate) fn note(&mut self, heard: impl IntoIterator<Item = (i32, Instant)>) {
        for (partition, heard) in heard {
            let clock = self.partitions.entry(partition).or_insert(Clock {
                heard,
                resumes: heard,
                away: Duration::ZERO,
            });
            let gap = heard.saturating_duration_since(clock.heard);
            if gap > self.quiet {
                let resumes = clock.resumes.max(heard + gap.min(GATEWAYS_BACK));
                clock.away += resumes - clock.heard.max(clock.resumes);
                clock.resumes = resumes;
            }
            clock.heard = clock.heard.max(heard);
        }
    }

    /// A partition went.
    pub(crate) fn forget(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    /// The clock of a partition when `now` is the time; `now` where nothing was heard yet.
    pub(crate) fn clock(&self, partition: i32, now: Instant) -> Instant {
        let Some(clock) = self.partitions.get(&partition) else {
            return now;
        };
        let until = now.min(clock.heard + self.quiet).max(clock.resumes);
        until.checked_sub(clock.away).unwrap_or(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(2050);

    fn hearing() -> Hearing {
        Hearing::new(Duration::from_millis(50))
    }

    #[test]
    fn time_without_a_broker_is_no_silence_and_gateways_get_time_to_come_back() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut hearing = hearing();
        assert_eq!(hearing.clock(0, at(5)), at(5), "before the first sign of life");
        for second in 10..=20 {
            hearing.note([(0, at(second)), (1, at(second))]);
        }
        assert_eq!(hearing.clock(0, at(21)), at(21));
        // ten minutes without one, for one of the partitions
        for second in 21..=620 {
            hearing.note([(0, at(20)), (1, at(second))]);
            assert_eq!(hearing.clock(0, at(second)), at(second).min(at(20) + QUIET));
            assert_eq!(hearing.clock(1, at(second)), at(second));
        }
        for second in 621..=640 {
            hearing.note([(0, at(second))]);
            let clock = 20 + second.saturating_sub(636);
            assert_eq!(hearing.clock(0, at(second)), at(clock), "{second}");
        }
        hearing.forget(0);
        assert_eq!(hearing.clock(0, at(641)), at(641));
    }

    #[test]
    fn a_broker_that_goes_again_before_the_gateways_are_back_and_a_hiccup_cost_no_more_than_they_last() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut hearing = hearing();
        for second in [0, 60, 63, 100] {
            hearing.note([(0, at(second))]);
            assert_eq!(hearing.clock(0, at(second)), at(0), "{second}");
        }
        for second in 101..=120 {
            hearing.note([(0, at(second))]);
        }
        assert_eq!(hearing.clock(0, at(120)), at(5), "15 s after the last return");
        // three seconds, and as long for the gateways
        for (second, clock) in [(123, 5), (125, 5), (126, 5), (127, 6)] {
            hearing.note([(0, at(second))]);
            assert_eq!(hearing.clock(0, at(second)), at(clock), "{second}");
        }
    }

    #[test]
    fn a_broker_that_holds_fetches_back_for_long_is_not_away() {
        let start = Instant::now();
        let mut hearing = Hearing::new(Duration::from_secs(5));
        for second in (0..60).step_by(6) {
            let now = start + Duration::from_secs(second);
            hearing.note([(0, now)]);
            assert_eq!(hearing.clock(0, now), now);
        }
    }
}
