//! Every number that the agent exports.
//!
//! Place: counted where things happen, in the main loop and in `dispatch`; read by Prometheus and, as [`AgentSummary`], by
//! `meit demo`.
//! Invariant: labels come from closed sets; never a patient, stream or segment. Between two records
//! `packets received = accepted + rejected`, exactly.

use std::collections::BTreeMap;

use ecg::packet::RejectReason;
use ecg::segment::{Decision, Reason, Segment};
use ecg::window::{PushOutcome, Skipped};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets};

use crate::route::Route;

/// Fates of sample instants.
const FATES: [&str; 3] = ["fresh", "duplicate", "late"];
/// Causes for which a window becomes no segment: it reaches out of its stream, no sample came, its analysis panicked.
const SKIPPED: [&str; 3] = ["partial", "missing", "failed"];

/// The agent's metrics, registered once a process.
#[derive(Clone)]
pub struct Metrics {
    received: IntCounter,
    accepted: IntCounter,
    rejected: IntCounterVec,
    samples: IntCounterVec,
    windows: IntCounter,
    windows_skipped: IntCounterVec,
    segments: SegmentMetrics,
    offset_gap_records: IntCounter,
    streams: IntGauge,
    streams_evicted: IntCounter,
    analyses: IntGauge,
    /// Seconds that one analysis took.
    pub analyse_seconds: Histogram,
}

/// Counts of dispatched segments.
#[derive(Clone)]
struct SegmentMetrics {
    decisions: IntCounterVec,
    routes: IntCounterVec,
    reasons: IntCounterVec,
}

impl SegmentMetrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            decisions: counters(
                registry,
                "meit_agent_segments_total",
                "Segments dispatched, by the gate's decision.",
                "decision",
                &mut Decision::ALL.iter().map(|decision| decision.as_str()),
            )?,
            routes: counters(
                registry,
                "meit_agent_segments_routed_total",
                "Segments dispatched, by route.",
                "route",
                &mut Route::ALL.iter().map(|route| route.as_str()),
            )?,
            reasons: counters(
                registry,
                "meit_agent_segment_reasons_total",
                "Reasons of rejected segments; a segment may have several.",
                "reason",
                &mut Reason::ALL.iter().map(|reason| reason.as_str()),
            )?,
        })
    }
}

