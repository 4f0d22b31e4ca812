//! Packets by partition and fate: what was received and what became of it.
//!
//! Place: counted by the main loop, once when a record is taken and once when it has its fate.
//! Invariant: between two records, for every partition, `received = accepted + rejected + dead_lettered`, exactly. The two
//! sides are counted in different places, so that a packet without a fate, or with two, shows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use serde::Serialize;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Some of its samples, or all of them again, belong to open windows.
    Accepted,
    /// It is whole, but all of it came too late or from an earlier boot; nothing was used. `meit_agent_packets_late_total`.
    Rejected,
    /// It was refused, and its bytes lie in the dead letters with the reason. `meit_agent_packets_rejected_total`.
    DeadLettered,
}

impl Fate {
    const ALL: [Self; 3] = [Self::Accepted, Self::Rejected, Self::DeadLettered];

    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::DeadLettered => "dead_lettered",
        }
    }
}

/// One partition's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PartitionCounts {
    /// Taken.
    pub received: u64,
    /// See [`Fate::Accepted`].
    pub accepted: u64,
    /// See [`Fate::Rejected`].
    pub rejected: u64,
    /// See [`Fate::DeadLettered`].
    pub dead_lettered: u64,
}

impl PartitionCounts {
    /// Packets without a fate, or with more than one; 0 when all is well.
    pub fn difference(&self) -> i64 {
        self.received as i64 - (self.accepted + self.rejected + self.dead_lettered) as i64
    }
}

/// The counters of every partition that a packet came from.
#[derive(Clone)]
pub(crate) struct Conservation {
    received: IntCounterVec,
    fates: IntCounterVec,
    difference: IntGaugeVec,
    partitions: Arc<Mutex<BTreeMap<i32, Counters>>>,
}

/// One partition's counters, looked up once.
struct Counters {
    received: IntCounter,
    /// In the order of [`Fate::ALL`].
    fates: [IntCounter; 3],
    difference: IntGauge,
}

impl Counters {
    fn counts(&self) -> PartitionCounts {
        let [accepted, rejected, dead_lettered] = self.fates.each_ref().map(IntCounter::get);
        let counts = PartitionCounts {
            received: self.received.get(),
            accepted,
            rejected,
            dead_lettered,
        };
        self.difference.set(counts.difference());
        counts
    }
}

impl Conservation {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let received = Opts::new(
            "meit_agent_partition_packets_received_total",
            "Packets read from the waveform topic for the first time.",
        );
        let fates = Opts::new(
            "meit_agent_partition_packets_total",
            "Packets by what became of them: accepted into windows, rejected as wholly late, or dead_lettered.",
        );
        let difference = Opts::new(
            "meit_agent_conservation_difference",
            "Packets received less packets with a fate; anything but 0 is a defect.",
        );
        let conservation = Self {
            received: IntCounterVec::new(received, &["partition"])?,
            fates: IntCounterVec::new(fates, &["partition", "fate"])?,
            difference: IntGaugeVec::new(difference, &["partition"])?,
            partitions: Arc::default(),
        };
        registry.register(Box::new(conservation.received.clone()))?;
        registry.register(Box::new(conservation.fates.clone()))?;
        registry.register(Box::new(conservation.difference.clone()))?;
        // every topic has a partition 0; its series are there from the start
        conservation.with(0, |_| ());
        Ok(conservation)
    }

    pub(crate) fn received(&self, partition: i32) {
        self.with(partition, |counters| counters.received.inc());
    }

    pub(crate) fn fate(&self, partition: i32, fate: Fate) {
        self.with(partition, |counters| counters.fates[fate as usize].inc());
    }

    /// The counts of every partition that a packet came from; also sets the gauges.
    pub(crate) fn check(&self) -> BTreeMap<i32, PartitionCounts> {
        let partitions = self.lock();
        let counts = partitions.iter();
        let counts = counts.map(|(&partition, counters)| (partition, counters.counts()));
        counts
            .filter(|(_, counts)| *counts != PartitionCounts::default())
            .collect()
    }

    fn with(&self, partition: i32, count: impl FnOnce(&Counters)) {
        let mut partitions = self.lock();
        count(partitions.entry(partition).or_insert_with(|| self.counters(partition)));
    }

    fn counters(&self, partition: i32) -> Counters {
        let label = partition.to_string();
        let fate = |fate: Fate| self.fates.with_label_values(&[&*label, fate.as_str()]);
        Counters {
            received: self.received.with_label_values(&[&label]),
            fates: Fate::ALL.map(fate),
            difference: self.difference.with_label_values(&[&label]),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Counters>> {
        self.partitions.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_without_a_fate_shows_in_its_partition_alone() {
        let registry = Registry::new();
        let conservation = Conservation::new(&registry).unwrap();
        for (partition, fate) in [
            (0, Some(Fate::Accepted)),
            (0, Some(Fate::DeadLettered)),
            (1, Some(Fate::Rejected)),
            (1, None),
        ] {
            conservation.received(partition);
            if let Some(fate) = fate {
                conservation.fate(partition, fate);
            }
        }
        let counts = conservation.check();
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [0, 1]);
        assert_eq!((counts[&0].difference(), counts[&1].difference()), (0, 1));
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        assert!(
            text.contains("meit_agent_conservation_difference{partition=\"1\"} 1"),
            "{text}"
        );
    }
}
