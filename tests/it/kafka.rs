//! Exactly once on a real Apache Kafka: transactions, zombies, and partitions that change hands in mid-window.
//!
//! Place: what the embedded broker lacks. Invariant: each test has a broker of its own, one at a time; without java and
//! maven they are skipped, with a printed line. `tests/chaos` does the same with processes and kill -9.

mod outage;
mod slow;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agent::letters::Choice;
use agent::settings::AgentSettings;
use ecg::packet::Packet;
use ecg::report::DraftReport;
use ecg::segment::{Decision, Segment};
use ecg::topic;
use pipeline::sources::Sourced;
use pipeline::text_rules::Drop;
use service::kafka::KafkaSettings;
use service::kafka::cluster::{Cluster, create_topics};
use service::kafka::commit::{Batch, CommitError, Committer, Floor, Output};
use service::kafka::sink::Sink;
use service::kafka::source::{Event, Owner, Source};
use service::kafka::table::{self, Isolation, Row};
use tokio::sync::mpsc::Receiver;
use tokio::sync::{Mutex, MutexGuard};

use crate::broker::RealBroker;
use crate::nightly::signed;
use crate::rig::{agent_on, node_on, packets, recordings};

/// 250 ms at 500 Hz.
const PACKET_SAMPLES: usize = 125;
const PARTITIONS: i32 = 4;
const STREAMS: usize = 6;
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A broker is a Java process; those of two tests at once are too many for a small machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

struct Bench {
    kafka: KafkaSettings,
    sink: Sink,
    brokers: Vec<RealBroker>,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    async fn start() -> Option<Self> {
        Self::start_with(1).await
    }

