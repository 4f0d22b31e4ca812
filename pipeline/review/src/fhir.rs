//! A report as HL7 FHIR R4: a Bundle of one DiagnosticReport and its Observations.
//!
//! Place: given out at `/api/drafts/{id}/fhir`. Invariant: a draft is `partial` and its conclusion says that no clinician has
//! read it; only a signature makes it `final`, an amendment `amended`, a rejection `cancelled`. No patient: the stream's
//! pseudonym is the device, and whoever knows the patient adds the subject.
//!
//! Source: hl7.org/fhir/R4 diagnosticreport, observation, datatypes (SampledData); codes of LOINC and ISO/IEEE 11073-10101.

mod resource;

use ecg::lead::Lead;
use ecg::report::{DISCLAIMER, SignAction};
use ecg::segment::{LeadOrigin, Measurements, Segment};
use ecg::{SAMPLE_RATE_HZ, SEGMENT_SAMPLES};

use self::resource::{
    Bundle, BundleEntry, CodeableConcept, Coding, Component, DiagnosticReport, Identifier, Meta, Observation, Period,
    Quantity, Reference, Resource, SampledData,
};
use service::time::iso_8601;

use crate::paper::Samples;
use crate::worklist::Entry;

const LOINC: &str = "http://loinc.org";
const MDC: &str = "urn:iso:std:iso:11073:10101";
const UCUM: &str = "http://unitsofmeasure.org";
const V2_0074: &str = "http://terminology.hl7.org/CodeSystem/v2-0074";
const OBSERVATION_CATEGORY: &str = "http://terminology.hl7.org/CodeSystem/observation-category";
const ABSENT_REASON: &str = "http://terminology.hl7.org/CodeSystem/data-absent-reason";
const OBSERVATION_VALUE: &str = "http://terminology.hl7.org/CodeSystem/v3-ObservationValue";
/// Code of a recorded voltage in ISO/IEEE 11073-10101.
const MDC_ECG_ELEC_POTL: &str = "131328";

/// The bundle of a draft or a signed report; `now_us` is when it is made, microseconds since the Unix epoch.
pub fn bundle(entry: &Entry, samples: Samples, now_us: i64) -> Bundle {
    let draft = &entry.draft;
    let measured_id = format!("{}-m", draft.segment_id);
    let mut parts = Vec::new();
    if let Some(segment) = &entry.segment {
        parts.push((draft.segment_id.clone(), tracing(entry, segment, samples)));
    }
    if let Some(observation) = measurements(entry, &measured_id) {
        parts.push((measured_id, observation));
    }
    let results = parts.iter().map(|(id, _)| Reference {
        reference: Some(url("Observation", id)),
        ..Reference::default()
    });
    let report = Resource::DiagnosticReport(Box::new(report(entry, results.collect())));
    let mut entries = vec![BundleEntry {
        full_url: url("DiagnosticReport", &draft.draft_id),
        resource: report,
    }];
    entries.extend(parts.into_iter().map(|(id, observation)| BundleEntry {
        full_url: url("Observation", &id),
        resource: Resource::Observation(Box::new(observation)),
    }));
    Bundle {
        resource_type: "Bundle",
        kind: "collection",
        timestamp: iso_8601(now_us),
        entry: entries,
    }
}

/// Address by which the parts of a bundle name each other; nothing is served there.
fn url(kind: &str, id: &str) -> String {
    format!("urn:meit:{kind}:{id}")
}

fn coding(system: &'static str, code: &str, display: &str) -> Coding {
    Coding {
        system,
        code: code.to_owned(),
        display: display.to_owned(),
    }
}

fn concept(system: &'static str, code: &str, display: &str) -> CodeableConcept {
    CodeableConcept {
        coding: vec![coding(system, code, display)],
        text: None,
    }
}

fn words(text: String) -> CodeableConcept {
    CodeableConcept {
        coding: vec![],
        text: Some(text),
    }
}

fn period(entry: &Entry) -> Period {
    let start = entry.draft.start_time_us;
    let length_us = (SEGMENT_SAMPLES as f64 / SAMPLE_RATE_HZ * 1e6) as i64;
    Period {
        start: iso_8601(start),
        end: iso_8601(start.saturating_add(length_us)),
    }
}

