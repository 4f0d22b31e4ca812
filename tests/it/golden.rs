//! The model against tensors that Hugging Face transformers and PyTorch made (tests/golden, scripts beside them).
//!
//! MEIT_GOLDEN_DIR names another directory of the same layout; every size is read from config.json or from the tensors.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, Device, IndexOp, Tensor};
use model::config::{DecoderConfig, EncoderConfig};
use model::decoder::Decoder;
use model::encoder::EcgEncoder;
use model::generate::{DecodeOptions, generate};
use model::mode::{Mode, Training};
use model::prefix::EcgPrefix;
use model::projector::Projector;
use model::weights::Weights;
use rand::SeedableRng;

/// Accumulation order differs between the two libraries; both run in f32.
const LOGITS_ERROR_MAX: f32 = 1e-4;
/// Relative to a gradient's largest element.
const GRADIENT_ERROR_MAX: f32 = 1e-2;

fn golden(part: &str) -> PathBuf {
    let root = std::env::var_os("MEIT_GOLDEN_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden"),
        PathBuf::from,
    );
    root.join(part)
}

fn load(part: &str) -> Weights {
    Weights::load(&[&golden(part)], DType::F32, &Device::Cpu).unwrap()
}

fn tensor(w: &Weights, name: &str) -> Tensor {
    w.find(name).unwrap_or_else(|| panic!("golden tensor {name}")).clone()
}

fn error_max(got: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(got.dims(), expected.dims());
    largest(&(got - expected).unwrap())
}

/// The largest magnitude in a tensor.
fn largest(t: &Tensor) -> f32 {
    let magnitudes = t.abs().unwrap().flatten_all().unwrap();
    magnitudes.max(0).unwrap().to_scalar::<f32>().unwrap()
}

struct Family {
    decoder: Decoder,
    io: Weights,
    ids: Tensor,
    lengths: Vec<i64>,
    ecg: Tensor,
}

impl Family {
    fn open(name: &str) -> Self {
        let text = std::fs::read(golden(&format!("decoders/{name}/config.json"))).unwrap();
        let config: DecoderConfig = serde_json::from_slice(&text).unwrap();
        let io = load(&format!("decoders/{name}/io.safetensors"));
        Self {
            decoder: Decoder::load(&load(&format!("decoders/{name}/model.safetensors")), &config).unwrap(),
            ids: tensor(&io, "input_ids").to_dtype(DType::U32).unwrap(),
            lengths: tensor(&io, "lengths").to_vec1().unwrap(),
            ecg: tensor(&io, "ecg"),
            io,
        }
    }

    fn logits(&self, prefix: Option<&EcgPrefix>) -> Tensor {
        self.decoder
            .forward(&self.ids, prefix, &mut self.decoder.cache(), &Mode::Eval)
            .unwrap()
    }

    #[track_caller]
    fn check(&self, got: &Tensor, name: &str) {
        let expected = tensor(&self.io, name);
        for (row, &length) in self.lengths.iter().enumerate() {
            let real = |t: &Tensor| t.i(row).unwrap().narrow(0, 0, length as usize).unwrap();
            let error = error_max(&real(got), &real(&expected));
            assert!(error <= LOGITS_ERROR_MAX, "{name} row {row}: error {error}");
        }
    }
}

#[track_caller]
fn check_decoder(name: &str) {
    let family = Family::open(name);
    family.check(&family.logits(None), "logits_text");
    let prefix = family.decoder.prefix(&family.ecg).unwrap();
    family.check(&family.logits(Some(&prefix)), "logits_ecg");
    let one = family.decoder.prefix(&family.ecg.narrow(1, 0, 1).unwrap()).unwrap();
    family.check(&family.logits(Some(&one)), "logits_ecg_one");
}

#[track_caller]
fn check_greedy(name: &str) {
    let family = Family::open(name);
    let expected: Vec<Vec<i64>> = tensor(&family.io, "greedy_ecg").to_vec2().unwrap();
    for (row, expected) in expected.iter().enumerate() {
        let prompt = family
            .ids
            .narrow(0, row, 1)
            .unwrap()
            .narrow(1, 0, family.lengths[row] as usize)
            .unwrap();
        let prefix = family.decoder.prefix(&family.ecg.narrow(0, row, 1).unwrap()).unwrap();
        let options = DecodeOptions {
            tokens_max: expected.len(),
            ..DecodeOptions::default()
        };
        let rows = generate(&family.decoder, &prompt, Some(&prefix), None, &options).unwrap();
        let got: Vec<i64> = rows[0].ids.iter().map(|&id| i64::from(id)).collect();
        assert_eq!(&got, expected, "{name} row {row}");
    }
}

#[test]
fn llama_logits_equal_transformers_with_and_without_the_ecg() {
    check_decoder("llama");
}

#[test]
fn llama3_logits_equal_transformers_with_and_without_the_ecg() {
    check_decoder("llama3");
}

#[test]
fn llama_continues_greedily_as_transformers_does() {
    check_greedy("llama");
}

#[test]
fn llama3_continues_greedily_as_transformers_does() {
    check_greedy("llama3");
}

