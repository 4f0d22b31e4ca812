//! What a demo run came to.
//!
//! Place: printed last. Invariant: counts come from the processes' own counters; a leak between them fails the run.

use std::fmt;

use agent::metrics::AgentSummary;
use anyhow::ensure;
use bedside::BedsideSummary;
use node::metrics::NodeSummary;

/// Counters of all processes.
pub struct Summary {
    pub replay: BedsideSummary,
    pub agent: AgentSummary,
    pub node: NodeSummary,
    /// From the last packet's gateway time to the draft, one a draft.
    pub latencies_ms: Vec<f64>,
}

impl Summary {
    /// # Errors
    /// Records that the broker dropped, or packets without a fate; after an interrupt packets may be left unread.
    pub fn check(&self, interrupted: bool) -> anyhow::Result<()> {
        let gaps = self.agent.offset_gap_records + self.node.offset_gap_records;
        ensure!(gaps == 0, "the broker dropped {gaps} records before they were read");
        let fated = self.agent.packets_accepted + self.agent.packets_rejected.values().sum::<u64>();
        ensure!(
            fated == self.agent.packets_received,
            "{} packets came, {fated} have a fate",
            self.agent.packets_received
        );
        ensure!(
            interrupted || self.agent.packets_received >= self.replay.packets_sent,
            "{} packets were sent, {} came",
            self.replay.packets_sent,
            self.agent.packets_received
        );
        Ok(())
    }

    fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.latencies_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let index = ((sorted.len() as f64 - 1.0) * share).round().max(0.0) as usize;
        sorted.get(index).copied().unwrap_or(f64::NAN)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (agent, node) = (&self.agent, &self.node);
        writeln!(
            f,
            "packets    {} sent, {} received, {} accepted",
            self.replay.packets_sent, agent.packets_received, agent.packets_accepted
        )?;
        for (reason, count) in &agent.packets_rejected {
            writeln!(f, "             refused for {reason}: {count}")?;
        }
        writeln!(
            f,
            "windows    {}: {} accepted, {} marginal, {} rejected",
            agent.windows, agent.segments_accepted, agent.segments_marginal, agent.segments_rejected
        )?;
        for (reason, count) in agent.reject_reasons.iter().filter(|(_, n)| **n > 0) {
            writeln!(f, "             rejected for {reason}: {count}")?;
        }
        writeln!(
            f,
            "drafts     {}, {} contradictions with the measurements",
            node.drafts, node.contradictions
        )?;
        writeln!(
            f,
            "latency    p50 {:.0} ms, p99 {:.0} ms from last sample to draft",
            self.percentile(0.5),
            self.percentile(0.99)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_packets_are_told_by_reason_and_are_no_leak() {
        let mut summary = Summary {
            replay: BedsideSummary {
                packets_sent: 720,
                plays: 3,
            },
            agent: AgentSummary {
                packets_received: 720,
                packets_accepted: 480,
                ..AgentSummary::default()
            },
            node: NodeSummary::default(),
            latencies_ms: Vec::new(),
        };
        assert!(summary.check(false).is_err(), "240 packets have no fate");
        summary.agent.packets_rejected.insert("no_room", 240);
        summary.check(false).unwrap();
        assert!(summary.to_string().contains("refused for no_room: 240"), "{summary}");
    }
}
