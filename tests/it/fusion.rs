//! Every kind of fusion on every backbone family: it trains, it generates, and it starts as it should.
//!
//! Place: on the small golden decoders, whose plain forward is tested against transformers elsewhere. Invariant: gradients equal
//! finite differences, cached steps equal the full forward, and zero gates leave the backbone as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use candle_core::{DType, IndexOp, Tensor, Var};
use model::architecture::Architecture;
use model::decoder::Decoder;
use model::fusion::Fusion;
use model::generate::{DecodeOptions, generate, generate_ragged};
use model::init;
use model::mode::Mode;
use model::weights::Weights;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::differences::Differences;
use crate::golden::{LOGITS_ERROR_MAX, error_max};
use crate::rig::{device, root};

/// One small golden decoder of each way to place positions and norms.
const BACKBONES: [&str; 6] = [
    "gpt2-inverse-layer",
    "gptj-full-rotary",
    "gpt_neox-sequential",
    "bloom-six-heads",
    "opt-post-norm",
    "llama-llama3-rope",
];
const DIFFERENCES: Differences = Differences {
    step: 1e-5,
    relative_error_max: 1e-4,
    scale_min: 1e-2,
};
const TOKENS: usize = 3;

fn kinds() -> Vec<Fusion> {
    vec![
        Fusion::default(),
        Fusion::Prefix {
            layers: Some(BTreeSet::from([1])),
        },
        Fusion::Input,
        Fusion::CrossAttention { every: 2 },
    ]
}

/// A backbone with a fusion; every tensor, and the ECG, is a variable in f64.
struct Fused {
    name: String,
    vars: BTreeMap<String, Var>,
    decoder: Decoder,
    plain: Decoder,
    ecg: Var,
    ids: Tensor,
}

fn random(shape: impl Into<candle_core::Shape>, scale: f32, rng: &mut ChaCha8Rng) -> Tensor {
    let shape = shape.into();
    let values: Vec<f32> = (0..shape.elem_count())
        .map(|_| scale * init::standard_normal(rng))
        .collect();
    Tensor::from_vec(values, shape, &device()).unwrap()
}

impl Fused {
    /// `moved` takes the fusion's weights, gates included, away from their start.
    fn new(backbone: &str, fusion: &Fusion, moved: f32) -> Self {
        let dir: PathBuf = root().join("tests/golden/decoders").join(backbone);
        let architecture = Architecture::read(&dir.join("config.json")).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let ecg_dim = if matches!(fusion, Fusion::Prefix { .. }) {
            architecture.head_dim
        } else {
            7
        };
        let own = init::fusion(fusion, &architecture, ecg_dim, &mut rng).unwrap();
        let base = Weights::load_checkpoint(&dir, DType::F32, &device()).unwrap();
        let own = own
            .into_iter()
            .map(|(name, t)| (name, (&t + random(t.shape(), moved, &mut rng)).unwrap()));
        let tensors = base.tensors().unwrap().into_iter().chain(own);
        let vars: BTreeMap<String, Var> = tensors
            .map(|(name, t)| (name, Var::from_tensor(&t.to_dtype(DType::F64).unwrap()).unwrap()))
            .collect();
        let weights = Weights::new(
            vars.iter()
                .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
                .collect(),
        );
        let plain = Decoder::load(&weights, &architecture).unwrap();
        let decoder = plain
            .clone()
            .with_fusion(fusion, &weights.pp("fusion"), ecg_dim)
            .unwrap();
        let ecg = random((2, TOKENS, ecg_dim), 0.5, &mut rng)
            .to_dtype(DType::F64)
            .unwrap();
        Self {
            name: format!("{backbone} {fusion:?}"),
            vars,
            decoder,
            plain,
            ecg: Var::from_tensor(&ecg).unwrap(),
            ids: Tensor::new(&[[3u32, 9, 4, 17, 5], [8, 3, 3, 21, 30]], &device()).unwrap(),
        }
    }

    fn logits(&self) -> Tensor {
        let prefix = self.decoder.prefix(self.ecg.as_tensor()).unwrap();
        let mut cache = self.decoder.cache();
        self.decoder
            .forward(&self.ids, Some(&prefix), &mut cache, &Mode::Eval)
            .unwrap()
    }

    fn text_alone(&self) -> Tensor {
        let mut cache = self.plain.cache();
        self.plain.forward(&self.ids, None, &mut cache, &Mode::Eval).unwrap()
    }

    fn loss(&self) -> Tensor {
        let logits = self.logits();
        let normaliser = logits.log_sum_exp(2).unwrap();
        let picked = logits
            .contiguous()
            .unwrap()
            .gather(&self.ids.unsqueeze(2).unwrap(), 2)
            .unwrap()
            .squeeze(2)
            .unwrap();
        (normaliser - picked).unwrap().sum_all().unwrap()
    }

    fn check_gradient(&self, name: &str, var: &Var, grad: &Tensor) {
        let two_thirds = var.elem_count() * 2 / 3;
        let loss = || self.loss().to_scalar::<f64>().unwrap();
        DIFFERENCES.check(&format!("{} {name}", self.name), var, grad, &[two_thirds], loss);
    }
}

fn narrow(t: &Tensor) -> Tensor {
    t.to_dtype(DType::F32).unwrap()
}

#[track_caller]
fn for_each(moved: f32, check: impl Fn(&Fused, &Fusion)) {
    for backbone in BACKBONES {
        for fusion in kinds() {
            check(&Fused::new(backbone, &fusion, moved), &fusion);
        }
    }
}

