//! What reports name, on sentences of the kind that PTB-XL's reports hold.
//!
//! Place: beside the labeller. Invariant: expectations are read from the sentence by hand, not from the labeller.

use super::Certainty::{Affirmed, Denied, Hedged};
use super::*;

#[track_caller]
fn check(text: &str, wanted: &[(&str, Certainty)]) {
    let found: Vec<(&str, Certainty)> = findings(text).into_iter().collect();
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    assert_eq!(found, wanted, "{text}");
}

#[test]
fn every_class_is_named_by_its_own_description() {
    assert_eq!(classes().len(), 71);
    for class in classes() {
        let found = findings(class.description);
        assert!(
            found.get(class.code).is_some_and(|c| c.is_named()),
            "{}: {:?} names {found:?}",
            class.code,
            class.description
        );
    }
}

#[test]
fn the_longer_phrase_counts() {
    check("incomplete right bundle branch block", &[("IRBBB", Affirmed)]);
    check("complete left bundle branch block", &[("CLBBB", Affirmed)]);
    check("non-specific t wave abnormality", &[("NDT", Affirmed)]);
    check("non-specific T wave flattening in I, aVL", &[("NT_", Affirmed)]);
    check("paroxysmal supraventricular tachycardia", &[("PSVT", Affirmed)]);
    check(
        "voltages are high in chest leads suggesting lvh",
        &[("LVH", Affirmed), ("VCLVH", Affirmed)],
    );
    check("wandering atrial pacemaker", &[]);
    check("qrs(t) contour abnormality", &[("ABQRS", Affirmed)]);
}

#[test]
fn territories_are_kept_apart_and_joined_ones_all_count() {
    check("anterolateral infarct, age undetermined", &[("ALMI", Affirmed)]);
    check(
        "old anterior and inferior infarct",
        &[("AMI", Affirmed), ("IMI", Affirmed)],
    );
    check(
        "left anterior fascicular block inferior infarct",
        &[("LAFB", Affirmed), ("IMI", Affirmed)],
    );
    check(
        "st & t abnormality, probably high lateral ischaemia or left ventricular strain",
        &[("ISCLA", Hedged)],
    );
    check(
        "st abnormality, possibly anterolateral subendocardial damage",
        &[("INJAL", Hedged)],
    );
}

#[test]
fn denials_reach_over_their_clause_only() {
    check(
        "no ecg evidence of lvh or ischaemia",
        &[("LVH", Denied), ("ISC_", Denied)],
    );
    check("no st elevation, sinus rhythm", &[("STE_", Denied), ("SR", Affirmed)]);
    check(
        "regular rhythm, no p wave found. atrial fibrillation",
        &[("AFIB", Affirmed)],
    );
    check(
        "sinus rhythm without st depression but inverted t waves",
        &[("SR", Affirmed), ("STD_", Denied), ("INVT", Affirmed)],
    );
    check("previous anteroseptal infarct unlikely", &[("ASMI", Denied)]);
    check("rhythm was previously atrial fibrillation", &[("AFIB", Denied)]);
    check("no change in t wave inversion in iii", &[("INVT", Affirmed)]);
    check("no definite pathology", &[("NORM", Affirmed)]);
}

#[test]
fn hedges_name_and_a_surer_mention_wins() {
    check("possible left atrial enlargement", &[("LAO/LAE", Hedged)]);
    check(
        "q waves in v2, old anteroseptal infarct cannot be excluded",
        &[("QWAVE", Affirmed), ("ASMI", Hedged)],
    );
    check("cannot rule out anteroseptal infarction", &[("ASMI", Hedged)]);
    check("suggest exclude hypokalaemia", &[("EL", Hedged)]);
    check("possible inferior infarct. inferior infarct", &[("IMI", Affirmed)]);
    check("no inferior infarct. possible inferior infarct", &[("IMI", Hedged)]);
}

#[test]
fn abbreviations_and_plurals_are_read() {
    check(
        "LBBB, 1st degree AV block, PVCs",
        &[("CLBBB", Affirmed), ("1AVB", Affirmed), ("PVC", Affirmed)],
    );
    check(
        "t waves are flat in ii and inverted in iii, avf",
        &[("LOWT", Affirmed), ("INVT", Affirmed)],
    );
    check("atrial fibrillation/flutter", &[("AFIB", Affirmed)]);
    check(
        "premature ventricular contraction(s), bigeminy",
        &[("PVC", Affirmed), ("BIGU", Affirmed)],
    );
    check("abnormal ecg. otherwise no definite pathology", &[]);
}

#[test]
fn german_reports_are_read() {
    check(
        "sinusrhythmus linkstyp linksschenkelblock linkshypertrophie möglich",
        &[("SR", Affirmed), ("CLBBB", Affirmed), ("LVH", Hedged)],
    );
    check(
        "Vorhofflimmern. Keine Ischämie.",
        &[("AFIB", Affirmed), ("ISC_", Denied)],
    );
    check("inferiorer myokardschaden nicht auszuschliessen", &[("IMI", Hedged)]);
    check(
        "sinusrhythmus lagetyp normal normales ekg",
        &[("SR", Affirmed), ("NORM", Affirmed)],
    );
    check(
        "unspezifisches abnormales t, qt-verlängerung",
        &[("NDT", Affirmed), ("LNGQT", Affirmed)],
    );
}

#[test]
fn agreement_counts_named_classes_and_averages_the_frequent_ones() {
    let pair = |h: &str, r: &str| (h.to_owned(), r.to_owned());
    let mut pairs = vec![pair("sinus rhythm", "sinus rhythm"); 15];
    pairs.extend(vec![pair("atrial fibrillation", "sinus rhythm"); 5]);
    pairs.push(pair("no lvh", "possible lvh"));
    let scores = agreement(&pairs);
    // SR: 15 of 15 named are right, 15 of 20 found; AFIB and LVH have fewer than 20 positives
    assert_eq!((scores.classes, scores.each["SR"].positives), (1, 20));
    assert!((scores.f1_macro.unwrap() - 30.0 / 35.0).abs() < 1e-12);
    assert_eq!(
        scores.each["LVH"],
        ClassAgreement {
            positives: 1,
            ..ClassAgreement::default()
        }
    );
    assert_eq!((scores.each["AFIB"].named, scores.each["AFIB"].positives), (5, 0));
    assert!((scores.f1_micro - 30.0 / 41.0).abs() < 1e-12);
    assert_eq!(scores.certainty_agreement, Some(1.0));
    assert_eq!(agreement(&[]).f1_macro, None);
}
