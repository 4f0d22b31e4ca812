//! Training from nothing on the shipped recordings, with tiny sizes: it learns, and a killed run resumes to the same bundle.

use std::path::Path;

use candle_core::Device;
use model::backbone::BackboneConfig;
use model::bundle::Bundle;
use model::generate::DecodeOptions;
use model::lora::Adaptable;
use model::meit::EcgInput;
use pipeline::dataset::PtbXl;
use pipeline::settings::TrainSettings;
use pipeline::train;

use crate::assemble::write_tokenizer;
use crate::rig::{copy, root};

/// The shipped recordings with most of their rows moved to training folds; every fifth stays in fold 9.
fn dataset(dir: &Path) -> PtbXl {
    let shipped = root().join("tests/data/ptbxl");
    let mut reader = csv::Reader::from_path(shipped.join("ptbxl_database.csv")).unwrap();
    let header = reader.headers().unwrap().clone();
    let fold = header.iter().position(|c| c == "strat_fold").unwrap();
    let mut writer = csv::Writer::from_path(dir.join("ptbxl_database.csv")).unwrap();
    writer.write_record(&header).unwrap();
    for (i, row) in reader.records().enumerate() {
        let row = row.unwrap();
        let fields = row.iter().enumerate();
        writer
            .write_record(fields.map(|(k, v)| if k == fold && i % 5 != 0 { "1" } else { v }))
            .unwrap();
    }
    writer.flush().unwrap();
    std::fs::copy(shipped.join("report_en.csv"), dir.join("report_en.csv")).unwrap();
    std::os::unix::fs::symlink(shipped.join("records500"), dir.join("records500")).unwrap();
    PtbXl::open(dir).unwrap()
}

fn settings() -> TrainSettings {
    TrainSettings::tiny()
}

#[test]
fn a_killed_run_resumes_to_the_bundle_of_an_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    let expected = train::run(&settings(), &data, &whole, &|_| false).unwrap();
    assert!(expected.is_some());
    for kill_at in [3, 5] {
        assert_eq!(
            train::run(&settings(), &data, &killed, &|step| step == kill_at).unwrap(),
            None
        );
    }
    assert_eq!(
        train::run(&settings(), &data, &killed, &|_| false).unwrap(),
        expected,
        "ids hash every weight"
    );
}

#[test]
fn a_run_from_a_language_model_trains_it_and_writes_a_bundle_that_drafts() {
    for base in ["seq2seq/t5-gated", "decoders/llama-llama3-rope"] {
        let dir = tempfile::tempdir().unwrap();
        let data = dataset(dir.path());
        let from = dir.path().join("base");
        copy(&root().join("tests/golden").join(base), &from);
        let config = BackboneConfig::read(&from.join("config.json")).unwrap();
        write_tokenizer(&from, config.vocab_size());
        let settings = TrainSettings {
            base: Some(from),
            ..settings()
        };
        let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
        let id = train::run(&settings, &data, &whole, &|_| false).unwrap();
        let bundle = Bundle::load(&whole, &Device::Cpu).unwrap();
        assert_eq!(id.as_deref(), Some(bundle.id()), "{base}");
        let backbone = &bundle.drafting().model.backbone;
        assert_eq!(backbone.model_type(), base.split(['/', '-']).nth(1).unwrap());
        let silent = EcgInput {
            millivolts: vec![0.0; 60_000],
            ..EcgInput::default()
        };
        let options = DecodeOptions {
            tokens_max: 4,
            ..DecodeOptions::default()
        };
        assert_eq!(bundle.drafting().draft(&[silent], &options).unwrap().len(), 1);
        assert_eq!(train::run(&settings, &data, &killed, &|step| step == 7).unwrap(), None);
        assert_eq!(train::run(&settings, &data, &killed, &|_| false).unwrap(), id, "{base}");
    }
}

#[test]
fn a_checkpoint_of_other_settings_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let out = dir.path().join("out");
    train::run(&settings(), &data, &out, &|step| step == 2).unwrap();
    let other = TrainSettings { seed: 8, ..settings() };
    let error = train::run(&other, &data, &out, &|_| false).unwrap_err().to_string();
    assert!(error.contains("other settings"), "{error}");
}

#[test]
fn settings_out_of_bounds_name_the_value_and_the_bound() {
    let bad = TrainSettings { heads: 3, ..settings() };
    let error = bad.validate().unwrap_err().to_string();
    assert!(error.contains("16") && error.contains('3'), "{error}");
}
