//! The loop that learns: signed drafts, the nightly job, the node's next drafts.
//!
//! Place: joins broker, node, pipeline and standalone. Invariant: waits for records and files, never for time.

use std::collections::BTreeMap;

use clap::Parser as _;
use ecg::segment::Segment;
use ecg::topic;
use pipeline::registry::Registry;
use pipeline::sources::{Origin, Source};
use pipeline::text_rules::Drop;
use service::kafka::embedded::EmbeddedBroker;
use service::kafka::sink::Sink;
use service::shutdown::Shutdown;
use standalone::demo;

use crate::rig::{Rig, recordings};

fn segments() -> Vec<Segment> {
    let segment = |recording: &bedside::recording::Recording| {
        let record = ecg::wfdb::read(&recording.header).unwrap();
        ecg::dsp::analyse(&record.context().unwrap(), &ecg::dsp::DspConfig::default())
    };
    recordings().iter().map(segment).collect()
}

/// A signed report of a segment, as a record.
pub fn signed(segment: &Segment, action: &str, version: u32) -> Vec<u8> {
    let report = serde_json::json!({
        "draft_id": "d", "segment_id": segment.id, "segment_sha256": segment.samples_sha256,
        "text": "Sinus rhythm, normal EKG.", "action": action, "signer": "dr-1", "role": "cardiologist",
        "signed_at_us": version, "training_consent": true, "version": version,
    });
    serde_json::to_vec(&report).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_reports_are_read_from_their_topic_up_to_the_ends_that_were_noted() {
    let broker = EmbeddedBroker::start(&topic::ALL.map(|name| (name, 2))).unwrap();
    let base: node::settings::NodeSettings = service::settings::load("node", None).unwrap();
    let sink = Sink::new(&broker.settings(&base.kafka)).unwrap();
    let segments = segments();
    let send = async |topic: &str, key: &str, payload: &[u8]| {
        sink.send(topic, Some(key.as_bytes()), payload, &[]).await.unwrap();
    };
    for segment in &segments {
        send(topic::SEGMENTS, &segment.stream_id, &segment.encode()).await;
    }
    send(topic::SEGMENTS, "x", b"no segment").await;
    send(
        topic::SIGNED_REPORTS,
        &segments[0].id,
        &signed(&segments[0], "edited", 1),
    )
    .await;
    send(
        topic::SIGNED_REPORTS,
        &segments[1].id,
        &signed(&segments[1], "accepted", 1),
    )
    .await;
    // the brokers, and how they are spoken to, are those of the settings that the caller brings
    let source: Source = "kafka".parse().unwrap();
    let kafka = broker.settings(&base.kafka);
    let read = |ends: BTreeMap<String, i64>| {
        let (source, kafka) = (source.clone(), kafka.clone());
        async move {
            tokio::task::spawn_blocking(move || source.read(&ends, Some(&kafka)).unwrap())
                .await
                .unwrap()
        }
    };
    let (of, with) = (source.clone(), kafka.clone());
    let ends = tokio::task::spawn_blocking(move || of.ends(Some(&with)).unwrap())
        .await
        .unwrap();
    // what comes after the ends is for the next night
    send(
        topic::SIGNED_REPORTS,
        &segments[1].id,
        &signed(&segments[1], "rejected", 2),
    )
    .await;

    let before = read(ends.clone()).await;
    let mut origins: Vec<Origin> = before.candidates.iter().map(|c| c.origin).collect();
    origins.sort();
    assert_eq!(origins, [Origin::Accepted, Origin::Edited]);
    assert_eq!(before.ends, ends);
    assert_eq!(before.dropped, BTreeMap::from([(Drop::Unreadable, 1)]));
    let after = read(BTreeMap::new()).await;
    assert_eq!(after.candidates.len(), 1);
    assert_eq!(after.dropped[&Drop::Withdrawn], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_announced_under_the_name_of_its_run() {
    let rig = Rig::start();
    let kafka = rig.kafka().clone();
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().into()).unwrap().announced_to(Some(kafka));
    let event = serde_json::json!({"kind": "gate", "run": "2026-11-24", "decision": {"promote": false}});
    let sent = event.clone();
    let file = tokio::task::spawn_blocking(move || {
        registry.event(&sent).unwrap();
        registry.events().unwrap()
    });
    assert_eq!(file.await.unwrap(), std::slice::from_ref(&event));
    assert_eq!(rig.events(topic::PIPELINE_EVENTS, &["/meit/pipeline"]).await, 1);
    let records = rig.all(topic::PIPELINE_EVENTS).await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].key.as_deref(), Some(&b"2026-11-24"[..]));
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&records[0].payload).unwrap(),
        event
    );
}

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    demo: demo::Arguments,
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_drafts_make_a_generation_that_writes_the_next_drafts() {
    // fails unless a generation is promoted and every draft after that names it
    let arguments = Arguments::parse_from(["demo", "--night"]).demo;
    demo::play(&arguments, Shutdown::new()).await.unwrap();
}