/// Status of the report: see the invariant above.
pub fn status(entry: &Entry) -> &'static str {
    match entry.signed.as_deref() {
        None => "partial",
        Some(report) if report.action == SignAction::Rejected => "cancelled",
        Some(report) if report.version > 1 => "amended",
        Some(_) => "final",
    }
}

fn report(entry: &Entry, result: Vec<Reference>) -> DiagnosticReport {
    let draft = &entry.draft;
    let signed = entry.signed.as_deref();
    let conclusion = match signed {
        None => draft.text.as_ref().map(|text| format!("{DISCLAIMER}: {text}")),
        Some(report) if report.action == SignAction::Rejected => None,
        Some(report) => Some(report.text.clone()),
    };
    let machine = Meta {
        security: vec![coding(OBSERVATION_VALUE, "AIAST", "Artificial Intelligence asserted")],
    };
    let interpreter = signed.map(|report| Reference {
        reference: None,
        identifier: Some(Identifier {
            system: "urn:meit:signer",
            value: report.signer.clone(),
        }),
        display: (!report.role.is_empty()).then(|| report.role.clone()),
    });
    DiagnosticReport {
        id: draft.draft_id.clone(),
        meta: signed.is_none().then_some(machine),
        identifier: vec![Identifier {
            system: "urn:meit:draft",
            value: draft.draft_id.clone(),
        }],
        status: status(entry),
        category: vec![concept(V2_0074, "EC", "Electrocardiac (e.g., EKG, EEC, Holter)")],
        code: concept(LOINC, "11524-6", "EKG study"),
        effective_period: period(entry),
        issued: signed.map(|report| iso_8601(report.signed_at_us)),
        results_interpreter: interpreter.into_iter().collect(),
        result,
        conclusion,
    }
}

fn device(entry: &Entry) -> Reference {
    Reference {
        reference: None,
        identifier: Some(Identifier {
            system: "urn:meit:stream",
            value: entry.draft.stream_id.clone(),
        }),
        display: None,
    }
}

/// The twelve leads; one that is missing says so instead of showing zeros.
fn tracing(entry: &Entry, segment: &Segment, samples: Samples) -> Observation {
    let (units, method) = match samples {
        Samples::Raw => (&segment.raw, "raw samples, resampled to 500 Hz".to_owned()),
        Samples::Filtered => (
            &segment.filtered,
            format!("filter chain {} version {}", segment.chain, segment.chain_version),
        ),
    };
    let component = |lead: Lead| {
        let first = lead.index() * SEGMENT_SAMPLES;
        let missing = segment.quality[lead.index()].origin == LeadOrigin::Missing;
        let data = || SampledData {
            origin: Quantity {
                value: 0.0,
                unit: "uV",
                system: UCUM,
                code: "uV",
            },
            period: 1000.0 / SAMPLE_RATE_HZ,
            factor: decimal(segment.uv_per_unit),
            dimensions: 1,
            data: joined(&units[first..first + SEGMENT_SAMPLES]),
        };
        Component {
            code: concept(
                MDC,
                &lead.mdc_code().to_string(),
                &format!("MDC_ECG_LEAD_{}", lead.name()),
            ),
            value_quantity: None,
            value_sampled_data: (!missing).then(data),
            data_absent_reason: missing.then(|| concept(ABSENT_REASON, "not-performed", "Not Performed")),
        }
    };
    Observation {
        id: segment.id.clone(),
        status: "final",
        category: vec![concept(OBSERVATION_CATEGORY, "procedure", "Procedure")],
        code: concept(MDC, MDC_ECG_ELEC_POTL, "MDC_ECG_ELEC_POTL"),
        effective_period: period(entry),
        device: device(entry),
        method: Some(words(method)),
        component: Lead::ALL.into_iter().map(component).collect(),
    }
}

fn joined(samples: &[i16]) -> String {
    let mut out = String::with_capacity(samples.len() * 5);
    for (at, sample) in samples.iter().enumerate() {
        if at > 0 {
            out.push(' ');
        }
        out.push_str(&sample.to_string());
    }
    out
}

/// A binary fraction as the decimal that people write for it: 0.1, not 0.10000000149.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| f64::from(value))
}

