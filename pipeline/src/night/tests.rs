//! The job on the shipped recordings, signed with their own reports, over a tiny base.
//!
//! Place: tests only. Invariant: no network, no sleep; everything is written to a temporary folder.

mod meanwhile;

use std::io::Write as _;

use candle_core::DType;
use ecg::segment::Segment;
use model::bundle::{ADAPTER, ENCODER};
use model::lora::ADAPTER_WEIGHTS;
use model::registry::generation_key;

use super::*;
use crate::dataset::PtbXl;
use crate::night::settings::{EncoderMode, shipped};
use crate::night::status::Report;
use crate::settings::TrainSettings;
use crate::sources::Source;

/// A base bundle, a base data set and a directory of signed reports.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(None)
    }

    /// With a base that starts from a language model of Hugging Face's.
    fn with(language: Option<PathBuf>) -> Self {
        let bench = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        bench.data();
        bench.signed();
        let data = PtbXl::open(&bench.path("ptbxl")).unwrap();
        let settings = TrainSettings {
            base: language,
            ..tiny()
        };
        crate::train::run(&settings, &data.into(), &bench.path("base"), &|_| false).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn settings(&self) -> PipelineSection {
        let mut section = shipped().pipeline;
        section.bundle = self.path("base");
        section.registry = self.path("registry").into();
        section.work = self.path("work");
        section.sources = vec![Source::Signed(self.path("signed"))];
        section.base_sources = vec![Source::PtbXl(self.path("ptbxl"))];
        section.samples_min = 4;
        section.reserve_mb = 0;
        section.train.rank = 4;
        section.train.epochs = 2;
        section.train.batch = 4;
        section.train.checkpoint_steps = 2;
        section.train.learning_rate = 1e-3;
        section.train.encoder = EncoderMode::Frozen;
        section.gate.samples_min = 1;
        for margin in section.gate.higher.values_mut().chain(section.gate.lower.values_mut()) {
            *margin = 10.0;
        }
        section
    }

    /// The shipped recordings; every fifth stays in fold 9, the others are training data.
    fn data(&self) {
        let (from, to) = (recordings(), self.path("ptbxl"));
        std::fs::create_dir(&to).unwrap();
        let mut reader = csv::Reader::from_path(from.join("ptbxl_database.csv")).unwrap();
        let header = reader.headers().unwrap().clone();
        let fold = header.iter().position(|c| c == "strat_fold").unwrap();
        let mut writer = csv::Writer::from_path(to.join("ptbxl_database.csv")).unwrap();
        writer.write_record(&header).unwrap();
        for (i, row) in reader.records().enumerate() {
            let row = row.unwrap();
            let cells = row.iter().enumerate();
            let moved = cells.map(|(k, v)| if k == fold && i % 5 != 0 { "1" } else { v });
            writer.write_record(moved).unwrap();
        }
        writer.flush().unwrap();
        std::fs::copy(from.join("report_en.csv"), to.join("report_en.csv")).unwrap();
        std::os::unix::fs::symlink(from.join("records500"), to.join("records500")).unwrap();
    }

    /// Every shipped recording as a segment of a bed of its own, signed with its own report.
    fn signed(&self) {
        let to = self.path("signed");
        std::fs::create_dir_all(to.join("segments")).unwrap();
        let mut lines = std::fs::File::create(to.join("signed.jsonl")).unwrap();
        for sample in PtbXl::open(&self.path("ptbxl")).unwrap().samples() {
            let record = ecg::wfdb::read(sample.header.as_deref().unwrap()).unwrap();
            let segment: Segment = ecg::dsp::analyse(&record.context().unwrap(), &ecg::dsp::DspConfig::default());
            std::fs::write(to.join(format!("segments/{}.pb", segment.id)), segment.encode()).unwrap();
            let line = serde_json::json!({
                "draft_id": "d", "segment_id": segment.id, "text": sample.report, "action": "edited", "signer": "dr-1",
                "role": "cardiologist", "signed_at_us": 1, "training_consent": true, "patient": format!("patient-{}_hr", sample.id.trim_start_matches("ptbxl/")),
            });
            writeln!(lines, "{line}").unwrap();
        }
    }
}

fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/ptbxl")
}

fn tiny() -> TrainSettings {
    TrainSettings {
        text_steps: 2,
        label_steps: 2,
        steps: 2,
        ..TrainSettings::tiny()
    }
}

