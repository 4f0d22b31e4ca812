//! Faults of the signal: what electrodes, amplifiers, devices and hearts do.
//!
//! Place: under `faults`. Invariant: a fault of one window leaves the verdicts of the others alone.

use ecg::SEGMENT_SAMPLES;
use ecg::lead::Lead;
use ecg::packet::RejectReason;
use ecg::segment::{Decision, LeadOrigin, Reason, Segment};

use super::{Policy, Seen, WINDOWS, play, play_to, policy, stream, undisturbed, windows_config};

#[test]
fn fault_01_a_gain_that_is_not_a_number_is_dead_lettered_and_never_reaches_a_window() {
    let played = play(&["non-finite@15s"]);
    assert_eq!(played.refused, [RejectReason::NonFinite]);
    // the packet is missing, which is a gap of 250 ms
    played.rejects_only(1, Reason::Gap);
}

#[test]
fn fault_01_a_masked_blip_of_16_ms_is_bridged_and_a_hole_of_200_ms_is_not() {
    let blip = play(&["blip@15s"]);
    blip.reads_all_but(&[]);
    assert_eq!(blip.window(1).decision, undisturbed().window(1).decision);
    let drawn = |number: i64| blip.window(number).quality.iter().map(|quality| quality.drawn_samples);
    assert!(drawn(1).all(|samples| samples == 8), "16 ms are marked");
    assert!(drawn(0).chain(drawn(2)).all(|samples| samples == 0));
    play(&["hole@15s"]).rejects_only(1, Reason::Gap);
}

#[test]
fn fault_02_three_leads_are_no_twelve() {
    play(&["three-leads@10s"]).rejects_only(1, Reason::LeadCount);
}

#[test]
fn fault_02_eight_independent_leads_give_twelve() {
    let played = play(&["eight-leads@10s"]);
    played.reads_all_but(&[]);
    let origins: Vec<LeadOrigin> = played.window(1).quality.iter().map(|quality| quality.origin).collect();
    let derived = [Lead::III, Lead::AVR, Lead::AVL, Lead::AVF];
    for lead in Lead::ALL {
        let expected = if derived.contains(&lead) {
            LeadOrigin::Derived
        } else {
            LeadOrigin::Measured
        };
        assert_eq!(origins[lead.index()], expected, "{lead}");
    }
}

#[test]
fn fault_03_leads_in_another_order_under_other_names_give_the_same_segments() {
    play(&["lead-order@10s"]).same_segments_as_undisturbed();
}

#[test]
fn fault_03_an_unknown_lead_is_dead_lettered() {
    assert_eq!(play(&["lead-unknown@15s"]).refused, [RejectReason::LeadUnknown]);
}

#[test]
fn fault_04_a_lead_that_comes_twice_is_dead_lettered() {
    assert_eq!(play(&["lead-duplicate@15s"]).refused, [RejectReason::LeadDuplicate]);
}

#[test]
fn fault_05_microvolts_sent_as_millivolts_are_rejected_and_not_scaled() {
    let played = play(&["unit-error@10s"]);
    let segment = played.window(1);
    assert_eq!(segment.decision, Decision::Reject);
    // told by its scale, whatever a thousandfold signal looks like besides
    assert!(segment.reasons.contains(&Reason::UnitSuspect), "{:?}", segment.reasons);
    let plain = undisturbed()
        .window(1)
        .raw
        .iter()
        .map(|&sample| 1000 * i32::from(sample));
    let is_kept = |(&sample, told): (&i16, i32)| i32::from(sample) == told || sample.unsigned_abs() >= 32_767;
    assert!(
        segment.raw.iter().zip(plain).all(is_kept),
        "the samples are as they were sent"
    );
    played.reads_all_but(&[1]);
}

#[test]
fn fault_06_an_undeclared_gain_step_rejects_the_window_and_is_never_scaled_back() {
    let (played, before) = (play(&["gain-step@10s"]), undisturbed());
    let (stepped, plain) = (&played.window(1).raw[..5000], &before.window(1).raw[..5000]);
    assert_eq!(stepped[..2500], plain[..2500]);
    assert!((2500..5000).all(|at| stepped[at] == 2 * plain[at]));
    played.rejects_only(1, Reason::GainStep);
}

