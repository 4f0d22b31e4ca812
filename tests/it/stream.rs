//! Packets in, drafts out: the real agent and node with the embedded broker between them, and a drafter without a model.
//!
//! Place: the whole way of a sample. Invariant: held here is what no single package can promise: one draft a window, the
//! same for any packetization, and nothing lost or doubled by bad bytes or a restart.

use std::collections::BTreeSet;

use agent::letters::Choice;
use bedside::settings::BedsideSettings;
use ecg::packet::{Packet, PacketLead};
use ecg::report::DraftReport;
use ecg::segment::Segment;
use ecg::topic;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use service::kafka::table;
use service::shutdown::Shutdown;

use crate::rig::{Rig, STREAM, packets, recordings};

/// 250 ms at 500 Hz, as the bedside sends.
const PACKET_SAMPLES: usize = 125;
/// Packets that change places stay within this, well under the agent's lateness of 1000 samples.
const SHUFFLED_SAMPLES: usize = 700;
/// Garbage of three kinds: no Protobuf, nothing at all, a field that ends too early.
const GARBAGE: [&[u8]; 3] = [b"\xff\xff\xff\xff", b"", b"\x12\x7fshort"];

/// What must not depend on how samples travelled: segment id, hash of its samples, text.
type Essence = (String, String, String);

fn essence(draft: &DraftReport) -> Essence {
    let text = draft
        .text
        .clone()
        .unwrap_or_else(|| panic!("abstained: {:?}", draft.abstain));
    (draft.segment_id.clone(), draft.segment_sha256.clone(), text)
}

/// Sends packets through agent and node and returns all drafts, in the order of the stream.
async fn drafts_of(packets: &[Packet], windows: usize) -> Vec<DraftReport> {
    let rig = Rig::start();
    let (agent, node) = (rig.agent(), rig.node());
    rig.send(packets).await;
    rig.wait_for(topic::REPORTS, windows).await;
    let (agent, node) = (agent.stop().await, node.stop().await);
    assert_eq!(agent.packets_accepted, packets.len() as u64);
    assert_eq!((agent.windows, agent.segments_rejected), (windows as u64, 0));
    assert_eq!((node.drafts, node.duplicates), (windows as u64, 0));
    let records = rig.all(topic::REPORTS).await;
    let mut drafts: Vec<DraftReport> = records
        .iter()
        .map(|record| serde_json::from_slice(&record.payload).unwrap())
        .collect();
    drafts.sort_by_key(|draft| draft.start_sample);
    drafts
}

/// Packets in another order within the lateness, every fifth of them twice; the farewell stays last.
fn disturbed(mut packets: Vec<Packet>, packet_samples: usize) -> Vec<Packet> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let farewell = packets.pop().unwrap();
    let mut sent = Vec::new();
    for block in packets.chunks_mut(SHUFFLED_SAMPLES / packet_samples) {
        block.shuffle(&mut rng);
        sent.extend_from_slice(block);
        sent.extend(block.iter().step_by(5).cloned());
    }
    sent.push(farewell);
    sent
}

