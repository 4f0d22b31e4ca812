//! Every number that the review page exports.
//!
//! Place: counted in the feed, the list and the signing; read by Prometheus.
//! Invariant: labels come from closed sets; never a signer, stream, segment or draft.

use std::time::Duration;

use ecg::report::{DraftReport, SignAction, SignedReport};
use ecg::topic;
use prometheus::{GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, Registry};
use service::telemetry::{KafkaMetrics, Meter, SECONDS};

use crate::edits::changed_words;
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

/// How urgently a draft waits.
pub const URGENCIES: [&str; 2] = ["routine", "stat"];
/// Upper bounds of the time that a clinician takes over a draft, seconds.
const REVIEW_SECONDS: [f64; 11] = [2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
/// Upper bounds of the share of a draft's words that were changed.
const EDIT_RATIOS: [f64; 10] = [0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0];

/// The review page's metrics, registered once a process.
#[derive(Clone)]
pub struct Metrics {
    records: IntCounterVec,
    refused: IntCounterVec,
    offset_gap_records: IntCounter,
    waiting: IntGauge,
    waiting_stat: IntGauge,
    oldest: GaugeVec,
    pushed_out: IntCounter,
    heartbeat: GaugeVec,
    edit_ratio: Histogram,
    review_seconds: Histogram,
    signed: IntCounterVec,
    sign_failures: IntCounterVec,
    turned_away: IntCounterVec,
    /// Seconds from a signature's request to Kafka's acknowledgement.
    pub sign_seconds: Histogram,
    /// How far the page is behind its topics.
    pub kafka: KafkaMetrics,
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
            oldest: meter.times(
                "oldest_draft_timestamp_seconds",
                "When the draft that waits longest came to this page; 0 when none waits.",
                ("urgency", &URGENCIES),
            )?,
            pushed_out: meter.counter(
                "drafts_pushed_out_total",
                "Drafts that newer ones pushed out of the full list, unread.",
            )?,
            heartbeat: meter.times(
                "heartbeat_timestamp_seconds",
                "Time of the last sample of the last heartbeat whose draft came here; 0 before the first.",
                ("stage", &["draft"]),
            )?,
            edit_ratio: meter.histogram(
                "edit_ratio",
                "Words of a draft that were changed before it was signed, of the longer text's words.",
                &EDIT_RATIOS,
            )?,
            review_seconds: meter.histogram(
                "review_seconds",
                "From the first opening of a draft on this page to its signature or rejection.",
                &REVIEW_SECONDS,
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
            kafka: KafkaMetrics::new(meter, &TOPICS)?,
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
        let pushed_out = counts.pushed_out.saturating_sub(self.pushed_out.get());
        self.pushed_out.inc_by(pushed_out);
        for (urgency, came_us) in URGENCIES.iter().zip(counts.oldest_us) {
            self.oldest.with_label_values(&[urgency]).set(came_us as f64 / 1e6);
        }
    }

    /// The draft of a heartbeat came.
    pub(crate) fn heartbeat(&self, draft: &DraftReport) {
        let last_sample = draft.start_time_us as f64 / 1e6 + ecg::SEGMENT_SAMPLES as f64 / ecg::SAMPLE_RATE_HZ;
        self.heartbeat.with_label_values(&["draft"]).set(last_sample);
    }

    /// A report was signed or rejected; `review` is the time since it was opened here, if it was.
    pub(crate) fn signed(&self, report: &SignedReport, review: Option<Duration>) {
        self.signed.with_label_values(&[report.action.as_str()]).inc();
        if let Some(review) = review {
            self.review_seconds.observe(review.as_secs_f64());
        }
        if let (Some(draft), SignAction::Accepted | SignAction::Edited) = (&report.draft_text, report.action) {
            self.edit_ratio.observe(changed_words(draft, &report.text));
        }
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
