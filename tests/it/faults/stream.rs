//! Faults of the stream: clocks, order, repetition, absence, labels, urgency.
//!
//! Place: under `faults`. Invariant: windows are cut by sample index, so a clock alone moves none.

use std::collections::BTreeSet;
use std::ops::Range;

use ::agent::policy::{Choice, Omitted, Policy};
use ::agent::route::route;
use ecg::packet::{Packet, RejectReason};
use ecg::segment::{Decision, FilterClass, Reason};
use ecg::topic;
use ecg::window::{ClockJump, EPOCH};

use super::{PACKET_SAMPLES, Seen, WINDOWS, play, play_under, policy, stream, undisturbed};

#[test]
fn fault_18_a_clock_that_goes_back_moves_no_window_and_doubles_none() {
    let played = play(&["clock-back@25s"]);
    played.same_segments_as_undisturbed();
    assert_eq!(played.jumps, [ClockJump::Back]);
    let times: Vec<i64> = played.segments.iter().map(|segment| segment.start_time_us).collect();
    let steps: Vec<i64> = times.windows(2).map(|pair| (pair[1] - pair[0]) / 1_000_000).collect();
    // the window in which it happened keeps its first sample's time
    assert_eq!(steps, [10, 10, 10 - 3600, 10, 10]);
}

#[test]
fn fault_18_an_index_that_begins_again_goes_on_in_an_epoch_of_its_own_after_two_seconds() {
    for (fault, before, after) in [
        ("index-restart@30s", vec![0, 5000, 10_000], vec![5000, 10_000]),
        ("index-restart@33s", vec![0, 5000, 10_000], vec![5000]),
    ] {
        let played = play(&[fault]);
        assert!(played.refused.is_empty(), "{fault}: {:?}", played.refused);
        // seven of 250 ms are late, the eighth makes two seconds
        assert_eq!((played.late, played.rebases), (7 * PACKET_SAMPLES, 1), "{fault}");
        let after = after.into_iter().map(|start| EPOCH + start);
        assert_eq!(
            played.starts(),
            before.into_iter().chain(after).collect::<Vec<_>>(),
            "{fault}"
        );
        let ids: BTreeSet<&str> = played.segments.iter().map(|segment| &*segment.id).collect();
        assert_eq!(ids.len(), played.segments.len(), "{fault}: ids of their own");
        // device time goes on, whatever the index does
        let times: Vec<i64> = played.segments.iter().map(|segment| segment.start_time_us).collect();
        assert!(times.is_sorted(), "{fault}: {times:?}");
    }
}

#[test]
fn fault_18_an_index_that_begins_again_gives_the_same_segments_in_any_packets() {
    let [whole, halves] = [1, 2].map(|parts| {
        let mut seen = Seen::new(policy());
        for packet in stream() {
            let mut packet = packet;
            if packet.first_sample >= 15_000 {
                packet.first_sample -= 15_000;
            }
            for part in halved(&packet, parts) {
                seen.take(&record(&part));
            }
        }
        seen.finish()
    });
    assert_eq!((whole.rebases, halves.rebases), (1, 1));
    assert_eq!(whole.segments.len(), 5);
    assert_eq!(whole.essence(), halves.essence());
}

/// The packet in one or two parts.
fn halved(packet: &Packet, parts: usize) -> Vec<Packet> {
    let middle = packet.len() / 2;
    if parts == 1 || packet.heartbeat {
        return vec![packet.clone()];
    }
    let part = |range: Range<usize>| {
        let mut part = packet.clone();
        part.sequence = 2 * packet.sequence + u64::from(range.start > 0);
        part.first_sample += range.start as i64;
        part.device_time_us += 2000 * range.start as i64;
        part.leads
            .iter_mut()
            .for_each(|lead| lead.samples = lead.samples[range.clone()].to_vec());
        part
    };
    vec![part(0..middle), part(middle..packet.len())]
}

#[test]
fn fault_19_a_clock_that_goes_forward_moves_no_window() {
    let played = play(&["clock-forward@25s"]);
    played.same_segments_as_undisturbed();
    assert_eq!(played.jumps, [ClockJump::Forward]);
}

