//! Tests of source, sink and embedded broker together.
//!
//! Place: beside the source; each test has a broker of its own.
//! Invariant: waits for events, never for time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::kafka::cluster::Cluster;
use crate::kafka::commit::{Batch, Committer, Floor, Output};
use crate::kafka::config::shipped;
use crate::kafka::embedded::EmbeddedBroker;
use crate::kafka::sink::Sink;

const TOPIC: &str = "ecg";

fn start(partitions: i32) -> (EmbeddedBroker, KafkaSettings) {
    let broker = EmbeddedBroker::start(&[(TOPIC, partitions)]).unwrap();
    let settings = broker.settings(&shipped());
    (broker, settings)
}

async fn fill(settings: &KafkaSettings, numbers: std::ops::Range<u32>, bytes: usize) {
    let sink = Sink::new(settings).unwrap();
    for number in numbers {
        let mut payload = number.to_le_bytes().to_vec();
        payload.resize(bytes.max(4), 0);
        let key = (number % 7).to_string();
        sink.send(TOPIC, Some(key.as_bytes()), &payload, &[("reason", "test")])
            .await
            .unwrap();
    }
    sink.flush().await.unwrap();
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    tokio::time::timeout(Duration::from_secs(30), events.recv())
        .await
        .expect("an event in time")
        .expect("a source that goes on")
}

/// The next record; fails on a gap.
async fn next_record(events: &mut mpsc::Receiver<Event>) -> Record {
    loop {
        match next(events).await {
            Event::Record(record) => return record,
            Event::Assigned(_) | Event::Revoked(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn number(record: &Record) -> u32 {
    u32::from_le_bytes(record.payload[..4].try_into().unwrap())
}

#[tokio::test]
async fn a_record_comes_out_as_it_went_in_after_its_assignment() {
    let (_broker, settings) = start(1);
    fill(&settings, 5..6, 4).await;
    let (source, mut events) = Source::start(&settings, "round", &[TOPIC], 4).unwrap();
    let Event::Assigned(assigned) = next(&mut events).await else {
        panic!("no assignment");
    };
    assert_eq!(assigned[0].owner.partition, (TOPIC.into(), 0));
    assert_eq!((assigned.len(), assigned[0].committed), (1, None));
    let record = next_record(&mut events).await;
    assert_eq!((&*record.topic, record.partition, record.offset), (TOPIC, 0, 0));
    assert_eq!((record.key.as_deref(), number(&record)), (Some(b"5".as_slice()), 5));
    assert!(record.timestamp_ms > Some(0));
    source.stop().await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_gets_every_record_once_and_in_order() {
    let (_broker, settings) = start(3);
    fill(&settings, 0..600, 2000).await;
    let (source, mut events) = Source::start(&settings, "slow", &[TOPIC], 8).unwrap();
    let mut next_offsets: BTreeMap<i32, i64> = BTreeMap::new();
    // nothing is read until the channel is full, so the partitions pause
    while events.len() < 8 {
        tokio::task::yield_now().await;
    }
    for _ in 0..600 {
        let record = next_record(&mut events).await;
        let expected = next_offsets.entry(record.partition).or_insert(0);
        assert_eq!(record.offset, *expected, "partition {}", record.partition);
        *expected += 1;
    }
    assert_eq!(next_offsets.values().sum::<i64>(), 600);
    source.stop().await.unwrap();
}

#[tokio::test]
async fn a_group_resumes_at_its_commit_and_not_at_what_it_has_read() {
    let (_broker, settings) = start(1);
    fill(&settings, 0..20, 4).await;
    let (source, mut events) = Source::start(&settings, "resume", &[TOPIC], 64).unwrap();
    for expected in 0..12 {
        assert_eq!(number(&next_record(&mut events).await), expected);
    }
    source.commit(TOPIC, 0, 7).unwrap();
    source.commit(TOPIC, 3, 9).unwrap();
    source.stop().await.unwrap();
    let (source, mut events) = Source::start(&settings, "resume", &[TOPIC], 64).unwrap();
    for expected in 7..20 {
        assert_eq!(number(&next_record(&mut events).await), expected);
    }
    source.stop().await.unwrap();
}

#[tokio::test]
async fn records_that_the_broker_dropped_before_they_were_read_are_told_of() {
    let (_broker, settings) = start(1);
    fill(&settings, 0..1, 4).await;
    let (source, mut events) = Source::start(&settings, "gap", &[TOPIC], 4).unwrap();
    next_record(&mut events).await;
    source.commit(TOPIC, 0, 1).unwrap();
    source.stop().await.unwrap();
    // twelve records of 600 kB are more than the 5 MiB that the embedded broker keeps
    fill(&settings, 1..13, 600_000).await;
    let (source, mut events) = Source::start(&settings, "gap", &[TOPIC], 4).unwrap();
    assert!(matches!(next(&mut events).await, Event::Assigned(_)));
    let Event::OffsetGap(gap) = next(&mut events).await else {
        panic!("no gap");
    };
    assert_eq!(gap.expected, 1);
    assert_eq!(next_record(&mut events).await.offset, gap.got);
    source.stop().await.unwrap();
}

#[tokio::test]
async fn a_batch_is_delivered_with_its_floor_and_what_a_restart_should_know() {
    let (_broker, settings) = start(1);
    fill(&settings, 0..3, 4).await;
    let committer = Committer::open(&settings, Cluster::Embedded, "test").await.unwrap();
    assert!(!committer.is_transactional());
    let (source, mut events) = Source::start(&settings, "batch", &[TOPIC], 16).unwrap();
    let owner = owner(&mut events).await;
    let gone = Owner {
        epoch: owner.epoch + 1,
        ..owner.clone()
    };
    let output = |owner: &Owner, number: u32| Output {
        owner: owner.clone(),
        topic: TOPIC,
        partition: Some(0),
        key: None,
        payload: number.to_le_bytes().to_vec(),
        headers: vec![],
    };
    let batch = Batch {
        outputs: vec![output(&owner, 7), output(&gone, 8)],
        floors: vec![Floor {
            owner,
            next_offset: 2,
            metadata: "read to 3".to_owned(),
        }],
    };
    let written = committer.commit(vec![source.membership()], batch).await.unwrap();
    assert_eq!(written, [true, false], "work for a partition that went is left out");
    source.stop().await.unwrap();
    let (source, mut events) = Source::start(&settings, "batch", &[TOPIC], 16).unwrap();
    let Event::Assigned(assigned) = next(&mut events).await else {
        panic!("no assignment");
    };
    assert_eq!((assigned[0].committed, &*assigned[0].metadata), (Some(2), "read to 3"));
    assert_eq!(number(&next_record(&mut events).await), 2);
    assert_eq!(number(&next_record(&mut events).await), 7);
    source.stop().await.unwrap();
}

async fn owner(events: &mut mpsc::Receiver<Event>) -> Owner {
    match next(events).await {
        Event::Assigned(mut assigned) => assigned.remove(0).owner,
        other => panic!("{other:?}"),
    }
}
