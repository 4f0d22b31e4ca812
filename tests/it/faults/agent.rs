//! Faults of the agent as a process: killed, crowded, flooded with streams.
//!
//! Place: under `faults`; those with a broker use the embedded one. Invariant: ids are a function of the samples, so what a
//! restart makes again is the same, byte for byte.

use std::collections::BTreeMap;
use std::time::Instant;

use ::agent::windows::{Closings, Windows, WindowsConfig};
use ecg::packet::Packet;
use ecg::segment::Segment;
use ecg::topic;
use prometheus::Registry;

use super::{stream, windows_config};
use crate::rig::{Rig, STREAM};

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
fn fault_45_streams_over_the_bound_evict_the_silent_ones_first() {
    let mut windows = Windows::new(WindowsConfig {
        streams_max: 10,
        ..windows_config()
    });
    let start = Instant::now();
    let packet = stream().remove(0);
    let mut evicted = 0;
    for bed in 0..1000u64 {
        for stream_id in [format!("bed-{bed}"), "live".to_owned()] {
            let mut packet = packet.clone();
            packet.stream_id = stream_id;
            let mut closings = Closings::default();
            let now = start + std::time::Duration::from_millis(bed);
            windows.push(packet, (0, bed), now, &mut closings).unwrap();
            evicted += closings.evicted;
        }
        assert!(windows.len() <= 10);
    }
    assert_eq!(evicted, 991);
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
