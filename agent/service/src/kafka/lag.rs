//! How far a consumer is behind, in records and in seconds, and whether brokers are there at all.
//!
//! Place: inside of a source; fed by librdkafka's statistics, by the poll thread and by rebalances, read by metrics.
//! Invariant: only partitions that are held count. Seconds are the age of the last record read where unread ones wait, which
//! bounds from above how long the oldest unread record has waited; where nothing waits they are 0.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rdkafka::statistics::{Broker, Partition, Statistics};

/// librdkafka's fetch state of a partition that is held and read.
const HELD: &str = "active";
/// librdkafka's state of a broker that is connected and has answered.
const UP: &str = "UP";
/// Silence after which such a connection counts no more; an idle one asks for metadata every ten seconds.
const SILENT: Duration = Duration::from_secs(15);

/// How far a consumer is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lag {
    /// Unread records of all partitions held of the topic.
    pub messages: i64,
    /// Age of the last record read of the partition that is furthest behind.
    pub seconds: f64,
    /// Times that partitions came or went.
    pub rebalances: u64,
    /// Brokers that answer the consumer; addresses to start from and the group's coordinator are not counted twice.
    pub brokers_up: usize,
}

/// What is known of the partitions, by topic and number.
#[derive(Default)]
pub(super) struct LagTable {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    unread: HashMap<(String, i32), i64>,
    read_ms: HashMap<(String, i32), i64>,
    /// When the broker that a partition is read from last said anything.
    heard: HashMap<(String, i32), Instant>,
    rebalances: u64,
    brokers_up: usize,
}

impl LagTable {
    /// The broker's high watermarks, as of the last fetches, and which brokers are connected.
    pub(super) fn statistics(&self, statistics: &Statistics) {
        let (mut inner, now) = (self.lock(), Instant::now());
        let silences: HashMap<i32, Duration> = statistics.brokers.values().filter_map(silence).collect();
        inner.brokers_up = silences.values().filter(|silence| **silence < SILENT).count();
        inner.unread.clear();
        for (topic, of_topic) in &statistics.topics {
            for (&partition, state) in of_topic
                .partitions
                .iter()
                .filter(|(_, state)| state.fetch_state == HELD)
            {
                let silence = silences.get(&state.broker);
                if let Some(heard) = silence.and_then(|silence| now.checked_sub(*silence)) {
                    inner.heard.insert((topic.clone(), partition), heard);
                }
                inner.unread.insert((topic.clone(), partition), unread(state));
            }
        }
    }

    /// A record was polled.
    pub(super) fn read(&self, topic: &str, partition: i32, timestamp_ms: Option<i64>) {
        let Some(timestamp_ms) = timestamp_ms else { return };
        let mut inner = self.lock();
        // the key is allocated once a partition
        match inner
            .read_ms
            .iter_mut()
            .find(|((name, number), _)| *number == partition && name == topic)
        {
            Some((_, last)) => *last = timestamp_ms,
            None => drop(inner.read_ms.insert((topic.to_owned(), partition), timestamp_ms)),
        }
    }

    /// Partitions came or went; what was read of them before says nothing any more.
    pub(super) fn rebalanced<'a>(&self, partitions: impl Iterator<Item = (&'a str, i32)>) {
        let mut inner = self.lock();
        inner.rebalances += 1;
        for (topic, partition) in partitions {
            let key = (topic.to_owned(), partition);
            inner.unread.remove(&key);
            inner.read_ms.remove(&key);
            inner.heard.remove(&key);
        }
    }

    /// The lag on a topic now.
    pub(super) fn now(&self, topic: &str) -> Lag {
        self.at(topic, crate::time::now_us() / 1000)
    }

    /// When the brokers that a topic's partitions are read from last said anything; partitions that are not held, and those
    /// whose broker was not heard yet, are left out.
    pub(super) fn heard(&self, topic: &str) -> Vec<(i32, Instant)> {
        let inner = self.lock();
        let heard = inner.heard.iter().filter(|((name, _), _)| name == topic);
        heard.map(|((_, partition), heard)| (*partition, *heard)).collect()
    }

    fn at(&self, topic: &str, now_ms: i64) -> Lag {
        let inner = self.lock();
        let unread = || inner.unread.iter().filter(|((name, _), _)| name == topic);
        let waiting = unread().filter(|(_, unread)| **unread > 0);
        let ages = waiting.filter_map(|(partition, _)| Some(now_ms - inner.read_ms.get(partition)?));
        Lag {
            messages: unread().map(|(_, unread)| unread).sum(),
            seconds: ages.max().unwrap_or(0).max(0) as f64 / 1000.0,
            rebalances: inner.rebalances,
            brokers_up: inner.brokers_up,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this lock")
    }
}

/// The number of a broker that is connected, and how long it has said nothing.
fn silence(broker: &Broker) -> Option<(i32, Duration)> {
    let connected = broker.nodeid >= 0 && broker.state == UP;
    let silent_us = connected.then(|| u64::try_from(broker.rxidle).ok()).flatten()?;
    Some((broker.nodeid, Duration::from_micros(silent_us)))
}

