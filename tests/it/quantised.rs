//! Decoders with quantised weights: close to the dense one, with adapters, and never trained by mistake.
//!
//! Place: on a decoder with random weights, wide enough for whole blocks of both kinds. Invariant: an error that is stated, and
//! no gradient that is lost silently.

use candle_core::quantized::GgmlDType;
use candle_core::{Device, Tensor, Var};
use model::config::DecoderConfig;
use model::decoder::Decoder;
use model::init;
use model::lora::{Adaptable, Adapter, AdapterConfig, Targets};
use model::mode::Mode;
use model::weights::Weights;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::golden::{error_max, largest};

fn decoder(blocks: Option<GgmlDType>) -> Decoder {
    let config: DecoderConfig = serde_json::from_value(serde_json::json!({
        "model_type": "llama", "vocab_size": 40, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5
    }))
    .unwrap();
    let tensors = init::decoder(&config, &mut ChaCha8Rng::seed_from_u64(2)).unwrap();
    // the small start of training would hide the layers behind the residual stream
    let tensors = tensors
        .into_iter()
        .map(|(name, t)| (name, if t.rank() == 2 { (t * 3.0).unwrap() } else { t }));
    let weights = Weights::new(tensors.collect()).in_blocks(blocks);
    Decoder::load(&weights, &config.architecture().unwrap()).unwrap()
}

fn ecg() -> Tensor {
    let values: Vec<f32> = (0..2 * 3 * 64).map(|i| (i as f32 * 0.37).sin() / 8.0).collect();
    Tensor::from_vec(values, (2, 3, 64), &Device::Cpu).unwrap()
}

fn logits(decoder: &Decoder) -> Tensor {
    let ids = Tensor::new(&[[3u32, 9, 4, 17, 5], [8, 3, 3, 21, 30]], &Device::Cpu).unwrap();
    let prefix = decoder.prefix(&ecg()).unwrap();
    decoder
        .forward(&ids, Some(&prefix), &mut decoder.cache(), &Mode::Eval)
        .unwrap()
}

/// Weight of the dense decoder's head.
fn logits_head() -> Tensor {
    decoder(None).tensor("lm_head.weight").unwrap().clone()
}

/// Largest difference over the largest logit.
fn error(got: &Tensor, expected: &Tensor) -> f32 {
    error_max(got, expected) / largest(expected)
}

#[test]
fn quantised_logits_stay_within_the_stated_share_of_the_largest() {
    let dense = decoder(None);
    let expected = logits(&dense);
    for (kind, limit) in [(GgmlDType::Q8_0, 0.05), (GgmlDType::Q4K, 0.3)] {
        let error = error(&logits(&decoder(Some(kind))), &expected);
        assert!(error > 0.0 && error < limit, "{kind:?}: {error}");
    }
}

#[test]
fn an_adapter_works_on_a_quantised_base_and_cannot_be_merged_into_it() {
    let dense = decoder(None);
    let quantised = decoder(Some(GgmlDType::Q8_0));
    let config = AdapterConfig::new(2, 16.0, Targets::Pattern("all-linear".to_owned()));
    let fresh = Adapter::fresh(config.clone(), &quantised, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
    let tensors = fresh.tensors().unwrap().into_iter().map(|(name, t)| {
        let values: Vec<f32> = (0..t.elem_count()).map(|i| (i as f32 * 1.3).sin() * 0.05).collect();
        (name, Tensor::from_vec(values, t.shape(), &Device::Cpu).unwrap())
    });
    let adapter = Adapter::new(config, &tensors.collect(), &quantised).unwrap();
    let expected = logits(&dense.with_adapter(&adapter));
    assert!(
        error(&expected, &logits(&dense)) > 0.05,
        "the adapter does too little to be tested"
    );
    assert!(error(&logits(&quantised.with_adapter(&adapter)), &expected) < 0.05);
    let refused = quantised.merged(&adapter).err().unwrap().to_string();
    assert!(refused.contains("merge first, then quantise"), "{refused}");
}

#[test]
fn training_through_a_quantised_weight_is_an_error() {
    let quantised = decoder(Some(GgmlDType::Q8_0));
    let ecg = Var::from_tensor(&ecg()).unwrap();
    let error = quantised.prefix(ecg.as_tensor()).err().unwrap().to_string();
    assert!(error.contains("never trains"), "{error}");
}

#[test]
fn a_base_weight_beside_an_adapter_is_not_compared_with_a_quantised_one() {
    let config = AdapterConfig::new(2, 4.0, Targets::Names(vec!["lm_head".to_owned()]));
    let own = logits_head();
    let with = |blocks, name: &str, tensor: Tensor| {
        let base = decoder(blocks);
        let fresh = Adapter::fresh(config.clone(), &base, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        let mut tensors = fresh.tensors().unwrap();
        tensors.insert(format!("base_model.model.{name}"), tensor);
        let adapter = Adapter::new(config.clone(), &tensors, &base);
        adapter.err().map(|error| error.to_string())
    };
    let stored = "lm_head.base_layer.weight";
    let other = (&own + 1.0).unwrap();
    assert_eq!(with(None, stored, own.clone()), None);
    assert!(
        with(None, stored, other.clone())
            .unwrap()
            .contains("not the one of this base")
    );
    for kind in [GgmlDType::Q8_0, GgmlDType::Q4K] {
        assert_eq!(with(Some(kind), stored, own.clone()), None);
        assert_eq!(with(Some(kind), stored, other.clone()), None);
        let cut = own.narrow(0, 0, 3).unwrap();
        assert!(
            with(Some(kind), stored, cut)
                .unwrap()
                .contains("not the one of this base")
        );
        let unknown = with(Some(kind), "lm_head.extra.weight", own.clone()).unwrap();
        assert!(
            unknown.contains("lm_head.extra.weight belongs to no module"),
            "{unknown}"
        );
    }
}
