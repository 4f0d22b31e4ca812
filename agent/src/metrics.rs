//! Every number that the agent exports.
//!
//! Place: counted where things happen, in the main loop and in `dispatch`; read by Prometheus and, as [`AgentSummary`], by
//! `meit demo`.
//! Invariant: labels come from closed sets or are partitions; never a patient, stream or segment. Between two records
//! `packets received = accepted + rejected`, exactly, and for each partition as [`conservation`] has it. A packet that is
//! held counts as received when it gets its fate. `packets_rejected_total` are dead letters; what is wholly late is in
//! `packets_late_total`, and a partition's fate "rejected".

pub mod conservation;
mod summary;

use std::collections::BTreeMap;

use ecg::id::HEARTBEAT_STREAM;
use ecg::lead::Lead;
use ecg::packet::{Packet, RejectReason};
use ecg::segment::{Decision, Reason};
use ecg::topic;
use ecg::window::{ClockJump, PushOutcome, Skipped};
use prometheus::{
    Error, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};
use service::telemetry::{KafkaMetrics, Meter, SECONDS};
use service::time::now_seconds;

use crate::dispatch::Made;
use crate::monitors::Levels;
use crate::policy::Omitted;
use crate::route::Route;
use crate::windows::Windows;
use conservation::{Conservation, Fate};
pub use summary::AgentSummary;

/// Fates of sample instants.
const FATES: [&str; 3] = ["fresh", "duplicate", "late"];
/// Causes for which a window becomes no segment: it reaches out of its stream, no sample came, its analysis panicked,
/// it was made before a restart, the policy did not ask for it, it was too old.
const SKIPPED: [&str; 6] = ["partial", "missing", "failed", "repeated", "policy", "stale"];
/// Ways in which a device's clock jumps.
const JUMPS: [&str; 2] = ["clock_back", "clock_fwd"];
/// States of a stream; see [`Levels`].
const STATES: [&str; 3] = ["live", "lead_off", "stalled"];
/// Where the heartbeat is seen: read as a packet, acknowledged as a segment.
const STAGES: [&str; 2] = ["packet", "segment"];
/// Groups of leads whose signal-to-noise ratios are told apart: six of four electrodes, six of one electrode each.
const LEAD_GROUPS: [&str; 2] = ["limb", "precordial"];
/// Limb leads come first in the standard order.
const LIMB_LEADS: usize = 6;
/// Upper bounds of signal-to-noise ratios in decibels; 6 dB steps double the amplitude of the signal.
const SNR_DB: [f64; 10] = [-6.0, 0.0, 3.0, 6.0, 9.0, 12.0, 18.0, 24.0, 30.0, 40.0];
/// Upper bounds of a clock's drift in parts a million, with an edge at the alert's 200.
const DRIFT_PPM: [f64; 9] = [5.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 10_000.0, 100_000.0];

/// The agent's metrics, registered once a process.
#[derive(Clone)]
pub struct Metrics {
    packets: PacketMetrics,
    windows: IntCounter,
    windows_skipped: IntCounterVec,
    segments: SegmentMetrics,
    offset_gap_records: IntCounter,
    streams: IntGaugeVec,
    streams_evicted: IntCounter,
    clock_jumps: IntCounterVec,
    takeovers: IntCounter,
    rebases: IntCounter,
    marks_unreadable: IntCounter,
    state_bytes: IntGauge,
    drift_ppm: IntGauge,
    analyses: IntGauge,
    heartbeat: GaugeVec,
    /// Seconds that one analysis took.
    pub analyse_seconds: Histogram,
    /// Levels of the waveform topic's consumer.
    pub kafka: KafkaMetrics,
}

/// Counts of packets.
#[derive(Clone)]
struct PacketMetrics {
    received: IntCounter,
    accepted: IntCounter,
    late: IntCounter,
    rejected: IntCounterVec,
    replayed: IntCounter,
    held: IntGauge,
    conservation: Conservation,
    samples: IntCounterVec,
    lead_off: IntCounterVec,
    age_seconds: Histogram,
    clock_drift_ppm: Histogram,
}

