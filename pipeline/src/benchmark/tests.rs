//! The whole benchmark on the shipped recordings and bundle.
//!
//! Place: beside the tasks. Invariant: figures are checked against one another, not against numbers typed here.

use std::path::Path;

use clap::Parser;

use super::*;
use crate::sources::Source;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: BenchmarkArgs,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a task on a few shipped recordings; gives the results as JSON and the table.
fn bench(out: &Path, extra: &[&str]) -> (Value, String) {
    let data = root().join("tests/data/ptbxl");
    let bundle = format!("small={}", root().join("model/bundle").display());
    let base = [
        "benchmark",
        "--dataset",
        "ptbxl:x",
        "--bundle",
        &bundle,
        "--out",
        out.to_str().unwrap(),
        "--resamples",
        "0",
    ];
    let args = Line::parse_from(base.iter().chain(extra)).args;
    let mut set = TestSet::open(&Source::PtbXl(data), &[9, 10]).unwrap();
    set.limit(Some(3), usize::MAX, 3);
    let table = run(&args, &set).unwrap();
    let json = std::fs::read_to_string(out.join("benchmark.json")).unwrap();
    (serde_json::from_str(&json).unwrap(), table)
}

#[test]
fn quality_has_a_row_for_each_bundle_and_the_reference_mode_scores_higher() {
    let out = tempfile::tempdir().unwrap();
    let (json, table) = bench(out.path(), &["--task", "quality", "--reference-mode"]);
    assert_eq!(
        (&json["recordings"], &json["results"][0]["name"]),
        (&json!(3), &json!("small"))
    );
    let line = &json["results"][0];
    let reference = &line["reference_mode"];
    let bleu = |scores: &Value| scores["bleu4"].as_f64().unwrap();
    assert!(bleu(&reference["prompt_kept"]) > bleu(&line["scores"]));
    assert!(bleu(&reference["floor_prompt_kept"]) > 0.3, "{reference}");
    assert!(
        table.contains("| small |") && table.contains("| most frequent report |"),
        "{table}"
    );
    assert!(out.path().join("quality.svg").is_file());
}

#[test]
fn cost_measures_and_leaves_out_what_it_cannot() {
    let out = tempfile::tempdir().unwrap();
    let (json, table) = bench(out.path(), &["--task", "cost"]);
    let line = &json["results"][0];
    // how long either takes is for the bench: a busy machine may stretch the shorter one
    assert!(
        ["draft_ms", "encode_ms"]
            .iter()
            .all(|time| line[time].as_f64().unwrap() > 0.0)
    );
    assert!(line["parameters"].as_u64().unwrap() > 100_000);
    assert!(
        table
            .lines()
            .any(|line| line.starts_with("| small") && line.ends_with("- |")),
        "{table}"
    );
}

#[test]
fn a_judge_task_without_a_judge_is_an_error() {
    let out = tempfile::tempdir().unwrap();
    let base = [
        "benchmark",
        "--dataset",
        "ptbxl:x",
        "--bundle",
        "b",
        "--task",
        "judge",
        "--out",
    ];
    let args = Line::parse_from(base.iter().copied().chain([out.path().to_str().unwrap()])).args;
    let error = judge::judge(&args, &TestSet::default()).err().unwrap();
    assert!(error.to_string().contains("--judge-url"), "{error}");
}