#[test]
fn prefix_and_cached_steps_equal_the_full_forward() {
    let family = Family::open("llama3");
    let prefix = family.decoder.prefix(&family.ecg).unwrap();
    let full = family.logits(Some(&prefix));
    let mut cache = family.decoder.cache();
    for position in 0..family.ids.dim(1).unwrap() {
        let id = family.ids.narrow(1, position, 1).unwrap();
        let step = family.decoder.forward_last(&id, Some(&prefix), &mut cache).unwrap();
        let error = error_max(&step, &full.i((.., position)).unwrap().contiguous().unwrap());
        assert!(error <= LOGITS_ERROR_MAX, "position {position}: error {error}");
    }
}

#[test]
fn a_batch_of_n_equals_n_batches_of_one() {
    let family = Family::open("llama");
    let prefix = family.decoder.prefix(&family.ecg).unwrap();
    let together = family.logits(Some(&prefix));
    for row in 0..family.lengths.len() {
        let prefix = family.decoder.prefix(&family.ecg.narrow(0, row, 1).unwrap()).unwrap();
        let ids = family.ids.narrow(0, row, 1).unwrap();
        let alone = family
            .decoder
            .forward(&ids, Some(&prefix), &mut family.decoder.cache(), &Mode::Eval)
            .unwrap();
        let error = error_max(&alone, &together.narrow(0, row, 1).unwrap());
        assert!(error <= LOGITS_ERROR_MAX, "row {row}: error {error}");
    }
}

struct Trunk {
    weights: Weights,
    io: Weights,
    x: Tensor,
}

impl Trunk {
    fn open() -> Self {
        let io = load("encoder/io.safetensors");
        Self {
            weights: load("encoder/encoder.safetensors"),
            x: tensor(&io, "x"),
            io,
        }
    }

    fn embed(&self, weights: &Weights, tokens: usize, mode: &Mode) -> Tensor {
        let config = EncoderConfig::from_weights(weights, tokens).unwrap();
        let frames = EcgEncoder::load(weights, &config)
            .unwrap()
            .forward(&self.x, mode)
            .unwrap();
        Projector::load(weights, &config)
            .unwrap()
            .forward(&frames, mode)
            .unwrap()
    }
}

#[test]
fn encoder_features_and_tokens_equal_pytorch() {
    let trunk = Trunk::open();
    let config = EncoderConfig::from_weights(&trunk.weights, 1).unwrap();
    let frames = EcgEncoder::load(&trunk.weights, &config)
        .unwrap()
        .forward(&trunk.x, &Mode::Eval)
        .unwrap();
    let features = tensor(&trunk.io, "features");
    let scale = largest(&features);
    let error = error_max(&frames.mean(1).unwrap(), &features);
    assert!(
        error <= 1e-5 * scale.max(1.0),
        "features: error {error} at scale {scale}"
    );
    for (tokens, name) in [(1, "e1"), (8, "e8")] {
        let error = error_max(
            &trunk.embed(&trunk.weights, tokens, &Mode::Eval),
            &tensor(&trunk.io, name),
        );
        assert!(error <= LOGITS_ERROR_MAX, "{name}: error {error}");
    }
}

#[test]
fn encoder_training_step_equals_pytorch_in_output_gradient_and_running_statistics() {
    let trunk = Trunk::open();
    let wide = |w: &Weights| -> BTreeMap<String, Tensor> {
        w.tensors()
            .iter()
            .map(|(name, t)| (name.clone(), t.to_dtype(DType::F64).unwrap()))
            .collect()
    };
    let params = pipeline::params::Params::new(&wide(&trunk.weights)).unwrap();
    let io = Weights::new(wide(&trunk.io));
    let training = Training::new(0.0, rand_chacha::ChaCha8Rng::seed_from_u64(0));
    let config = EncoderConfig::from_weights(&params.weights(), 1).unwrap();
    let frames = EcgEncoder::load(&params.weights(), &config).unwrap();
    let frames = frames.forward(&tensor(&io, "x"), &Mode::Train(&training)).unwrap();
    let e1 = Projector::load(&params.weights(), &config)
        .unwrap()
        .forward(&frames, &Mode::Train(&training))
        .unwrap();
    let narrow = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
    let error = error_max(&narrow(&e1), &tensor(&trunk.io, "e1_train"));
    assert!(error <= 1e-3, "e1_train: error {error}");
    let loss = (e1 * tensor(&io, "target")).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    let mut compared = 0;
    for (name, var) in params.trainable() {
        let Some(expected) = trunk.io.find(&format!("grad.{name}")) else {
            continue;
        };
        let got = narrow(grads.get(var).unwrap_or_else(|| panic!("no gradient for {name}")));
        let scale = largest(expected);
        let error = error_max(&got, expected);
        eprintln!("grad {name}: error {error} at scale {scale}");
        assert!(
            error <= GRADIENT_ERROR_MAX * scale.max(1e-3),
            "grad {name}: error {error} at scale {scale}"
        );
        compared += 1;
    }
    assert!(compared >= 6, "only {compared} gradients were compared");
    for (name, golden) in [
        ("bn1.running_mean", "running_mean_bn1_after"),
        ("bn1.running_var", "running_var_bn1_after"),
    ] {
        let error = error_max(&narrow(&tensor(&params.weights(), name)), &tensor(&trunk.io, golden));
        assert!(error <= 1e-5, "{golden}: error {error}");
    }
}
