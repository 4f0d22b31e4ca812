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
        "9",
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
fn ablations_say_what_a_bundle_did_otherwise_and_by_how_much_it_leads() {
    let out = tempfile::tempdir().unwrap();
    let other = out.path().join("other");
    std::fs::create_dir(&other).unwrap();
    for file in std::fs::read_dir(root().join("model/bundle")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), other.join(file.file_name())).unwrap();
    }
    let manifest = other.join("bundle.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let changed = text.replace("\"evidence\": \"rated_findings\"", "\"evidence\": \"measurements\"");
    assert_ne!(text, changed);
    std::fs::write(&manifest, changed).unwrap();
    let second = format!("told-less={}", other.display());
    let (json, table) = bench(out.path(), &["--task", "ablations", "--bundle", &second]);
    let [first, second] = [0, 1].map(|at| &json["results"][at]);
    assert_eq!((&first["name"], &first["differs"]), (&json!("small"), &json!({})));
    assert_eq!(second["name"], json!("told-less (evidence measurements)"));
    assert_eq!(second["differs"], json!({"evidence": "measurements"}));
    let lead: Vec<f64> = serde_json::from_value(second["minus_first"]["rouge_l"].clone()).unwrap();
    let rouge_l = |line: &Value| line["row"]["rouge_l"].as_f64().unwrap();
    let difference = rouge_l(second) - rouge_l(first);
    assert!(lead[0] <= difference && difference <= lead[1], "{difference} {lead:?}");
    assert!(table.contains("| told-less (evidence measurements), from |"), "{table}");
}

#[test]
fn robustness_has_every_level_of_white_noise_and_a_plot() {
    let out = tempfile::tempdir().unwrap();
    let (json, table) = bench(out.path(), &["--task", "robustness", "--reference-mode"]);
    let points = json["results"].as_array().unwrap();
    let levels = |unit: &str| {
        points
            .iter()
            .filter(|point| point["unit"] == unit && point["noise"] != "none")
            .count()
    };
    assert_eq!((levels("dB"), levels("ratio"), levels("proportion")), (6, 4, 5));
    let refused = |level: f64| {
        let at = points
            .iter()
            .find(|point| point["noise"] == "white" && point["level"] == json!(level));
        at.unwrap()["refused_rate"].as_f64().unwrap()
    };
    assert!(refused(24.0) < refused(-6.0), "{table}");
    assert!(out.path().join("robustness-0.svg").is_file());
}

#[test]
fn zero_shot_names_how_each_bundle_was_trained() {
    let out = tempfile::tempdir().unwrap();
    let bundle = format!("own={}", root().join("model/bundle").display());
    let (json, _) = bench(
        out.path(),
        &["--task", "zero-shot", "--in-domain", &bundle, "--without-it", &bundle],
    );
    let names: Vec<&str> = (0..3).map(|at| json["results"][at]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["own, zero-shot W/O IT", "small, zero-shot IT", "own, IT"]);
}

#[test]
fn a_judge_marks_every_draft_of_a_bundle() {
    let out = tempfile::tempdir().unwrap();
    let answers = [5, 4, 3].map(|mark| (200, judge::tests::marks(mark)));
    let (url, server) = judge::tests::server(answers.to_vec());
    let (json, table) = bench(
        out.path(),
        &["--task", "judge", "--judge-url", &url, "--judge-model", "mock"],
    );
    let line = &json["results"][0];
    assert_eq!((&line["judged"], &line["failed"]), (&json!(3), &json!(0)));
    assert_eq!(line["means"]["medical_terminology_accuracy"], 4.0);
    assert!(
        table.contains("| small | 4.000 | 4.000 | 3.000 | 2.000 | 3.000 | 0.000 |"),
        "{table}"
    );
    for request in server.join().unwrap() {
        let told = request["messages"][1]["content"].as_str().unwrap();
        assert!(
            told.contains("reference_report") && !told.contains("<|user|>"),
            "{told}"
        );
        assert_eq!(request["authorization"], Value::Null);
    }
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
