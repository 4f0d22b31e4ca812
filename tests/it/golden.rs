//! The encoder against tensors that PyTorch made (tests/golden, script beside them), and what all golden tests share.
//!
//! MEIT_GOLDEN_DIR names another directory of the same layout; every size is read from config.json or from the tensors.

mod decoders;
mod lora;
mod seq2seq;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, IndexOp, Tensor};
use model::config::EncoderConfig;
use model::encoder::EcgEncoder;
use model::mode::{Mode, Training};
use model::projector::Projector;
use model::weights::Weights;
use rand::SeedableRng;

use crate::rig::{device, root};

/// Accumulation order differs between the two libraries; both run in f32.
pub const LOGITS_ERROR_MAX: f32 = 1e-4;
/// Norm of a gradient's error over its own: of the trunk's tensors, and of the projector's. It is torch's, in f32: over 124 seeds its
/// gradients differ from its own in f64 by up to 5.3e-2 and 5.8e-4, since a value next to a ReLU's kink may fall on either side.
const GRADIENT_ERROR_MAX: [f32; 2] = [0.1, 2e-3];
/// Norm below which a gradient counts as this: a bias before a batch norm has none but what rounding leaves.
const GRADIENT_NORM_MIN: f32 = 0.1;

pub fn golden(part: &str) -> PathBuf {
    let root = std::env::var_os("MEIT_GOLDEN_DIR").map_or_else(|| root().join("tests/golden"), PathBuf::from);
    root.join(part)
}

/// Directories of one kind, sorted by name.
fn directories(part: &str) -> Vec<PathBuf> {
    let path = golden(part);
    let entries = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|p| p.is_dir())
        .collect();
    found.sort();
    found
}

/// Checks what lies in each directory of one kind, which has at least one.
#[track_caller]
pub fn for_each(part: &str, check: impl Fn(&Path)) {
    let directories = directories(part);
    assert!(!directories.is_empty(), "no golden {part}");
    directories.iter().for_each(|dir| check(dir));
}

/// Tensors as a file has them, token ids and lengths too.
pub fn read(path: &Path) -> Weights {
    let tensors = candle_core::safetensors::load(path, &device()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Weights::new(tensors.into_iter().collect())
}

pub fn tensor(w: &Weights, name: &str) -> Tensor {
    let shape = w.shape(name).unwrap_or_else(|| panic!("golden tensor {name}"));
    w.get(&shape, name).unwrap()
}

pub fn error_max(got: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(got.dims(), expected.dims());
    largest(&(got - expected).unwrap())
}

/// Holds what each step says (B, V) of the tokens (B, 1) that it is given to the full forward's logits (B, T, V) of `ids` (B, T).
#[track_caller]
pub fn steps_equal(name: &str, ids: &Tensor, full: &Tensor, mut step: impl FnMut(&Tensor) -> Tensor) {
    for position in 0..ids.dim(1).unwrap() {
        let got = step(&ids.narrow(1, position, 1).unwrap());
        let error = error_max(&got, &full.i((.., position)).unwrap().contiguous().unwrap());
        assert!(error <= LOGITS_ERROR_MAX, "{name} position {position}: error {error}");
    }
}

/// The largest magnitude in a tensor.
pub fn largest(t: &Tensor) -> f32 {
    let magnitudes = t.abs().unwrap().flatten_all().unwrap();
    magnitudes.max(0).unwrap().to_scalar::<f32>().unwrap()
}

/// Root of the sum of squares.
pub fn norm(t: &Tensor) -> f32 {
    let squares = t.sqr().unwrap().sum_all().unwrap();
    squares.to_scalar::<f32>().unwrap().sqrt()
}

struct Trunk {
    weights: Weights,
    io: Weights,
    x: Tensor,
}

impl Trunk {
    fn open() -> Self {
        let io = read(&golden("encoder/io.safetensors"));
        Self {
            weights: read(&golden("encoder/encoder.safetensors")),
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
        let tensors = w.tensors().unwrap().into_iter();
        tensors
            .map(|(name, t)| (name, t.to_dtype(DType::F64).unwrap()))
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
        if !trunk.io.has(&format!("grad.{name}")) {
            continue;
        }
        let expected = tensor(&trunk.io, &format!("grad.{name}"));
        let got = narrow(grads.get(var).unwrap_or_else(|| panic!("no gradient for {name}")));
        let error = norm(&(&got - &expected).unwrap()) / norm(&got).max(GRADIENT_NORM_MIN);
        let limit = GRADIENT_ERROR_MAX[usize::from(name.starts_with("projector."))];
        assert!(error <= limit, "grad {name}: error {error} of its norm");
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