#[test]
fn fault_07_swapped_arms_are_never_corrected() {
    let (played, before) = (play(&["lead-swap@10s"]), undisturbed());
    let lead = |played: &super::Played, lead: Lead| -> Vec<i16> {
        let first = lead.index() * ecg::SEGMENT_SAMPLES;
        played.window(1).raw[first..first + ecg::SEGMENT_SAMPLES].to_vec()
    };
    let turned: Vec<i16> = lead(before, Lead::I).iter().map(|sample| -sample).collect();
    assert_eq!(lead(&played, Lead::I), turned);
    assert_eq!(lead(&played, Lead::II), lead(before, Lead::III));
    let segment = played.window(1);
    assert_eq!(
        (segment.decision, &*segment.reasons),
        (Decision::Marginal, &[Reason::ReversalSuspected][..])
    );
    assert!(!before.window(1).reasons.contains(&Reason::ReversalSuspected));
    played.reads_all_but(&[1]);
}

/// The stream as it comes where each of some leads is another one, turned over or not.
fn rewired(map: &[(Lead, Lead, i16)]) -> super::Played {
    let mut packets = stream();
    for packet in &mut packets {
        let before = packet.leads.clone();
        for lead in &mut packet.leads {
            let Some(&(_, source, sign)) = map.iter().find(|(to, ..)| *to == lead.lead) else {
                continue;
            };
            let source = before.iter().find(|lead| lead.lead == source).unwrap();
            lead.samples = source.samples.iter().map(|sample| sign * sample).collect();
        }
    }
    play_to(Seen::new(policy()), &packets, &[])
}

#[test]
fn fault_07_other_swaps_are_never_corrected_either_and_are_flagged_where_the_beats_show_them() {
    use Lead::{AVF, AVL, AVR, I, II, III, V1, V2, V3, V4, V5, V6};
    let two = |a: Lead, b: Lead| vec![(a, b, 1), (b, a, 1)];
    let (arm_and_leg, left) = (
        vec![(I, III, -1), (II, II, -1), (III, I, -1), (AVR, AVF, 1), (AVF, AVR, 1)],
        vec![(I, II, 1), (II, I, 1), (III, III, -1), (AVL, AVF, 1), (AVF, AVL, 1)],
    );
    // which of the three recordings are flagged
    for (name, map, flagged) in [
        ("RA/LL", arm_and_leg, [true, true, true]),
        ("LA/LL", left, [false, true, true]),
        ("V1/V2", two(V1, V2), [true, true, false]),
        ("V2/V3", two(V2, V3), [false, true, false]),
        ("V3/V4", two(V3, V4), [false, true, true]),
        ("V4/V5", two(V4, V5), [false, true, true]),
        ("V5/V6", two(V5, V6), [false, false, true]),
    ] {
        let played = rewired(&map);
        for number in 0..WINDOWS as i64 {
            let (segment, before) = (played.window(number), undisturbed().window(number));
            let suspected = segment.reasons.contains(&Reason::ReversalSuspected);
            assert_eq!(suspected, flagged[number as usize % 3], "{name}, window {number}");
            if suspected {
                assert_eq!(segment.decision, Decision::Marginal, "{name}: {:?}", segment.reasons);
            }
            let of = |segment: &Segment, lead: Lead| {
                segment.raw[lead.index() * SEGMENT_SAMPLES..][..SEGMENT_SAMPLES].to_vec()
            };
            for lead in Lead::ALL {
                let &(_, source, sign) = map.iter().find(|(to, ..)| *to == lead).unwrap_or(&(lead, lead, 1));
                let sent: Vec<i16> = of(before, source).iter().map(|sample| sign * sample).collect();
                assert!(
                    of(segment, lead) == sent,
                    "{name}: {lead} of window {number} was changed"
                );
            }
        }
    }
}

#[test]
fn fault_08_a_flat_line_on_every_lead_is_rejected() {
    play(&["flat@10s"]).rejects_only(1, Reason::Flat);
}

#[test]
fn fault_08_a_flat_lead_is_named_and_the_others_are_read() {
    let played = play(&["flat-lead@10s"]);
    played.reads_all_but(&[]);
    let quality = &played.window(1).quality[Lead::V4.index()];
    assert!(
        !quality.usable && quality.flags.contains(&Reason::Flat),
        "{:?}",
        quality.flags
    );
}

#[test]
fn fault_09_five_leads_at_the_rail_reject_the_window() {
    let played = play(&["saturation@10s"]);
    let segment = played.window(1);
    assert_eq!(segment.decision, Decision::Reject);
    assert!(segment.reasons.contains(&Reason::Saturated), "{:?}", segment.reasons);
    let at_rail = |lead: &Lead| segment.quality[lead.index()].flags.contains(&Reason::Saturated);
    let named: Vec<&str> = Lead::ALL
        .iter()
        .filter(|lead| at_rail(lead))
        .map(|lead| lead.name())
        .collect();
    assert_eq!(named, ["V2", "V3", "V4", "V5", "V6"]);
    assert!(
        Lead::ALL
            .iter()
            .all(|lead| segment.quality[lead.index()].usable != at_rail(lead))
    );
    assert!(segment.reasons.contains(&Reason::LeadCount));
}