#[test]
fn fault_19_a_sample_index_a_day_ahead_is_quarantined_and_closes_nothing() {
    let played = play(&["index-forward@25s"]);
    assert_eq!(played.refused, [RejectReason::ClockFwd]);
    assert_eq!(played.late, 0, "what follows is on time");
    assert_eq!(played.starts(), undisturbed().starts());
    // the packet itself is missing where it belonged
    played.rejects_only(2, Reason::Gap);
}

#[test]
fn fault_19_an_index_that_stays_ahead_is_believed_after_two_seconds() {
    let mut seen = Seen::new(policy());
    let mut packets = stream();
    let last = packets.len() - 1;
    for packet in &mut packets[last / 2..] {
        packet.first_sample += 43_200_000;
    }
    for packet in &packets {
        seen.take(&record(packet));
    }
    let played = seen.finish();
    // seven of 250 ms are refused, the eighth makes two seconds
    assert_eq!(played.refused, [RejectReason::ClockFwd; 7]);
    assert_eq!(played.jumps, [ClockJump::Forward]);
    let late: Vec<i64> = played.starts().into_iter().filter(|start| *start > 1_000_000).collect();
    assert_eq!(late, [43_215_000, 43_220_000, 43_225_000]);
    let first = played
        .segments
        .iter()
        .find(|segment| segment.start_sample == late[0])
        .unwrap();
    assert!(
        first.reasons.contains(&Reason::Gap),
        "it lacks what was refused: {:?}",
        first.reasons
    );
}

#[test]
fn fault_20_a_drift_of_100_ppm_is_measured_and_slips_no_window() {
    let played = play(&["drift@0s"]);
    played.same_segments_as_undisturbed();
    assert!((played.drift_ppm - 100.0).abs() < 2.0, "{} ppm", played.drift_ppm);
    assert!(undisturbed().drift_ppm < 0.5, "{} ppm", undisturbed().drift_ppm);
}

#[test]
fn fault_21_a_packet_that_comes_twice_counts_once() {
    let played = play(&["duplicate@10s"]);
    played.same_segments_as_undisturbed();
    assert_eq!(played.duplicate, 5000);
}

#[test]
fn fault_22_a_number_that_comes_again_with_other_samples_is_dead_lettered_and_the_first_is_kept() {
    let played = play(&["conflict@15s"]);
    played.same_segments_as_undisturbed();
    assert_eq!(played.refused, [RejectReason::SeqConflict]);
}

#[test]
fn fault_22_a_number_that_comes_again_elsewhere_is_dead_lettered() {
    let mut seen = Seen::new(policy());
    let packets = stream();
    for packet in &packets {
        seen.take(&record(packet));
        if packet.first_sample == 5000 {
            let mut other = packet.clone();
            other.first_sample += 5 * PACKET_SAMPLES as i64;
            seen.take(&record(&other));
        }
    }
    let played = seen.finish();
    assert_eq!(played.refused, [RejectReason::SeqConflict]);
    played.same_segments_as_undisturbed();
}

#[test]
fn fault_23_a_missing_second_rejects_its_window_and_no_other() {
    let played = play(&["gap@15s"]);
    played.rejects_only(1, Reason::Gap);
    assert_eq!(played.fresh, WINDOWS * 5000 - 500);
}

#[test]
fn fault_24_packets_in_another_order_give_the_same_segments() {
    play(&["reorder@10s"]).same_segments_as_undisturbed();
}

#[test]
fn fault_25_a_packet_after_its_window_closed_is_counted_and_makes_no_second_segment() {
    let played = play(&["late@15s"]);
    assert_eq!(played.late, PACKET_SAMPLES);
    assert_eq!(played.starts(), undisturbed().starts());
    played.rejects_only(1, Reason::Gap);
}

#[test]
fn fault_26_a_backlog_older_than_the_freshness_limit_is_shed_and_the_live_windows_are_read() {
    let played = play(&["backlog@10s"]);
    assert_eq!(played.omitted, [Omitted::Stale]);
    assert_eq!(played.starts(), [0, 10_000, 15_000, 20_000, 25_000]);
    let never = Policy {
        freshness_us: 0,
        ..policy()
    };
    play_under(&["backlog@10s"], never).same_segments_as_undisturbed();
}

#[test]
fn fault_26_an_urgent_window_is_never_shed() {
    let played = play(&["stat@10s", "backlog@10s"]);
    assert!(played.omitted.is_empty());
    assert!(played.window(1).stat);
}

