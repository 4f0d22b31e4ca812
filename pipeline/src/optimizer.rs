//! AdamW with named, saved moments, global-norm clipping, and a linear warm-up schedule.
//!
//! Place: after a step's backward pass. candle's own AdamW cannot save its moments. Invariant: state saved and loaded
//! continues as if it had never stopped.
//! Source: Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::Context;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.98;
const EPS: f64 = 1e-8;

/// First and second moments by parameter name.
#[derive(Default)]
pub struct AdamW {
    moments: BTreeMap<String, (Tensor, Tensor)>,
    step: BTreeMap<String, u64>,
}

impl AdamW {
    /// Moves one variable along its gradient. Matrices decay, vectors do not.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub fn update(&mut self, name: &str, var: &Var, grad: &Tensor, lr: f64, decay: f64) -> candle_core::Result<()> {
        let step = self.step.entry(name.to_owned()).or_default();
        *step += 1;
        let (m, v) = match self.moments.remove(name) {
            Some(pair) => pair,
            None => (grad.zeros_like()?, grad.zeros_like()?),
        };
        let decay = if var.rank() >= 2 { 1.0 - lr * decay } else { 1.0 };
        let rates = Rates {
            lr,
            decay,
            m_share: 1.0 / (1.0 - BETA1.powi(*step as i32)),
            v_share: 1.0 / (1.0 - BETA2.powi(*step as i32)),
        };
        let old = [&var.as_detached_tensor(), grad, &m, &v];
        let in_one_pass = old.iter().all(|t| t.device().is_cpu() && t.dtype() == DType::F32);
        let [moved, m, v] = if in_one_pass {
            rates.pass(old)?
        } else {
            rates.compose(old)?
        };
        var.set(&moved)?;
        self.moments.insert(name.to_owned(), (m, v));
        Ok(())
    }

    /// One step along the gradients of a loss: they are cut to `clip_norm` together, each variable moves at its own rate, and one
    /// whose rate is 0 stays. Nothing moves where the norm of the gradients, which is returned, is not finite.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub fn descend<'a>(
        &mut self,
        grads: &GradStore,
        vars: impl Iterator<Item = (&'a String, &'a Var)> + Clone,
        clip_norm: f64,
        decay: f64,
        rate: impl Fn(&str) -> f64,
    ) -> candle_core::Result<f64> {
        let norm = global_norm(grads, vars.clone())?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        let clip = (clip_norm / (norm + 1e-6)).min(1.0);
        for (name, var) in vars {
            let lr = rate(name);
            if let Some(grad) = grads.get(var).filter(|_| lr > 0.0) {
                self.update(name, var, &(grad * clip)?, lr, decay)?;
            }
        }
        Ok(norm)
    }

    /// The moments and steps as tensors, for a checkpoint.
    ///
    /// # Errors
    /// A tensor that cannot be made.
    pub fn state(&self) -> candle_core::Result<HashMap<String, Tensor>> {
        let mut state = HashMap::new();
        for (name, (m, v)) in &self.moments {
            state.insert(format!("{name}.m"), m.clone());
            state.insert(format!("{name}.v"), v.clone());
            state.insert(
                format!("{name}.step"),
                Tensor::new(self.step[name] as i64, &Device::Cpu)?,
            );
        }
        Ok(state)
    }

    /// # Errors
    /// A file that cannot be read or lacks one of a parameter's three tensors.
    pub fn restore(path: &Path) -> anyhow::Result<Self> {
        let state =
            candle_core::safetensors::load(path, &Device::Cpu).with_context(|| format!("read {}", path.display()))?;
        let mut optimizer = Self::default();
        for (key, m) in &state {
            let Some(name) = key.strip_suffix(".m") else { continue };
            let part = |kind: &str| {
                state
                    .get(&format!("{name}.{kind}"))
                    .with_context(|| format!("{} lacks {name}.{kind}", path.display()))
            };
            optimizer
                .moments
                .insert(name.to_owned(), (m.clone(), part("v")?.clone()));
            optimizer
                .step
                .insert(name.to_owned(), part("step")?.to_scalar::<i64>()? as u64);
        }
        Ok(optimizer)
    }
}

/// What one step does to every value of a variable.
#[derive(Clone, Copy)]
struct Rates {
    lr: f64,
    /// What is left of the variable itself.
    decay: f64,
    /// Factors that take the moments' bias towards zero away.
    m_share: f64,
    v_share: f64,
}

impl Rates {
    /// The new variable, first and second moment, of the old ones and the gradient.
    fn compose(self, [x, grad, m, v]: [&Tensor; 4]) -> candle_core::Result<[Tensor; 3]> {
        let m = ((m * BETA1)? + (grad * (1.0 - BETA1))?)?;
        let v = ((v * BETA2)? + (grad.sqr()? * (1.0 - BETA2))?)?;
        let slope = ((&m * self.m_share)? / ((&v * self.v_share)?.sqrt()? + EPS)?)?;
        let moved = ((x * self.decay)? - (slope * self.lr)?)?;
        Ok([moved, m, v])
    }

