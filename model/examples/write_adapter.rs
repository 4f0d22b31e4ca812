//! Trains a fresh adapter for a few steps on a golden directory and writes it with the logits it gives.
//!
//! Place: the Rust half of tests/golden/check_adapter.py, and the shortest use of `model::lora`. Invariant: what is written is
//! what was trained, read back from its files.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use model::architecture::Architecture;
use model::decoder::Decoder;
use model::lora::{Adaptable, Adapter, AdapterConfig, Targets};
use model::mode::Mode;
use model::weights::Weights;
use rand::SeedableRng;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, out] = arguments.as_slice() else {
        return Err("usage: write_adapter GOLDEN_DIR OUT_DIR".into());
    };
    let (base, out) = (Path::new(base), Path::new(out));
    let io = candle_core::safetensors::load(base.join("io.safetensors"), &Device::Cpu)?;
    let (ids, ecg) = (io["input_ids"].to_dtype(DType::U32)?, &io["ecg"]);
    let weights = Weights::load_checkpoint(base, DType::F32, &Device::Cpu)?;
    let decoder = Decoder::load(&weights, &Architecture::read(&base.join("config.json"))?)?;

    let config = AdapterConfig::new(4, 16.0, Targets::Pattern("all-linear".to_owned()));
    let fresh = Adapter::fresh(config, &decoder, &mut rand_chacha::ChaCha8Rng::seed_from_u64(1))?;
    let (adapter, vars) = fresh.trainable()?;
    let training = decoder.with_adapter(&adapter);
    for _ in 0..8 {
        let loss = next_token_loss(&logits(&training, &ids, ecg)?, &ids)?;
        let grads = loss.backward()?;
        for var in vars.values() {
            let grad = grads.get(var).ok_or("an adapter variable without a gradient")?;
            var.set(&(var.as_detached_tensor() - (grad * 0.5)?)?)?;
        }
        println!("loss {:.4}", loss.to_scalar::<f32>()?);
    }
    adapter.save(&out.join("adapter"))?;

    let written = Adapter::load(&out.join("adapter"), &decoder)?;
    let logits = logits(&decoder.with_adapter(&written), &ids, ecg)?;
    let io = HashMap::from([
        ("input_ids", ids.to_dtype(DType::I64)?),
        ("ecg", ecg.clone()),
        ("logits", logits),
    ]);
    candle_core::safetensors::save(&io, out.join("io.safetensors"))?;
    Ok(())
}

fn logits(decoder: &Decoder, ids: &Tensor, ecg: &Tensor) -> candle_core::Result<Tensor> {
    let prefix = decoder.prefix(ecg)?;
    decoder.forward(ids, Some(&prefix), &mut decoder.cache(), &Mode::Eval)
}

/// Mean negative log likelihood of every token after the first.
fn next_token_loss(logits: &Tensor, ids: &Tensor) -> candle_core::Result<Tensor> {
    let (_, t) = ids.dims2()?;
    let logits = logits.narrow(1, 0, t - 1)?.contiguous()?;
    let targets = ids.narrow(1, 1, t - 1)?.contiguous()?.unsqueeze(2)?;
    let picked = logits.gather(&targets, 2)?.squeeze(2)?;
    (logits.log_sum_exp(2)? - picked)?.mean_all()
}
