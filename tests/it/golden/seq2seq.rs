//! BART and T5 against tensors that Hugging Face transformers made (tests/golden/seq2seq, export_seq2seq.py beside them).
//!
//! Place: reads each directory below `seq2seq`, of whatever seed and shape. Invariant: logits of transformers in f32 without
//! the ECG, with P tokens and with one; the same greedy continuation; and the laws that hold within one model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{DType, Tensor, Var};
use model::backbone::Backbone;
use model::generate::{DecodeOptions, generate_from};
use model::init;
use model::lora::{Adaptable, Adapter, AdapterConfig, Targets};
use model::mode::Mode;
use model::seq2seq::config::MODEL_TYPES;
use model::seq2seq::{Memory, Seq2Seq, Seq2SeqConfig, Source};
use model::weights::Weights;
use pipeline::batch::{Row, TokenBatch};
use pipeline::objective::{language_loss, logits};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{LOGITS_ERROR_MAX, error_max, golden, largest, read, steps_equal, tensor};
use crate::differences::Differences;
use crate::rig::{device, root};

/// Relative to the largest logit, where that is above 1; 7e-5 at most over 24 seeds, in f32 on both sides.
const TRANSFORMERS_ERROR_MAX: f32 = 3e-4;
/// In f64; ReLU kinks are avoided by the seeds.
const DIFFERENCES: Differences = Differences {
    step: 1e-5,
    relative_error_max: 1e-4,
    scale_min: 1e-2,
};
/// Width of the ECG's embeddings before the projection to the memory.
const ECG_DIM: usize = 5;

struct Golden {
    name: String,
    config: Seq2SeqConfig,
    weights: Weights,
    model: Seq2Seq,
    io: Weights,
    ids: Tensor,
    lengths: Vec<usize>,
    decoder_ids: Tensor,
    ecg: Tensor,
}

impl Golden {
    fn open(dir: &Path) -> Self {
        let config = std::fs::read(dir.join("config.json")).unwrap();
        let config = Seq2SeqConfig::from_json(&serde_json::from_slice(&config).unwrap()).unwrap();
        let weights = Weights::load_checkpoint(dir, DType::F32, &device()).unwrap();
        let io = read(&dir.join("io.safetensors"));
        let ids = |name| tensor(&io, name).to_dtype(DType::U32).unwrap();
        let lengths: Vec<i64> = tensor(&io, "lengths").to_vec1().unwrap();
        Self {
            name: dir.file_name().unwrap().to_string_lossy().into_owned(),
            model: Seq2Seq::load(&weights, &config).unwrap(),
            ids: ids("input_ids"),
            decoder_ids: ids("decoder_ids"),
            lengths: lengths.into_iter().map(|n| n as usize).collect(),
            ecg: tensor(&io, "ecg"),
            config,
            weights,
            io,
        }
    }

    fn memory_of(&self, model: &Seq2Seq, ecg: Option<&Tensor>) -> Memory {
        let text = Source {
            ids: &self.ids,
            lengths: &self.lengths,
        };
        model.memory(&text, ecg, &Mode::Eval).unwrap()
    }

    fn logits_of(&self, model: &Seq2Seq, ecg: Option<&Tensor>) -> Tensor {
        let memory = self.memory_of(model, ecg);
        let mut cache = model.cache_for(0);
        model
            .forward(&self.decoder_ids, &memory, &mut cache, &Mode::Eval)
            .unwrap()
    }

    /// One row by itself, without padding.
    fn row(&self, row: usize) -> (Tensor, Tensor) {
        let ids = self
            .ids
            .narrow(0, row, 1)
            .unwrap()
            .narrow(1, 0, self.lengths[row])
            .unwrap();
        (ids, self.ecg.narrow(0, row, 1).unwrap())
    }

    fn memory_alone(&self, row: usize, with_ecg: bool) -> Memory {
        let (ids, ecg) = self.row(row);
        let text = Source {
            ids: &ids,
            lengths: &self.lengths[row..=row],
        };
        self.model.memory(&text, with_ecg.then_some(&ecg), &Mode::Eval).unwrap()
    }

    fn continued(&self, memory: &Memory, rows: usize, tokens: usize) -> Vec<Vec<i64>> {
        let options = DecodeOptions {
            tokens_max: tokens,
            ..DecodeOptions::default()
        };
        let rows = generate_from(&self.model, memory, rows, None, &options, &|| {}).unwrap();
        let ids = |row: model::generate::Generated| row.ids.into_iter().map(i64::from).collect();
        rows.into_iter().map(ids).collect()
    }
}

/// Those of MEIT_GOLDEN_DIR where it has any, the shipped ones otherwise.
#[track_caller]
fn for_each(check: impl Fn(&Golden)) {
    let check = |dir: &Path| check(&Golden::open(dir));
    if golden("seq2seq").is_dir() {
        super::for_each("seq2seq", check);
    } else {
        shipped().iter().for_each(|dir| check(dir));
    }
}