    /// As [`Self::compose`], of f32 on the CPU, with the same operations on every value.
    fn pass(self, tensors: [&Tensor; 4]) -> candle_core::Result<[Tensor; 3]> {
        let shape = tensors[0].shape();
        let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        let [x, grad, m, v] = tensors.map(values);
        let (mut x, grad, mut m, mut v) = (x?, grad?, m?, v?);
        let [b1, c1, b2, c2] = [BETA1, 1.0 - BETA1, BETA2, 1.0 - BETA2].map(|b| b as f32);
        let [lr, decay, m_share, v_share, eps] =
            [self.lr, self.decay, self.m_share, self.v_share, EPS].map(|rate| rate as f32);
        for (((x, &g), m), v) in x.iter_mut().zip(&grad).zip(&mut m).zip(&mut v) {
            *m = *m * b1 + g * c1;
            *v = *v * b2 + g * g * c2;
            *x = *x * decay - *m * m_share / ((*v * v_share).sqrt() + eps) * lr;
        }
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, shape, &Device::Cpu);
        Ok([tensor(x)?, tensor(m)?, tensor(v)?])
    }
}

/// Euclidean norm of the gradients of `params` together.
///
/// # Errors
/// A tensor operation that fails.
fn global_norm<'a>(grads: &GradStore, params: impl Iterator<Item = (&'a String, &'a Var)>) -> candle_core::Result<f64> {
    let mut sum = 0.0;
    for (_, var) in params {
        if let Some(grad) = grads.get(var) {
            sum += f64::from(grad.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
    }
    Ok(sum.sqrt())
}

/// Rises linearly to 1 over the first `warmup` share of the steps, then falls linearly to zero at the last.
pub fn schedule(step: u64, steps: u64, warmup: f64) -> f64 {
    let (step, steps) = (step as f64 + 1.0, steps as f64 + 1.0);
    let rise = (warmup * steps).max(1.0);
    if step < rise {
        step / rise
    } else {
        (steps - step) / (steps - rise).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_then_falls_and_stays_positive() {
        let rates: Vec<f64> = (0..100).map(|step| schedule(step, 100, 0.1)).collect();
        let peak = rates.iter().copied().fold(0.0, f64::max);
        assert!((peak - 1.0).abs() < 0.02, "peak {peak}");
        assert!(rates.iter().all(|&r| r > 0.0 && r <= 1.0));
        assert!(rates[0] < rates[5] && rates[99] < rates[50]);
    }

    #[test]
    fn a_step_moves_a_weight_by_the_rate_against_its_gradient() -> anyhow::Result<()> {
        let var = Var::from_tensor(&Tensor::new(&[[1.0f32]], &Device::Cpu)?)?;
        AdamW::default().update("w", &var, &Tensor::new(&[[3.0f32]], &Device::Cpu)?, 0.01, 0.0)?;
        let moved = var.to_vec2::<f32>()?[0][0];
        assert!((moved - 0.99).abs() < 1e-6, "{moved}");
        Ok(())
    }

    #[test]
    fn a_step_in_one_pass_is_the_composed_one_bit_for_bit() -> candle_core::Result<()> {
        let values = |seed: f32| {
            Tensor::from_vec(
                (0..77).map(|i| (i as f32 * seed).sin()).collect(),
                (7, 11),
                &Device::Cpu,
            )
        };
        let (x, grad, m, v) = (values(0.7)?, values(1.3)?, values(0.4)?, values(2.1)?.sqr()?);
        let rates = Rates {
            lr: 3e-3,
            decay: 0.999,
            m_share: 1.7,
            v_share: 9.1,
        };
        let old = [&x, &grad, &m, &v];
        for (one, other) in rates.pass(old)?.iter().zip(rates.compose(old)?) {
            assert_eq!(one.to_vec2::<f32>()?, other.to_vec2::<f32>()?);
        }
        Ok(())
    }

    #[test]
    fn restored_state_continues_as_if_it_had_never_stopped() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let grad = |step: usize| Tensor::new(&[[0.3f32 * step as f32, -1.0]], &Device::Cpu);
        let start = || Var::from_tensor(&Tensor::new(&[[1.0f32, 2.0]], &Device::Cpu)?);
        let (whole, halves) = (start()?, start()?);
        let mut optimizer = AdamW::default();
        for step in 0..6 {
            optimizer.update("w", &whole, &grad(step)?, 0.01, 0.1)?;
        }
        let mut optimizer = AdamW::default();
        for step in 0..6 {
            if step == 3 {
                let path = dir.path().join("optimizer.safetensors");
                candle_core::safetensors::save(&optimizer.state()?, &path)?;
                optimizer = AdamW::restore(&path)?;
            }
            optimizer.update("w", &halves, &grad(step)?, 0.01, 0.1)?;
        }
        assert_eq!(whole.to_vec2::<f32>()?, halves.to_vec2::<f32>()?);
        Ok(())
    }
}
