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
    let got = serde_json::to_value(
        score_pairs(
            &pairs,
            &Options {
                each: true,
                wordnet: None,
            },
        )
        .unwrap(),
    )
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
    let scores = score_pairs(&[], &Options::default()).unwrap();
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
    let got = serde_json::to_value(
        score_pairs(
            &pairs,
            &Options {
                each: true,
                wordnet: Some(folder),
            },
        )
        .unwrap(),
    )
    .unwrap();
    compare(&got, &want, &["meteor", "meteor_each"]);
}

#[test]
fn an_unreadable_wordnet_is_an_error() {
    let pairs = [("sinus rhythm".to_owned(), "Sinus rhythm".to_owned())];
    let options = |wordnet: Option<PathBuf>| Options { each: false, wordnet };
    let error = score_pairs(&pairs, &options(Some(PathBuf::from("/nowhere")))).unwrap_err();
    assert!(error.to_string().contains("/nowhere/index.noun"), "{error}");
    assert!(score_pairs(&pairs, &options(None)).unwrap().meteor_stem > 0.9);
}

#[test]
fn any_subset_is_scored_from_the_values_of_its_pairs() {
    let (pairs, _) = golden();
    let each = score_each(&pairs, None, Mode::Clean);
    let half = Scores::of(each.iter().step_by(2));
    let texts: Vec<(String, String)> = pairs.into_iter().step_by(2).collect();
    let alone = score_pairs(&texts, &Options::default()).unwrap();
    assert_eq!(
        (half.pairs, half.bleu4, half.rouge_l),
        (alone.pairs, alone.bleu4, alone.rouge_l)
    );
    assert_eq!(half.meteor_stem, alone.meteor_stem);
}