    /// On so many brokers.
    async fn start_with(brokers: usize) -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().await;
        let brokers = RealBroker::cluster(brokers)?;
        let base: AgentSettings = service::settings::load("agent", None).unwrap();
        let kafka = KafkaSettings {
            partitions: PARTITIONS,
            ..brokers[0].settings(&base.kafka)
        };
        assert_eq!(create_topics(&kafka, topic::KEPT).await.unwrap(), Cluster::Real);
        Some(Self {
            sink: Sink::new(&kafka).unwrap(),
            kafka,
            brokers,
            _turn: turn,
        })
    }

    /// The settings of a process with a name.
    fn named(&self, instance: &str) -> KafkaSettings {
        KafkaSettings {
            instance: instance.to_owned(),
            ..self.kafka.clone()
        }
    }

    async fn send(&self, packets: &[Packet]) {
        for packet in packets {
            let key = Some(packet.stream_id.as_bytes());
            self.sink
                .send(topic::WAVEFORMS, key, &packet.encode(), &[])
                .await
                .unwrap();
        }
    }

    /// The committed records of a topic once there are so many or more.
    async fn reached(&self, topic: &str, count: usize) -> Vec<Row> {
        let partitions: Vec<i32> = (0..PARTITIONS).collect();
        let mut seen = None;
        let all = async {
            loop {
                let (isolation, none) = (Isolation::Committed, Vec::new());
                let rows = table::fold(&self.kafka, topic, &partitions, isolation, none, Vec::push).await;
                // a broker that has just started may refuse
                seen = rows.as_ref().ok().map(Vec::len).or(seen);
                if let Some(rows) = rows.ok().filter(|rows| rows.len() >= count) {
                    return rows;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let rows = tokio::time::timeout(WAIT_MAX, all).await;
        rows.unwrap_or_else(|_| panic!("{topic} has {seen:?} of {count} records after {WAIT_MAX:?}"))
    }

    /// The committed records of a topic once there are so many; fails when there are more.
    async fn committed(&self, topic: &str, count: usize) -> Vec<Row> {
        let rows = self.reached(topic, count).await;
        assert_eq!(rows.len(), count, "{topic}");
        rows
    }

    /// Every window of the streams is one segment, and every segment has one draft; the segments.
    async fn all_once(&self, windows: usize) -> BTreeMap<(String, i64), (String, String)> {
        let segments = once(&self.committed(topic::SEGMENTS, windows).await);
        let rows = self.committed(topic::REPORTS, windows).await;
        let drafted: BTreeSet<String> = rows
            .iter()
            .map(|row| serde_json::from_slice::<DraftReport>(&row.value).unwrap().segment_id)
            .collect();
        let ids: BTreeSet<String> = segments.values().map(|(id, _)| id.clone()).collect();
        assert_eq!((segments.len(), &drafted), (windows, &ids));
        segments
    }
}

/// The recordings as several streams, packet by packet in turn.
fn streams() -> (Vec<Packet>, usize) {
    let recordings = recordings();
    let one = packets(&recordings, PACKET_SAMPLES);
    let of_stream = |packet: &Packet, stream: usize| Packet {
        stream_id: format!("bed-{stream:02}"),
        ..packet.clone()
    };
    let all = one
        .iter()
        .flat_map(|packet| (0..STREAMS).map(move |stream| of_stream(packet, stream)));
    (all.collect(), recordings.len() * STREAMS)
}

/// Segments by stream and start, each with its id and hash; fails when one came twice.
fn once(rows: &[Row]) -> BTreeMap<(String, i64), (String, String)> {
    let mut segments = BTreeMap::new();
    for row in rows {
        let segment = Segment::decode(&row.value).unwrap();
        let name = (segment.stream_id, segment.start_sample);
        let before = segments.insert(name.clone(), (segment.id, segment.samples_sha256));
        assert!(before.is_none(), "{name:?} came twice");
    }
    segments
}

/// Every stream has the same samples, so every stream has the same hashes, whoever cut it.
fn same_in_every_stream(segments: &BTreeMap<(String, i64), (String, String)>) {
    let mut hashes: BTreeMap<i64, BTreeSet<&String>> = BTreeMap::new();
    for ((_, start), (_, hash)) in segments {
        hashes.entry(*start).or_default().insert(hash);
    }
    for (start, hashes) in hashes {
        assert_eq!(hashes.len(), 1, "windows at {start}");
    }
}

fn output(owner: &Owner, value: &str) -> Output {
    Output {
        owner: owner.clone(),
        topic: topic::REPORTS,
        partition: None,
        key: None,
        payload: value.as_bytes().to_vec(),
        headers: vec![],
    }
}

/// A batch of one record, with the place to read on from.
fn batch(owner: &Owner, value: &str, next_offset: i64) -> Batch {
    Batch {
        outputs: vec![output(owner, value)],
        floors: vec![Floor {
            owner: owner.clone(),
            next_offset,
            metadata: format!("after {value}"),
        }],
    }
}

/// Who owns a partition that a source has been given.
async fn first_owner(events: &mut Receiver<Event>) -> Owner {
    loop {
        match events.recv().await.unwrap() {
            Event::Assigned(assigned) => return assigned[0].owner.clone(),
            Event::Record(_) | Event::Revoked(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zombie_is_fenced_and_nothing_of_it_is_read() {
    let Some(bench) = Bench::start().await else { return };
    bench
        .sink
        .send(topic::SEGMENTS, Some(b"a"), b"cause", &[])
        .await
        .unwrap();
    let (source, mut events) = Source::start(&bench.kafka, "zombie", &[topic::SEGMENTS], 16).unwrap();
    let owner = first_owner(&mut events).await;
    let batch = |value: &str, next_offset| batch(&owner, value, next_offset);
    let named = bench.named("one");
    let first = Committer::open(&named, Cluster::Real, "test").await.unwrap();
    assert!(first.is_transactional());
    assert_eq!(
        first
            .commit(vec![source.membership()], batch("first", 1))
            .await
            .unwrap(),
        [true]
    );
    let second = Committer::open(&named, Cluster::Real, "test").await.unwrap();
    let error = first
        .commit(vec![source.membership()], batch("zombie", 2))
        .await
        .unwrap_err();
    assert!(matches!(error, CommitError::Fenced { .. }), "{error:?}");
    assert_eq!(
        second
            .commit(vec![source.membership()], batch("second", 3))
            .await
            .unwrap(),
        [true]
    );
    let values: Vec<Vec<u8>> = bench
        .committed(topic::REPORTS, 2)
        .await
        .into_iter()
        .map(|row| row.value)
        .collect();
    assert!(
        values.contains(&b"first".to_vec()) && values.contains(&b"second".to_vec()),
        "{values:?}"
    );
    drop((first, second));
    source.stop().await.unwrap();
    let (source, mut events) = Source::start(&bench.kafka, "zombie", &[topic::SEGMENTS], 16).unwrap();
    let Event::Assigned(assigned) = events.recv().await.unwrap() else {
        panic!("no assignment");
    };
    let of_owner = assigned
        .iter()
        .find(|it| it.owner.partition == owner.partition)
        .unwrap();
    assert_eq!((of_owner.committed, &*of_owner.metadata), (Some(3), "after second"));
    source.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_change_hands_in_mid_window_lose_and_double_no_segment() {
    let Some(bench) = Bench::start().await else { return };
    let (packets, windows) = streams();
    // 14 s: the first windows are out, the second are open
    let (before, after) = packets.split_at(14 * 4 * STREAMS);
    // in whole rounds: what a stream has when it falls silent decides how much context its open window gets
    let (middle, last) = after.split_at(after.len() / STREAMS / 2 * STREAMS);
    bench.send(before).await;
    let one = agent_on(bench.named("one"));
    let first = bench.committed(topic::SEGMENTS, STREAMS).await;
    // a second agent takes half of the partitions
    let two = agent_on(bench.named("two"));
    bench.send(middle).await;
    bench.committed(topic::SEGMENTS, 2 * STREAMS).await;
    // the first one goes, and comes back
    let first_summary = one.stop().await;
    bench.send(last).await;
    let one = agent_on(bench.named("one"));
    let segments = once(&bench.committed(topic::SEGMENTS, windows).await);
    let (one, two): (_, agent::metrics::AgentSummary) = (one.stop().await, two.stop().await);
    assert_eq!(segments.len(), windows);
    let first = once(&first);
    assert!(first.iter().all(|(name, segment)| segments.get(name) == Some(segment)));
    same_in_every_stream(&segments);
    let all = [&first_summary, &one, &two];
    // a record whose batch was not committed when its partition went is counted by both
    let received: u64 = all.iter().map(|summary| summary.packets_received).sum();
    assert!(
        received >= packets.len() as u64,
        "{received} of {} packets were counted",
        packets.len()
    );
    assert!(
        two.packets_received > 0 && two.packets_replayed > 0,
        "the second agent took over in mid-window"
    );
    assert!(
        all.iter()
            .flat_map(|summary| summary.partitions.values())
            .all(|counts| counts.difference() == 0)
    );
}

/// The most that a broker takes by default is more than a letter of so many bytes and its headers would be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_30_a_record_as_large_as_the_broker_takes_is_kept_in_parts_and_the_beds_go_on() {
    let Some(bench) = Bench::start().await else { return };
    let agent = agent_on(bench.named("one"));
    let garbage: Vec<u8> = (0..1_020_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let send = |bytes| bench.sink.send(topic::WAVEFORMS, Some(b"bed-00"), bytes, &[]);
    send(&garbage).await.unwrap();
    let (packets, windows) = streams();
    bench.send(&packets).await;
    bench.committed(topic::SEGMENTS, windows).await;
    bench.committed(topic::DEAD_LETTERS, 2).await;
    let letters = agent::letters::list(&bench.kafka, &Choice::default()).await.unwrap();
    assert_eq!((letters.len(), letters[0].bytes), (1, garbage.len()));
    let before = bench.reached(topic::WAVEFORMS, packets.len() + 1).await.len();
    assert_eq!(
        agent::letters::replay(&bench.kafka, &Choice::default()).await.unwrap(),
        1
    );
    let waveforms = bench.reached(topic::WAVEFORMS, before + 1).await;
    assert_eq!(waveforms.iter().filter(|row| row.value == garbage).count(), 2);
    bench.committed(topic::DEAD_LETTERS, 4).await;
    let summary = agent.stop().await;
    assert_eq!(summary.packets_received, packets.len() as u64 + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_of_the_same_name_ends_the_first_and_goes_on_in_its_place() {
    let Some(bench) = Bench::start().await else { return };
    let (packets, windows) = streams();
    let (before, after) = packets.split_at(14 * 4 * STREAMS);
    bench.send(before).await;
    let old = agent_on(bench.named("one"));
    bench.committed(topic::SEGMENTS, STREAMS).await;
    let new = agent_on(bench.named("one"));
    bench.send(after).await;
    let segments = once(&bench.committed(topic::SEGMENTS, windows).await);
    assert_eq!(segments.len(), windows);
    let ended = tokio::time::timeout(WAIT_MAX, old.ended()).await;
    let error = ended.expect("a fenced agent ends").unwrap_err();
    let error = format!("{error:#}");
    // fenced, or at its commit, which Kafka 4 may refuse with a code that librdkafka does not know
    let ways = ["taken over", "enced", "EndTxn commit failed"];
    assert!(ways.iter().any(|way| error.contains(way)), "{error}");
    assert!(new.stop().await.packets_received > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_come_and_go_draft_every_segment_once() {
    let Some(bench) = Bench::start().await else { return };
    let (packets, windows) = streams();
    let agent = agent_on(bench.named("one"));
    let one = node_on(bench.named("one"));
    let (before, after) = packets.split_at(packets.len() / 2);
    bench.send(before).await;
    bench.committed(topic::REPORTS, STREAMS).await;
    let two = node_on(bench.named("two"));
    bench.send(after).await;
    one.stop().await;
    bench.all_once(windows).await;
    let (two, agent): (node::metrics::NodeSummary, _) = (two.stop().await, agent.stop().await);
    assert!(two.drafts > 0);
    assert_eq!(agent.packets_received, packets.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_night_reads_what_transactions_wrote_up_to_the_ends_that_were_noted() {
    let Some(bench) = Bench::start().await else { return };
    let (packets, windows) = streams();
    let agent = agent_on(bench.named("night"));
    bench.send(&packets).await;
    let rows = bench.committed(topic::SEGMENTS, windows).await;
    agent.stop().await;
    let segments: Vec<Segment> = rows.iter().map(|row| Segment::decode(&row.value).unwrap()).collect();
    let sign = async |segment: &Segment, action: &str, version: u32| {
        let key = Some(segment.id.as_bytes());
        let report = signed(segment, action, version);
        bench.sink.send(topic::SIGNED_REPORTS, key, &report, &[]).await.unwrap();
    };
    for segment in &segments {
        sign(segment, "edited", 1).await;
    }
    // the settings' brokers
    let source = pipeline::sources::Source::Kafka(String::new());
    let read = |ends: Option<BTreeMap<String, i64>>| {
        let (source, kafka) = (source.clone(), bench.kafka.clone());
        let read = move || {
            let ends = ends.unwrap_or_else(|| source.ends(Some(&kafka)).unwrap());
            source.read(&ends, Some(&kafka)).unwrap()
        };
        async { tokio::task::spawn_blocking(read).await.unwrap() }
    };
    let first = read(None).await;
    let accepted = segments.iter().filter(|s| s.decision == Decision::Accept).count();
    assert!(accepted > 0);
    assert_eq!(first.candidates.len(), accepted);
    sign(&segments[0], "rejected", 2).await;
    let again = read(Some(first.ends.clone())).await;
    let ids = |sourced: &Sourced| -> Vec<String> { sourced.candidates.iter().map(|c| c.id.clone()).collect() };
    assert_eq!((ids(&again), &again.ends), (ids(&first), &first.ends));
    assert_eq!(read(None).await.dropped[&Drop::Withdrawn], 1);
}
