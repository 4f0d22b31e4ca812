//! Parity with the bert-score package on tiny random models.
//!
//! Place: beside the scorer. Golden data: tests/golden/bertscore, made by tests/golden/export_bertscore.py.

use super::*;

/// Both sides compute in f32; their sums run in different orders.
const TOLERANCE: f64 = 2e-5;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/bertscore")
}

#[track_caller]
fn check(kind: &str, layer: usize, rescale: bool) {
    let text = std::fs::read_to_string(folder().join("values.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let pairs: Vec<(String, String)> = serde_json::from_value(golden["pairs"].clone()).unwrap();
    let key = format!("{kind}/{layer}{}", if rescale { "/rescaled" } else { "" });
    let want: Vec<[f64; 3]> = serde_json::from_value(golden[&key].clone()).unwrap();
    let args = BertScoreArgs {
        dir: Some(folder().join(kind)),
        layer: Some(layer),
        baseline: rescale.then(|| folder().join("baseline.tsv")),
    };
    let scores = BertScorer::open(&args).unwrap().unwrap().score(&pairs).unwrap();
    assert_eq!((scores.each.len(), scores.rescaled), (want.len(), rescale));
    for (i, (got, want)) in scores.each.iter().zip(&want).enumerate() {
        for k in 0..3 {
            assert!(
                (got[k] - want[k]).abs() < TOLERANCE,
                "{key} pair {i}: {got:?} against {want:?}"
            );
        }
    }
    let mean = want.iter().map(|values| values[2]).sum::<f64>() / want.len() as f64;
    assert!((scores.f1 - mean).abs() < TOLERANCE);
}

#[test]
fn bert_agrees_with_the_package_at_every_layer() {
    check("bert", 1, false);
    check("bert", 2, false);
}

#[test]
fn roberta_agrees_with_the_package_and_its_rescaling() {
    check("roberta", 1, false);
    check("roberta", 2, false);
    check("roberta", 2, true);
}

#[test]
fn what_cannot_be_scored_with_is_named() {
    let args = |layer, baseline: Option<PathBuf>| BertScoreArgs {
        dir: Some(folder().join("roberta")),
        layer,
        baseline,
    };
    let error = |args: BertScoreArgs| format!("{:#}", BertScorer::open(&args).err().unwrap());
    assert!(error(args(Some(3), None)).contains("--bertscore-layer is 3: the model has layers 1 to 2"));
    assert!(error(args(None, None)).contains("give --bertscore-layer"));
    let baseline = Some(folder().join("missing.tsv"));
    assert!(error(args(Some(1), baseline)).contains("missing.tsv"));
    assert!(BertScorer::open(&BertScoreArgs::default()).unwrap().is_none());
}