/// LOINC code, name, unit and value of each measurement.
pub fn measured(m: &Measurements) -> [(&'static str, &'static str, &'static str, Option<f32>); 6] {
    [
        ("8867-4", "Heart rate", "/min", m.heart_rate_bpm),
        ("8625-6", "P-R Interval", "ms", m.pr_ms),
        ("8633-0", "QRS duration", "ms", m.qrs_ms),
        ("8634-8", "Q-T interval", "ms", m.qt_ms),
        (
            "76634-5",
            "Q-T interval corrected based on Fridericia formula",
            "ms",
            m.qtc_ms,
        ),
        ("8632-2", "QRS axis", "deg", m.axis_degrees),
    ]
}

/// What was measured; none when nothing was.
fn measurements(entry: &Entry, id: &str) -> Option<Observation> {
    let known = measured(&entry.draft.measurements)
        .into_iter()
        .filter_map(|(code, name, unit, value)| Some((code, name, unit, value.filter(|value| value.is_finite())?)));
    let component = |(code, name, unit, value): (&str, &str, &'static str, f32)| Component {
        code: concept(LOINC, code, name),
        value_quantity: Some(Quantity {
            value: decimal((value * 10.0).round() / 10.0),
            unit,
            system: UCUM,
            code: unit,
        }),
        value_sampled_data: None,
        data_absent_reason: None,
    };
    let components: Vec<Component> = known.map(component).collect();
    let signed = entry
        .signed
        .as_ref()
        .is_some_and(|report| report.action != SignAction::Rejected);
    (!components.is_empty()).then(|| Observation {
        id: id.to_owned(),
        status: if signed { "final" } else { "preliminary" },
        category: vec![concept(OBSERVATION_CATEGORY, "procedure", "Procedure")],
        code: concept(LOINC, "34534-8", "EKG 12 channel panel"),
        effective_period: period(entry),
        device: device(entry),
        method: None,
        component: components,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::testing::{entry, signed};

    fn json(entry: &Entry) -> Value {
        serde_json::to_value(bundle(entry, Samples::Filtered, 0)).unwrap()
    }

    fn report_of(bundle: &Value) -> &Value {
        &bundle["entry"][0]["resource"]
    }

    #[test]
    fn only_a_signature_makes_a_report_final() {
        let mut entry = entry("bed-01", Some("sinus rhythm"));
        let draft = json(&entry);
        assert_eq!(report_of(&draft)["status"], "partial");
        assert_eq!(
            report_of(&draft)["conclusion"],
            "draft, not reviewed by a clinician: sinus rhythm"
        );
        assert_eq!(report_of(&draft)["meta"]["security"][0]["code"], "AIAST");
        assert!(report_of(&draft).get("issued").is_none());
        for (version, action, status) in [
            (1, SignAction::Accepted, "final"),
            (1, SignAction::Edited, "final"),
            (2, SignAction::Edited, "amended"),
            (1, SignAction::Rejected, "cancelled"),
        ] {
            let mut report = signed(&entry.draft, version);
            report.action = action;
            entry.signed = Some(std::sync::Arc::new(report));
            let bundle = json(&entry);
            let found = report_of(&bundle);
            assert_eq!(found["status"], status);
            assert_eq!(found["issued"], "2023-11-14T22:15:00.000Z");
            assert_eq!(found["resultsInterpreter"][0]["identifier"]["value"], "dr-1");
            assert_eq!(found.get("conclusion").is_some(), action != SignAction::Rejected);
            assert!(found.get("meta").is_none());
        }
    }

    #[test]
    fn samples_read_back_from_their_sampled_data() {
        let mut entry = entry("bed-01", None);
        let mut segment = (**entry.segment.as_ref().unwrap()).clone();
        segment.uv_per_unit = 0.1;
        segment.filtered[SEGMENT_SAMPLES] = -1234;
        segment.quality[2].origin = LeadOrigin::Missing;
        entry.segment = Some(std::sync::Arc::new(segment));
        let bundle = json(&entry);
        let leads = bundle["entry"][1]["resource"]["component"].as_array().unwrap();
        assert_eq!(leads.len(), 12);
        let data = &leads[1]["valueSampledData"];
        assert_eq!(
            (data["factor"].as_f64(), data["period"].as_f64()),
            (Some(0.1), Some(2.0))
        );
        let samples: Vec<i16> = data["data"]
            .as_str()
            .unwrap()
            .split(' ')
            .map(|s| s.parse().unwrap())
            .collect();
        assert_eq!((samples.len(), samples[0]), (SEGMENT_SAMPLES, -1234));
        assert!(leads[2].get("valueSampledData").is_none());
        assert_eq!(leads[2]["dataAbsentReason"]["coding"][0]["code"], "not-performed");
        assert_eq!(leads[1]["code"]["coding"][0]["code"], Lead::II.mdc_code().to_string());
    }

    #[test]
    fn what_was_not_measured_is_left_out_and_references_are_in_the_bundle() {
        let entry = entry("bed-01", None);
        let bundle = json(&entry);
        let measured = bundle["entry"][2]["resource"]["component"].as_array().unwrap();
        let codes: Vec<&str> = measured
            .iter()
            .map(|c| c["code"]["coding"][0]["code"].as_str().unwrap())
            .collect();
        assert_eq!(codes, ["8867-4", "8633-0"]);
        let urls: Vec<&Value> = bundle["entry"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| &e["fullUrl"])
            .collect();
        for result in report_of(&bundle)["result"].as_array().unwrap() {
            assert!(urls.contains(&&result["reference"]), "{result}");
        }
    }

    /// Rules of R4 that a bundle of ours could break: required elements, value sets, patterns of primitive types.
    #[test]
    fn the_structure_rules_of_r4_hold() {
        let mut entry = entry("bed-01", Some("sinus rhythm"));
        check_bundle(&json(&entry));
        entry.signed = Some(std::sync::Arc::new(signed(&entry.draft, 1)));
        check_bundle(&json(&entry));
        entry.segment = None;
        check_bundle(&json(&entry));
    }

    #[track_caller]
    fn check_bundle(bundle: &Value) {
        assert_eq!(
            (&bundle["resourceType"], &bundle["type"]),
            (&"Bundle".into(), &"collection".into())
        );
        check_instant(&bundle["timestamp"]);
        check_no_empty(bundle);
        for part in bundle["entry"].as_array().unwrap() {
            let resource = &part["resource"];
            let id = resource["id"].as_str().unwrap();
            let of_id = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
            assert!((1..=64).contains(&id.len()) && id.chars().all(of_id), "id {id}");
            let status = resource["status"].as_str().unwrap();
            let statuses: &[&str] = match resource["resourceType"].as_str().unwrap() {
                "DiagnosticReport" => &["partial", "final", "amended", "cancelled"],
                "Observation" => &["preliminary", "final", "amended", "cancelled"],
                other => panic!("{other}"),
            };
            assert!(statuses.contains(&status), "{status}");
            assert!(!resource["code"]["coding"].as_array().unwrap().is_empty());
            check_instant(&resource["effectivePeriod"]["start"]);
            for component in resource["component"].as_array().into_iter().flatten() {
                check_component(component);
            }
        }
    }

    #[track_caller]
    fn check_component(component: &Value) {
        let values = ["valueQuantity", "valueSampledData", "dataAbsentReason"];
        let present = values.iter().filter(|name| component.get(**name).is_some()).count();
        assert_eq!(present, 1, "a value or the reason for its absence");
        if let Some(data) = component.get("valueSampledData") {
            assert!(data["period"].as_f64().unwrap() > 0.0 && data["dimensions"].as_u64().unwrap() > 0);
            assert_eq!(data["origin"]["system"], UCUM);
        }
    }

    #[track_caller]
    fn check_instant(value: &Value) {
        let text = value.as_str().unwrap();
        let pattern = "0000-00-00T00:00:00.000Z";
        assert_eq!(text.len(), pattern.len(), "{text}");
        for (c, like) in text.chars().zip(pattern.chars()) {
            assert!(if like == '0' { c.is_ascii_digit() } else { c == like }, "{text}");
        }
    }

    /// FHIR has no empty strings, arrays or objects.
    #[track_caller]
    fn check_no_empty(value: &Value) {
        match value {
            Value::Null => panic!("null"),
            Value::String(text) => assert!(!text.trim().is_empty()),
            Value::Array(items) => {
                assert!(!items.is_empty());
                items.iter().for_each(check_no_empty);
            }
            Value::Object(members) => {
                assert!(!members.is_empty());
                members.values().for_each(check_no_empty);
            }
            Value::Bool(_) | Value::Number(_) => {}
        }
    }
}
