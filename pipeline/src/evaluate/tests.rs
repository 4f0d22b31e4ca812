//! The ruler on the shipped recordings and bundle.
//!
//! Place: beside the ruler. Invariant: figures are checked against one another, not against numbers typed here.

use std::path::PathBuf;

use super::*;
use crate::dataset::PtbXl;
use crate::sources::Source;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn evaluated(memory: usize) -> Evaluation {
    let data = root().join("tests/data/ptbxl");
    let mut set = TestSet::open(&Source::PtbXl(data), &[9]).unwrap();
    // the shipped rows are all of fold 9; some of them stand in for the other folds
    set.memory = set.cases.split_off(set.cases.len() - memory);
    set.memory_reports = set.memory.iter().map(|case| case.report.clone()).collect();
    set.limit(Some(6), usize::MAX, 3);
    evaluate(&set)
}

fn evaluate(set: &TestSet) -> Evaluation {
    let settings = Settings {
        seed: 3,
        resamples: 20,
        wordnet: None,
        noise: None,
        limit: None,
        memory_max: usize::MAX,
        bertscore: BertScoreArgs::default(),
    };
    run(&root().join("model/bundle"), set, &settings).unwrap()
}

#[test]
fn every_row_has_the_same_recordings_and_the_pairs_are_those_of_the_model() {
    let evaluation = evaluated(4);
    let scores = serde_json::to_value(&evaluation.scores).unwrap();
    for row in ["model", "shuffled", "zeroed", "most_frequent", "knn"] {
        assert_eq!(scores[row]["n"], 6, "{row}");
        for metric in ["bleu4", "meteor", "rouge_l", "cider_d"] {
            let [low, high] = [0, 1].map(|end| scores[row]["intervals"][metric][end].as_f64().unwrap());
            assert!(scores[row][metric].is_number() && low <= high, "{row} {metric}");
        }
        assert!(
            scores[row]["clinical_f1_macro"].is_null(),
            "no class has 20 positives among 6 references"
        );
    }
    let tsv = evaluation.pairs_tsv();
    let pairs: Vec<(String, String)> = tsv
        .lines()
        .map(|line| line.split_once('\t').unwrap())
        .map(|(h, r)| (h.to_owned(), r.to_owned()))
        .collect();
    let again = score::score_pairs(&pairs, &score::Options::default()).unwrap();
    assert!((again.rouge_l - evaluation.scores.model.rouge_l).abs() < 1e-9);
    assert!((again.bleu4 - evaluation.scores.model.bleu4).abs() < 1e-9);
}

#[test]
fn noise_is_refused_the_more_the_louder_it_is_and_without_a_memory_other_patients_answer() {
    let evaluation = evaluated(0);
    let (scores, with_memory) = (&evaluation.scores, evaluated(4).scores);
    assert_eq!(
        (scores.baselines_from, with_memory.baselines_from),
        ("other_patients", "memory")
    );
    let knn = scores.knn.as_ref().unwrap();
    assert!(knn.n == 6 && knn.rouge_l < 1.0, "{knn:?}");
    let refusal = &evaluation.scores.safety.noise_refusal["white"];
    assert!(
        refusal["6"] <= refusal["0"] && refusal["0"] <= refusal["-6"],
        "{refusal:?}"
    );
    assert!(refusal["-6"] > 0.5, "{refusal:?}");
}

#[test]
fn mimic_recordings_are_scored_against_the_machine_statements_of_their_study() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let mut recordings = Vec::new();
    for sample in PtbXl::open(&root().join("tests/data/ptbxl")).unwrap().samples() {
        let header = sample.header.as_ref().unwrap();
        let name = header.file_stem().unwrap().to_str().unwrap().to_owned();
        for end in ["hea", "dat"] {
            let to = files.join(format!("{name}.{end}"));
            std::os::unix::fs::symlink(header.with_extension(end), to).unwrap();
        }
        recordings.push(name);
    }
    crate::sources::mimic_layout(dir.path(), &recordings);
    let set = TestSet::open(&Source::Mimic(dir.path().to_owned()), &[]).unwrap();
    let evaluation = evaluate(&set);
    let scores = &evaluation.scores;
    assert_eq!(scores.model.n, set.cases.len());
    assert!(scores.model.n > 0 && scores.knn.is_some() && scores.slices.is_empty());
    for (line, case) in evaluation.pairs_tsv().lines().zip(&set.cases) {
        assert!(line.ends_with(&format!("\t{}", case.report)), "{line}");
        assert!(case.report.contains("premature beats"), "{}", case.report);
    }
}
