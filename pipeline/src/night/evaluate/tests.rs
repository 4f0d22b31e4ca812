//! The exam on the shipped recordings, by the shipped bundle and by an untrained one.
//!
//! Place: tests only. Invariant: figures are checked against one another, not against numbers typed here.

use std::path::{Path, PathBuf};

use candle_core::Device;

use super::*;
use crate::curate::{self, CurateSettings};
use crate::dataset::PtbXl;
use crate::erasure::Erasures;
use crate::night::settings::shipped;
use crate::sources::Source;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The shipped recordings: the first two train, the others are tested; all tested ones but one lie in ward a.
fn dataset(dir: &Path) -> Dataset {
    let from = root().join("tests/data/ptbxl");
    std::os::unix::fs::symlink(from.join("records500"), dir.join("records500")).unwrap();
    let mut lines = String::new();
    for (i, sample) in PtbXl::open(&from).unwrap().samples().iter().enumerate() {
        let header = sample
            .header
            .as_ref()
            .unwrap()
            .strip_prefix(&from)
            .unwrap()
            .with_extension("");
        let line = serde_json::json!({
            "record": header, "report": sample.report, "split": if i < 2 { "train" } else { "test" },
            "strata": {"ward": if i == 2 { "b" } else { "a" }},
        });
        lines += &format!("{line}\n");
    }
    std::fs::write(dir.join("reports.jsonl"), lines).unwrap();
    let settings = CurateSettings {
        sources: vec![Source::Wfdb(dir.to_owned())],
        limit: 0,
        prompts: 1,
        seed: 1,
        ends: BTreeMap::new(),
        kafka: None,
        base: String::new(),
        reserve_bytes: 0,
    };
    curate::run(&settings, &Erasures::default(), &dir.join("out")).unwrap();
    Dataset::open(&dir.join("out")).unwrap()
}

#[test]
fn slices_intervals_and_baselines_come_of_the_same_samples() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let mut settings = shipped().pipeline;
    settings.gate.resamples = 50;
    let exam = Exam::new(&data, &settings).unwrap();
    assert_eq!(exam.len(), 22);
    let bundle = Bundle::load(&root().join("model/bundle"), &Device::Cpu).unwrap();
    let champion = exam.answers(&bundle).unwrap();
    let metrics = &champion.scored.metrics;
    for name in settings
        .gate
        .names()
        .map(String::as_str)
        .chain(["clinical_f1_micro", "noise_refusal"])
    {
        assert!(metrics[name].is_finite(), "{name}");
        assert!(metrics.contains_key(&format!("{name}@ward=a")), "{name} of 21 samples");
        assert!(!metrics.contains_key(&format!("{name}@ward=b")), "{name} of one sample");
    }
    let whole = metrics.keys().filter(|name| !name.contains('@'));
    let unknown: Vec<&String> = whole.filter(|name| !is_metric(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let missing: Vec<&str> = METRICS
        .into_iter()
        .filter(|&name| !metrics.contains_key(name))
        .collect();
    assert_eq!(
        missing,
        ["bertscore_f1", "clinical_f1_macro"],
        "no model for it; no class of 20 references"
    );
    assert!(metrics["noise_refusal"] > 0.5, "{metrics:?}");
    assert_eq!(metrics["rouge_l@origin=base"], metrics["rouge_l"]);

    // a candidate that writes nothing loses in every resample, and a candidate that is the champion differs in none
    let mut silent = exam.answers(&bundle).unwrap();
    let nothing = vec![String::new(); exam.len()];
    (silent.own, silent.abstained) = (exam.ruler.score(&nothing), vec![true; exam.len()]);
    let listed = ["rouge_l", "abstain_rate", "rouge_l@ward=a", "bleu4@ward=none"].map(str::to_owned);
    let lost = exam.differences(&champion, &silent, listed.iter());
    assert!(lost["rouge_l"][1] < 0.0 && lost["rouge_l@ward=a"][1] < 0.0, "{lost:?}");
    assert!(
        lost["rouge_l"][0] < lost["rouge_l"][1] && lost["abstain_rate"][0] > 0.5,
        "{lost:?}"
    );
    assert!(
        !lost.contains_key("bleu4@ward=none"),
        "a slice that is not there has no interval"
    );
    let same = exam.differences(&champion, &champion, listed.iter());
    assert!(same.values().all(|ends| *ends == [0.0, 0.0]), "{same:?}");

    let baselines = exam.baselines(&bundle).unwrap();
    assert!(
        baselines["knn"]["rouge_l"] < 1.0 && baselines["most_frequent"]["rouge_l"] > 0.0,
        "{baselines:?}"
    );
}