fn run(settings: &PipelineSection, run: &str) -> anyhow::Result<Progress> {
    Night::open(settings, run)?.go(Step::Promote, &|_| false)
}

#[track_caller]
fn ended(progress: Progress) -> Outcome {
    match progress {
        Progress::Ended(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

#[test]
fn gradients_by_layer_give_the_same_adapter_and_encoder() {
    let bench = Bench::new();
    let learnt = |by_layer: bool, encoder: EncoderMode| {
        let (registry, work) = (
            format!("registry-{by_layer}-{encoder:?}"),
            format!("work-{by_layer}-{encoder:?}"),
        );
        let mut settings = bench.settings();
        (settings.registry, settings.work) = (bench.path(&registry).into(), bench.path(&work));
        (settings.train.by_layer, settings.train.encoder) = (by_layer, encoder);
        let generation = ended(run(&settings, "night-1").unwrap()).generation.unwrap();
        let dir = bench.path(&registry).join(generation_key(&generation));
        [format!("{ADAPTER}/{ADAPTER_WEIGHTS}"), ENCODER.to_owned()]
            .map(|file| candle_core::safetensors::load(dir.join(file), &Device::Cpu).unwrap())
    };
    for encoder in [EncoderMode::Frozen, EncoderMode::Trainable] {
        for (by_layer, whole) in learnt(true, encoder).iter().zip(&learnt(false, encoder)) {
            assert!(!whole.is_empty() && by_layer.len() == whole.len());
            for (name, whole) in whole {
                let apart = (&by_layer[name] - whole).unwrap().to_dtype(DType::F32).unwrap();
                let apart = apart.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                // gradients of one tensor are added in another order; a step moves a weight by up to 1e-3
                assert!(apart < 2e-6, "{encoder:?} {name}: {apart}");
            }
        }
    }
}

#[test]
fn a_night_promotes_and_a_second_start_changes_nothing() {
    let bench = Bench::new();
    let settings = bench.settings();
    let outcome = ended(run(&settings, "night-1").unwrap());
    assert_eq!(outcome.status, Status::Promoted, "{outcome:?}");
    let registry = Registry::open(&settings.registry).unwrap();
    let champion = registry.champion().unwrap().unwrap();
    assert_eq!(champion.generation, outcome.generation);
    let generation_dir = |id: &str| bench.path("registry").join(generation_key(id));
    let dir = generation_dir(outcome.generation.as_deref().unwrap());
    let bundle = Bundle::load(&dir, &Device::Cpu).unwrap();
    assert_eq!(Some(bundle.id()), outcome.generation.as_deref());
    let generation = model::registry::generation(&dir).unwrap();
    assert_eq!(
        generation.base,
        export::base_of(&Bundle::load(&settings.bundle, &Device::Cpu).unwrap())
    );
    let card = std::fs::read_to_string(dir.join("README.md")).unwrap();
    assert!(
        card.contains("| bleu4 |") && card.contains(&generation.adapter_sha256),
        "{card}"
    );
    assert_eq!(ended(run(&settings, "night-1").unwrap()), outcome);
    assert_eq!(registry.champion().unwrap().unwrap(), champion);
    let kinds: Vec<_> = registry.events().unwrap().iter().map(|e| e["kind"].clone()).collect();
    assert_eq!(kinds, ["gate", "promote", "run"]);

    // the next night starts from this one, and a rollback goes back to it
    let next = ended(run(&settings, "night-2").unwrap());
    assert_eq!(next.status, Status::Promoted);
    let second = generation_dir(next.generation.as_deref().unwrap());
    assert_eq!(model::registry::generation(&second).unwrap().parent, outcome.generation);
    let report = Report::read(&settings).unwrap();
    assert_eq!(
        report.lineage,
        [next.generation.clone().unwrap(), outcome.generation.clone().unwrap()]
    );
    assert_eq!(
        undo::rollback(&settings, None, "me").unwrap().generation,
        outcome.generation
    );
    let report = Report::read(&settings).unwrap();
    assert_eq!(report.candidate, next.generation);
    assert!(report.to_string().contains("Rollback by me"), "{report}");
}

#[test]
fn an_encoder_decoder_gets_an_adapter_as_a_decoder_does() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/seq2seq/t5-gated");
        std::fs::copy(golden.join(name), dir.path().join(name)).unwrap();
    }
    let words: serde_json::Map<String, serde_json::Value> = (0..43).map(|i| (format!("w{i}"), i.into())).collect();
    let tokenizer = serde_json::json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}});
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let bench = Bench::with(Some(dir.path().to_owned()));
    let settings = bench.settings();
    let outcome = ended(run(&settings, "night-1").unwrap());
    assert_eq!(outcome.status, Status::Promoted, "{outcome:?}");
    let generation = bench
        .path("registry")
        .join(generation_key(outcome.generation.as_deref().unwrap()));
    let bundle = Bundle::load(&generation, &Device::Cpu).unwrap();
    let adapter = bundle.drafting().adapter.clone().expect("an adapter");
    assert_eq!(adapter.config().task_type.as_deref(), Some("SEQ_2_SEQ_LM"));
    let has = |module: &str| adapter.modules().any(|name| name == module);
    assert!(has("encoder.block.0.layer.0.SelfAttention.q") && has("decoder.block.2.layer.1.EncDecAttention.v"));
    let moved = adapter.tensors().unwrap().into_iter().filter(|(name, b)| {
        let size = b.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        name.contains("lora_B") && size > 0.0
    });
    assert_eq!(moved.count(), adapter.modules().count(), "every module has learned");
}

