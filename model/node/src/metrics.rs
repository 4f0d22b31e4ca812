//! Every number that the node exports, after the model of vLLM's: what waits, what runs, how long each part took.
//!
//! Place: counted where things happen; read by Prometheus and, as [`NodeSummary`], by `meit demo`.
//! Invariant: labels come from closed sets; never a patient, stream or segment. When nothing is under way,
//! `segments received = drafts + duplicates + dead letters`, exactly.

use std::collections::BTreeMap;

use ecg::report::DraftReport;
use model::generate::Finish;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets};

use crate::draft::Abstain;
use crate::drafter::finish_name;
use crate::ingest::REFUSALS;

/// The node's metrics, registered once a process.
#[derive(Clone)]
pub struct Metrics {
    received: IntCounter,
    duplicates: IntCounter,
    dead_letters: IntCounterVec,
    drafts: IntCounter,
    abstained: IntCounterVec,
    finished: IntCounterVec,
    contradictions: IntCounter,
    tokens: IntCounter,
    offset_gap_records: IntCounter,
    waiting: IntGauge,
    running: IntGauge,
    batch_size: Histogram,
    queue_seconds: Histogram,
    infer_seconds: Histogram,
    last_sample_to_draft_seconds: Histogram,
}

impl Metrics {
    /// Makes and registers the metrics; every label value is there from the start, at 0.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Maker { registry };
        let finishes = [Finish::Stop, Finish::Length].map(finish_name);
        let seconds = exponential_buckets(0.005, 2.0, 15)?;
        let sizes = exponential_buckets(1.0, 2.0, 8)?;
        Ok(Self {
            received: make.counter("segments_received_total", "Records read from the segment topics.")?,
            duplicates: make.counter("segments_duplicate_total", "Segments that were drafted already.")?,
            dead_letters: make.counters(
                "dead_letters_total",
                "Records that went to the dead letters.",
                "reason",
                &mut REFUSALS.into_iter(),
            )?,
            drafts: make.counter("drafts_total", "Drafts acknowledged, with a text or without.")?,
            abstained: make.counters(
                "drafts_abstained_total",
                "Drafts without a text.",
                "reason",
                &mut Abstain::names(),
            )?,
            finished: make.counters(
                "texts_finished_total",
                "Texts written.",
                "reason",
                &mut finishes.into_iter(),
            )?,
            contradictions: make.counter(
                "contradictions_total",
                "Statements of texts that disagree with the measurements.",
            )?,
            tokens: make.counter("generation_tokens_total", "Tokens written.")?,
            offset_gap_records: make.counter(
                "offset_gap_records_total",
                "Records that the broker dropped before they were read.",
            )?,
            waiting: make.gauge("segments_waiting", "Segments that wait for a batch.")?,
            running: make.gauge(
                "segments_running",
                "Segments in a batch on its way through the device to the broker.",
            )?,
            batch_size: make.histogram("batch_segments", "Segments a batch.", sizes)?,
            queue_seconds: make.histogram(
                "queue_seconds",
                "From the receipt of a segment to the start of its batch.",
                seconds.clone(),
            )?,
            infer_seconds: make.histogram("infer_seconds", "Time of the device for a batch.", seconds.clone())?,
            last_sample_to_draft_seconds: make.histogram(
                "last_sample_to_draft_seconds",
                "From a segment's last packet at the gateway to its draft.",
                seconds,
            )?,
        })
    }

    pub(crate) fn segment_received(&self) {
        self.received.inc();
    }

    pub(crate) fn segment_duplicate(&self) {
        self.duplicates.inc();
    }

    pub(crate) fn dead_letter(&self, reason: &str) {
        self.dead_letters.with_label_values(&[reason]).inc();
    }

    pub(crate) fn offset_gap(&self, records: u64) {
        self.offset_gap_records.inc_by(records);
    }

    pub(crate) fn set_levels(&self, waiting: usize, open: usize) {
        self.waiting.set(waiting as i64);
        self.running.set(open.saturating_sub(waiting) as i64);
    }

    pub(crate) fn batch_done(&self, segments: usize, took: std::time::Duration) {
        self.batch_size.observe(segments as f64);
        self.infer_seconds.observe(took.as_secs_f64());
    }

    /// A draft was acknowledged.
    pub(crate) fn draft_delivered(&self, draft: &DraftReport) {
        self.drafts.inc();
        self.contradictions.inc_by(draft.contradictions.len() as u64);
        self.queue_seconds.observe(draft.latencies_ms.queue / 1000.0);
        self.last_sample_to_draft_seconds
            .observe(draft.latencies_ms.last_sample_to_draft / 1000.0);
        if let Some(reason) = &draft.abstain {
            self.abstained.with_label_values(&[reason]).inc();
        }
    }

    /// The model has written a text, fit or not.
    pub(crate) fn text_written(&self, finish: Finish, tokens: u32) {
        self.finished.with_label_values(&[finish_name(finish)]).inc();
        self.tokens.inc_by(tokens.into());
    }

    /// The counts so far.
    pub fn summary(&self) -> NodeSummary {
        let by = |counters: &IntCounterVec, values: &mut dyn Iterator<Item = &'static str>| -> BTreeMap<_, _> {
            let counted = values.map(|value| (value, counters.with_label_values(&[value]).get()));
            counted.filter(|(_, count)| *count > 0).collect()
        };
        NodeSummary {
            segments_received: self.received.get(),
            duplicates: self.duplicates.get(),
            dead_letters: by(&self.dead_letters, &mut REFUSALS.into_iter()),
            drafts: self.drafts.get(),
            abstained: by(&self.abstained, &mut Abstain::names()),
            contradictions: self.contradictions.get(),
            tokens: self.tokens.get(),
            batches: self.batch_size.get_sample_count(),
            infer_seconds: self.infer_seconds.get_sample_sum(),
            offset_gap_records: self.offset_gap_records.get(),
        }
    }
}