/// Records of a partition that this consumer may read and has not. librdkafka's own `consumer_lag` counts from the committed
/// offset, which trails by what is under way.
fn unread(state: &Partition) -> i64 {
    // the last stable offset is the end for a reader of committed records; negative where it is not known yet
    let end = if state.ls_offset >= 0 {
        state.ls_offset
    } else {
        state.hi_offset
    };
    let places = [state.app_offset, state.committed_offset, state.lo_offset];
    let next = places.into_iter().find(|offset| *offset >= 0);
    next.map_or(0, |next| (end - next).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Statistics of one topic with so many unread records a partition; negative where a partition is not held.
    fn statistics(unread: &[(i32, i64)]) -> Statistics {
        let mut statistics = Statistics::default();
        let topic = statistics.topics.entry("t".to_owned()).or_default();
        for &(number, unread) in unread {
            let state = topic.partitions.entry(number).or_default();
            state.fetch_state = if unread < 0 { "none" } else { HELD }.to_owned();
            (state.app_offset, state.ls_offset, state.hi_offset) = (100, 100 + unread, 999);
        }
        statistics
    }

    #[test]
    fn seconds_count_only_where_records_wait() {
        let table = LagTable::default();
        table.read("t", 0, Some(1_000));
        table.read("t", 1, Some(4_000));
        table.statistics(&statistics(&[(0, 0), (1, 3), (2, -1)]));
        assert_eq!((table.at("t", 9_000).messages, table.at("t", 9_000).seconds), (3, 5.0));
        assert_eq!(table.at("other", 9_000), Lag::default());
        table.read("t", 1, Some(8_500));
        assert_eq!(table.at("t", 9_000).seconds, 0.5);
        table.statistics(&statistics(&[(0, 0), (1, 0)]));
        assert_eq!(table.at("t", 99_000), Lag::default());
    }

    #[test]
    fn a_broker_counts_once_and_while_it_is_connected() {
        let broker = |nodeid, state: &str| Broker {
            nodeid,
            state: state.to_owned(),
            rxidle: 20_000,
            ..Broker::default()
        };
        let table = LagTable::default();
        let mut statistics = Statistics::default();
        for (name, broker) in [
            ("one", broker(1, UP)),
            ("two", broker(2, "DOWN")),
            (
                "silent",
                Broker {
                    rxidle: 16_000_000,
                    ..broker(3, UP)
                },
            ),
            ("start", broker(-1, UP)),
            ("GroupCoordinator", broker(-1, UP)),
        ] {
            statistics.brokers.insert(name.to_owned(), broker);
        }
        table.statistics(&statistics);
        assert_eq!(table.now("t").brokers_up, 1);
        table.statistics(&Statistics::default());
        assert_eq!(table.now("t").brokers_up, 0);
    }

    #[test]
    fn a_partition_is_heard_when_the_broker_that_it_is_read_from_is() {
        let table = LagTable::default();
        let mut both = statistics(&[(0, 0), (1, 0), (2, -1)]);
        let partitions = &mut both.topics.get_mut("t").unwrap().partitions;
        for (number, broker) in [(0, 1), (1, 2), (2, 1)] {
            partitions.get_mut(&number).unwrap().broker = broker;
        }
        let broker = |nodeid, rxidle| Broker {
            nodeid,
            rxidle,
            state: UP.to_owned(),
            ..Broker::default()
        };
        let with = |brokers: Vec<Broker>| Statistics {
            brokers: brokers
                .into_iter()
                .map(|broker| (broker.nodeid.to_string(), broker))
                .collect(),
            ..both.clone()
        };
        let heard = || -> HashMap<i32, Instant> { table.heard("t").into_iter().collect() };
        table.statistics(&with(vec![broker(1, 0), broker(2, 400_000)]));
        let first = heard();
        assert_eq!(first.len(), 2, "partition 2 is not held");
        assert!(first[&0] >= first[&1] + Duration::from_millis(400));
        // the second one goes: its partition was heard when it was
        table.statistics(&with(vec![broker(1, 0), broker(2, -1)]));
        assert!(heard()[&0] > first[&0] && heard()[&1] == first[&1]);
        table.rebalanced([("t", 1)].into_iter());
        assert_eq!(heard().into_keys().collect::<Vec<_>>(), [0]);
        assert!(table.heard("other").is_empty());
    }

    #[test]
    fn unread_records_count_from_the_last_read_one_or_where_reading_will_begin() {
        let state = |app_offset, committed_offset, ls_offset| Partition {
            app_offset,
            committed_offset,
            ls_offset,
            lo_offset: 2,
            hi_offset: 50,
            ..Partition::default()
        };
        for (state, expected) in [
            (state(40, 10, 45), 5),
            (state(-1001, 10, 45), 35),
            (state(-1001, -1001, 45), 43),
            (state(40, 10, -1001), 10),
            (state(60, 10, 45), 0),
        ] {
            assert_eq!(unread(&state), expected, "{state:?}");
        }
    }

    #[test]
    fn a_partition_that_went_counts_no_more() {
        let table = LagTable::default();
        table.read("t", 0, Some(1_000));
        table.statistics(&statistics(&[(0, 5)]));
        table.rebalanced([("t", 0)].into_iter());
        let lag = table.at("t", 2_000);
        assert_eq!((lag.messages, lag.seconds, lag.rebalances), (0, 0.0, 1));
    }

    #[test]
    fn a_clock_behind_the_brokers_gives_no_negative_lag() {
        let table = LagTable::default();
        table.read("t", 0, Some(5_000));
        table.statistics(&statistics(&[(0, 1)]));
        assert_eq!(table.at("t", 4_000).seconds, 0.0);
    }
}
