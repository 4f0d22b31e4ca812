//! Faults of records: bytes, keys, schemas, devices, names.
//!
//! Place: under `faults`. Invariant: whatever a record holds, it gets a reason, and the stream goes on.

use ecg::packet::{PACKET_BYTES_MAX, Packet, RejectReason};
use ecg::segment::Reason;

use super::{Seen, play, policy, stream, undisturbed};

#[test]
fn fault_29_truncated_and_damaged_payloads_are_dead_lettered() {
    for fault in ["truncated@15s", "garbage@15s"] {
        let played = play(&[fault]);
        assert_eq!(played.refused.len(), 1, "{fault}");
        let damaged = [RejectReason::Decode, RejectReason::Schema, RejectReason::UnequalLength];
        assert!(damaged.contains(&played.refused[0]), "{fault}: {:?}", played.refused);
        played.rejects_only(1, Reason::Gap);
    }
}

#[test]
fn fault_30_a_huge_payload_is_refused_by_its_length() {
    assert_eq!(play(&["too-large@15s"]).refused, [RejectReason::TooLarge]);
    let mut seen = Seen::new(policy());
    let record = |payload| bedside::fault::Record {
        key: b"bed-01".to_vec(),
        payload,
    };
    seen.take(&record(vec![0; PACKET_BYTES_MAX + 1]));
    // a field that says it is 2^31 bytes long: refused before anything of that size is allocated
    seen.take(&record(b"\x12\xff\xff\xff\xff\x07".to_vec()));
    assert_eq!(seen.finish().refused, [RejectReason::TooLarge, RejectReason::Decode]);
}

#[test]
fn fault_32_an_unknown_schema_is_dead_lettered() {
    assert_eq!(play(&["schema@15s"]).refused, [RejectReason::Schema]);
}

#[test]
fn fault_33_a_record_under_another_streams_key_is_dead_lettered() {
    let played = play(&["wrong-key@10s"]);
    assert_eq!(played.refused, [RejectReason::Identity; 40]);
    assert!(!played.starts().contains(&5000));
}

#[test]
fn fault_34_another_device_under_the_same_boot_is_dead_lettered() {
    let played = play(&["two-devices@10s"]);
    assert_eq!(played.refused, [RejectReason::SeqConflict; 40]);
    played.same_segments_as_undisturbed();
}

#[test]
fn fault_34_a_device_that_takes_over_cuts_the_window() {
    let played = play(&["takeover@25s"]);
    assert_eq!(played.takeovers, 1);
    let windows: Vec<(u64, i64)> = played.segments.iter().map(|s| (s.boot_id, s.start_sample)).collect();
    // 20 s to 25 s belong to the device before, and are given up
    assert_eq!(windows, [(1, 0), (1, 5000), (2, 0), (2, 5000), (2, 10_000)]);
    assert!(played.skipped.partial > 0);
}

#[test]
fn fault_34_a_device_that_boots_begins_a_new_grid_with_ids_of_its_own() {
    let played = play(&["reboot@20s"]);
    assert_eq!(played.takeovers, 1);
    let windows: Vec<(u64, i64)> = played.segments.iter().map(|s| (s.boot_id, s.start_sample)).collect();
    assert_eq!(
        windows,
        [(1, 0), (1, 5000), (2, 0), (2, 5000), (2, 10_000), (2, 15_000)]
    );
    let ids: std::collections::BTreeSet<&str> = played.segments.iter().map(|segment| &*segment.id).collect();
    assert_eq!(ids.len(), 6);
    assert_eq!(
        played.skipped,
        ecg::window::Skipped::default(),
        "the windows met at the boot"
    );
}

#[test]
fn fault_34_another_device_that_booted_as_often_takes_over_after_a_silence_with_ids_of_its_own() {
    let mut seen = Seen::new(policy());
    for packet in stream() {
        // exchanged at 20 s for a monitor with the same boot number, which is on the air 15 s later
        let other = packet.first_sample - 10_000;
        let packet = if other < 0 {
            packet
        } else {
            Packet {
                device_id: "monitor-other".into(),
                first_sample: other,
                gateway_time_us: packet.gateway_time_us + 15_000_000,
                ..packet
            }
        };
        seen.now_us = packet.gateway_time_us;
        seen.take(&bedside::fault::Record {
            key: packet.stream_id.clone().into_bytes(),
            payload: packet.encode(),
        });
    }
    let played = seen.finish();
    assert_eq!((played.takeovers, played.refused.len()), (1, 0));
    let windows: Vec<(u64, i64)> = played.segments.iter().map(|s| (s.boot_id, s.start_sample)).collect();
    assert_eq!(
        windows,
        [(1, 0), (1, 5000), (1, 0), (1, 5000), (1, 10_000), (1, 15_000)]
    );
    let ids: std::collections::BTreeSet<&str> = played.segments.iter().map(|segment| &*segment.id).collect();
    assert_eq!(ids.len(), 6);
}

#[test]
fn fault_34_one_packet_of_a_wild_boot_is_dead_lettered_and_its_stream_goes_on() {
    let played = play(&["boot-wild@25s"]);
    assert_eq!(played.refused, [RejectReason::BootUnproven]);
    assert_eq!((played.takeovers, played.held, played.late), (0, 1, 0));
    assert_eq!(played.starts(), undisturbed().starts());
    // the packet itself is missing where it belonged
    played.rejects_only(2, Reason::Gap);
}

#[test]
fn fault_34_a_device_that_takes_over_loses_no_packet_while_its_boot_is_on_trial() {
    for fault in ["takeover@25s", "reboot@25s"] {
        let played = play(&[fault]);
        assert_eq!((played.takeovers, played.held, played.late), (1, 2, 0), "{fault}");
        assert!(played.refused.is_empty(), "{fault}: {:?}", played.refused);
        assert_eq!(played.fresh, undisturbed().fresh, "{fault}");
    }
}

#[test]
fn fault_36_a_persons_name_is_dead_lettered_and_never_quoted() {
    assert_eq!(play(&["name@15s"]).refused, [RejectReason::LeadUnknown]);
    let mut injector = bedside::fault::Injector::new(&["name@0s".parse().unwrap()], "bed-01");
    let record = injector.records(&stream()[0]).remove(0);
    let error = Packet::decode(&record.payload).unwrap_err();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text += &cause.to_string();
        source = cause.source();
    }
    assert!(!text.contains("DOE"), "{text}");
}
