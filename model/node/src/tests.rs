//! The node against the embedded broker, with a drafter that has no model.
//!
//! Place: tests only. Invariant: waits for records, never for time.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use ecg::report::{DISCLAIMER, DraftReport};
use ecg::segment::Decision;
use prometheus::Registry;
use service::kafka::embedded::EmbeddedBroker;
use service::kafka::sink::Sink;

use super::*;
use crate::testing::{FakeDrafter, segment};

/// Longest wait for anything; a pass takes a fraction of it.
const TIMEOUT: Duration = Duration::from_secs(30);

struct Bench {
    _broker: EmbeddedBroker,
    settings: NodeSettings,
    sink: Sink,
}

impl Bench {
    fn start() -> Self {
        let topics = [
            topic::SEGMENTS,
            topic::SEGMENTS_STAT,
            topic::REPORTS,
            topic::DEAD_LETTERS,
        ];
        let broker = EmbeddedBroker::start(&topics.map(|topic| (topic, 2))).unwrap();
        let mut settings = settings::shipped();
        settings.kafka = broker.settings(&settings.kafka);
        settings.node.batch_wait_ms = 5;
        let sink = Sink::new(&settings.kafka).unwrap();
        Self {
            _broker: broker,
            settings,
            sink,
        }
    }

    async fn send(&self, topic: &str, segment: &Segment) {
        self.send_bytes(topic, &segment.encode()).await;
    }

    async fn send_bytes(&self, topic: &str, payload: &[u8]) {
        self.sink.send(topic, Some(b"bed-01"), payload, &[]).await.unwrap();
    }

    fn node(&self, drafter: Arc<FakeDrafter>) -> Running {
        let shutdown = Shutdown::new();
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let run = run(self.settings.clone(), drafter, metrics.clone(), shutdown.clone());
        Running {
            task: tokio::spawn(run),
            metrics,
            shutdown,
        }
    }

    /// The first records of a topic.
    async fn records(&self, topic: &str, count: usize) -> Vec<Record> {
        let (source, mut events) = Source::start(&self.settings.kafka, "reader", &[topic], 64).unwrap();
        let mut records = Vec::new();
        while records.len() < count {
            let event = tokio::time::timeout(TIMEOUT, events.recv())
                .await
                .expect("a record in time");
            if let Some(Event::Record(record)) = event {
                records.push(record);
            }
        }
        source.stop().await.unwrap();
        records
    }

    async fn drafts(&self, count: usize) -> Vec<DraftReport> {
        let records = self.records(topic::REPORTS, count).await;
        let drafts = records.iter().map(|record| {
            let draft: DraftReport = serde_json::from_slice(&record.payload).unwrap();
            assert_eq!(record.key.as_deref(), Some(draft.segment_id.as_bytes()));
            draft
        });
        drafts.collect()
    }
}

struct Running {
    task: JoinHandle<anyhow::Result<NodeSummary>>,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl Running {
    /// Stops the node once it has read so many records.
    async fn stop_after(self, received: u64) -> NodeSummary {
        let read = async {
            while self.metrics.summary().segments_received < received {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(TIMEOUT, read).await.expect("records in time");
        self.shutdown.trigger();
        self.task.await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn every_segment_gets_one_draft_however_often_it_comes() {
    let bench = Bench::start();
    for number in [0, 1, 2, 1, 3, 0] {
        bench.send(topic::SEGMENTS, &segment(number)).await;
    }
    bench.send(topic::SEGMENTS_STAT, &segment(2)).await;
    bench.send(topic::SEGMENTS_STAT, &segment(4)).await;
    let drafter = Arc::new(FakeDrafter::writing("sinus rhythm"));
    let summary = bench.node(drafter.clone()).stop_after(8).await;
    assert_eq!((summary.drafts, summary.duplicates), (5, 3));
    assert_eq!(drafter.ecgs.load(Ordering::Relaxed), 5);
    let drafts = bench.drafts(5).await;
    let ids: BTreeSet<_> = drafts.iter().map(|draft| draft.segment_id.clone()).collect();
    assert_eq!(ids, (0..5).map(|number| segment(number).id).collect());
    for draft in drafts {
        assert_eq!(draft.text.as_deref(), Some("sinus rhythm"));
        assert_eq!(draft.disclaimer, DISCLAIMER);
    }
}

#[tokio::test]
async fn an_undecodable_segment_is_a_dead_letter_and_a_refused_one_is_abstained_from() {
    let bench = Bench::start();
    bench.send_bytes(topic::SEGMENTS, b"\xff\xff\xff").await;
    let refused = Segment {
        decision: Decision::Reject,
        ..segment(0)
    };
    bench.send(topic::SEGMENTS, &refused).await;
    let drafter = Arc::new(FakeDrafter::writing("sinus rhythm"));
    let summary = bench.node(drafter.clone()).stop_after(2).await;
    assert_eq!(summary.dead_letters.into_iter().collect::<Vec<_>>(), [("decode", 1)]);
    assert_eq!(
        summary.abstained.into_iter().collect::<Vec<_>>(),
        [("segment_rejected", 1)]
    );
    assert_eq!(drafter.ecgs.load(Ordering::Relaxed), 0);
    assert_eq!(bench.records(topic::DEAD_LETTERS, 1).await[0].payload, b"\xff\xff\xff");
    assert_eq!(bench.drafts(1).await[0].abstain.as_deref(), Some("segment_rejected"));
}

#[tokio::test]
async fn a_second_node_goes_on_where_the_first_one_stopped() {
    let bench = Bench::start();
    bench.send(topic::SEGMENTS, &segment(0)).await;
    let drafter = Arc::new(FakeDrafter::writing("sinus rhythm"));
    assert_eq!(bench.node(drafter.clone()).stop_after(1).await.drafts, 1);
    bench.send(topic::SEGMENTS, &segment(1)).await;
    let summary = bench.node(drafter).stop_after(1).await;
    assert_eq!((summary.segments_received, summary.drafts), (1, 1));
    let drafts = bench.drafts(2).await;
    let ids: BTreeSet<_> = drafts.iter().map(|draft| draft.segment_id.clone()).collect();
    assert_eq!(ids, BTreeSet::from([segment(0).id, segment(1).id]));
}

#[tokio::test]
async fn a_failed_device_stops_the_node_and_its_segments_come_again() {
    let bench = Bench::start();
    bench.send(topic::SEGMENTS, &segment(0)).await;
    let failed = bench.node(Arc::new(FakeDrafter::failing()));
    let error = failed.task.await.unwrap().unwrap_err();
    assert!(format!("{error:#}").contains("out of memory"), "{error:#}");
    let drafter = Arc::new(FakeDrafter::writing("sinus rhythm"));
    assert_eq!(bench.node(drafter).stop_after(1).await.drafts, 1);
}
