//! LoRA against what peft and torch made (tests/golden/lora, scripts beside them), and the laws of adapters.
//!
//! Place: reads each directory below `lora`. Invariant: an adapter that peft wrote gives peft's logits, six training steps give
//! torch's losses, gradients and weights, and a row of a batch depends on its own adapter alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::backprop::GradStore;
use candle_core::{D, DType, IndexOp, Tensor, Var};
use model::architecture::Architecture;
use model::decoder::Decoder;
use model::generate::{DecodeOptions, generate};
use model::lora::{ADAPTER_WEIGHTS, Adaptable, Adapter, AdapterConfig, Targets};
use model::mode::{Mode, Training};
use model::weights::Weights;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{LOGITS_ERROR_MAX, error_max, largest, norm, read, tensor};

use crate::rig::{copy, device};

/// torch's and candle's sums differ in their order.
const LOSS_ERROR_MAX: f32 = 1e-4;
/// Relative to a gradient's largest element; 2e-4 at most over 24 seeds.
const GRADIENT_ERROR_MAX: f32 = 1e-3;
/// Norm of the error over that of the weights. Adam divides by the gradient's size, so the error of a tiny gradient becomes one of a
/// step: over 24 seeds one element of one tensor was off by 2e-3, others by 3e-4 at most.
const AFTER_ERROR_MAX: f32 = 1e-2;
const STEPS: usize = 6;

struct Golden {
    dir: PathBuf,
    decoder: Decoder,
    io: Weights,
    ids: Tensor,
    ecg: Tensor,
}

impl Golden {
    fn open(dir: &Path) -> Self {
        let architecture = Architecture::read(&dir.join("config.json")).unwrap();
        let weights = Weights::load_checkpoint(dir, DType::F32, &device()).unwrap();
        let io = read(&dir.join("io.safetensors"));
        Self {
            dir: dir.to_owned(),
            decoder: Decoder::load(&weights, &architecture).unwrap(),
            ids: tensor(&io, "input_ids").to_dtype(DType::U32).unwrap(),
            ecg: tensor(&io, "ecg"),
            io,
        }
    }

    fn adapter(&self) -> Adapter {
        Adapter::load(&self.dir.join("adapter"), &self.decoder).unwrap()
    }

