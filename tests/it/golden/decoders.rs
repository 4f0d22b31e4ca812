//! Every decoder family against tensors that Hugging Face transformers made (tests/golden/decoders, scripts beside them).
//!
//! Place: reads each directory below `decoders`, of whatever family, seed and shape. Invariant: logits within 1e-4 in f32
//! without a prefix, with P tokens and with one; the same greedy continuation; and the laws that hold within one decoder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{DType, IndexOp, Tensor, Var};
use model::architecture::Architecture;
use model::decoder::Decoder;
use model::family::MODEL_TYPES;
use model::generate::{DecodeOptions, generate, generate_ragged};
use model::mode::Mode;
use model::prefix::EcgPrefix;
use model::weights::Weights;

use super::{LOGITS_ERROR_MAX, error_max, read, steps_equal, tensor};
use crate::differences::Differences;
use crate::rig::{device, root};

pub struct Golden {
    pub name: String,
    pub decoder: Decoder,
    pub io: Weights,
    pub ids: Tensor,
    pub ecg: Tensor,
    weights: Weights,
    lengths: Vec<i64>,
}

impl Golden {
    fn open(dir: &Path) -> Self {
        let architecture = Architecture::read(&dir.join("config.json")).unwrap();
        let weights = Weights::load_checkpoint(dir, DType::F32, &device()).unwrap();
        let io = read(&dir.join("io.safetensors"));
        Self {
            name: dir.file_name().unwrap().to_string_lossy().into_owned(),
            decoder: Decoder::load(&weights, &architecture).unwrap(),
            ids: tensor(&io, "input_ids").to_dtype(DType::U32).unwrap(),
            lengths: tensor(&io, "lengths").to_vec1().unwrap(),
            ecg: tensor(&io, "ecg"),
            weights,
            io,
        }
    }

    fn prefix(&self, row: usize) -> EcgPrefix {
        self.decoder.prefix(&self.ecg.narrow(0, row, 1).unwrap()).unwrap()
    }

    fn logits(&self, prefix: Option<&EcgPrefix>) -> Tensor {
        let decoder = &self.decoder;
        decoder
            .forward(&self.ids, prefix, &mut decoder.cache(), &Mode::Eval)
            .unwrap()
    }

    /// Positions past a row's length are padding, which nobody promised anything about.
    #[track_caller]
    fn check(&self, got: &Tensor, expected: &Tensor, what: &str) {
        for (row, &length) in self.lengths.iter().enumerate() {
            let real = |t: &Tensor| t.i(row).unwrap().narrow(0, 0, length as usize).unwrap();
            let error = error_max(&real(got), &real(expected));
            assert!(
                error <= LOGITS_ERROR_MAX,
                "{} {what} row {row}: error {error}",
                self.name
            );
        }
    }

    fn prompt(&self, row: usize) -> Tensor {
        let length = self.lengths[row] as usize;
        self.ids.narrow(0, row, 1).unwrap().narrow(1, 0, length).unwrap()
    }
}

#[track_caller]
fn for_each(check: impl Fn(&Golden)) {
    super::for_each("decoders", |dir| check(&Golden::open(dir)));
}

#[test]
fn logits_equal_transformers_with_and_without_the_ecg() {
    for_each(|golden| {
        golden.check(&golden.logits(None), &tensor(&golden.io, "logits_text"), "logits_text");
        let one = golden.ecg.narrow(1, 0, 1).unwrap();
        for (e, name) in [(&golden.ecg, "logits_ecg"), (&one, "logits_ecg_one")] {
            let prefix = golden.decoder.prefix(e).unwrap();
            golden.check(&golden.logits(Some(&prefix)), &tensor(&golden.io, name), name);
        }
    });
}

#[test]
fn greedy_continuations_equal_transformers() {
    for_each(|golden| {
        let expected: Vec<Vec<i64>> = tensor(&golden.io, "greedy_ecg").to_vec2().unwrap();
        for (row, expected) in expected.iter().enumerate() {
            let options = DecodeOptions {
                tokens_max: expected.len(),
                ..DecodeOptions::default()
            };
            let prefix = golden.prefix(row);
            let rows = generate(&golden.decoder, &golden.prompt(row), Some(&prefix), None, &options).unwrap();
            let got: Vec<i64> = rows[0].ids.iter().map(|&id| i64::from(id)).collect();
            assert_eq!(&got, expected, "{} row {row}", golden.name);
        }
    });
}

#[test]
fn prompts_of_different_lengths_continue_in_one_batch_as_each_does_alone() {
    for_each(|golden| {
        let expected: Vec<Vec<i64>> = tensor(&golden.io, "greedy_ecg").to_vec2().unwrap();
        let prompts: Vec<Vec<u32>> = (0..expected.len())
            .map(|row| golden.prompt(row).flatten_all().unwrap().to_vec1().unwrap())
            .collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let options = DecodeOptions {
            tokens_max: expected[0].len(),
            ..DecodeOptions::default()
        };
        let prefix = golden.decoder.prefix(&golden.ecg).unwrap();
        let rows = generate_ragged(&golden.decoder, &prompts, Some(&prefix), None, &options, &|| {}).unwrap();
        for (row, expected) in rows.iter().zip(&expected) {
            let got: Vec<i64> = row.ids.iter().map(|&id| i64::from(id)).collect();
            assert_eq!(&got, expected, "{}", golden.name);
        }
    });
}

#[test]
fn prefix_and_cached_steps_equal_the_full_forward() {
    for_each(|golden| {
        let prefix = golden.decoder.prefix(&golden.ecg).unwrap();
        let full = golden.logits(Some(&prefix));
        let mut cache = golden.decoder.cache();
        steps_equal(&golden.name, &golden.ids, &full, |id| {
            golden.decoder.forward_last(id, Some(&prefix), &mut cache).unwrap()
        });
    });
}