impl Metrics {
    /// Makes and registers the metrics; every label value is there from the start, at 0.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let buckets = exponential_buckets(0.001, 2.0, 12)?;
        let analyse_seconds = Histogram::with_opts(
            HistogramOpts::new("meit_agent_analyse_seconds", "Time of one window's analysis.").buckets(buckets),
        )?;
        registry.register(Box::new(analyse_seconds.clone()))?;
        Ok(Self {
            received: counter(
                registry,
                "meit_agent_packets_received_total",
                "Packets read from the waveform topic.",
            )?,
            accepted: counter(
                registry,
                "meit_agent_packets_accepted_total",
                "Packets that went into a window.",
            )?,
            rejected: counters(
                registry,
                "meit_agent_packets_rejected_total",
                "Packets that went to the dead letters.",
                "reason",
                &mut RejectReason::ALL.iter().map(|reason| reason.as_str()),
            )?,
            samples: counters(
                registry,
                "meit_agent_samples_total",
                "Sample instants of accepted packets.",
                "fate",
                &mut FATES.into_iter(),
            )?,
            windows: counter(
                registry,
                "meit_agent_windows_total",
                "Windows closed and handed to the analysis.",
            )?,
            windows_skipped: counters(
                registry,
                "meit_agent_windows_skipped_total",
                "Windows of which no segment was made.",
                "cause",
                &mut SKIPPED.into_iter(),
            )?,
            segments: SegmentMetrics::new(registry)?,
            offset_gap_records: counter(
                registry,
                "meit_agent_offset_gap_records_total",
                "Records that the broker dropped before they were read.",
            )?,
            streams: gauge(registry, "meit_agent_streams", "Streams with state.")?,
            streams_evicted: counter(
                registry,
                "meit_agent_streams_evicted_total",
                "Streams given up, idle or one too many.",
            )?,
            analyses: gauge(
                registry,
                "meit_agent_analyses_waiting",
                "Windows in analysis or waiting for dispatch.",
            )?,
            analyse_seconds,
        })
    }

    /// Packets read so far; a replay compares it with what it sent.
    pub fn packets_received(&self) -> u64 {
        self.received.get()
    }

    pub(crate) fn packet_accepted(&self, outcome: PushOutcome) {
        self.received.inc();
        self.accepted.inc();
        for (fate, samples) in [
            ("fresh", outcome.fresh),
            ("duplicate", outcome.duplicate),
            ("late", outcome.late),
        ] {
            self.samples.with_label_values(&[fate]).inc_by(samples as u64);
        }
    }

    pub(crate) fn packet_rejected(&self, reason: RejectReason) {
        self.received.inc();
        self.rejected.with_label_values(&[reason.as_str()]).inc();
    }

    pub(crate) fn windows_closed(&self, windows: usize, skipped: Skipped, evicted: u64) {
        self.windows.inc_by(windows as u64);
        self.windows_skipped
            .with_label_values(&["partial"])
            .inc_by(skipped.partial);
        self.windows_skipped
            .with_label_values(&["missing"])
            .inc_by(skipped.missing);
        self.streams_evicted.inc_by(evicted);
    }

    pub(crate) fn analysis_failed(&self) {
        self.windows_skipped.with_label_values(&["failed"]).inc();
    }

    pub(crate) fn segment_dispatched(&self, segment: &Segment, route: Route) {
        self.segments
            .decisions
            .with_label_values(&[segment.decision.as_str()])
            .inc();
        self.segments.routes.with_label_values(&[route.as_str()]).inc();
        if route == Route::Reject {
            for reason in &segment.reasons {
                self.segments.reasons.with_label_values(&[reason.as_str()]).inc();
            }
        }
    }

    pub(crate) fn offset_gap(&self, records: u64) {
        self.offset_gap_records.inc_by(records);
    }

    pub(crate) fn set_levels(&self, streams: usize, analyses: usize) {
        self.streams.set(streams as i64);
        self.analyses.set(analyses as i64);
    }

    /// The counts so far.
    pub fn summary(&self) -> AgentSummary {
        let by = |counters: &IntCounterVec, values: &mut dyn Iterator<Item = &'static str>| -> BTreeMap<_, _> {
            let counted = values.map(|value| (value, counters.with_label_values(&[value]).get()));
            counted.filter(|(_, count)| *count > 0).collect()
        };
        let segments = |decision: Decision| self.segments.decisions.with_label_values(&[decision.as_str()]).get();
        AgentSummary {
            packets_received: self.received.get(),
            packets_accepted: self.accepted.get(),
            packets_rejected: by(
                &self.rejected,
                &mut RejectReason::ALL.iter().map(|reason| reason.as_str()),
            ),
            samples: by(&self.samples, &mut FATES.into_iter()),
            windows: self.windows.get(),
            windows_skipped: by(&self.windows_skipped, &mut SKIPPED.into_iter()),
            segments_accepted: segments(Decision::Accept),
            segments_marginal: segments(Decision::Marginal),
            segments_rejected: segments(Decision::Reject),
            reject_reasons: by(
                &self.segments.reasons,
                &mut Reason::ALL.iter().map(|reason| reason.as_str()),
            ),
            offset_gap_records: self.offset_gap_records.get(),
        }
    }
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

/// A counter for each value of a label.
fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    values: &mut dyn Iterator<Item = &'static str>,
) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
    values.for_each(|value| drop(counters.with_label_values(&[value])));
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

/// What an agent did; label values that were not counted are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct AgentSummary {
    /// Packets read.
    pub packets_received: u64,
    /// Packets that went into a window.
    pub packets_accepted: u64,
    /// Packets that went to the dead letters, by reason.
    pub packets_rejected: BTreeMap<&'static str, u64>,
    /// Sample instants of accepted packets, by fate: fresh, duplicate, late.
    pub samples: BTreeMap<&'static str, u64>,
    /// Windows handed to the analysis.
    pub windows: u64,
    /// Windows of which no segment was made, by cause: partial, missing, failed.
    pub windows_skipped: BTreeMap<&'static str, u64>,
    /// Segments that passed the gate.
    pub segments_accepted: u64,
    /// Segments that passed the gate with reasons.
    pub segments_marginal: u64,
    /// Segments that the gate refused.
    pub segments_rejected: u64,
    /// Reasons of refused segments; a segment may have several.
    pub reject_reasons: BTreeMap<&'static str, u64>,
    /// Records that the broker dropped before they were read.
    pub offset_gap_records: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_is_either_accepted_or_rejected() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        metrics.packet_accepted(PushOutcome {
            fresh: 100,
            duplicate: 25,
            late: 0,
        });
        metrics.packet_rejected(RejectReason::Decode);
        metrics.packet_rejected(RejectReason::Decode);
        let summary = metrics.summary();
        assert_eq!(summary.packets_received, 3);
        assert_eq!(
            summary.packets_accepted + summary.packets_rejected.values().sum::<u64>(),
            3
        );
        assert_eq!(summary.packets_rejected, BTreeMap::from([("decode", 2)]));
        assert_eq!(summary.samples, BTreeMap::from([("fresh", 100), ("duplicate", 25)]));
    }

    #[test]
    fn a_registry_takes_the_metrics_once() {
        let registry = Registry::new();
        Metrics::new(&registry).unwrap();
        assert!(Metrics::new(&registry).is_err());
    }
}
