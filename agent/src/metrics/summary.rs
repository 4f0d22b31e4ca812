//! What an agent says of itself when it ends.
//!
//! Place: made by `Metrics::summary`, printed by meit-agent and meit demo. Invariant: numbers and label values only.

use std::collections::BTreeMap;

use super::conservation::PartitionCounts;

/// What an agent did; label values that were not counted are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct AgentSummary {
    /// Packets read.
    pub packets_received: u64,
    /// Packets that went into a window.
    pub packets_accepted: u64,
    /// Packets among the accepted of which all came too late.
    pub packets_late: u64,
    /// Packets read again after a restart or rebalance; not in received.
    pub packets_replayed: u64,
    /// Packets by partition and fate.
    pub partitions: BTreeMap<i32, PartitionCounts>,
    /// Packets that went to the dead letters, by reason.
    pub packets_rejected: BTreeMap<&'static str, u64>,
    /// Sample instants of accepted packets, by fate: fresh, duplicate, late.
    pub samples: BTreeMap<&'static str, u64>,
    /// Windows handed to the analysis.
    pub windows: u64,
    /// Windows of which no segment was made, by cause: partial, missing, failed, repeated, policy, stale.
    pub windows_skipped: BTreeMap<&'static str, u64>,
    /// Segments that passed the gate.
    pub segments_accepted: u64,
    /// Segments that passed the gate with reasons.
    pub segments_marginal: u64,
    /// Segments that the gate refused.
    pub segments_rejected: u64,
    /// Reasons of refused segments; a segment may have several.
    pub reject_reasons: BTreeMap<&'static str, u64>,
    /// Jumps of devices' clocks, by way: clock_back, clock_fwd.
    pub clock_jumps: BTreeMap<&'static str, u64>,
    /// Streams that went on with a new boot.
    pub takeovers: u64,
    /// Streams that went on in a new epoch because the device restarted its index.
    pub rebases: u64,
    /// Records that the broker dropped before they were read.
    pub offset_gap_records: u64,
}
