//! Every kind of trainable parameter against finite differences, in f64.
//!
//! candle's fused operations cut the graph without an error, and its conv1d has a wrong kernel gradient; this guards the
//! training path against both.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use model::config::{Block, DecoderConfig, EncoderConfig, ResnetConfig, Trunk};
use model::findings::{MorphologyConfig, MorphologyLayer, pooled};
use model::init;
use model::layers::Linear;
use model::meit::Meit;
use model::mode::{Mode, Training};
use model::morphology;
use pipeline::batch::{Row, TokenBatch};
use pipeline::objective::{label_loss, language_loss, logits};
use pipeline::params::Params;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::differences::Differences;
use crate::rig::device;

/// In f64 such differences are exact to about 1e-9 here; ReLU kinks are avoided by the seed.
const DIFFERENCES: Differences = Differences {
    step: 1e-5,
    relative_error_max: 1e-5,
    scale_min: 1e-3,
};

struct Tiny {
    params: Params,
    model: Meit,
    head: Linear,
    x: Tensor,
    labels: Tensor,
    batch: TokenBatch,
}

fn encoder_config() -> EncoderConfig {
    EncoderConfig {
        leads: 3,
        decimation: 2,
        trunk: Trunk::Resnet1d(ResnetConfig {
            width: 2,
            stem_kernel: 5,
            stem_stride: 2,
            blocks: vec![1, 2],
            block: Block::Bottleneck,
            kernel: 5,
            groups: 2,
        }),
        hidden: 6,
        dim: 4,
        tokens: 3,
        time_embedding: true,
    }
}

fn decoder_config() -> DecoderConfig {
    serde_json::from_value(serde_json::json!({
        "model_type": "llama", "vocab_size": 11, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "rope_theta": 100.0
    }))
    .unwrap()
}

impl Tiny {
    fn new() -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let mut tensors = BTreeMap::new();
        let parts = [
            ("encoder", init::encoder(&encoder_config(), &mut rng).unwrap()),
            ("decoder", init::decoder(&decoder_config(), &mut rng).unwrap()),
        ];
        for (prefix, part) in parts {
            tensors.extend(part.into_iter().map(|(name, t)| (format!("{prefix}.{name}"), t)));
        }
        let features = 2 * encoder_config().features();
        tensors.insert(
            "head.weight".to_owned(),
            Tensor::zeros((2, features), DType::F32, &device()).unwrap(),
        );
        tensors.insert("head.bias".to_owned(), Tensor::zeros(2, DType::F32, &device()).unwrap());
        // away from zeros and ones, so that no gradient vanishes by symmetry
        for (name, tensor) in tensors.iter_mut().filter(|(name, _)| !name.contains("running_")) {
            let scale = if name.starts_with("decoder") { 0.4 } else { 0.1 };
            let noise: Vec<f32> = (0..tensor.elem_count())
                .map(|_| scale * init::standard_normal(&mut rng))
                .collect();
            let noise = Tensor::from_vec(noise, tensor.shape(), &device()).unwrap();
            *tensor = (&*tensor + noise).unwrap();
        }
        tensors.values_mut().for_each(|t| *t = t.to_dtype(DType::F64).unwrap());
        let params = Params::new(&tensors).unwrap();
        let weights = params.weights();
        let model = Meit::load(
            &weights.pp("encoder"),
            &encoder_config(),
            &weights.pp("decoder"),
            &decoder_config(),
        )
        .unwrap();
        let x: Vec<f64> = (0..2 * 3 * 48)
            .map(|_| f64::from(init::standard_normal(&mut rng)))
            .collect();
        let rows = [
            Row {
                ids: vec![1, 2, 3, 4, 5],
                prompt_len: 2,
                weight: 1.0,
            },
            Row {
                ids: vec![1, 2, 6, 7],
                prompt_len: 2,
                weight: 1.0,
            },
        ];
        Self {
            head: Linear::load(&weights.pp("head"), features, 2).unwrap(),
            params,
            model,
            x: Tensor::from_vec(x, (2, 3, 48), &device()).unwrap(),
            labels: Tensor::new(&[[1f64, 0.0], [0.0, 1.0]], &device()).unwrap(),
            batch: TokenBatch::new(&[&rows[0], &rows[1]], 0, &device()).unwrap(),
        }
    }

    fn loss(&self) -> Tensor {
        let training = Training::new(0.2, ChaCha8Rng::seed_from_u64(5));
        let mode = Mode::Train(&training);
        let frames = self.model.encoder.forward(&self.x, &mode).unwrap();
        let e = self.model.projector.forward(&frames, &mode).unwrap();
        let logits = logits(&self.model.backbone, &self.batch, Some(&e), &mode).unwrap();
        let labels = label_loss(&self.head.forward(&pooled(&frames).unwrap()).unwrap(), &self.labels).unwrap();
        (language_loss(&logits, &self.batch).unwrap() + labels).unwrap()
    }
}

#[test]
fn the_gradient_of_every_trainable_parameter_equals_its_finite_difference() {
    let tiny = Tiny::new();
    let grads = tiny.loss().backward().unwrap();
    let value = || tiny.loss().to_scalar::<f64>().unwrap();
    for (name, var) in tiny.params.trainable() {
        let grad = grads.get(var).unwrap_or_else(|| panic!("no gradient for {name}"));
        let indices = [0, var.elem_count() / 2, var.elem_count() - 1];
        DIFFERENCES.check(name, var, grad, &indices, value);
    }
}

#[test]
fn the_gradient_of_the_heads_layers_over_the_morphology_equals_its_finite_difference() {
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let config = MorphologyConfig { hidden: 3 };
    let mut tensors = init::morphology(config, &mut rng).unwrap();
    let mut normal = |shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|_| init::standard_normal(&mut rng));
        Tensor::from_vec(values.collect::<Vec<f32>>(), shape, &device()).unwrap()
    };
    for (name, shape) in [("output.weight", &[2, 3][..]), ("output.bias", &[2])] {
        tensors.insert(name.to_owned(), normal(shape));
    }
    tensors.values_mut().for_each(|t| *t = t.to_dtype(DType::F64).unwrap());
    let x = normal(&[2, morphology::LENGTH]).to_dtype(DType::F64).unwrap();
    let labels = Tensor::new(&[[1f64, 0.0], [0.0, 1.0]], &device()).unwrap();
    let params = Params::new(&tensors).unwrap();
    let layer = MorphologyLayer::load(&params.weights(), config).unwrap();
    let output = Linear::load(&params.weights().pp("output"), 3, 2).unwrap();
    let loss = || {
        let logits = output.forward(&layer.forward(&x).unwrap()).unwrap();
        label_loss(&logits, &labels).unwrap()
    };
    let grads = loss().backward().unwrap();
    for (name, var) in params.trainable() {
        let grad = grads.get(var).unwrap_or_else(|| panic!("no gradient for {name}"));
        let indices = [0, var.elem_count() / 2, var.elem_count() - 1];
        DIFFERENCES.check(name, var, grad, &indices, || loss().to_scalar::<f64>().unwrap());
    }
}

#[test]
fn running_statistics_are_not_trained() {
    let tiny = Tiny::new();
    assert!(tiny.params.trainable().all(|(name, _)| !name.contains("running_")));
    assert!(tiny.params.trainable().count() > 40);
}