impl PacketMetrics {
    fn new(meter: Meter<'_>, conservation: Conservation) -> Result<Self, Error> {
        Ok(Self {
            received: meter.counter("packets_received_total", "Packets read from the waveform topic.")?,
            accepted: meter.counter(
                "packets_accepted_total",
                "Packets that are not in the dead letters; packets_late_total of them were of no use.",
            )?,
            late: meter.counter(
                "packets_late_total",
                "Packets among the accepted of which all came too late, or from an earlier boot; as fate of a partition: rejected.",
            )?,
            held: meter.gauge(
                "packets_held",
                "Packets of boots on trial; each counts as received when it gets its fate.",
            )?,
            replayed: meter.counter(
                "packets_replayed_total",
                "Packets read again after a restart or rebalance to fill windows; not in received.",
            )?,
            conservation,
            rejected: meter.counters(
                "packets_rejected_total",
                "Packets that went to the dead letters, by reason; as fate of a partition: dead_lettered.",
                ("reason", &RejectReason::ALL.map(RejectReason::as_str)),
            )?,
            samples: meter.counters(
                "samples_total",
                "Sample instants of accepted packets.",
                ("fate", &FATES),
            )?,
            lead_off: meter.counters(
                "lead_off_packets_total",
                "Packets in which the monitor reports the electrode of a lead off.",
                ("lead", &Lead::ALL.map(Lead::name)),
            )?,
            age_seconds: meter.histogram(
                "packet_age_seconds",
                "From a packet's time at the gateway to its reading here.",
                &SECONDS,
            )?,
            clock_drift_ppm: meter.histogram(
                "clock_drift_ppm",
                "How far a monitor's sampling runs from its own clock, parts a million, once a minute a monitor.",
                &DRIFT_PPM,
            )?,
        })
    }
}

/// Counts of dispatched segments.
#[derive(Clone)]
struct SegmentMetrics {
    decisions: IntCounterVec,
    routes: IntCounterVec,
    reasons: IntCounterVec,
    snr_db: HistogramVec,
    last_sample_seconds: Histogram,
}

impl SegmentMetrics {
    fn new(meter: Meter<'_>) -> Result<Self, Error> {
        Ok(Self {
            decisions: meter.counters(
                "segments_total",
                "Segments dispatched, by the gate's decision.",
                ("decision", &Decision::ALL.map(Decision::as_str)),
            )?,
            routes: meter.counters(
                "segments_routed_total",
                "Segments dispatched, by route.",
                ("route", &Route::ALL.map(Route::as_str)),
            )?,
            reasons: meter.counters(
                "segment_reasons_total",
                "Reasons of rejected segments; a segment may have several.",
                ("reason", &Reason::ALL.map(Reason::as_str)),
            )?,
            snr_db: meter.histograms(
                "snr_db",
                "Signal-to-noise ratio of a lead of a segment, decibels of window power; unknown ones are not counted.",
                ("leads", &LEAD_GROUPS),
                &SNR_DB,
            )?,
            last_sample_seconds: meter.histogram(
                "last_sample_to_segment_seconds",
                "From a segment's last packet at the gateway to the broker's receipt of the segment.",
                &SECONDS,
            )?,
        })
    }
}

