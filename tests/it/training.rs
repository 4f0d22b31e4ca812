//! Training from nothing on the shipped recordings, with tiny sizes: it learns, and a killed run resumes to the same bundle.

use std::path::Path;

use candle_core::{DType, Device};
use clap::Parser as _;
use model::backbone::BackboneConfig;
use model::bundle::{self, Bundle};
use model::fusion::Fusion;
use model::generate::DecodeOptions;
use model::lora::Adaptable;
use model::meit::EcgInput;
use pipeline::benchmark::{self, BenchmarkArgs};
use pipeline::corpus::Corpus;
use pipeline::evaluate::cases::TestSet;
use pipeline::settings::TrainSettings;
use pipeline::sources::Source;
use pipeline::train;

use crate::assemble::write_tokenizer;
use crate::rig::{copy, root};

/// The shipped recordings with most of their rows moved to training folds; every fifth stays in fold 9.
fn dataset(dir: &Path) -> Corpus {
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
    Corpus::open(&Source::PtbXl(dir.to_owned())).unwrap()
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
fn an_encoder_that_was_trained_before_is_where_a_run_starts() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    train::run(&settings(), &data, &first, &|_| false).unwrap().unwrap();
    // no step of the second run moves the encoder
    let frozen = TrainSettings {
        seed: 8,
        encoder_weights: Some(first.join(bundle::ENCODER)),
        label_steps: 0,
        steps: 1,
        projector_lr: 0.0,
        encoder_lr: 0.0,
        ..settings()
    };
    train::run(&frozen, &data, &second, &|_| false).unwrap().unwrap();
    let trunk = |dir: &Path| {
        let tensors = candle_core::safetensors::load(dir.join(bundle::ENCODER), &Device::Cpu).unwrap();
        let stem = tensors["conv1.weight"].to_dtype(DType::F32).unwrap();
        stem.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(trunk(&first), trunk(&second));
    let record = std::fs::read(second.join("training.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let taken = &record["pretrained"];
    assert_eq!(taken["fresh"], 0, "{record}");
    assert!(
        taken["taken"].as_u64().unwrap() > 20 && taken["left_out"].as_u64().unwrap() > 0,
        "{record}"
    );
    assert_eq!(
        taken["sha256"],
        Bundle::load(&first, &Device::Cpu)
            .unwrap()
            .lineage()
            .encoder_sha256
            .as_str()
    );
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

/// The benchmark's arguments, as the command line has them.
#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: BenchmarkArgs,
}

const VIT: &str = r#"{"kind": "vit1d", "width": 8, "layers": 1, "heads": 2, "mlp": 8, "patch": 25, "patches": 100}"#;

/// Names of runs, and what each does otherwise than the first.
fn variants() -> [(&'static str, TrainSettings); 7] {
    let with = |change: fn(&mut TrainSettings)| {
        let mut settings = settings();
        change(&mut settings);
        settings
    };
    [
        ("whole", settings()),
        ("input", with(|run| run.fusion = Some(Fusion::Input))),
        ("crossed", with(|run| run.fusion = "cross-attention".parse().ok())),
        ("vit", with(|run| run.trunk = VIT.parse().unwrap())),
        ("many-prompts", with(|run| run.prompts = 128)),
        ("bare", with(|run| run.no_instruction = true)),
        ("unlabelled", with(|run| run.label_steps = 0)),
    ]
}

#[test]
fn ablations_train_draft_and_are_told_apart_by_what_they_did_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let variants = variants();
    let out = dir.path().join("out");
    let mut line = vec![
        "benchmark".to_owned(),
        "--dataset=ptbxl:x".to_owned(),
        "--resamples=9".to_owned(),
    ];
    line.push(format!("--out={}", out.display()));
    for (name, settings) in &variants {
        let to = dir.path().join(name);
        train::run(settings, &data, &to, &|_| false).unwrap().unwrap();
        let bundle = Bundle::load(&to, &Device::Cpu).unwrap();
        assert_eq!(bundle.manifest().fusion, settings.fusion.clone().unwrap_or_default());
        assert_eq!(bundle.drafting().prompt.is_empty(), settings.no_instruction);
        line.push(format!("--bundle={name}={}", to.display()));
    }
    let cases = TestSet::open(&Source::PtbXl(dir.path().to_owned()), &[9]).unwrap();
    let results = |task: &str| -> serde_json::Value {
        let line = line.iter().cloned().chain([format!("--task={task}")]);
        benchmark::run(&Line::parse_from(line).args, &cases).unwrap();
        let text = std::fs::read_to_string(out.join("benchmark.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["results"].clone()
    };
    let ablations = results("ablations");
    let differs: Vec<&serde_json::Value> = (0..variants.len()).map(|at| &ablations[at]["differs"]).collect();
    assert_eq!(
        serde_json::json!(differs),
        serde_json::json!([
            {},
            {"fusion": {"kind": "input"}},
            {"fusion": {"kind": "cross-attention", "every": 1}},
            {"trunk": serde_json::from_str::<serde_json::Value>(VIT).unwrap()},
            {"prompts": 128},
            {"no_instruction": true},
            {"label_steps": 0},
        ])
    );
    let cost = results("cost");
    assert!(
        (0..variants.len()).all(|at| cost[at]["training_hours"].as_f64().unwrap() > 0.0),
        "{cost}"
    );
}

#[test]
fn a_data_set_of_another_layout_trains_by_its_own_splits_and_without_scp_labels() {
    let dir = tempfile::tempdir().unwrap();
    let ptbxl = Corpus::open(&Source::PtbXl(root().join("tests/data/ptbxl"))).unwrap();
    let mut lines = String::new();
    for (i, sample) in ptbxl.of_folds(|_| true).into_iter().enumerate() {
        let header = sample.header.as_ref().unwrap();
        let name = header.file_stem().unwrap().to_str().unwrap();
        for end in ["hea", "dat"] {
            let to = dir.path().join(format!("{name}.{end}"));
            std::os::unix::fs::symlink(header.with_extension(end), to).unwrap();
        }
        let split = ["train", "train", "train", "validation"][i % 4];
        let line = serde_json::json!({"record": name, "report": sample.report, "patient": name, "split": split});
        lines += &format!("{line}\n");
    }
    std::fs::write(dir.path().join("reports.jsonl"), lines).unwrap();
    let data = Corpus::open(&Source::Wfdb(dir.path().to_owned())).unwrap();
    assert_eq!(
        (
            data.of_folds(|fold| fold == 1).len(),
            data.of_folds(|fold| fold == 9).len()
        ),
        (18, 6)
    );
    let out = dir.path().join("out");
    let id = train::run(&settings(), &data, &out, &|_| false).unwrap();
    assert_eq!(id.as_deref(), Some(Bundle::load(&out, &Device::Cpu).unwrap().id()));
}