#[test]
fn fault_27_a_changed_rate_label_is_dead_lettered_until_it_is_right_again() {
    let played = play(&["rate-label@10s"]);
    assert_eq!(played.refused, [RejectReason::RateMismatch; 40]);
    assert!(!played.starts().contains(&5000));
    played.reads_all_but(&[1]);
}

#[test]
fn fault_27_samples_that_come_at_another_rate_than_their_label_make_no_segment() {
    let played = play(&["rate-wrong@20s"]);
    assert!(played.refused.len() >= 30, "{} refused", played.refused.len());
    assert!(
        played
            .refused
            .iter()
            .all(|reason| *reason == RejectReason::RateMismatch)
    );
    for start in played.starts() {
        assert!(
            !(10_000..15_000).contains(&start),
            "the window at {start} has samples of another rate"
        );
    }
    assert!(played.skipped.partial > 0);
    assert!(
        played.starts().contains(&25_000),
        "once the label is right, windows are made again"
    );
}

#[test]
fn fault_27_a_rate_that_is_a_little_off_rejects_its_windows_before_its_packets_are_refused() {
    let played = play(&["rate-off@20s"]);
    // 1.5 % are 0.3 s over the 20 s after which the packets are refused too
    assert_eq!(played.starts(), [0, 5000, 10_000]);
    for number in [0, 1] {
        assert_ne!(played.window(number).decision, Decision::Reject);
    }
    let off = played.window(2);
    assert_eq!(
        (off.decision, &*off.reasons),
        (Decision::Reject, &[Reason::RateMismatch][..])
    );
    assert_eq!(off.samples_sha256, undisturbed().window(2).samples_sha256);
    assert!(played.refused.len() > 60, "{} refused", played.refused.len());
    assert!(
        played
            .refused
            .iter()
            .all(|reason| *reason == RejectReason::RateMismatch)
    );
}

#[test]
fn fault_28_overlapping_packets_are_merged_when_they_agree() {
    let played = play(&["overlap@10s"]);
    played.same_segments_as_undisturbed();
    assert_eq!(played.duplicate, 3 * 5000 / 4);
}

#[test]
fn fault_45_urgent_requests_are_marked_and_have_a_topic_of_their_own() {
    let played = play(&["stat@10s"]);
    let urgent: Vec<bool> = played.segments.iter().map(|segment| segment.stat).collect();
    assert_eq!(urgent, [false, true, false, false, false, false]);
    let topics: Vec<&str> = played.segments.iter().map(|segment| route(segment).topic()).collect();
    let routine = topic::SEGMENTS;
    assert_eq!(
        topics,
        [routine, topic::SEGMENTS_STAT, routine, routine, routine, routine]
    );
}

#[test]
fn fault_45_each_policy_omits_what_it_is_told_to_and_counts_it() {
    let of = |choice| {
        let played = play_under(&["stat@10s"], Policy { choice, ..policy() });
        assert_eq!(played.segments.len() + played.omitted.len(), WINDOWS);
        played.starts()
    };
    assert_eq!(of(Choice::Every).len(), WINDOWS);
    assert_eq!(of(Choice::Kth), [0, 5000, 15_000], "every third, and the urgent one");
    assert_eq!(of(Choice::Demand), [5000]);
    // three different hearts
    assert_eq!(of(Choice::Change)[..2], [0, 5000]);
}

#[test]
fn the_devices_filter_class_is_carried_from_the_packet_to_the_segment() {
    let mut seen = Seen::new(policy());
    for mut packet in stream() {
        packet.filter_class = match packet.first_sample {
            5000.. => FilterClass::Diagnostic,
            _ => FilterClass::Unspecified,
        };
        if packet.first_sample == 10_000 {
            packet.filter_class = FilterClass::Monitor;
        }
        seen.take(&record(&packet));
    }
    let played = seen.finish();
    let classes: Vec<FilterClass> = played.segments.iter().map(|segment| segment.filter_class).collect();
    use FilterClass::{Diagnostic, Monitor, Unspecified};
    assert_eq!(
        classes,
        [Unspecified, Diagnostic, Monitor, Diagnostic, Diagnostic, Diagnostic]
    );
}

fn record(packet: &ecg::packet::Packet) -> bedside::fault::Record {
    bedside::fault::Record {
        key: packet.stream_id.clone().into_bytes(),
        payload: packet.encode(),
    }
}