#[test]
fn the_gradient_of_every_tensor_of_every_fusion_equals_its_finite_difference() {
    for_each(0.3, |fused, _| {
        let grads = fused.loss().backward().unwrap();
        for (name, var) in &fused.vars {
            let grad = grads
                .get(var)
                .unwrap_or_else(|| panic!("{}: no gradient for {name}", fused.name));
            fused.check_gradient(name, var, grad);
        }
        let grad = grads.get(&fused.ecg).expect("a gradient for the ECG");
        fused.check_gradient("ecg", &fused.ecg, grad);
    });
}

#[test]
fn the_ecg_changes_the_logits_of_every_fusion() {
    for_each(0.3, |fused, _| {
        let change = error_max(&narrow(&fused.logits()), &narrow(&fused.text_alone()));
        assert!(change > 1e-2, "{}: {change}", fused.name);
    });
}

#[test]
fn zero_gates_leave_the_backbone_as_it_was() {
    for backbone in BACKBONES {
        let fused = Fused::new(backbone, &Fusion::CrossAttention { every: 1 }, 0.0);
        let change = error_max(&narrow(&fused.logits()), &narrow(&fused.text_alone()));
        assert_eq!(change, 0.0, "{backbone}");
        let grads = fused.loss().backward().unwrap();
        let gates = fused.vars.iter().filter(|(name, _)| name.ends_with("attention_gate"));
        for (name, gate) in gates {
            let grad: Vec<f64> = grads.get(gate).expect("a gradient").to_vec1().unwrap();
            assert!(grad[0].abs() > 1e-6, "{backbone} {name}: the gate cannot open");
        }
    }
}

#[test]
fn cached_steps_equal_the_full_forward_in_every_fusion() {
    for_each(0.3, |fused, _| {
        let full = fused.logits();
        let prefix = fused.decoder.prefix(fused.ecg.as_tensor()).unwrap();
        let mut cache = fused.decoder.cache();
        for position in 0..fused.ids.dim(1).unwrap() {
            let id = fused.ids.narrow(1, position, 1).unwrap();
            let step = fused.decoder.forward_last(&id, Some(&prefix), &mut cache).unwrap();
            let expected = full.i((.., position)).unwrap().contiguous().unwrap();
            let error = error_max(&narrow(&step), &narrow(&expected));
            assert!(error <= LOGITS_ERROR_MAX, "{} position {position}: {error}", fused.name);
        }
    });
}

#[test]
fn every_fusion_generates_in_a_batch_what_it_generates_alone() {
    for_each(0.3, |fused, _| {
        let options = DecodeOptions {
            tokens_max: 6,
            ..DecodeOptions::default()
        };
        let continued = |from: usize, n: usize| {
            let ecg = fused.ecg.as_tensor().narrow(0, from, n).unwrap();
            let prefix = fused.decoder.prefix(&ecg).unwrap();
            let ids = fused.ids.narrow(0, from, n).unwrap();
            let rows = generate(&fused.decoder, &ids, Some(&prefix), None, &options).unwrap();
            rows.into_iter().map(|row| row.ids).collect::<Vec<_>>()
        };
        let together = continued(0, 2);
        assert_eq!(together, [continued(0, 1), continued(1, 1)].concat(), "{}", fused.name);
        assert!(together.iter().all(|ids| ids.len() == options.tokens_max));
    });
}

#[test]
fn every_fusion_continues_prompts_of_different_lengths_as_each_alone() {
    for_each(0.3, |fused, _| {
        let options = DecodeOptions {
            tokens_max: 4,
            ..DecodeOptions::default()
        };
        let prompts: [&[u32]; 2] = [&[3, 9, 4, 17, 5], &[8, 3]];
        let continued = |from: usize, n: usize| {
            let prefix = fused
                .decoder
                .prefix(&fused.ecg.as_tensor().narrow(0, from, n).unwrap())
                .unwrap();
            let rows = generate_ragged(
                &fused.decoder,
                &prompts[from..from + n],
                Some(&prefix),
                None,
                &options,
                &|| {},
            )
            .unwrap();
            rows.into_iter().map(|row| row.ids).collect::<Vec<_>>()
        };
        assert_eq!(
            continued(0, 2),
            [continued(0, 1), continued(1, 1)].concat(),
            "{}",
            fused.name
        );
    });
}

#[test]
fn choices_that_do_not_fit_the_decoder_name_the_value_and_the_bound() {
    let dir = root().join("tests/golden/decoders/llama-llama3-rope");
    let a = Architecture::read(&dir.join("config.json")).unwrap();
    let error = |fusion: Fusion, dim: usize| fusion.validate(&a, dim).unwrap_err().to_string();
    let layers = Some(BTreeSet::from([0, 2]));
    assert!(error(Fusion::Prefix { layers }, a.head_dim).contains("is 2: must be below 2"));
    assert!(error(Fusion::default(), a.head_dim + 1).contains("head dimension"));
    assert!(error(Fusion::CrossAttention { every: 0 }, 8).contains("at least 1"));
}

#[test]
fn a_fusion_is_named_in_json_and_unknown_keys_are_refused() {
    let parse = |text: &str| serde_json::from_str::<Fusion>(text);
    assert_eq!(parse(r#"{"kind": "input"}"#).unwrap(), Fusion::Input);
    let cross = parse(r#"{"kind": "cross-attention", "every": 2}"#).unwrap();
    assert_eq!(cross, Fusion::CrossAttention { every: 2 });
    let subset = parse(r#"{"kind": "prefix", "layers": [0, 3]}"#).unwrap();
    let layers = Some(BTreeSet::from([0, 3]));
    assert_eq!(subset, Fusion::Prefix { layers });
    assert!(parse(r#"{"kind": "prefix", "every": 2}"#).is_err());
}
