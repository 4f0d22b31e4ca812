//! Every number that the node exports, after the model of vLLM's: what waits, what runs, how long each part took.
//!
//! Place: counted where things happen; read by Prometheus and, as [`NodeSummary`], by `meit demo`.
//! Invariant: labels come from closed sets; never a patient, stream or segment. When nothing is under way,
//! `segments received = drafts + duplicates + dead letters`, exactly.

use std::collections::BTreeMap;
use std::time::Duration;

use ecg::id::HEARTBEAT_STREAM;
use ecg::report::DraftReport;
use ecg::segment::Segment;
use ecg::topic;
use model::generate::Finish;
use prometheus::{Error, Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use service::telemetry::{KafkaMetrics, Meter, SECONDS};
use service::time::now_seconds;

use crate::device::Answer;
use crate::draft::Abstain;
use crate::drafter::{DraftText, finish_name};
use crate::ingest::REFUSALS;

/// Where the heartbeat is seen: read as a segment, acknowledged as a draft.
const STAGES: [&str; 2] = ["segment", "draft"];
/// Fates of a bundle that was to be served.
const LOADS: [&str; 3] = ["loaded", "refused", "taken_back"];
/// Upper bounds of batch sizes.
const SIZES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
/// Upper bounds of the time between two tokens in seconds.
const TOKEN_SECONDS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];

/// The node's metrics, registered once a process.
#[derive(Clone)]
pub struct Metrics {
    received: IntCounter,
    duplicates: IntCounter,
    dead_letters: IntCounterVec,
    drafts: IntCounter,
    abstained: IntCounterVec,
    contradictions: IntCounter,
    offset_gap_records: IntCounter,
    bundle_loads: IntCounterVec,
    bundle: IntGaugeVec,
    bundle_loaded_at: Gauge,
    registry_errors: IntCounter,
    last_sample_seconds: Histogram,
    heartbeat: GaugeVec,
    requests: RequestMetrics,
    /// Levels of the consumers of both segment topics.
    pub kafka: KafkaMetrics,
}

/// What vLLM exports of an engine, under its names.
#[derive(Clone)]
struct RequestMetrics {
    waiting: IntGauge,
    running: IntGauge,
    finished: IntCounterVec,
    prompt_tokens: IntCounter,
    generation_tokens: IntCounter,
    batch_size: Histogram,
    kv_cache_positions: IntGauge,
    infer_seconds: Histogram,
    queue_seconds: Histogram,
    prefill_seconds: Histogram,
    first_token_seconds: Histogram,
    inter_token_seconds: Histogram,
    decode_seconds: Histogram,
    end_to_end_seconds: Histogram,
}