#[test]
fn a_run_that_is_killed_in_training_comes_to_the_same_generation() {
    let bench = Bench::new();
    for encoder in [EncoderMode::Frozen, EncoderMode::Trainable] {
        let settings = |name: &str| {
            let mut settings = bench.settings();
            settings.work = bench.path(&format!("{name}-{encoder:?}-work"));
            settings.registry = bench.path(&format!("{name}-{encoder:?}-registry")).into();
            settings.train.encoder = encoder;
            settings.train.epochs = 1;
            settings
        };
        let (whole, killed) = (settings("whole"), settings("killed"));
        let expected = ended(run(&whole, "night").unwrap()).generation;
        assert!(expected.is_some());
        for kill_at in [1, 3, 4] {
            let stopped = Night::open(&killed, "night")
                .unwrap()
                .go(Step::Promote, &|step| step == kill_at);
            assert!(matches!(stopped.unwrap(), Progress::Stopped));
        }
        let outcome = ended(run(&killed, "night").unwrap());
        assert_eq!(outcome.generation, expected, "ids hash every weight");
    }
}

#[test]
fn too_little_data_skips_the_night_with_its_reason() {
    let bench = Bench::new();
    let mut settings = bench.settings();
    settings.samples_min = 1000;
    let outcome = ended(run(&settings, "night").unwrap());
    assert_eq!(outcome.status, Status::Skipped);
    assert!(outcome.reasons[0].contains("at least 1000"), "{outcome:?}");
}

#[test]
fn a_loss_that_is_not_finite_aborts_and_keeps_the_champion() {
    let bench = Bench::new();
    let mut settings = bench.settings();
    let first = ended(run(&settings, "night-1").unwrap());
    // weights whose sum overflows
    settings.train.edited_weight = f32::MAX;
    let error = run(&settings, "night-2").unwrap_err();
    assert!(error.to_string().contains("loss is NaN at step 0"), "{error}");
    assert_eq!(ended(run(&settings, "night-2").unwrap()).status, Status::Aborted);
    let champion = Registry::open(&settings.registry).unwrap().champion().unwrap().unwrap();
    assert_eq!(champion.generation, first.generation);
}

#[test]
fn the_gate_keeps_the_champion_and_says_why() {
    let bench = Bench::new();
    let mut settings = bench.settings();
    settings.gate.higher.insert("bleu4".to_owned(), -2.0); // asks for more than is possible
    let outcome = ended(run(&settings, "night").unwrap());
    assert_eq!(outcome.status, Status::Kept);
    assert!(outcome.reasons[0].starts_with("bleu4: candidate"), "{outcome:?}");
    assert_eq!(Registry::open(&settings.registry).unwrap().champion().unwrap(), None);
    let mut other = settings.clone();
    other.seed += 1;
    let error = Night::open(&other, "night-3").and_then(|night| {
        night.go(Step::Curate, &|_| false)?;
        Night::open(&settings, "night-3")?.go(Step::Curate, &|_| false)
    });
    assert!(error.unwrap_err().to_string().contains("other settings"));
}

