//! The encoder's trunks against PyTorch in frames and gradients, and their sizes against the paper's.
//!
//! Place: tests/golden/trunks, made by export_trunks.py; the ResNet of bottleneck blocks is `golden`'s. Invariant: what `init`
//! draws is what the config counts and what the encoder reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use model::config::EncoderConfig;
use model::encoder::EcgEncoder;
use model::init;
use model::mode::Mode;
use model::projector::Projector;
use model::weights::Weights;
use pipeline::params::Params;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::golden::{error_max, golden, largest, tensor};
use crate::rig::{device, root};

const TRUNKS: [&str; 3] = ["resnet1d-basic", "vim", "vit1d"];
/// Both libraries run in f32 and sum in another order; relative to the largest element.
const FRAMES_ERROR_MAX: f32 = 1e-5;
const GRADIENT_ERROR_MAX: f32 = 1e-4;

/// Those of MEIT_GOLDEN_DIR where it has any, the shipped ones otherwise.
fn trunk(name: &str) -> PathBuf {
    let given = golden("trunks");
    let trunks = if given.is_dir() {
        given
    } else {
        root().join("tests/golden/trunks")
    };
    trunks.join(name)
}

fn config(path: &Path) -> EncoderConfig {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn read(path: PathBuf) -> Weights {
    Weights::load(&[&path], DType::F32, &device()).unwrap()
}

#[test]
fn frames_and_gradients_of_every_trunk_equal_pytorch() {
    for name in TRUNKS {
        let dir = trunk(name);
        let io = read(dir.join("io.safetensors"));
        let params = Params::new(&read(dir.join("encoder.safetensors")).tensors().unwrap()).unwrap();
        let encoder = EcgEncoder::load(&params.weights(), &config(&dir.join("encoder.json"))).unwrap();
        let frames = encoder.forward(&tensor(&io, "x"), &Mode::Eval).unwrap();
        let expected = tensor(&io, "frames");
        let error = error_max(&frames, &expected) / largest(&expected);
        assert!(error <= FRAMES_ERROR_MAX, "{name}: error {error}");
        let loss = (frames * tensor(&io, "target")).unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        let mut compared = 0;
        for (tensor_name, var) in params.trainable() {
            let expected = tensor(&io, &format!("grad.{tensor_name}"));
            let grad = grads
                .get(var)
                .unwrap_or_else(|| panic!("{name}: no gradient of {tensor_name}"));
            let error = error_max(grad, &expected) / largest(&expected);
            assert!(error <= GRADIENT_ERROR_MAX, "{name}, {tensor_name}: error {error}");
            compared += 1;
        }
        let expected = io
            .tensors()
            .unwrap()
            .into_keys()
            .filter(|key| key.starts_with("grad."))
            .count();
        assert_eq!(compared, expected, "{name}");
    }
}

#[test]
fn fresh_weights_of_every_trunk_are_what_the_config_counts_and_the_encoder_reads() {
    for name in TRUNKS {
        for (tokens, time_embedding) in [(1, false), (3, true)] {
            let config = EncoderConfig {
                tokens,
                time_embedding,
                ..config(&trunk(name).join("encoder.json"))
            };
            let tensors = init::encoder(&config, &mut ChaCha8Rng::seed_from_u64(5)).unwrap();
            let trained = tensors.iter().filter(|(name, _)| !name.contains("running_"));
            let counted: usize = trained.map(|(_, t)| t.elem_count()).sum();
            assert_eq!(config.parameters(), counted, "{name}");
            let weights = Weights::new(tensors);
            let x = Tensor::randn(0f32, 1.0, (2, 5, 96), &device()).unwrap();
            let frames = EcgEncoder::load(&weights, &config).unwrap();
            let frames = frames.forward(&x, &Mode::Eval).unwrap();
            assert_eq!(frames.dims3().unwrap().2, config.features(), "{name}");
            let projector = Projector::load(&weights, &config).unwrap();
            let e = projector.forward(&frames, &Mode::Eval).unwrap();
            assert_eq!(e.dims(), [2, tokens, config.dim], "{name}");
        }
    }
}

#[test]
fn a_sequence_of_another_length_than_the_positions_is_an_error_with_both() {
    let dir = trunk("vim");
    let encoder = EcgEncoder::load(
        &read(dir.join("encoder.safetensors")),
        &config(&dir.join("encoder.json")),
    )
    .unwrap();
    let x = Tensor::zeros((1, 5, 80), DType::F32, &device()).unwrap();
    let error = encoder.forward(&x, &Mode::Eval).unwrap_err().to_string();
    assert!(error.contains("10 patches of 8") && error.contains("12"), "{error}");
}

#[test]
fn shipped_configs_have_the_papers_parameter_counts() {
    let counts: BTreeMap<String, usize> = std::fs::read_dir(root().join("model/encoders"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, config(&path).parameters())
        })
        .collect();
    // the reference's encoder: trunk 15,959,168 and projector 4,462,976 at d = 128
    assert_eq!(counts["resnet50"], 20_422_144);
    // trunks of the reference's ResNet-18 and 34, each with a projector 512 -> 2048 -> 128
    let projector = 512 * 2048 + 3 * 2048 + 2048 * 128 + 3 * 128;
    assert_eq!(counts["resnet18"], 3_848_832 + projector);
    assert_eq!(counts["resnet34"], 7_223_168 + projector);
    // the paper's table 9 has 98M for the transformer and 86M for Vision Mamba; its text, and their own papers, the other way
    for (name, millions) in [
        ("vit1d-98m", 98.0),
        ("vim-86m", 86.0),
        ("vit1d-b", 86.0),
        ("vim-b", 98.0),
    ] {
        let ratio = counts[name] as f64 / 1e6 / millions;
        assert!((ratio - 1.0).abs() < 0.05, "{name}: {} parameters", counts[name]);
    }
    assert_eq!(counts.len(), 7);
}

#[test]
fn a_trunk_of_sizes_beside_the_others_is_the_resnet_of_the_first_bundles() {
    let beside = serde_json::json!({"leads": 12, "decimation": 2, "width": 20, "stem_kernel": 15, "stem_stride": 4, "blocks": [1, 2, 2, 2],
        "hidden": 384, "dim": 48, "tokens": 20, "time_embedding": true});
    let config: EncoderConfig = serde_json::from_value(beside.clone()).unwrap();
    assert_eq!(serde_json::to_value(&config).unwrap(), beside);
    let mut both = beside;
    both["trunk"] =
        serde_json::json!({"kind": "vit1d", "width": 8, "layers": 1, "heads": 2, "mlp": 8, "patch": 5, "patches": 3});
    assert!(serde_json::from_value::<EncoderConfig>(both).is_err());
}
