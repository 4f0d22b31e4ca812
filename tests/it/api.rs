//! docs/api says what the code does: schemas, examples, and the FHIR and HL7 that leave.
//!
//! Place: reads docs/api as text. Invariant: an example is what the code reads and writes, key by key; a schema takes its
//! example and nothing with a key more or a required key less. `MEIT_WRITE_EXAMPLES=1 cargo test api::` writes the FHIR and
//! HL7 examples anew.

use std::path::PathBuf;

use ecg::LEADS;
use ecg::report::{DraftReport, RejectRecord, SignAction, SignedReport};
use ecg::segment::{Decision, LeadOrigin, LeadQuality, Reason, Segment};
use review::paper::Samples;
use review::worklist::{Entry, Limits, Place, Worklist};
use review::{fhir, hl7};
use serde_json::{Map, Value, json};

use crate::rig::root;

fn file(name: &str) -> PathBuf {
    root().join("docs/api").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn value(name: &str) -> Value {
    serde_json::from_str(&text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn example<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_str(&text(&format!("examples/{name}.json"))).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Checks a value against the part of JSON Schema that the files use; a keyword that is not known here is an error too.
fn validate(schema: &Value, value: &Value, whole: &Value, at: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{at} is {value}, {what}"));
    for (keyword, rule) in schema.as_object().unwrap() {
        let holds = match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
                validate(whole.pointer(pointer).unwrap(), value, whole, at)?;
                true
            }
            "type" => match rule {
                Value::Array(kinds) => kinds.iter().any(|kind| is_a(kind, value)),
                kind => is_a(kind, value),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "const" => rule == value,
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
            "minItems" => value
                .as_array()
                .is_none_or(|items| items.len() >= rule.as_u64().unwrap() as usize),
            "maxItems" => value
                .as_array()
                .is_none_or(|items| items.len() <= rule.as_u64().unwrap() as usize),
            "minLength" => value
                .as_str()
                .is_none_or(|text| text.len() >= rule.as_u64().unwrap() as usize),
            "maxLength" => value
                .as_str()
                .is_none_or(|text| text.len() <= rule.as_u64().unwrap() as usize),
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    validate(rule, item, whole, &format!("{at}[{i}]"))?;
                }
                true
            }
            "required" => rule
                .as_array()
                .unwrap()
                .iter()
                .all(|key| value.get(key.as_str().unwrap()).is_some()),
            "properties" => {
                for (key, member) in value.as_object().into_iter().flatten() {
                    if let Some(rule) = rule.get(key) {
                        validate(rule, member, whole, &format!("{at}.{key}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                assert_eq!(rule, &json!(false));
                let known = schema["properties"].as_object().unwrap();
                value
                    .as_object()
                    .is_none_or(|members| members.keys().all(|key| known.contains_key(key)))
            }
            other => panic!("{at}: keyword {other}"),
        };
        if !holds {
            return wrong(&format!("against {keyword} {rule}"));
        }
    }
    Ok(())
}

fn is_a(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other}"),
    }
}

/// An example reads into its type and back to itself, its schema takes it, and takes no other keys.
#[track_caller]
fn check<T: serde::de::DeserializeOwned + serde::Serialize>(name: &str) {
    let written = value(&format!("examples/{name}.json"));
    let read: T = example(name);
    // through text, because a value of an f32 is not the decimal that is written for it
    let back: Value = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
    assert_eq!(
        back, written,
        "{name}: the code writes other keys or values than the example has"
    );
    let schema = value(&format!("{name}.schema.json"));
    validate(&schema, &written, &schema, name).unwrap();
    let members: Map<String, Value> = written.as_object().unwrap().clone();
    let with = |change: &dyn Fn(&mut Map<String, Value>)| {
        let mut changed = members.clone();
        change(&mut changed);
        validate(&schema, &Value::Object(changed), &schema, name)
    };
    assert!(with(&|members| drop(members.insert("patient_id".into(), json!("1")))).is_err());
    for key in schema["required"].as_array().unwrap() {
        let key = key.as_str().unwrap();
        assert!(
            with(&|members| drop(members.remove(key))).is_err(),
            "{name} without {key}"
        );
    }
    for key in members.keys() {
        assert!(
            with(&|members| drop(members.insert(key.clone(), json!({"other": 1})))).is_err(),
            "{name}.{key}"
        );
    }
}

#[test]
fn examples_of_the_json_topics_are_what_the_code_reads_and_writes() {
    check::<DraftReport>("draft-report");
    check::<SignedReport>("signed-report");
    check::<RejectRecord>("reject-record");
}

#[test]
fn closed_sets_in_the_schemas_are_those_of_the_code() {
    let of = |name: &str, pointer: &str| {
        let schema = value(&format!("{name}.schema.json"));
        schema
            .pointer(pointer)
            .unwrap_or_else(|| panic!("{name} {pointer}"))
            .clone()
    };
    let reasons = json!(Reason::ALL.map(Reason::as_str));
    assert_eq!(of("draft-report", "/$defs/reason/enum"), reasons);
    assert_eq!(of("reject-record", "/$defs/reason/enum"), reasons);
    let decisions = json!(Decision::ALL.map(Decision::as_str));
    assert_eq!(of("draft-report", "/properties/decision/enum"), decisions);
    let actions = json!(SignAction::ALL.map(SignAction::as_str));
    assert_eq!(of("signed-report", "/properties/action/enum"), actions);
    let origins = [
        LeadOrigin::Measured,
        LeadOrigin::Derived,
        LeadOrigin::Reconstructed,
        LeadOrigin::Missing,
    ];
    assert_eq!(
        of("reject-record", "/properties/quality/items/properties/origin/enum"),
        json!(origins)
    );
}

#[test]
fn the_proto_file_of_the_docs_is_the_one_that_the_code_is_generated_from() {
    let code = std::fs::read_to_string(root().join("agent/ecg/proto/ecg.proto")).unwrap();
    assert_eq!(text("ecg.proto"), code);
}

/// The example draft with a tracing that has lead II alone, so that the file stays readable.
fn entry(signed: bool) -> Entry {
    let draft: DraftReport = example("draft-report");
    let mut quality: [LeadQuality; LEADS] = Default::default();
    quality[1].origin = LeadOrigin::Measured;
    let samples: Vec<i16> = (0..LEADS * ecg::SEGMENT_SAMPLES)
        .map(|at| if at % 500 == 250 { 100 } else { 0 })
        .collect();
    let segment = Segment {
        id: draft.segment_id.clone(),
        stream_id: draft.stream_id.clone(),
        device_id: "monitor".to_owned(),
        boot_id: 1,
        start_sample: draft.start_sample,
        start_time_us: draft.start_time_us,
        last_gateway_time_us: draft.start_time_us,
        source_rate_hz: 500.0,
        uv_per_unit: 10.0,
        raw: samples.clone(),
        filtered: samples,
        quality,
        measurements: draft.measurements.clone(),
        decision: draft.decision,
        reasons: draft.reasons.clone(),
        chain: "meit-dsp".to_owned(),
        chain_version: 1,
        stat: false,
        filter_class: ecg::segment::FilterClass::Unspecified,
        context_before: true,
        context_after: true,
        samples_sha256: draft.segment_sha256.clone(),
    };
    let limits = Limits {
        waiting: 1,
        segments: 1,
        recent: 1,
        remembered: 1,
    };
    let metrics = review::metrics::Metrics::new(&prometheus::Registry::new()).unwrap();
    let list = Worklist::new(limits, metrics);
    let place = |topic: &str| Place {
        topic: topic.into(),
        partition: 0,
        offset: 0,
    };
    let id = draft.draft_id.clone();
    list.add_draft(draft, place("reports"));
    list.add_segment(segment, place("segments"));
    if signed {
        list.add_signed(example("signed-report"));
    }
    list.find(&id).unwrap()
}

#[track_caller]
fn check_written(name: &str, made: &str) {
    let path = file(&format!("examples/{name}"));
    if std::env::var_os("MEIT_WRITE_EXAMPLES").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    assert_eq!(
        text(&format!("examples/{name}")),
        made,
        "{name} is not what the code writes"
    );
}

#[test]
fn examples_of_fhir_and_hl7_are_what_the_code_writes() {
    for (name, signed) in [("draft", false), ("final", true)] {
        let entry = entry(signed);
        let bundle = fhir::bundle(&entry, Samples::Raw, 1_700_000_200_000_000);
        let json = serde_json::to_string_pretty(&bundle).unwrap() + "\n";
        check_written(&format!("{name}.fhir.json"), &json);
        let message = hl7::message(&entry, 1_700_000_200_000_000).replace('\r', "\n");
        check_written(&format!("{name}.hl7"), &message);
    }
}
