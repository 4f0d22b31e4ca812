//! Checkpointing by layer against the pass that keeps everything: the same loss and gradients, bit for bit.
//!
//! Place: on decoders with random weights, in f32, with dropout, an adapter and an ECG that learns.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use model::architecture::Architecture;
use model::decoder::Decoder;
use model::fusion::Fusion;
use model::init;
use model::lora::{Adaptable, Adapter, AdapterConfig, Targets};
use model::loss::cross_entropy;
use model::mode::{Mode, Training};
use model::weights::Weights;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::rig::device;

const ECG_DIM: usize = 4;

fn random(dims: &[usize], scale: f32, rng: &mut ChaCha8Rng) -> Tensor {
    let n = dims.iter().product();
    let values: Vec<f32> = (0..n).map(|_| scale * init::standard_normal(rng)).collect();
    Tensor::from_vec(values, dims, &device()).unwrap()
}

/// A decoder of three layers whose every weight learns, or none, and its variables.
fn decoder(fusion: &Fusion, learns: bool) -> (Decoder, BTreeMap<String, Var>) {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let config = serde_json::from_value(serde_json::json!({
        "model_type": "llama", "vocab_size": 13, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": true
    }));
    let config: model::config::DecoderConfig = config.unwrap();
    let architecture: Architecture = config.architecture().unwrap();
    let mut tensors = init::decoder(&config, &mut rng).unwrap();
    for (name, t) in init::fusion(fusion, &architecture, ECG_DIM, &mut rng).unwrap() {
        // away from the gates' zero
        let moved = (&t + random(t.dims(), 0.3, &mut rng)).unwrap();
        tensors.insert(name, moved);
    }
    let vars: BTreeMap<String, Var> = tensors
        .iter()
        .map(|(name, t)| (name.clone(), Var::from_tensor(t).unwrap()))
        .collect();
    if learns {
        tensors = vars
            .iter()
            .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
            .collect();
    }
    let weights = Weights::new(tensors);
    let decoder = Decoder::load(&weights, &architecture).unwrap();
    let decoder = decoder.with_fusion(fusion, &weights.pp("fusion"), ECG_DIM).unwrap();
    (decoder, if learns { vars } else { BTreeMap::new() })
}

#[track_caller]
fn check(decoder: &Decoder, vars: &BTreeMap<String, Var>) {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let ecg = Var::from_tensor(&random(&[2, 3, ECG_DIM], 0.5, &mut rng)).unwrap();
    let ids = Tensor::new(&[[3u32, 9, 4, 7, 5], [8, 3, 3, 2, 12]], &device()).unwrap();
    let weights = Tensor::new(&[[0f32, 1.0, 1.0, 1.0, 0.5], [0.0, 0.0, 1.0, 1.0, 0.0]], &device()).unwrap();
    let run = |by_layer: bool| {
        let training = Training::new(0.2, ChaCha8Rng::seed_from_u64(5));
        let mode = Mode::Train(&training);
        let prefix = decoder.prefix_in(&(ecg.as_tensor() * 2.0).unwrap(), &mode).unwrap();
        let loss = |logits: &Tensor| cross_entropy(logits, &ids, &weights);
        let (loss, grads) = if by_layer {
            decoder.backward_by_layer(&ids, Some(&prefix), &mode, loss).unwrap()
        } else {
            let logits = decoder
                .forward(&ids, Some(&prefix), &mut decoder.cache(), &mode)
                .unwrap();
            let loss = loss(&logits).unwrap();
            let grads = loss.backward().unwrap();
            (loss, grads)
        };
        // the masks of a next step
        let next = mode.dropout(&Tensor::ones(20, candle_core::DType::F32, &device()).unwrap());
        (
            loss.to_scalar::<f32>().unwrap(),
            grads,
            next.unwrap().to_vec1::<f32>().unwrap(),
        )
    };
    let ((loss, grads, next), (loss_by_layer, grads_by_layer, next_by_layer)) = (run(false), run(true));
    assert_eq!((loss, next), (loss_by_layer, next_by_layer));
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let ecg = [("ecg".to_owned(), ecg)];
    let all = vars.iter().chain(ecg.iter().map(|(name, var)| (name, var)));
    for (name, var) in all {
        let expected = values(grads.get(var).unwrap_or_else(|| panic!("no gradient for {name}")));
        assert!(expected.iter().any(|&v| v != 0.0), "the gradient of {name} is zero");
        let got = values(grads_by_layer.get(var).unwrap());
        if name.contains("embed_tokens") {
            // tied to the head: the gradients of its two uses are added in another order
            let error = got
                .iter()
                .zip(&expected)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(error < 1e-6, "{name}: {error}");
        } else {
            assert_eq!(got, expected, "{name}");
        }
    }
}

#[test]
fn an_adapter_and_what_is_behind_the_prefix_get_the_same_gradients() {
    let (base, _) = decoder(&Fusion::default(), false);
    let config = AdapterConfig::new(2, 4.0, Targets::Pattern("all-linear".to_owned()));
    let fresh = Adapter::fresh(config.clone(), &base, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
    // away from zero, or half of the gradients would be
    let tensors = fresh.tensors().unwrap().into_iter().map(|(name, t)| {
        let noise = random(t.dims(), 0.1, &mut ChaCha8Rng::seed_from_u64(name.len() as u64));
        (name, (t + noise).unwrap())
    });
    let (adapter, vars) = Adapter::new(config, &tensors.collect(), &base)
        .unwrap()
        .trainable()
        .unwrap();
    check(&base.with_adapter(&adapter), &vars.into_iter().collect());
}

#[test]
fn every_weight_gets_the_same_gradient() {
    let (decoder, vars) = decoder(&Fusion::default(), true);
    check(&decoder, &vars);
}

#[test]
fn other_fusions_are_refused() {
    for fusion in [Fusion::Input, Fusion::CrossAttention { every: 2 }] {
        let (decoder, _) = decoder(&fusion, true);
        let ecg = random(&[1, 3, ECG_DIM], 0.5, &mut ChaCha8Rng::seed_from_u64(9));
        let prefix = decoder.prefix(&ecg).unwrap();
        let ids = Tensor::new(&[[3u32, 9]], &device()).unwrap();
        let refused = decoder.backward_by_layer(&ids, Some(&prefix), &Mode::Eval, |logits| logits.sum_all());
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("fusion input or cross-attention")
        );
    }
}