fn segments(records: &[service::kafka::source::Record]) -> Vec<(String, i64, String)> {
    let segments = records.iter().map(|record| Segment::decode(&record.payload).unwrap());
    segments
        .map(|segment| (segment.id, segment.start_sample, segment.samples_sha256))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_window_has_one_draft_with_its_own_id() {
    let recordings = recordings();
    let drafts = drafts_of(&packets(&recordings, PACKET_SAMPLES), recordings.len()).await;
    let starts: Vec<i64> = drafts.iter().map(|draft| draft.start_sample).collect();
    assert_eq!(starts, [0, 5000, 10_000]);
    assert!(
        drafts
            .iter()
            .all(|draft| draft.stream_id == STREAM && draft.bundle.bundle_id == "sum")
    );
    let ids: BTreeSet<&str> = drafts
        .iter()
        .flat_map(|draft| [&*draft.draft_id, &*draft.segment_id])
        .collect();
    assert_eq!(ids.len(), 2 * drafts.len());
    let texts: BTreeSet<String> = drafts.iter().map(|draft| essence(draft).2).collect();
    assert_eq!(texts.len(), drafts.len(), "the texts depend on the samples");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_samples_in_any_packets_order_and_repetition_give_the_same_drafts() {
    let recordings = recordings();
    let plain = drafts_of(&packets(&recordings, PACKET_SAMPLES), recordings.len()).await;
    let plain: Vec<Essence> = plain.iter().map(essence).collect();
    // 100, 250 and 330 ms; the last does not divide a window
    for packet_samples in [50, 125, 165] {
        let sent = disturbed(packets(&recordings, packet_samples), packet_samples);
        let drafts = drafts_of(&sent, recordings.len()).await;
        assert_eq!(
            drafts.iter().map(essence).collect::<Vec<_>>(),
            plain,
            "{packet_samples} samples a packet"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_dead_lettered_with_its_bytes_and_every_packet_is_counted_once() {
    let recordings = &recordings()[..1];
    let rig = Rig::start();
    let agent = rig.agent();
    let packets = packets(recordings, PACKET_SAMPLES);
    let (before, after) = packets.split_at(packets.len() / 2);
    rig.send(before).await;
    for bytes in GARBAGE {
        rig.send_bytes(bytes).await;
    }
    rig.send(after).await;
    rig.wait_for(topic::SEGMENTS, 1).await;
    let summary = agent.stop().await;
    let rejected: u64 = summary.packets_rejected.values().sum();
    assert_eq!(
        (summary.packets_accepted, rejected),
        (packets.len() as u64, GARBAGE.len() as u64)
    );
    assert_eq!(summary.packets_received, summary.packets_accepted + rejected);
    let counts = summary.partitions[&0];
    assert_eq!(
        (counts.received, counts.dead_lettered),
        (summary.packets_received, rejected)
    );
    assert_eq!(counts.difference(), 0);
    let letters = rig.all(topic::DEAD_LETTERS).await;
    assert_eq!(
        letters.iter().map(|letter| &*letter.payload).collect::<Vec<_>>(),
        GARBAGE
    );
    assert_eq!(rig.all(topic::SEGMENTS).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_of_every_process_is_one_cloud_event() {
    let rig = Rig::start();
    let (agent, node) = (rig.agent(), rig.node());
    let mut monitors: BedsideSettings = service::settings::load("bedside", None).unwrap();
    monitors.kafka = rig.kafka.clone();
    monitors.bedside.recordings = vec![recordings()[0].header.clone()];
    (monitors.bedside.beds, monitors.bedside.minutes) = (1, 0.1);
    (monitors.bedside.speed, monitors.bedside.boot_id) = (1000.0, 1);
    monitors.bedside.metrics_address = String::new();
    let sent = bedside::run(monitors, Shutdown::new()).await.unwrap().packets_sent;
    rig.wait_for(topic::REPORTS, 1).await;
    assert_eq!(rig.events(topic::WAVEFORMS, &["/meit/bedside"]).await as u64, sent);

    // a flat stream is rejected; what is no packet and no segment is dead-lettered
    let mut flat = packets(&recordings()[..1], PACKET_SAMPLES);
    let silent = |lead: &PacketLead| PacketLead::of(lead.lead, vec![0; lead.samples.len()], 1.0);
    for packet in &mut flat {
        packet.stream_id = "bed-flat".to_owned();
        packet.leads = packet.leads.iter().map(silent).collect();
        rig.send_under("bed-flat", &packet.encode()).await;
    }
    rig.send_bytes(GARBAGE[0]).await;
    rig.sink.send(topic::SEGMENTS, None, GARBAGE[0], &[]).await.unwrap();
    rig.wait_for(topic::REJECTS, 1).await;
    rig.wait_for(topic::DEAD_LETTERS, 2).await;
    drop((agent.stop().await, node.stop().await));
    for (topic, sources, events) in [
        (topic::REPORTS, &["/meit/node"][..], 1),
        (topic::REJECTS, &["/meit/agent"], 1),
        (topic::DEAD_LETTERS, &["/meit/agent", "/meit/node"], 2),
    ] {
        assert_eq!(rig.events(topic, sources).await, events, "{topic}");
    }
    let segments = table::read(&rig.kafka, topic::SEGMENTS, &[0]).await.unwrap();
    assert_eq!(segments[0].header("ce_type"), Some(topic::SEGMENTS));
    assert_eq!(segments[0].header("ce_source"), Some("/meit/agent"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_listed_with_their_reasons_and_sent_again_byte_for_byte() {
    let rig = Rig::start();
    let agent = rig.agent();
    for bytes in GARBAGE {
        rig.send_bytes(bytes).await;
    }
    rig.wait_for(topic::DEAD_LETTERS, GARBAGE.len()).await;
    let letters = agent::letters::list(rig.kafka(), &Choice::default()).await.unwrap();
    let told: Vec<(i64, &str, usize)> = letters
        .iter()
        .map(|letter| (letter.at.1, letter.topic.as_str(), letter.bytes))
        .collect();
    let expected: Vec<(i64, &str, usize)> = (0..)
        .zip(GARBAGE)
        .map(|(at, it)| (at, topic::WAVEFORMS, it.len()))
        .collect();
    assert_eq!(told, expected);
    assert!(
        letters
            .iter()
            .all(|letter| !letter.reason.is_empty() && !letter.error.is_empty())
    );
    let last = Choice {
        at: Some((0, 2)),
        ..Choice::default()
    };
    assert_eq!(agent::letters::replay(rig.kafka(), &last).await.unwrap(), 1);
    // the cause is not mended, so it comes back
    rig.wait_for(topic::DEAD_LETTERS, GARBAGE.len() + 1).await;
    assert_eq!(agent.stop().await.packets_received, GARBAGE.len() as u64 + 1);
    assert_eq!(rig.all(topic::DEAD_LETTERS).await[3].payload, GARBAGE[2]);
    let sent = &rig.all(topic::WAVEFORMS).await[3];
    assert_eq!(
        (sent.key.as_deref(), &*sent.payload),
        (Some(STREAM.as_bytes()), GARBAGE[2])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_stops_in_mid_stream_and_starts_again_makes_every_segment_once() {
    let recordings = recordings();
    let packets = packets(&recordings, PACKET_SAMPLES);
    let unbroken = Rig::start();
    let agent = unbroken.agent();
    unbroken.send(&packets).await;
    unbroken.wait_for(topic::SEGMENTS, recordings.len()).await;
    agent.stop().await;
    let expected = segments(&unbroken.all(topic::SEGMENTS).await);

    let broken = Rig::start();
    // sample 9000: the first window is out, the second is open
    let (before, after) = packets.split_at(9000 / PACKET_SAMPLES);
    let agent = broken.agent();
    broken.send(before).await;
    broken.wait_for(topic::SEGMENTS, 1).await;
    assert_eq!(agent.stop().await.windows, 1);
    broken.send(after).await;
    let agent = broken.agent();
    // readers commit nothing, so this one sees the first segment too
    broken.wait_for(topic::SEGMENTS, recordings.len()).await;
    let second = agent.stop().await;
    assert_eq!(segments(&broken.all(topic::SEGMENTS).await), expected);
    assert_eq!(second.windows, 2);
    assert!(second.packets_replayed > 0, "the open window's records are read again");
    assert_eq!(second.packets_received, after.len() as u64, "and not counted again");
}