    fn fresh(&self, seed: u64) -> Adapter {
        let config = AdapterConfig::new(3, 12.0, Targets::Pattern("all-linear".to_owned()));
        let fresh = Adapter::fresh(config, &self.decoder, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
        // B is zero at first; half of A's values stand in for a trained one
        let tensors = fresh.tensors().unwrap();
        let moved = tensors.into_iter().map(|(name, t)| {
            let values: Vec<f32> = (0..t.elem_count())
                .map(|i| ((i as f32 + seed as f32) * 0.7).sin() * 0.1)
                .collect();
            (name, Tensor::from_vec(values, t.shape(), &device()).unwrap())
        });
        Adapter::new(fresh.config().clone(), &moved.collect(), &self.decoder).unwrap()
    }

    /// Mean over the labels that count of their negative log likelihood.
    fn loss(&self, logits: &Tensor) -> Tensor {
        let labels = tensor(&self.io, "labels");
        let t = labels.dim(1).unwrap();
        let labels = labels.narrow(1, 1, t - 1).unwrap().contiguous().unwrap();
        let logits = logits.narrow(1, 0, t - 1).unwrap();
        let counts = labels.ge(0i64).unwrap().to_dtype(DType::F32).unwrap();
        let targets = labels.clamp(0i64, i64::MAX).unwrap().unsqueeze(2).unwrap();
        let normaliser = logits.log_sum_exp(D::Minus1).unwrap();
        let picked = logits
            .contiguous()
            .unwrap()
            .gather(&targets, 2)
            .unwrap()
            .squeeze(2)
            .unwrap();
        let nll = ((normaliser - picked).unwrap() * &counts).unwrap();
        (nll.sum_all().unwrap() / counts.sum_all().unwrap()).unwrap()
    }
}

fn logits(decoder: &Decoder, ids: &Tensor, ecg: &Tensor) -> Tensor {
    let prefix = decoder.prefix(ecg).unwrap();
    decoder
        .forward(ids, Some(&prefix), &mut decoder.cache(), &Mode::Eval)
        .unwrap()
}

fn row(t: &Tensor, row: usize) -> Tensor {
    t.narrow(0, row, 1).unwrap()
}

#[track_caller]
fn for_each(check: impl Fn(&Golden)) {
    super::for_each("lora", |dir| check(&Golden::open(dir)));
}

#[track_caller]
fn check(golden: &Golden, got: &Tensor, expected: &Tensor, limit: f32, what: &str) {
    let error = error_max(got, expected);
    assert!(error <= limit, "{} {what}: error {error}", golden.dir.display());
}

#[test]
fn an_adapter_that_peft_wrote_gives_the_logits_of_peft() {
    for_each(|golden| {
        let adapted = golden.decoder.with_adapter(&golden.adapter());
        let got = logits(&adapted, &golden.ids, &golden.ecg);
        check(
            golden,
            &got,
            &tensor(&golden.io, "logits_adapter"),
            LOGITS_ERROR_MAX,
            "logits_adapter",
        );
    });
}

/// Adam as torch has it: betas 0.9 and 0.999, eps 1e-8, no decay.
#[derive(Default)]
struct Adam {
    moments: BTreeMap<String, (Tensor, Tensor)>,
}

impl Adam {
    fn step(&mut self, vars: &BTreeMap<String, Var>, grads: &GradStore, lr: f64, step: i32) -> candle_core::Result<()> {
        for (name, var) in vars {
            let grad = grads.get(var).unwrap_or_else(|| panic!("no gradient for {name}"));
            let zeros = grad.zeros_like()?;
            let (m, v) = self.moments.remove(name).unwrap_or((zeros.clone(), zeros));
            let m = ((m * 0.9)? + (grad * 0.1)?)?;
            let v = ((v * 0.999)? + (grad.sqr()? * 0.001)?)?;
            let size = ((&v / (1.0 - 0.999f64.powi(step)))?.sqrt()? + 1e-8)?;
            let direction = ((&m / (1.0 - 0.9f64.powi(step)))? / size)?;
            var.set(&(var.as_detached_tensor() - (direction * lr)?)?)?;
            self.moments.insert(name.clone(), (m, v));
        }
        Ok(())
    }
}

#[test]
fn six_training_steps_equal_torch_in_losses_first_gradients_and_weights() {
    for_each(|golden| {
        let (adapter, vars) = golden.adapter().trainable().unwrap();
        let adapted = golden.decoder.with_adapter(&adapter);
        let mut adam = Adam::default();
        for step in 0..STEPS {
            let loss = golden.loss(&logits(&adapted, &golden.ids, &golden.ecg));
            let name = format!("loss_{step}");
            check(golden, &loss, &tensor(&golden.io, &name), LOSS_ERROR_MAX, &name);
            let grads = loss.backward().unwrap();
            for (name, var) in vars.iter().filter(|_| step == 0) {
                let expected = tensor(&golden.io, &format!("grad0.{name}"));
                let limit = GRADIENT_ERROR_MAX * largest(&expected).max(1e-2);
                check(golden, grads.get(var).unwrap(), &expected, limit, name);
            }
            let lr = tensor(&golden.io, &format!("lr_{step}")).to_scalar::<f32>().unwrap();
            adam.step(&vars, &grads, f64::from(lr), step as i32 + 1).unwrap();
        }
        for (name, var) in &vars {
            let expected = tensor(&golden.io, &format!("after.{name}"));
            let error = norm(&(var.as_tensor() - &expected).unwrap()) / norm(&expected);
            assert!(
                error <= AFTER_ERROR_MAX,
                "{} {name}: error {error} of its norm",
                golden.dir.display()
            );
        }
    });
}

#[test]
fn only_the_adapter_has_gradients() {
    for_each(|golden| {
        let (adapter, vars) = golden.adapter().trainable().unwrap();
        let adapted = golden.decoder.with_adapter(&adapter);
        let loss = golden.loss(&logits(&adapted, &golden.ids, &golden.ecg));
        let grads = loss.backward().unwrap();
        let weights = Weights::load_checkpoint(&golden.dir, DType::F32, &device()).unwrap();
        let base: Vec<Vec<usize>> = weights.tensors().unwrap().values().map(|t| t.dims().to_vec()).collect();
        let matrices = grads
            .get_ids()
            .filter_map(|id| grads.get_id(*id))
            .filter(|grad| grad.rank() == 2);
        let factors: Vec<Vec<usize>> = vars.values().map(|var| var.dims().to_vec()).collect();
        for grad in matrices.map(|grad| grad.dims().to_vec()) {
            let transposed: Vec<usize> = grad.iter().rev().copied().collect();
            let of_base = base.contains(&grad) || base.contains(&transposed);
            assert!(!of_base || factors.contains(&grad), "a gradient of shape {grad:?}");
        }
    });
}

#[test]
fn a_half_precision_base_trains_an_f32_adapter() {
    for_each(|golden| {
        let weights = Weights::load_checkpoint(&golden.dir, DType::BF16, &device()).unwrap();
        let decoder = Decoder::load(&weights, golden.decoder.architecture()).unwrap();
        let (adapter, vars) = Adapter::load(&golden.dir.join("adapter"), &decoder)
            .map(|adapter| adapter.trainable().unwrap())
            .unwrap();
        let adapted = decoder.with_adapter(&adapter);
        let loss = golden.loss(&logits(&adapted, &golden.ids, &golden.ecg));
        // bf16 keeps eight bits of a weight
        check(golden, &loss, &tensor(&golden.io, "loss_0"), 0.1, "loss_0");
        let grads = loss.backward().unwrap();
        for (name, var) in &vars {
            let grad = grads.get(var).unwrap_or_else(|| panic!("no gradient for {name}"));
            assert_eq!((var.dtype(), grad.dtype()), (DType::F32, DType::F32), "{name}");
            let expected = tensor(&golden.io, &format!("grad0.{name}"));
            let limit = 0.2 * largest(&expected).max(1e-2);
            check(golden, grad, &expected, limit, name);
        }
    });
}

#[test]
fn a_saved_adapter_loads_to_the_same_logits_bit_for_bit() {
    for_each(|golden| {
        let dir = tempfile::tempdir().unwrap();
        let adapter = golden.adapter();
        let digest = adapter.save(dir.path()).unwrap();
        let again = Adapter::load(dir.path(), &golden.decoder).unwrap();
        assert_eq!(again.sha256(), Some(digest.as_str()));
        let of = |adapter: &Adapter| logits(&golden.decoder.with_adapter(adapter), &golden.ids, &golden.ecg);
        assert_eq!(error_max(&of(&again), &of(&adapter)), 0.0);
    });
}

#[test]
fn a_fresh_adapter_changes_nothing_until_it_is_trained() {
    for_each(|golden| {
        let config = AdapterConfig::new(2, 4.0, Targets::Pattern("all-linear".to_owned()));
        let fresh = Adapter::fresh(config, &golden.decoder, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        let base = logits(&golden.decoder, &golden.ids, &golden.ecg);
        let adapted = logits(&golden.decoder.with_adapter(&fresh), &golden.ids, &golden.ecg);
        assert_eq!(error_max(&adapted, &base), 0.0);
    });
}

#[test]
fn merged_weights_give_the_logits_of_the_adapter_and_unmerged_ones_those_of_the_base() {
    for_each(|golden| {
        let (adapter, of) = (golden.adapter(), |d: &Decoder| logits(d, &golden.ids, &golden.ecg));
        let merged = golden.decoder.merged(&adapter).unwrap();
        let expected = of(&golden.decoder.with_adapter(&adapter));
        check(golden, &of(&merged), &expected, LOGITS_ERROR_MAX, "merged");
        let back = merged.unmerged(&adapter).unwrap();
        check(golden, &of(&back), &of(&golden.decoder), LOGITS_ERROR_MAX, "unmerged");
        let refused = golden.decoder.with_adapter(&adapter).merged(&adapter);
        assert!(refused.err().unwrap().to_string().contains("only the base"));
    });
}

#[test]
fn every_row_of_a_batch_has_its_own_adapter() {
    for_each(|golden| {
        let (one, two) = (golden.adapter(), golden.fresh(5));
        let rows: Vec<Option<&Adapter>> = [Some(&one), None, Some(&two), Some(&one)]
            .into_iter()
            .take(golden.ids.dim(0).unwrap())
            .collect();
        let together = logits(&golden.decoder.with_adapters(&rows).unwrap(), &golden.ids, &golden.ecg);
        for (i, adapter) in rows.iter().enumerate() {
            let alone = adapter.map_or(golden.decoder.clone(), |a| golden.decoder.with_adapter(a));
            let expected = logits(&alone, &row(&golden.ids, i), &row(&golden.ecg, i));
            check(
                golden,
                &row(&together, i),
                &expected,
                LOGITS_ERROR_MAX,
                &format!("row {i}"),
            );
        }
        assert!(error_max(&together.i(0).unwrap(), &together.i(1).unwrap()) > 1e-3);
    });
}

#[test]
fn a_batch_of_several_adapters_generates_what_each_generates_alone() {
    for_each(|golden| {
        let (one, two) = (golden.adapter(), golden.fresh(9));
        let rows = [None, Some(&two), Some(&one)];
        let options = DecodeOptions {
            tokens_max: 8,
            ..DecodeOptions::default()
        };
        let continued = |decoder: &Decoder, from: usize, n: usize| {
            let ids = golden.ids.narrow(0, from, n).unwrap();
            let prefix = decoder.prefix(&golden.ecg.narrow(0, from, n).unwrap()).unwrap();
            let rows = generate(decoder, &ids, Some(&prefix), None, &options).unwrap();
            rows.into_iter().map(|row| row.ids).collect::<Vec<_>>()
        };
        let together = continued(&golden.decoder.with_adapters(&rows).unwrap(), 0, rows.len());
        for (i, adapter) in rows.iter().enumerate() {
            let alone = adapter.map_or(golden.decoder.clone(), |a| golden.decoder.with_adapter(a));
            assert_eq!(together[i], continued(&alone, i, 1)[0], "row {i}");
        }
    });
}

#[test]
fn dropout_of_the_adapter_acts_in_training_alone() {
    for_each(|golden| {
        let mut config = golden.adapter().config().clone();
        config.lora_dropout = 0.5;
        let adapter = Adapter::new(config, &golden.adapter().tensors().unwrap(), &golden.decoder).unwrap();
        let adapted = golden.decoder.with_adapter(&adapter);
        let served = logits(&adapted, &golden.ids, &golden.ecg);
        check(
            golden,
            &served,
            &tensor(&golden.io, "logits_adapter"),
            LOGITS_ERROR_MAX,
            "served",
        );
        let trained = |seed| {
            let training = Training::new(0.0, ChaCha8Rng::seed_from_u64(seed));
            let mode = Mode::Train(&training);
            let prefix = adapted.prefix_in(&golden.ecg, &mode).unwrap();
            adapted
                .forward(&golden.ids, Some(&prefix), &mut adapted.cache(), &mode)
                .unwrap()
        };
        assert!(error_max(&trained(1), &served) > 1e-3);
        assert_eq!(error_max(&trained(1), &trained(1)), 0.0);
        assert!(error_max(&trained(1), &trained(2)) > 1e-4);
    });
}

#[test]
fn an_adapter_of_another_shape_or_with_a_tensor_too_many_is_refused_by_name() {
    for_each(|golden| {
        let (adapter, decoder) = (golden.adapter(), &golden.decoder);
        let tensors = adapter.tensors().unwrap();
        let (name, first) = tensors.iter().next().unwrap();
        let refused = |tensors: &BTreeMap<String, Tensor>| {
            let refused = Adapter::new(adapter.config().clone(), tensors, decoder);
            refused.err().expect("an error").to_string()
        };
        let mut short = tensors.clone();
        short.insert(name.clone(), first.narrow(0, 0, 1).unwrap());
        assert!(refused(&short).contains(name.as_str()));
        short.remove(name);
        assert!(refused(&short).contains(name.as_str()));
        let mut more = tensors.clone();
        more.insert("base_model.model.lm_head.lora_X.weight".to_owned(), first.clone());
        assert!(refused(&more).contains("lora_X"));
        let mut broken = tensors.clone();
        broken.insert(name.clone(), (first * f64::INFINITY).unwrap());
        assert!(refused(&broken).contains("non-finite"));
    });
}

#[test]
fn an_adapter_file_that_was_cut_is_named() {
    for_each(|golden| {
        let dir = tempfile::tempdir().unwrap();
        copy(&golden.dir.join("adapter"), dir.path());
        let path = dir.path().join(ADAPTER_WEIGHTS);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let error = Adapter::load(dir.path(), &golden.decoder).err().expect("an error");
        assert!(error.to_string().contains(ADAPTER_WEIGHTS), "{error}");
    });
}

#[test]
fn settings_that_are_not_plain_lora_are_refused_by_name() {
    for_each(|golden| {
        let dir = tempfile::tempdir().unwrap();
        let adapter = golden.dir.join("adapter");
        std::fs::copy(adapter.join(ADAPTER_WEIGHTS), dir.path().join(ADAPTER_WEIGHTS)).unwrap();
        let text = std::fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
        for (key, value) in [
            ("use_dora", serde_json::json!(true)),
            ("bias", serde_json::json!("all")),
            ("modules_to_save", serde_json::json!(["lm_head"])),
            ("peft_type", serde_json::json!("IA3")),
            ("init_lora_weights", serde_json::json!("pissa")),
            ("use_something_newer", serde_json::json!(1)),
        ] {
            let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
            config[key] = value;
            std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
            let error = Adapter::load(dir.path(), &golden.decoder)
                .err()
                .expect("an error")
                .to_string();
            assert!(error.contains(key), "{error}");
        }
    });
}