#[test]
fn a_batch_of_n_equals_n_batches_of_one() {
    for_each(|golden| {
        let together = golden.logits(Some(&golden.decoder.prefix(&golden.ecg).unwrap()));
        for row in 0..golden.lengths.len() {
            let ids = golden.ids.narrow(0, row, 1).unwrap();
            let (decoder, prefix) = (&golden.decoder, golden.prefix(row));
            let alone = decoder
                .forward(&ids, Some(&prefix), &mut decoder.cache(), &Mode::Eval)
                .unwrap();
            let error = error_max(&alone, &together.narrow(0, row, 1).unwrap());
            assert!(error <= LOGITS_ERROR_MAX, "{} row {row}: error {error}", golden.name);
        }
    });
}

#[test]
fn a_checkpoint_of_the_bare_model_loads_as_the_whole() {
    for_each(|golden| {
        let architecture = golden.decoder.architecture();
        let (_, last) = architecture
            .names
            .body
            .rsplit_once('.')
            .unwrap_or(("", architecture.names.body));
        let outer = architecture.names.body.strip_suffix(last).unwrap();
        let bare = golden.weights.tensors().unwrap().into_iter().map(|(name, t)| {
            let stripped = name.strip_prefix(outer).unwrap_or(&name);
            let stripped = stripped.strip_prefix(&format!("{last}.")).unwrap_or(stripped);
            (stripped.to_owned(), t)
        });
        let decoder = Decoder::load(&Weights::new(bare.collect()), architecture).unwrap();
        let logits = decoder
            .forward(&golden.ids, None, &mut decoder.cache(), &Mode::Eval)
            .unwrap();
        assert_eq!(error_max(&logits, &golden.logits(None)), 0.0, "{}", golden.name);
    });
}

#[test]
fn text_past_the_last_learned_position_is_an_error_with_both_numbers() {
    for_each(|golden| {
        let Some(most) = golden.decoder.architecture().positions_max() else {
            return;
        };
        let ids = Tensor::ones((1, most + 1), DType::U32, &device()).unwrap();
        let decoder = &golden.decoder;
        let error = decoder.forward_last(&ids, None, &mut decoder.cache()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&(most + 1).to_string()) && text.contains(&most.to_string()),
            "{text}"
        );
    });
}

#[test]
fn every_family_is_among_the_shipped_golden_decoders() {
    let shipped = root().join("tests/golden/decoders");
    let dirs = std::fs::read_dir(shipped).unwrap().map(|entry| entry.unwrap().path());
    let types: BTreeSet<String> = dirs
        .map(|dir| Architecture::read(&dir.join("config.json")).unwrap().model_type)
        .collect();
    assert_eq!(types.len(), MODEL_TYPES.len(), "{types:?}");
}

/// In f64; activations with kinks are avoided by the seeds.
const DIFFERENCES: Differences = Differences {
    step: 1e-5,
    relative_error_max: 1e-4,
    scale_min: 1e-2,
};

/// The decoder with every tensor a variable in f64.
struct Learning {
    vars: BTreeMap<String, Var>,
    decoder: Decoder,
    ids: Tensor,
    ecg: Var,
    weight: Tensor,
}

impl Learning {
    fn new(golden: &Golden) -> Self {
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let tensors = golden.weights.tensors().unwrap().into_iter();
        let vars: BTreeMap<String, Var> = tensors
            .map(|(name, t)| (name, Var::from_tensor(&wide(&t)).unwrap()))
            .collect();
        let weights = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        let decoder = Decoder::load(&Weights::new(weights.collect()), golden.decoder.architecture()).unwrap();
        let ids = golden.ids.narrow(0, 0, 2).unwrap().narrow(1, 0, 5).unwrap();
        let logits = wide(&tensor(&golden.io, "logits_text").narrow(0, 0, 2).unwrap());
        Self {
            vars,
            decoder,
            ids,
            ecg: Var::from_tensor(&wide(&golden.ecg.narrow(0, 0, 2).unwrap())).unwrap(),
            // any fixed direction will do; this one is neither constant nor symmetric
            weight: logits.narrow(1, 0, 5).unwrap(),
        }
    }

    fn loss(&self) -> Tensor {
        let prefix = self.decoder.prefix(self.ecg.as_tensor()).unwrap();
        let mut cache = self.decoder.cache();
        let logits = self
            .decoder
            .forward(&self.ids, Some(&prefix), &mut cache, &Mode::Eval)
            .unwrap();
        let normaliser = logits.log_sum_exp(2).unwrap().unsqueeze(2).unwrap();
        let logprobs = logits.broadcast_sub(&normaliser).unwrap();
        (logprobs * &self.weight).unwrap().sum_all().unwrap()
    }

    fn check(&self, name: &str, var: &Var, grad: &Tensor) {
        let indices = [var.elem_count() / 3, var.elem_count() - 1];
        DIFFERENCES.check(name, var, grad, &indices, || self.loss().to_scalar::<f64>().unwrap());
    }
}

#[test]
fn the_gradient_of_every_tensor_of_every_family_equals_its_finite_difference() {
    for_each(|golden| {
        // the large ones differ from the small ones in size alone
        if golden.weights.elements() > 30_000 {
            return;
        }
        let learning = Learning::new(golden);
        let grads = learning.loss().backward().unwrap();
        for (name, var) in &learning.vars {
            let grad = grads.get(var).unwrap_or_else(|| panic!("no gradient for {name}"));
            learning.check(&format!("{} {name}", golden.name), var, grad);
        }
        let grad = grads.get(&learning.ecg).expect("a gradient for the ECG");
        learning.check(&format!("{} ecg", golden.name), &learning.ecg, grad);
    });
}
