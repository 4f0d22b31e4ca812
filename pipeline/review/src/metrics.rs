//! Every number that the review page exports.
//!
//! Place: counted in the feed, the list and the signing; read by Prometheus.
//! Invariant: labels come from closed sets; never a signer, stream, segment or draft.

use ecg::report::SignAction;
use ecg::topic;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry};
use service::telemetry::{Meter, SECONDS};

use crate::worklist::Counts;

/// Topics that the page reads.
pub const TOPICS: [&str; 4] = [
    topic::SEGMENTS_STAT,
    topic::SEGMENTS,
    topic::REPORTS,
    topic::SIGNED_REPORTS,
];
/// Why no signature was made.
pub const FAILURES: [&str; 4] = ["kafka", "audit", "conflict", "invalid"];
/// Why a request was turned away.
pub const TURNED_AWAY: [&str; 5] = ["rate", "login", "csrf", "host", "role"];

/// The review page's metrics, registered once a process.
#[derive(Clone)]
pub struct Metrics {
    records: IntCounterVec,
    refused: IntCounterVec,
    offset_gap_records: IntCounter,
    waiting: IntGauge,
    waiting_stat: IntGauge,
    pushed_out: IntGauge,
    signed: IntCounterVec,
    sign_failures: IntCounterVec,
    turned_away: IntCounterVec,
    /// Seconds from a signature's request to Kafka's acknowledgement.
    pub sign_seconds: Histogram,
}

impl Metrics {
    /// Makes and registers the metrics; every label value is there from the start, at 0.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let meter = Meter::new(registry, "review");
        let actions = SignAction::ALL.map(SignAction::as_str);
        Ok(Self {
            records: meter.counters("records_total", "Records read.", ("topic", &TOPICS))?,
            refused: meter.counters(
                "records_refused_total",
                "Records that could not be read.",
                ("topic", &TOPICS),
            )?,
            offset_gap_records: meter.counter(
                "offset_gap_records_total",
                "Records that the broker dropped before they were read.",
            )?,
            waiting: meter.gauge("drafts_waiting", "Drafts that wait for a clinician.")?,
            waiting_stat: meter.gauge("stat_drafts_waiting", "Urgent drafts that wait for a clinician.")?,
            pushed_out: meter.gauge(
                "drafts_pushed_out",
                "Drafts that newer ones pushed out of the full list, unread, since the start.",
            )?,
            signed: meter.counters("reports_signed_total", "Reports signed.", ("action", &actions))?,
            sign_failures: meter.counters(
                "sign_failures_total",
                "Signatures that were not made.",
                ("reason", &FAILURES),
            )?,
            turned_away: meter.counters(
                "requests_refused_total",
                "Requests that were turned away.",
                ("reason", &TURNED_AWAY),
            )?,
            sign_seconds: meter.histogram(
                "sign_seconds",
                "Time from a signature's request to Kafka's acknowledgement.",
                &SECONDS,
            )?,
        })
    }

    pub(crate) fn record(&self, topic: &str) {
        self.records.with_label_values(&[topic]).inc();
    }

    pub(crate) fn refused(&self, topic: &str) {
        self.refused.with_label_values(&[topic]).inc();
    }

    pub(crate) fn offset_gap(&self, records: u64) {
        self.offset_gap_records.inc_by(records);
    }

    pub(crate) fn set_counts(&self, counts: Counts) {
        self.waiting.set(counts.waiting as i64);
        self.waiting_stat.set(counts.stat as i64);
        self.pushed_out.set(counts.pushed_out as i64);
    }

    pub(crate) fn signed(&self, action: SignAction) {
        self.signed.with_label_values(&[action.as_str()]).inc();
    }

    /// `reason` is one of [`FAILURES`].
    pub(crate) fn sign_failed(&self, reason: &str) {
        self.sign_failures.with_label_values(&[reason]).inc();
    }

    /// `reason` is one of [`TURNED_AWAY`].
    pub(crate) fn turned_away(&self, reason: &str) {
        self.turned_away.with_label_values(&[reason]).inc();
    }

    /// Reports signed since the start.
    pub fn signed_total(&self) -> u64 {
        SignAction::ALL
            .map(|action| self.signed.with_label_values(&[action.as_str()]).get())
            .iter()
            .sum()
    }
}