/// Makes and registers metrics of one prefix.
struct Maker<'a> {
    registry: &'a Registry,
}

impl Maker<'_> {
    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        let counter = IntCounter::new(full(name), help)?;
        self.registry.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    /// A counter for each value of a label.
    fn counters(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: &mut dyn Iterator<Item = &'static str>,
    ) -> Result<IntCounterVec, prometheus::Error> {
        let counters = IntCounterVec::new(Opts::new(full(name), help), &[label])?;
        values.for_each(|value| drop(counters.with_label_values(&[value])));
        self.registry.register(Box::new(counters.clone()))?;
        Ok(counters)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        let gauge = IntGauge::new(full(name), help)?;
        self.registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Result<Histogram, prometheus::Error> {
        let histogram = Histogram::with_opts(HistogramOpts::new(full(name), help).buckets(buckets))?;
        self.registry.register(Box::new(histogram.clone()))?;
        Ok(histogram)
    }
}

fn full(name: &str) -> String {
    format!("meit_node_{name}")
}

/// What a node did; label values that were not counted are left out.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct NodeSummary {
    /// Records read.
    pub segments_received: u64,
    /// Segments that were drafted already.
    pub duplicates: u64,
    /// Records that went to the dead letters, by reason.
    pub dead_letters: BTreeMap<&'static str, u64>,
    /// Drafts acknowledged.
    pub drafts: u64,
    /// Drafts without a text, by reason.
    pub abstained: BTreeMap<&'static str, u64>,
    /// Statements of texts that disagree with the measurements.
    pub contradictions: u64,
    /// Tokens written.
    pub tokens: u64,
    /// Batches that the device ran.
    pub batches: u64,
    /// Seconds that the device worked.
    pub infer_seconds: f64,
    /// Records that the broker dropped before they were read.
    pub offset_gap_records: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_value_is_exported_from_the_start() {
        let registry = Registry::new();
        Metrics::new(&registry).unwrap();
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        for line in [
            "meit_node_drafts_abstained_total{reason=\"text_looping\"} 0",
            "meit_node_dead_letters_total{reason=\"schema\"} 0",
            "meit_node_texts_finished_total{reason=\"length\"} 0",
            "meit_node_infer_seconds_count 0",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(Metrics::new(&registry).is_err());
    }
}