fn shipped() -> Vec<std::path::PathBuf> {
    let dir = root().join("tests/golden/seq2seq");
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[test]
fn logits_equal_transformers_with_and_without_the_ecg() {
    for_each(|golden| {
        let one = golden.ecg.narrow(1, 0, 1).unwrap();
        for (ecg, name) in [
            (None, "logits_text"),
            (Some(&golden.ecg), "logits_ecg"),
            (Some(&one), "logits_ecg_one"),
        ] {
            let expected = tensor(&golden.io, name);
            let (error, scale) = (
                error_max(&golden.logits_of(&golden.model, ecg), &expected),
                largest(&expected),
            );
            assert!(
                error <= TRANSFORMERS_ERROR_MAX * scale.max(1.0),
                "{} {name}: error {error} at scale {scale}",
                golden.name
            );
        }
    });
}

#[test]
fn greedy_continuations_equal_transformers_in_a_batch_and_alone() {
    for_each(|golden| {
        for (ecg, name) in [(None, "greedy_text"), (Some(&golden.ecg), "greedy_ecg")] {
            let expected: Vec<Vec<i64>> = tensor(&golden.io, name).to_vec2().unwrap();
            let (rows, tokens) = (expected.len(), expected[0].len());
            let together = golden.continued(&golden.memory_of(&golden.model, ecg), rows, tokens);
            assert_eq!(together, expected, "{} {name}", golden.name);
            for (row, expected) in expected.iter().enumerate() {
                let alone = golden.continued(&golden.memory_alone(row, ecg.is_some()), 1, tokens);
                assert_eq!(&alone[0], expected, "{} {name} row {row}", golden.name);
            }
        }
    });
}

#[test]
fn a_row_of_a_padded_batch_is_the_row_alone_bit_for_bit() {
    for_each(|golden| {
        for with_ecg in [false, true] {
            let together = golden.logits_of(&golden.model, with_ecg.then_some(&golden.ecg));
            for row in 0..golden.lengths.len() {
                let memory = golden.memory_alone(row, with_ecg);
                let ids = golden.decoder_ids.narrow(0, row, 1).unwrap();
                let mut cache = golden.model.cache_for(0);
                let alone = golden.model.forward(&ids, &memory, &mut cache, &Mode::Eval).unwrap();
                let error = error_max(&alone, &together.narrow(0, row, 1).unwrap());
                // a GPU's products sum in an order that depends on the batch
                let error_max = if device().is_cpu() { 0.0 } else { LOGITS_ERROR_MAX };
                assert!(error <= error_max, "{} row {row}: error {error}", golden.name);
            }
        }
    });
}

#[test]
fn cached_steps_equal_the_full_forward() {
    for_each(|golden| {
        let full = golden.logits_of(&golden.model, Some(&golden.ecg));
        let memory = golden.memory_of(&golden.model, Some(&golden.ecg));
        let mut cache = golden.model.cache_for(8);
        steps_equal(&golden.name, &golden.decoder_ids, &full, |ids| {
            golden.model.forward_last(ids, &memory, &mut cache).unwrap()
        });
    });
}

#[test]
fn a_checkpoint_of_the_bare_model_loads_but_for_the_head_and_its_bias() {
    for_each(|golden| {
        let bare = golden.weights.tensors().unwrap().into_iter();
        let bare = bare.map(|(name, t)| (name.strip_prefix("model.").unwrap_or(&name).to_owned(), t));
        let model = Seq2Seq::load(&Weights::new(bare.collect()), &golden.config).unwrap();
        let error = error_max(&golden.logits_of(&model, None), &golden.logits_of(&golden.model, None));
        assert_eq!(error, 0.0, "{}", golden.name);
    });
}

#[test]
fn text_past_the_last_position_is_an_error_with_both_numbers() {
    for_each(|golden| {
        let Some(most) = golden.config.positions_max() else {
            return;
        };
        let ids = Tensor::ones((1, most + 1), DType::U32, &device()).unwrap();
        let text = Source {
            ids: &ids,
            lengths: &[most + 1],
        };
        let error = golden.model.memory(&text, None, &Mode::Eval).err().unwrap().to_string();
        let numbers = [most + 1, most].map(|n| n.to_string());
        assert!(numbers.iter().all(|n| error.contains(n)), "{error}");
    });
}

#[test]
fn both_families_are_among_the_shipped_models() {
    let types: BTreeSet<String> = shipped()
        .iter()
        .map(|dir| Golden::open(dir).config.model_type)
        .collect();
    assert_eq!(types, MODEL_TYPES.map(str::to_owned).into());
}

/// The model in f64, with every tensor a variable, and a projection of the ECG to the memory.
struct Learning {
    vars: BTreeMap<String, Var>,
    backbone: Backbone,
    ecg: Var,
    batch: TokenBatch,
}

impl Learning {
    fn new(golden: &Golden) -> Self {
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let own = init::memory(golden.config.hidden_size, ECG_DIM, &mut rng).unwrap();
        let tensors = golden.weights.tensors().unwrap().into_iter().chain(own);
        let vars: BTreeMap<String, Var> = tensors
            .map(|(name, t)| (name, Var::from_tensor(&wide(&t)).unwrap()))
            .collect();
        let weights = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        let weights = Weights::new(weights.collect());
        let model = Seq2Seq::load(&weights, &golden.config).unwrap();
        let model = model.with_memory(&weights.pp("fusion"), ECG_DIM).unwrap();
        let ecg = golden.ecg.narrow(0, 0, 2).unwrap().narrow(2, 0, ECG_DIM).unwrap();
        let row = |ids: &[u32], prompt_len, weight| Row {
            ids: ids.to_vec(),
            prompt_len,
            weight,
        };
        let rows = [row(&[3, 9, 17, 5, 30, 8], 3, 1.0), row(&[7, 4, 21, 6], 1, 0.5)];
        let backbone = Backbone::Seq2Seq(model);
        Self {
            batch: TokenBatch::of(&[&rows[0], &rows[1]], backbone.start(), 0, &device()).unwrap(),
            backbone,
            vars,
            ecg: Var::from_tensor(&wide(&ecg.contiguous().unwrap())).unwrap(),
        }
    }

    fn loss_of(&self, backbone: &Backbone) -> Tensor {
        let logits = logits(backbone, &self.batch, Some(self.ecg.as_tensor()), &Mode::Eval).unwrap();
        language_loss(&logits, &self.batch).unwrap()
    }
}

#[test]
fn the_gradient_of_every_tensor_and_of_the_ecg_equals_its_finite_difference() {
    for_each(|golden| {
        if golden.weights.elements() > 40_000 {
            return; // the large ones differ from the small ones in size alone
        }
        let learning = Learning::new(golden);
        let loss = || learning.loss_of(&learning.backbone);
        let grads = loss().backward().unwrap();
        let vars = learning.vars.iter().map(|(name, var)| (name.as_str(), var));
        for (name, var) in vars.chain([("ecg", &learning.ecg)]) {
            let grad = grads.get(var).unwrap_or_else(|| panic!("no gradient for {name}"));
            let indices = [var.elem_count() / 3, var.elem_count() - 1];
            let name = format!("{} {name}", golden.name);
            DIFFERENCES.check(&name, var, grad, &indices, || loss().to_scalar().unwrap());
        }
    });
}

#[test]
fn an_adapter_starts_as_the_base_learns_by_its_gradient_and_merges() {
    for_each(|golden| {
        let learning = Learning::new(golden);
        let config = AdapterConfig::new(2, 4.0, Targets::Pattern("all-linear".to_owned()));
        let fresh = Adapter::fresh(config, &learning.backbone, &mut ChaCha8Rng::seed_from_u64(2)).unwrap();
        assert_eq!(
            fresh.modules().count(),
            learning.backbone.projections().len() - 1,
            "all but the head"
        );
        let base = learning.loss_of(&learning.backbone).to_scalar::<f64>().unwrap();
        let started = learning.loss_of(&learning.backbone.with_adapter(&fresh));
        assert!(
            (started.to_scalar::<f64>().unwrap() - base).abs() < 1e-12,
            "{}",
            golden.name
        );
        let moved = fresh.tensors().unwrap().into_iter().map(|(name, t)| {
            let values = (0..t.elem_count())
                .map(|i| ((i * 37 % 19) as f64 - 9.0) / 30.0)
                .collect();
            let moved = Tensor::from_vec::<_, f64>(values, t.shape(), &device()).unwrap();
            (name, moved)
        });
        let adapter = Adapter::new(fresh.config().clone(), &moved.collect(), &learning.backbone).unwrap();
        let (adapter, vars) = adapter.trainable().unwrap();
        let adapted = learning.backbone.with_adapter(&adapter);
        let loss = || learning.loss_of(&adapted);
        let grads = loss().backward().unwrap();
        for (name, var) in &vars {
            let grad = grads.get(var).unwrap_or_else(|| panic!("no gradient for {name}"));
            DIFFERENCES.check(name, var, grad, &[var.elem_count() / 2], || loss().to_scalar().unwrap());
        }
        let merged = learning.loss_of(&learning.backbone.merged(&adapter).unwrap());
        let error = (merged - loss()).unwrap().to_scalar::<f64>().unwrap().abs();
        assert!(error < 1e-12, "{}: merged differs by {error}", golden.name);
    });
}