#[test]
fn fault_09_a_shock_rejects_every_window_that_has_samples_of_the_five_seconds_behind_it() {
    // from 18 to 19 s, so until 24 s
    let played = play(&["shock@10s"]);
    for number in [1, 2] {
        let segment = played.window(number);
        assert_eq!(segment.decision, Decision::Reject, "window {number}");
        assert!(segment.reasons.contains(&Reason::Saturated), "{:?}", segment.reasons);
    }
    assert_eq!(played.window(2).raw, undisturbed().window(2).raw);
    played.reads_all_but(&[1, 2]);
    // from 14 to 15 s, so until the next window begins
    play(&["shock@6s"]).rejects_only(1, Reason::Saturated);
}

#[test]
fn fault_10_hum_is_found_and_told_and_the_window_is_not_accepted() {
    let played = play(&["hum@10s"]);
    let segment = played.window(1);
    assert_eq!(segment.measurements.mains_hz, Some(50.0));
    assert_ne!(segment.decision, Decision::Accept);
    assert!(segment.reasons.contains(&Reason::Mains), "{:?}", segment.reasons);
    assert_eq!(undisturbed().window(1).measurements.mains_hz, None);
}

#[test]
fn fault_11_baseline_wander_is_told_and_the_window_is_not_accepted() {
    let played = play(&["wander@10s"]);
    let segment = played.window(1);
    assert_ne!(segment.decision, Decision::Accept);
    assert!(segment.reasons.contains(&Reason::Baseline), "{:?}", segment.reasons);
}

#[test]
fn fault_12_muscle_noise_is_rejected_for_its_signal_to_noise_ratio() {
    play(&["muscle@10s"]).rejects_only(1, Reason::SnrLow);
}

#[test]
fn fault_12_a_stride_below_ten_seconds_reads_the_clean_ten_seconds_that_the_grid_cuts_in_two() {
    // clean from 15 to 25 s
    let noise = ["muscle@5s", "muscle@25s"];
    let grid = play(&noise);
    for number in 0..4 {
        assert_eq!(grid.window(number).decision, Decision::Reject, "window {number}");
    }
    let (stride, mut windows) = (2500, windows_config());
    windows.windower.stride = stride;
    let close = play_to(Seen::cutting(Policy { stride, ..policy() }, windows), &stream(), &noise);
    let clean = close
        .segments
        .iter()
        .find(|segment| segment.start_sample == 7500)
        .unwrap();
    assert_ne!(clean.decision, Decision::Reject, "{:?}", clean.reasons);
    let close = close.essence();
    assert!(
        grid.essence().iter().all(|window| close.contains(window)),
        "those on the grid are the same"
    );
}

#[test]
fn fault_13_electrode_motion_is_not_accepted() {
    let played = play(&["motion@10s"]);
    assert_ne!(played.window(1).decision, Decision::Accept);
    played.reads_all_but(&[1]);
}

#[test]
fn fault_14_a_broad_band_burst_rejects_its_window_and_the_next_are_read() {
    play(&["burst@20s"]).rejects_only(2, Reason::Burst);
}

#[test]
fn fault_15_a_paced_rhythm_abstains_and_its_pulses_are_carried() {
    let played = play(&["paced@10s"]);
    played.rejects_only(1, Reason::Paced);
    assert_eq!(played.window(1).samples_sha256, undisturbed().window(1).samples_sha256);
}

#[test]
fn fault_16_an_electrode_that_falls_off_takes_its_leads_with_it() {
    let played = play(&["lead-off@12s"]);
    played.rejects_only(1, Reason::LeadOff);
    let segment = played.window(1);
    let off: Vec<&str> = (Lead::ALL.into_iter())
        .filter(|lead| segment.quality[lead.index()].flags.contains(&Reason::LeadOff))
        .map(Lead::name)
        .collect();
    assert_eq!(off, ["II", "III", "aVR", "aVL", "aVF"]);
}

#[test]
fn fault_17_fibrillation_is_no_draft() {
    play(&["fibrillation@10s"]).rejects_only(1, Reason::RhythmUnusual);
}

#[test]
fn fault_17_a_clean_tachycardia_of_220_is_read() {
    let played = play(&["tachycardia@10s"]);
    played.reads_all_but(&[]);
    let rate = played.window(1).measurements.heart_rate_bpm.unwrap();
    assert!((rate - 220.0).abs() < 3.0, "{rate}");
}
