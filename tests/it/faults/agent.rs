//! Faults of the agent as a process: killed, crowded, flooded with streams.
//!
//! Place: under `faults`; those with a broker use the embedded one. Invariant: ids are a function of the samples, so what a
//! restart makes again is the same, byte for byte.

use std::collections::BTreeMap;
use std::time::Instant;

use ::agent::windows::{Closings, Windows, WindowsConfig};
use bedside::fault::Injector;
use ecg::packet::{Packet, RejectReason};
use ecg::segment::Segment;
use ecg::topic;
use prometheus::Registry;

use super::{WINDOWS, stream, windows_config};
use crate::rig::{Rig, STREAM, agent_settings, agent_with};

/// Segments by id; the same id must always have the same bytes.
fn by_id(records: &[service::kafka::source::Record]) -> BTreeMap<String, Vec<u8>> {
    let mut segments = BTreeMap::new();
    for record in records {
        let id = Segment::decode(&record.payload).unwrap().id;
        let before = segments.insert(id.clone(), record.payload.clone());
        assert!(
            before.is_none_or(|before| before == record.payload),
            "two segments {id}"
        );
    }
    segments
}

/// Packets without a gateway's clock, so that no window is too old.
fn timeless() -> Vec<Packet> {
    let mut packets = stream();
    packets.truncate(3 * 40);
    packets.push(stream().pop().unwrap());
    let last = packets.last_mut().unwrap();
    last.first_sample = 20_000;
    last.device_time_us = super::START_US + 40_000_000;
    packets.iter_mut().for_each(|packet| packet.gateway_time_us = 1_000_000);
    packets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_40_an_agent_killed_in_mid_window_makes_the_same_segments_after_a_restart() {
    let packets = timeless();
    let unbroken = Rig::start();
    let agent = unbroken.agent();
    unbroken.send(&packets).await;
    unbroken.wait_for(topic::SEGMENTS, 3).await;
    agent.stop().await;
    let expected = by_id(&unbroken.all(topic::SEGMENTS).await);
    assert_eq!(expected.len(), 3);

    let broken = Rig::start();
    // sample 9000: the first window is out, the second is open
    let (before, after) = packets.split_at(72);
    let agent = broken.agent();
    broken.send(before).await;
    broken.wait_for(topic::SEGMENTS, 1).await;
    agent.kill().await;
    broken.send(after).await;
    let agent = broken.agent();
    broken.wait_for(topic::SEGMENTS, 3).await;
    agent.stop().await;
    assert_eq!(by_id(&broken.all(topic::SEGMENTS).await), expected);
}

#[test]
fn fault_45_the_memory_of_a_stream_is_flat_over_an_hour() {
    let mut windows = Windows::new(windows_config());
    let minute = stream();
    let minute = &minute[..minute.len() - 1];
    let (mut first, mut largest) = (0, 0);
    for turn in 0..60 {
        for packet in minute {
            let mut packet = packet.clone();
            packet.first_sample += turn * 30_000;
            packet.device_time_us += turn * 60_000_000;
            packet.gateway_time_us += turn * 60_000_000;
            packet.sequence += turn as u64 * 10_000;
            let mut closings = Closings::default();
            windows.push(packet, (0, 0), Instant::now(), &mut closings).unwrap();
            largest = largest.max(windows.bytes());
        }
        if turn == 0 {
            first = largest;
        }
    }
    assert_eq!(largest, first);
    // a window, its context, and lateness: about 20 s of 12 leads of 5 bytes
    assert!(largest < 1_000_000, "{largest} bytes");
}

#[test]
fn fault_45_streams_over_the_bound_take_the_places_of_silent_ones_and_never_those_of_live_ones() {
    let cfg = WindowsConfig {
        streams_max: 10,
        ..windows_config()
    };
    let (mut windows, start) = (Windows::new(cfg), Instant::now());
    let packet = stream().remove(0);
    let (mut evicted, mut refused) = (0, 0);
    // a bed that sends once comes every second, beside one that goes on
    for bed in 0..1000u64 {
        let now = start + std::time::Duration::from_secs(bed);
        evicted += windows.tick(|_| now).evicted;
        for stream_id in ["live".to_owned(), format!("bed-{bed}")] {
            let mut closings = Closings::default();
            let packet = Packet {
                stream_id: stream_id.clone(),
                ..packet.clone()
            };
            if let Err(error) = windows.push(packet, (0, bed), now, &mut closings) {
                assert_eq!(error.reason(), RejectReason::NoRoom);
                assert_ne!(stream_id, "live");
                refused += 1;
            }
            evicted += closings.evicted;
        }
        assert!(windows.len() <= 10 && windows.holds("live"));
    }
    // nine places; each is held for the ten seconds after which its bed is silent
    assert_eq!((evicted + refused, windows.len()), (1000 - 9, 10));
    assert!(refused <= 101, "{refused} refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_45_a_bed_too_many_is_dead_lettered_with_its_bytes_and_the_others_make_every_window() {
    let rig = Rig::start();
    let mut settings = agent_settings(rig.kafka.clone());
    settings.agent.streams_max = 2;
    let agent = agent_with(settings, &Registry::new());
    let packets = timeless();
    for packet in &packets {
        for bed in ["bed-01", "bed-02", "bed-03"] {
            let packet = Packet {
                stream_id: bed.into(),
                ..packet.clone()
            };
            rig.send_under(bed, &packet.encode()).await;
        }
    }
    rig.wait_for(topic::DEAD_LETTERS, packets.len()).await;
    rig.wait_for(topic::SEGMENTS, 2 * 3).await;
    let summary = agent.stop().await;
    let count = packets.len() as u64;
    assert_eq!(summary.packets_rejected, BTreeMap::from([("no_room", count)]));
    assert_eq!(
        (summary.packets_received, summary.packets_accepted),
        (3 * count, 2 * count)
    );
    assert!(summary.partitions.values().all(|counts| counts.difference() == 0));
    let refused = rig.all(topic::DEAD_LETTERS).await;
    for (record, packet) in refused.iter().zip(&packets) {
        let refused = Packet::decode(&record.payload).unwrap();
        assert_eq!(
            (&*refused.stream_id, refused.first_sample),
            ("bed-03", packet.first_sample)
        );
    }
    assert_eq!(by_id(&rig.all(topic::SEGMENTS).await).len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_that_cannot_be_read_is_left_out_and_counted_and_the_agent_goes_on() {
    let rig = Rig::start();
    rig.sink
        .send(topic::AGENT_MARKS, Some(STREAM.as_bytes()), b"no mark", &[])
        .await
        .unwrap();
    let registry = Registry::new();
    let agent = rig.agent_with(&registry);
    rig.send(&timeless()).await;
    rig.wait_for(topic::SEGMENTS, 3).await;
    agent.stop().await;
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap();
    assert!(text.contains("meit_agent_marks_unreadable_total 1"), "{text}");
}

/// Plays a minute of timeless packets with a fault to an agent on a broker of its own, in two runs of it; its segments by id,
/// its dead letters by reason, and what both runs counted.
async fn played_with_a_restart(
    fault: &str,
    restart: Option<usize>,
) -> (BTreeMap<String, Vec<u8>>, Vec<String>, [u64; 4]) {
    let rig = Rig::start();
    let mut injector = Injector::new(&[fault.parse().unwrap()], STREAM);
    let mut packets = stream();
    packets.iter_mut().for_each(|packet| packet.gateway_time_us = 1_000_000);
    let records: Vec<_> = packets.iter().flat_map(|packet| injector.records(packet)).collect();
    let (first, second) = records.split_at(restart.unwrap_or(records.len()));
    let mut sums = [0; 4];
    for part in [first, second].into_iter().filter(|part| !part.is_empty()) {
        let registry = Registry::new();
        let agent = rig.agent_with(&registry);
        for record in part {
            rig.send_bytes(&record.payload).await;
        }
        // what is no packet is refused when all before it was taken
        rig.send_bytes(b"end of part").await;
        let ends = |letters: &[String]| letters.iter().filter(|reason| *reason == "decode").count();
        let parts = 1 + usize::from(part.as_ptr() == second.as_ptr());
        let refused = async {
            while ends(&letters(&rig).await) < parts {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(60), refused).await;
        waited.unwrap_or_else(|_| panic!("{fault}: the agent takes no more"));
        let summary = agent.stop().await;
        for counts in summary.partitions.values() {
            assert_eq!(counts.difference(), 0, "{fault}: {counts:?}");
            let counts = [counts.received, counts.accepted, counts.rejected, counts.dead_lettered];
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
    let mut refused = letters(&rig).await;
    refused.retain(|reason| reason != "decode");
    (by_id(&rig.all(topic::SEGMENTS).await), refused, sums)
}

/// Reasons of the dead letters.
async fn letters(rig: &Rig) -> Vec<String> {
    let rows = service::kafka::table::read(rig.kafka(), topic::DEAD_LETTERS, &[0])
        .await
        .unwrap();
    rows.iter()
        .filter_map(|row| row.header("reason").map(str::to_owned))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_34_a_wild_boot_is_dead_lettered_once_wherever_the_agent_is_restarted() {
    // the wild packet is number 100, and it is refused two seconds later
    for restart in [None, Some(100), Some(101), Some(105), Some(120)] {
        let (segments, refused, [received, accepted, rejected, dead]) =
            played_with_a_restart("boot-wild@25s", restart).await;
        assert_eq!(refused, ["boot_unproven"], "{restart:?}");
        let parts = 1 + u64::from(restart.is_some());
        assert_eq!(
            (received, accepted, rejected, dead),
            (241 + parts, 240, 0, 1 + parts),
            "{restart:?}"
        );
        // its own window has a gap, and goes to the rejects
        assert_eq!(segments.len(), WINDOWS - 1, "{restart:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_18_an_index_that_begins_again_gives_the_same_segments_wherever_the_agent_is_restarted() {
    let (expected, refused, counts) = played_with_a_restart("index-restart@30s", None).await;
    assert_eq!((expected.len(), refused.len()), (5, 0));
    assert_eq!(counts, [242, 234, 7, 1]);
    // before, while and after the index is rebased
    for restart in [110, 124, 128, 150, 200] {
        let (segments, refused, counts) = played_with_a_restart("index-restart@30s", Some(restart)).await;
        assert_eq!(
            segments.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>(),
            "{restart}"
        );
        assert!(
            segments == expected,
            "the bytes of a segment differ after a restart at {restart}"
        );
        assert!(refused.is_empty(), "{restart}: {refused:?}");
        assert_eq!(counts, [243, 234, 7, 2], "{restart}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_58_a_thousand_streams_make_no_more_series_than_one() {
    let rig = Rig::start();
    let registry = Registry::new();
    let agent = rig.agent_with(&registry);
    let series =
        |registry: &Registry| -> usize { registry.gather().iter().map(|family| family.get_metric().len()).sum() };
    let before = series(&registry);
    let mut packet = stream().remove(0);
    for bed in 0..1000 {
        packet.stream_id = format!("{STREAM}-{bed}");
        rig.send_under(&packet.stream_id, &packet.encode()).await;
    }
    rig.send_bytes(b"no packet").await;
    rig.wait_for(topic::DEAD_LETTERS, 1).await;
    let summary = agent.stop().await;
    assert_eq!(summary.packets_accepted, 1000);
    assert_eq!(series(&registry), before);
    assert!(before < 5000, "{before} series");
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap();
    assert!(!text.contains(STREAM));
}