impl Metrics {
    /// Makes and registers the metrics; every label value is there from the start, at 0.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn new(registry: &Registry) -> Result<Self, Error> {
        let meter = Meter::new(registry, "agent");
        Ok(Self {
            packets: PacketMetrics::new(meter, Conservation::new(registry)?)?,
            windows: meter.counter("windows_total", "Windows closed and handed to the analysis.")?,
            windows_skipped: meter.counters(
                "windows_skipped_total",
                "Windows of which no segment was made.",
                ("cause", &SKIPPED),
            )?,
            segments: SegmentMetrics::new(meter)?,
            offset_gap_records: meter.counter(
                "offset_gap_records_total",
                "Records that the broker dropped before they were read.",
            )?,
            streams: meter.gauges(
                "streams",
                "Monitors by state: sending, sending with an electrode off, silent.",
                ("state", &STATES),
            )?,
            streams_evicted: meter.counter("streams_evicted_total", "Streams given up, silent or over the bound of memory.")?,
            clock_jumps: meter.counters(
                "clock_jumps_total",
                "Jumps of devices' clocks against their sample index.",
                ("reason", &JUMPS),
            )?,
            takeovers: meter.counter(
                "takeovers_total",
                "Streams that went on with a new boot, of the same device or another.",
            )?,
            rebases: meter.counter(
                "rebases_total",
                "Streams that went on in a new epoch because the device restarted its sample index under the same boot.",
            )?,
            marks_unreadable: meter.counter(
                "marks_unreadable_total",
                "Marks of made windows that cannot be read and were left out.",
            )?,
            state_bytes: meter.gauge("state_bytes", "Bytes of samples held for open windows.")?,
            drift_ppm: meter.gauge(
                "clock_drift_max_ppm",
                "Largest drift of a device's clock against its sample index over the last minute, parts a million.",
            )?,
            analyses: meter.gauge("analyses_waiting", "Windows in analysis or waiting for dispatch.")?,
            heartbeat: meter.times(
                "heartbeat_timestamp_seconds",
                "When the last heartbeat seen here was inserted, seconds since the Unix epoch; 0 before the first.",
                ("stage", &STAGES),
            )?,
            analyse_seconds: meter.histogram("analyse_seconds", "Time of one window's analysis.", &SECONDS)?,
            kafka: KafkaMetrics::new(meter, &[topic::WAVEFORMS])?,
        })
    }

    /// Packets read so far, held ones too; a replay compares it with what it sent.
    pub fn packets_received(&self) -> u64 {
        self.packets.received.get() + self.packets.held.get().max(0) as u64
    }

    /// A packet was read and decoded, whatever becomes of it.
    pub(crate) fn packet_seen(&self, packet: &Packet, drift_ppm: Option<f64>) {
        let gateway_seconds = packet.gateway_time_us as f64 / 1e6;
        if gateway_seconds > 0.0 {
            self.packets
                .age_seconds
                .observe((now_seconds() - gateway_seconds).max(0.0));
        }
        if packet.stream_id == HEARTBEAT_STREAM {
            self.heartbeat.with_label_values(&["packet"]).set(gateway_seconds);
        }
        for lead in packet.leads.iter().filter(|lead| lead.lead_off) {
            self.packets.lead_off.with_label_values(&[lead.lead.name()]).inc();
        }
        if let Some(ppm) = drift_ppm {
            self.packets.clock_drift_ppm.observe(ppm.abs());
        }
    }

    /// Segments delivered so far, refused ones included.
    pub fn segments_delivered(&self) -> u64 {
        let counts = Decision::ALL
            .iter()
            .map(|decision| self.segments.decisions.with_label_values(&[decision.as_str()]).get());
        counts.sum()
    }

    /// So many packets are held.
    pub(crate) fn packets_held(&self, held: usize) {
        self.packets.held.set(held as i64);
    }

    /// A mark could not be read.
    pub(crate) fn mark_unreadable(&self) {
        self.marks_unreadable.inc();
    }

    /// A packet was taken that had no fate before, or gets it now after it was held.
    pub(crate) fn packet_received(&self, partition: i32) {
        self.packets.received.inc();
        self.packets.conservation.received(partition);
    }

    pub(crate) fn packet_accepted(&self, partition: i32, outcome: PushOutcome) {
        let fate = if outcome.late > 0 && outcome.fresh + outcome.duplicate == 0 {
            self.packets.late.inc();
            Fate::Rejected
        } else {
            Fate::Accepted
        };
        self.packets.accepted.inc();
        self.packets.conservation.fate(partition, fate);
        for (fate, samples) in [
            ("fresh", outcome.fresh),
            ("duplicate", outcome.duplicate),
            ("late", outcome.late),
        ] {
            self.packets.samples.with_label_values(&[fate]).inc_by(samples as u64);
        }
        if let Some(jump) = outcome.jump {
            let [back, forward] = JUMPS;
            let reason = if jump == ClockJump::Back { back } else { forward };
            self.clock_jumps.with_label_values(&[reason]).inc();
        }
        self.takeovers.inc_by(u64::from(outcome.takeover));
        self.rebases.inc_by(u64::from(outcome.rebased));
    }

    pub(crate) fn packet_rejected(&self, partition: i32, reason: RejectReason) {
        self.packets.rejected.with_label_values(&[reason.as_str()]).inc();
        self.packets.conservation.fate(partition, Fate::DeadLettered);
    }

    /// A packet that had its fate before a restart or rebalance was read again.
    pub(crate) fn packet_replayed(&self) {
        self.packets.replayed.inc();
    }

    /// Sets the conservation gauges and says where packets are without a fate.
    pub(crate) fn check_conservation(&self) {
        for (partition, counts) in self.packets.conservation.check() {
            if counts.difference() != 0 {
                tracing::error!(partition, ?counts, "packets received and packets with a fate differ");
            }
        }
    }

    /// A window closed that was made before.
    pub(crate) fn window_repeated(&self) {
        self.windows_skipped.with_label_values(&["repeated"]).inc();
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

    /// The broker has the segment.
    pub(crate) fn segment_delivered(&self, segment: &Made) {
        let (counts, route) = (&self.segments, segment.route);
        counts
            .decisions
            .with_label_values(&[segment.findings.decision.as_str()])
            .inc();
        counts.routes.with_label_values(&[route.as_str()]).inc();
        if route == Route::Reject {
            for reason in &segment.findings.reasons {
                counts.reasons.with_label_values(&[reason.as_str()]).inc();
            }
        }
        let known = segment.snr_db.iter().enumerate();
        for (at, snr_db) in known.filter_map(|(at, snr_db)| Some((at, (*snr_db)?))) {
            let group = LEAD_GROUPS[usize::from(at >= LIMB_LEADS)];
            counts.snr_db.with_label_values(&[group]).observe(f64::from(snr_db));
        }
        let gateway_seconds = segment.last_gateway_time_us as f64 / 1e6;
        if gateway_seconds > 0.0 {
            counts
                .last_sample_seconds
                .observe((now_seconds() - gateway_seconds).max(0.0));
        }
        if segment.findings.stream_id == HEARTBEAT_STREAM && route != Route::Reject {
            self.heartbeat.with_label_values(&["segment"]).set(gateway_seconds);
        }
    }

    pub(crate) fn offset_gap(&self, records: u64) {
        self.offset_gap_records.inc_by(records);
    }

    pub(crate) fn window_omitted(&self, cause: Omitted) {
        self.windows_skipped.with_label_values(&[cause.as_str()]).inc();
    }

    pub(crate) fn set_levels(&self, levels: Levels, windows: &Windows, analyses: usize) {
        for (state, streams) in STATES.into_iter().zip([levels.live, levels.lead_off, levels.stalled]) {
            self.streams.with_label_values(&[state]).set(streams as i64);
        }
        self.state_bytes.set(windows.bytes() as i64);
        self.drift_ppm.set(windows.drift_ppm_max().round() as i64);
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
            packets_received: self.packets.received.get(),
            packets_accepted: self.packets.accepted.get(),
            packets_late: self.packets.late.get(),
            packets_replayed: self.packets.replayed.get(),
            partitions: self.packets.conservation.check(),
            packets_rejected: by(
                &self.packets.rejected,
                &mut RejectReason::ALL.iter().map(|reason| reason.as_str()),
            ),
            samples: by(&self.packets.samples, &mut FATES.into_iter()),
            windows: self.windows.get(),
            windows_skipped: by(&self.windows_skipped, &mut SKIPPED.into_iter()),
            segments_accepted: segments(Decision::Accept),
            segments_marginal: segments(Decision::Marginal),
            segments_rejected: segments(Decision::Reject),
            reject_reasons: by(
                &self.segments.reasons,
                &mut Reason::ALL.iter().map(|reason| reason.as_str()),
            ),
            clock_jumps: by(&self.clock_jumps, &mut JUMPS.into_iter()),
            takeovers: self.takeovers.get(),
            rebases: self.rebases.get(),
            offset_gap_records: self.offset_gap_records.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::conservation::PartitionCounts;
    use super::*;
    use crate::testing::{heartbeat, segment};

    #[test]
    fn every_packet_is_accepted_or_rejected() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        (0..4).for_each(|_| metrics.packet_received(2));
        let outcome = |fresh, late| PushOutcome {
            fresh,
            duplicate: fresh / 4,
            late,
            jump: (late > 0).then_some(ClockJump::Back),
            ..PushOutcome::default()
        };
        metrics.packet_accepted(2, outcome(100, 0));
        metrics.packet_accepted(2, outcome(0, 100));
        metrics.packet_rejected(2, RejectReason::Decode);
        metrics.packet_rejected(2, RejectReason::Decode);
        metrics.packet_replayed();
        let summary = metrics.summary();
        assert_eq!((summary.packets_received, summary.packets_replayed), (4, 1));
        assert_eq!((summary.packets_accepted, summary.packets_late), (2, 1));
        let counts = PartitionCounts {
            received: 4,
            accepted: 1,
            rejected: 1,
            dead_lettered: 2,
        };
        assert_eq!(summary.partitions, BTreeMap::from([(2, counts)]));
        assert_eq!(summary.packets_rejected, BTreeMap::from([("decode", 2)]));
        assert_eq!(summary.clock_jumps, BTreeMap::from([("clock_back", 1)]));
        assert_eq!(
            summary.samples,
            BTreeMap::from([("fresh", 100), ("duplicate", 25), ("late", 100)])
        );
    }

    #[test]
    fn a_heartbeat_is_seen_with_the_time_of_its_insertion() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let mut packet = heartbeat();
        packet.gateway_time_us = 7_500_000;
        metrics.packet_seen(&packet, Some(-300.0));
        let seen = |stage| metrics.heartbeat.with_label_values(&[stage]).get();
        assert_eq!(seen("packet"), 0.0, "a bed is no heartbeat");
        packet.stream_id = HEARTBEAT_STREAM.into();
        metrics.packet_seen(&packet, None);
        let mut segment = segment(Decision::Reject, false);
        (segment.stream_id, segment.last_gateway_time_us) = (HEARTBEAT_STREAM.into(), 8_000_000);
        metrics.segment_delivered(&Made::of(&segment).unwrap());
        assert_eq!(
            (seen("packet"), seen("segment")),
            (7.5, 0.0),
            "a rejected heartbeat goes no further"
        );
        segment.decision = Decision::Accept;
        metrics.segment_delivered(&Made::of(&segment).unwrap());
        assert_eq!(seen("segment"), 8.0);
        assert_eq!(metrics.packets.clock_drift_ppm.get_sample_sum(), 300.0);
    }

    #[test]
    fn a_registry_takes_the_metrics_once() {
        let registry = Registry::new();
        Metrics::new(&registry).unwrap();
        assert!(Metrics::new(&registry).is_err());
    }
}