impl RequestMetrics {
    fn new(meter: Meter<'_>) -> Result<Self, Error> {
        let seconds = |name: &str, help: &str| meter.histogram(name, help, &SECONDS);
        Ok(Self {
            waiting: meter.gauge("num_requests_waiting", "Segments that wait for the device.")?,
            running: meter.gauge(
                "num_requests_running",
                "Segments on their way through the device to the broker.",
            )?,
            finished: meter.counters(
                "request_success_total",
                "Texts written, fit or not, by why they ended.",
                ("finished_reason", &[Finish::Stop, Finish::Length].map(finish_name)),
            )?,
            prompt_tokens: meter.counter("prompt_tokens_total", "Tokens of prompts.")?,
            generation_tokens: meter.counter("generation_tokens_total", "Tokens written.")?,
            batch_size: meter.histogram(
                "batch_size",
                "Segments on the device when texts ended: a batch, or the slots in use.",
                &SIZES,
            )?,
            kv_cache_positions: meter.gauge(
                "kv_cache_positions",
                "Positions of the prompts and texts that ended last, whose keys and values were kept in every layer.",
            )?,
            infer_seconds: seconds(
                "infer_seconds",
                "Time of the device for a batch, or in slots from one end of texts to the next.",
            )?,
            queue_seconds: seconds(
                "request_queue_time_seconds",
                "From the receipt of a segment to its start on the device.",
            )?,
            prefill_seconds: seconds(
                "request_prefill_time_seconds",
                "From a segment's start on the device to its text's first token: encoder, prefix, prompt.",
            )?,
            first_token_seconds: seconds(
                "time_to_first_token_seconds",
                "From the receipt of a segment to its text's first token.",
            )?,
            inter_token_seconds: meter.histogram(
                "inter_token_latency_seconds",
                "Between two tokens of a text.",
                &TOKEN_SECONDS,
            )?,
            decode_seconds: seconds("request_decode_time_seconds", "From a text's first token to its last.")?,
            end_to_end_seconds: seconds(
                "e2e_request_latency_seconds",
                "From the receipt of a segment to the broker's receipt of its draft.",
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
        let meter = Meter::new(registry, "node");
        let abstentions: Vec<&'static str> = Abstain::names().collect();
        Ok(Self {
            received: meter.counter("segments_received_total", "Records read from the segment topics.")?,
            duplicates: meter.counter("segments_duplicate_total", "Segments that were drafted already.")?,
            dead_letters: meter.counters(
                "dead_letters_total",
                "Records that went to the dead letters.",
                ("reason", &REFUSALS),
            )?,
            drafts: meter.counter("drafts_total", "Drafts acknowledged, with a text or without.")?,
            abstained: meter.counters(
                "drafts_abstained_total",
                "Drafts without a text.",
                ("reason", &abstentions),
            )?,
            contradictions: meter.counter(
                "contradictions_total",
                "Statements of texts that disagree with the measurements.",
            )?,
            offset_gap_records: meter.counter(
                "offset_gap_records_total",
                "Records that the broker dropped before they were read.",
            )?,
            bundle_loads: meter.counters(
                "bundle_loads_total",
                "Bundles and adapters that were to be served, by fate; a refused one leaves the served one in place.",
                ("outcome", &LOADS),
            )?,
            bundle: meter.gauges("bundle_info", "Bundle that is served; always 1.", ("bundle", &[]))?,
            bundle_loaded_at: meter.time(
                "bundle_load_timestamp_seconds",
                "When the bundle that is served was loaded, seconds since the Unix epoch.",
            )?,
            registry_errors: meter.counter(
                "registry_errors_total",
                "Looks at the registry that failed: it could not be read, or a generation not fetched.",
            )?,
            last_sample_seconds: meter.histogram(
                "last_sample_to_draft_seconds",
                "From a segment's last packet at the gateway to its draft.",
                &SECONDS,
            )?,
            heartbeat: meter.times(
                "heartbeat_timestamp_seconds",
                "When the last heartbeat seen here was inserted, seconds since the Unix epoch; 0 before the first.",
                ("stage", &STAGES),
            )?,
            requests: RequestMetrics::new(meter)?,
            kafka: KafkaMetrics::new(meter, &[topic::SEGMENTS_STAT, topic::SEGMENTS])?,
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
        self.requests.waiting.set(waiting as i64);
        self.requests.running.set(open.saturating_sub(waiting) as i64);
    }

    /// The bundle of this id is served from now on, and no other.
    pub fn bundle_loaded(&self, id: &str) {
        self.bundle.reset();
        self.bundle.with_label_values(&[id]).set(1);
        self.bundle_loaded_at.set(now_seconds());
        self.bundle_loads.with_label_values(&["loaded"]).inc();
    }

    /// A look at the registry failed; what is served is served on.
    pub fn registry_failed(&self) {
        self.registry_errors.inc();
    }

    /// A bundle or adapter was refused; what was served before is served on.
    pub fn bundle_refused(&self) {
        self.bundle_loads.with_label_values(&["refused"]).inc();
    }

    /// A bundle did worse than the one before, `id`, which is served again.
    pub fn bundle_taken_back(&self, id: &str) {
        self.bundle.reset();
        self.bundle.with_label_values(&[id]).set(1);
        self.bundle_loaded_at.set(now_seconds());
        self.bundle_loads.with_label_values(&["taken_back"]).inc();
    }

    /// A record was a segment.
    pub(crate) fn segment_decoded(&self, segment: &Segment) {
        if segment.stream_id == HEARTBEAT_STREAM {
            let inserted = segment.last_gateway_time_us as f64 / 1e6;
            self.heartbeat.with_label_values(&["segment"]).set(inserted);
        }
    }

    /// Texts have ended: those of a batch, or those of some slots.
    pub(crate) fn texts_ended<T>(&self, answer: &Answer<T>) {
        let texts = answer.written.iter().map(|written| &written.text);
        let positions = texts.map(|text| i64::from(text.prompt_tokens) + i64::from(text.tokens));
        self.requests.kv_cache_positions.set(positions.sum());
        self.requests.batch_size.observe(answer.running as f64);
        self.requests.infer_seconds.observe(answer.took.as_secs_f64());
    }

    /// The model has written a text, fit or not, about a segment that waited `queue` for its batch.
    pub(crate) fn text_written(&self, text: &DraftText, queue: Duration) {
        let requests = &self.requests;
        requests.finished.with_label_values(&[finish_name(text.finish)]).inc();
        requests.prompt_tokens.inc_by(text.prompt_tokens.into());
        requests.generation_tokens.inc_by(text.tokens.into());
        // a batch goes on until its longest text has ended, so steps past a text's own tokens are not its own
        let own = text.steps.iter().take(text.tokens.max(1) as usize);
        let (Some(first), Some(last)) = (own.clone().next(), own.clone().next_back()) else {
            return;
        };
        requests.prefill_seconds.observe(first.as_secs_f64());
        requests.first_token_seconds.observe((queue + *first).as_secs_f64());
        requests.decode_seconds.observe((*last - *first).as_secs_f64());
        for (earlier, later) in own.clone().zip(own.skip(1)) {
            requests.inter_token_seconds.observe((*later - *earlier).as_secs_f64());
        }
    }

    /// A draft was acknowledged, `took` after its segment came.
    pub(crate) fn draft_delivered(&self, draft: &DraftReport, took: Duration) {
        self.drafts.inc();
        self.contradictions.inc_by(draft.contradictions.len() as u64);
        self.requests.queue_seconds.observe(draft.latencies_ms.queue / 1000.0);
        self.requests.end_to_end_seconds.observe(took.as_secs_f64());
        let last_sample_to_draft = draft.latencies_ms.last_sample_to_draft / 1000.0;
        self.last_sample_seconds.observe(last_sample_to_draft);
        if draft.stream_id == HEARTBEAT_STREAM && draft.text.is_some() {
            let inserted = now_seconds() - last_sample_to_draft;
            self.heartbeat.with_label_values(&["draft"]).set(inserted);
        }
        if let Some(reason) = &draft.abstain {
            self.abstained.with_label_values(&[reason]).inc();
        }
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
            tokens: self.requests.generation_tokens.get(),
            generations: by(&self.bundle_loads, &mut LOADS.into_iter()),
            registry_errors: self.registry_errors.get(),
            batches: self.requests.batch_size.get_sample_count(),
            infer_seconds: self.requests.infer_seconds.get_sample_sum(),
            offset_gap_records: self.offset_gap_records.get(),
        }
    }
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
    /// Fates of bundles that were to be served.
    pub generations: BTreeMap<&'static str, u64>,
    /// Looks at the registry that failed.
    pub registry_errors: u64,
    /// Batches that the device ran, or times that texts in slots ended.
    pub batches: u64,
    /// Seconds that the device worked.
    pub infer_seconds: f64,
    /// Records that the broker dropped before they were read.
    pub offset_gap_records: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Instant;

    use crate::device::Written;
    use crate::testing::{author, text};

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
            "meit_node_request_success_total{finished_reason=\"length\"} 0",
            "meit_node_infer_seconds_count 0",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(Metrics::new(&registry).is_err());
    }

    #[test]
    fn steps_of_a_batch_that_goes_on_past_a_text_are_not_the_texts_own() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let text = DraftText {
            steps: [300, 320, 350, 900].map(Duration::from_millis).to_vec(),
            ..text("sinus rhythm today")
        };
        metrics.text_written(&text, Duration::from_millis(50));
        let requests = &metrics.requests;
        let sums = [
            &requests.prefill_seconds,
            &requests.first_token_seconds,
            &requests.decode_seconds,
        ];
        let milliseconds = sums.map(|histogram| (histogram.get_sample_sum() * 1000.0).round());
        assert_eq!(milliseconds, [300.0, 350.0, 50.0]);
        assert_eq!(requests.inter_token_seconds.get_sample_count(), 2);
        assert_eq!((requests.generation_tokens.get(), requests.prompt_tokens.get()), (3, 9));
    }

    #[test]
    fn texts_that_ended_together_kept_their_prompts_and_themselves() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let answer = |texts: &[&str]| Answer {
            written: texts
                .iter()
                .map(|words| Written {
                    of: (),
                    text: text(words),
                    started: Instant::now(),
                    took: Duration::ZERO,
                })
                .collect(),
            author: Arc::new(author()),
            running: 2,
            took: Duration::from_millis(20),
        };
        // 9 tokens of prompt each
        metrics.texts_ended(&answer(&["sinus rhythm today", "paced"]));
        assert_eq!(metrics.requests.kv_cache_positions.get(), 18 + 4);
        metrics.texts_ended(&answer(&["sinus rhythm today"]));
        assert_eq!(metrics.requests.kv_cache_positions.get(), 9 + 3, "the last ones alone");
        let summary = metrics.summary();
        assert_eq!(
            (summary.batches, metrics.requests.batch_size.get_sample_sum()),
            (2, 4.0)
        );
    }
}