#[test]
fn a_full_disk_stops_the_night_and_room_lets_it_go_on() {
    let bench = Bench::new();
    let mut settings = bench.settings();
    assert!(matches!(
        Night::open(&settings, "night")
            .unwrap()
            .go(Step::Curate, &|_| false)
            .unwrap(),
        Progress::Complete(Step::Curate)
    ));
    let mut night = Night::open(&settings, "night").unwrap();
    let full = PipelineSection {
        reserve_mb: u64::MAX >> 24,
        ..settings.clone()
    };
    night.settings = &full;
    let plan: Plan = read_json(&night.dir.join("plan.json")).unwrap().unwrap();
    night.write("x", &0).unwrap_err();
    let data = Dataset::open(&night.dir.join("dataset")).unwrap();
    let lease = match Lease::ask(night.registry.store(), Holder::this("night"), now_us(), 1_000_000).unwrap() {
        Asked::Granted(lease) => RefCell::new(lease),
        held => panic!("{held:?}"),
    };
    let error = night.train(&plan, &data, &|_| false, &lease).unwrap_err().to_string();
    assert!(error.contains("bytes free"), "{error}");
    settings.reserve_mb = 0;
    assert_eq!(ended(run(&settings, "night").unwrap()).status, Status::Promoted);
}

/// Directory of the bench that a child process works in; the child is this program, started for one test alone.
const CHILD: &str = "MEIT_NIGHT_CHILD";

fn killed_settings(bench: &Path) -> PipelineSection {
    serde_json::from_slice(&std::fs::read(bench.join("settings.json")).unwrap()).unwrap()
}

#[test]
fn a_run_killed_with_signal_9_after_each_of_its_files_comes_to_the_same_generation() {
    if let Some(bench) = std::env::var_os(CHILD) {
        run(&killed_settings(Path::new(&bench)), "night").unwrap();
        return;
    }
    let bench = Bench::new();
    let expected = ended(run(&bench.settings(), "night").unwrap()).generation;
    let mut settings = bench.settings();
    (settings.work, settings.registry) = (bench.path("killed-work"), bench.path("killed-registry").into());
    std::fs::write(bench.path("settings.json"), serde_json::to_vec(&settings).unwrap()).unwrap();
    let run_dir = settings.work.join("night");
    for file in [
        run_dir.join("plan.json"),
        run_dir.join("dataset/manifest.json"),
        run_dir.join("training/checkpoint/current"),
        run_dir.join("candidate/bundle.json"),
        run_dir.join("scores.json"),
        bench.path("killed-registry/champion/00000001.json"),
    ] {
        let mut child = child(bench.dir.path());
        while !file.exists() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        assert!(file.exists(), "the child ended before {}", file.display());
    }
    assert!(child(bench.dir.path()).wait().unwrap().success());
    let outcome = ended(run(&settings, "night").unwrap());
    assert_eq!((outcome.status, outcome.generation), (Status::Promoted, expected));
    let history = Registry::open(&settings.registry).unwrap().history().unwrap();
    assert_eq!(history.len(), 1, "it was promoted once: {history:?}");
}

fn child(bench: &Path) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "night::tests::a_run_killed_with_signal_9_after_each_of_its_files_comes_to_the_same_generation",
        ])
        .env(CHILD, bench)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn nights_on_s3_come_to_the_generations_of_nights_in_a_directory() {
    let (bench, server) = (Bench::new(), s3::Server::start());
    let mut settings = bench.settings();
    let expected = ["night-1", "night-2"].map(|name| ended(run(&settings, name).unwrap()).generation);
    settings.work = bench.path("s3-work");
    let registry = || {
        let store = store::s3::S3::new("bucket", "registry", server.variables()).unwrap();
        Registry::over(std::sync::Arc::new(store))
    };
    let night = |name| {
        let mut night = Night::open(&settings, name).unwrap();
        night.registry = registry();
        ended(night.go(Step::Promote, &|_| false).unwrap())
    };
    let outcomes = ["night-1", "night-2"].map(night);
    assert_eq!(outcomes.clone().map(|outcome| outcome.generation), expected);
    assert!(
        !settings.work.join("night-2").join(COPIES).exists(),
        "the champion's copy is gone"
    );
    let history = registry().history().unwrap();
    let promoted: Vec<_> = history.into_iter().map(|entry| entry.generation).collect();
    assert_eq!(promoted, expected);
    let kinds: Vec<_> = registry().events().unwrap().iter().map(|e| e["kind"].clone()).collect();
    assert_eq!(kinds, ["gate", "promote", "run", "gate", "promote", "run"]);
}
