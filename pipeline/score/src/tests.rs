//! Golden test: the values of the field's own libraries over the pairs of tests/golden/metrics (or of $MEIT_GOLDEN_DIR/metrics).
//!
//! Place: beside `lib`. Invariant: made by tests/golden/export_metrics.py; every key of its output is compared.

use super::*;
use serde_json::Value;
use std::path::Path;

const TOLERANCE: f64 = 1e-6;

fn folder() -> PathBuf {
    match std::env::var_os("MEIT_GOLDEN_DIR") {
        Some(root) => PathBuf::from(root).join("metrics"),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/metrics"),
    }
}

fn golden() -> (Vec<(String, String)>, Value) {
    let folder = folder();
    let text = std::fs::read_to_string(folder.join("pairs.tsv")).unwrap();
    let split = |line: &str| {
        let lower = line.to_lowercase();
        let (hypothesis, reference) = lower.split_once('\t').unwrap();
        (hypothesis.to_owned(), reference.to_owned())
    };
    let values = std::fs::read_to_string(folder.join("metrics.json")).unwrap();
    (
        text.lines().map(split).collect(),
        serde_json::from_str(&values).unwrap(),
    )
}

fn compare(got: &Value, want: &Value, names: &[&str]) {
    let near = |name: &str, got: &Value, want: &Value| {
        let (got, want) = (got.as_f64().unwrap(), want.as_f64().unwrap());
        assert!((got - want).abs() <= TOLERANCE, "{name}: {got} against {want}");
    };
    for name in names {
        match &want[name] {
            Value::Array(want) => {
                let got = got[name].as_array().unwrap();
                assert_eq!(got.len(), want.len(), "{name}");
                for (i, (g, w)) in got.iter().zip(want).enumerate() {
                    near(&format!("{name}[{i}]"), g, w);
                }
            }
            value => near(name, &got[name], value),
        }
    }
}

#[test]
fn all_values_match_the_reference_libraries() {
    let (pairs, want) = golden();
    let got = serde_json::to_value(score_pairs(
        &pairs,
        &Options {
            each: true,
            wordnet: None,
        },
    ))
    .unwrap();
    assert!(got.get("meteor").is_none() && got.get("meteor_each").is_none());
    let names: Vec<&str> = want
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .filter(|n| *n != "meteor" && *n != "meteor_each")
        .collect();
    assert_eq!(names.len(), 14, "{names:?}");
    let extra: Vec<&String> = got
        .as_object()
        .unwrap()
        .keys()
        .filter(|k| want.get(k).is_none())
        .collect();
    assert!(extra.is_empty(), "keys the golden file lacks: {extra:?}");
    compare(&got, &want, &names);
}

#[test]
fn each_is_optional_and_no_pairs_give_finite_values() {
    let scores = score_pairs(&[], &Options::default());
    let json = serde_json::to_value(&scores).unwrap();
    assert_eq!(json.as_object().unwrap().len(), 11, "{json}");
    assert!(json.as_object().unwrap().values().all(Value::is_number));
}

/// Needs the WordNet 3.0 files: $WORDNET_DIR or Debian's /usr/share/wordnet; passes with a note without them.
#[test]
fn meteor_with_synonyms_matches_nltk() {
    let folder = std::env::var_os("WORDNET_DIR").map_or_else(|| PathBuf::from("/usr/share/wordnet"), PathBuf::from);
    if !folder.join("data.noun").is_file() {
        eprintln!("no WordNet in {}: synonyms not tested", folder.display());
        return;
    }
    let (pairs, want) = golden();
    let got = serde_json::to_value(score_pairs(
        &pairs,
        &Options {
            each: true,
            wordnet: Some(folder),
        },
    ))
    .unwrap();
    compare(&got, &want, &["meteor", "meteor_each"]);
}

#[test]
fn an_unreadable_wordnet_leaves_meteor_out() {
    let pairs = [("sinus rhythm".to_owned(), "Sinus rhythm".to_owned())];
    let scores = score_pairs(
        &pairs,
        &Options {
            each: false,
            wordnet: Some(PathBuf::from("/nowhere")),
        },
    );
    assert!(scores.meteor.is_none() && scores.meteor_stem > 0.9);
}
