//! AdamW with named, saved moments, global-norm clipping, and a linear warm-up schedule.
//!
//! Place: after a step's backward pass. candle's own AdamW cannot save its moments. Invariant: state saved and loaded
//! continues as if it had never stopped.
//! Source: Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::Context;
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, Device, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var};
use rayon::prelude::*;

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
    /// Moves each variable along `scale` times its gradient at the rate beside it. Matrices decay, vectors do not.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub fn update(&mut self, moves: Vec<Move>, scale: f64, decay: f64) -> Result<()> {
        let jobs = moves.into_iter().map(|to| {
            let step = self.step.entry(to.name.to_owned()).or_default();
            *step += 1;
            let rates = Rates {
                scale,
                lr: to.lr,
                decay: if to.var.rank() >= 2 { 1.0 - to.lr * decay } else { 1.0 },
                m_share: 1.0 / (1.0 - BETA1.powi(*step as i32)),
                v_share: 1.0 / (1.0 - BETA2.powi(*step as i32)),
            };
            let moments = match self.moments.remove(to.name) {
                Some(pair) => pair,
                None => (to.grad.zeros_like()?, to.grad.zeros_like()?),
            };
            Ok((to, rates, moments))
        });
        let jobs: Vec<(Move, Rates, (Tensor, Tensor))> = jobs.collect::<Result<_>>()?;
        let moved = jobs.into_par_iter().map(|(to, rates, (m, v))| {
            let in_place = [to.var.as_tensor(), to.grad, &m, &v]
                .iter()
                .all(|t| t.device().is_cpu() && t.dtype() == DType::F32 && t.is_contiguous());
            if in_place {
                rates.pass([to.var.as_tensor(), to.grad, &m, &v])?;
                return Ok((to.name.to_owned(), (m, v)));
            }
            let [x, m, v] = rates.compose([&to.var.as_detached_tensor(), to.grad, &m, &v])?;
            to.var.set(&x)?;
            Ok((to.name.to_owned(), (m, v)))
        });
        self.moments.extend(moved.collect::<Result<Vec<_>>>()?);
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
    ) -> Result<f64> {
        let norm = global_norm(grads, vars.clone())?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        let moves = vars.filter_map(|(name, var)| {
            let (grad, lr) = (grads.get(var)?, rate(name));
            (lr > 0.0).then_some(Move { name, var, grad, lr })
        });
        self.update(moves.collect(), (clip_norm / (norm + 1e-6)).min(1.0), decay)?;
        Ok(norm)
    }

    /// The moments and steps as tensors, for a checkpoint that is written before the next update: that changes the moments in place.
    ///
    /// # Errors
    /// A tensor that cannot be made.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
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

/// A variable, what it moves along, and how fast.
pub struct Move<'a> {
    pub name: &'a str,
    pub var: &'a Var,
    pub grad: &'a Tensor,
    pub lr: f64,
}

/// What one step does to every value of a variable.
#[derive(Clone, Copy)]
struct Rates {
    /// Factor of the gradient.
    scale: f64,
    lr: f64,
    /// What is left of the variable itself.
    decay: f64,
    /// Factors that take the moments' bias towards zero away.
    m_share: f64,
    v_share: f64,
}

impl Rates {
    /// The new variable, first and second moment, of the old ones and the gradient.
    fn compose(self, [x, grad, m, v]: [&Tensor; 4]) -> Result<[Tensor; 3]> {
        let grad = &(grad * self.scale)?;
        let m = ((m * BETA1)? + (grad * (1.0 - BETA1))?)?;
        let v = ((v * BETA2)? + (grad.sqr()? * (1.0 - BETA2))?)?;
        let slope = ((&m * self.m_share)? / ((&v * self.v_share)?.sqrt()? + EPS)?)?;
        let moved = ((x * self.decay)? - (slope * self.lr)?)?;
        Ok([moved, m, v])
    }

    /// As [`Self::compose`] with the same operations on every value, of contiguous f32 on the CPU, in place.
    fn pass(self, [x, grad, m, v]: [&Tensor; 4]) -> Result<()> {
        let scale = self.scale as f32;
        let of_m = Average {
            scale,
            beta: BETA1,
            square: false,
        };
        let of_v = Average {
            scale,
            beta: BETA2,
            square: true,
        };
        m.inplace_op2(grad, &of_m)?;
        v.inplace_op2(grad, &of_v)?;
        x.inplace_op3(m, v, &self)
    }
}

/// A moment, averaged with the gradient or its square.
struct Average {
    scale: f32,
    beta: f64,
    square: bool,
}

impl InplaceOp2 for Average {
    fn name(&self) -> &'static str {
        "adamw-moment"
    }

    fn cpu_fwd(&self, m: &mut CpuStorage, l1: &Layout, grad: &CpuStorage, l2: &Layout) -> Result<()> {
        let [old, new] = [self.beta, 1.0 - self.beta].map(|share| share as f32);
        for (m, &g) in in_place(m, l1)?.iter_mut().zip(values(grad, l2)?) {
            let g = g * self.scale;
            *m = *m * old + if self.square { g * g } else { g } * new;
        }
        Ok(())
    }
}

impl InplaceOp3 for Rates {
    fn name(&self) -> &'static str {
        "adamw-step"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        l1: &Layout,
        m: &CpuStorage,
        l2: &Layout,
        v: &CpuStorage,
        l3: &Layout,
    ) -> Result<()> {
        let [lr, decay, m_share, v_share, eps] =
            [self.lr, self.decay, self.m_share, self.v_share, EPS].map(|rate| rate as f32);
        for ((x, &m), &v) in in_place(x, l1)?.iter_mut().zip(values(m, l2)?).zip(values(v, l3)?) {
            *x = *x * decay - m * m_share / ((v * v_share).sqrt() + eps) * lr;
        }
        Ok(())
    }
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    Ok(&storage.as_slice()?[layout.start_offset()..][..layout.shape().elem_count()])
}

fn in_place<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match storage {
        CpuStorage::F32(all) => Ok(&mut all[layout.start_offset()..][..layout.shape().elem_count()]),
        _ => candle_core::bail!("AdamW in place takes f32"),
    }
}

/// Euclidean norm of the gradients of `params` together.
///
/// # Errors
/// A tensor operation that fails.
fn global_norm<'a>(grads: &GradStore, params: impl Iterator<Item = (&'a String, &'a Var)>) -> Result<f64> {
    let grads: Vec<&Tensor> = params.filter_map(|(_, var)| grads.get(var)).collect();
    let square = |grad: &&Tensor| grad.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>();
    let squares = grads.par_iter().map(square).collect::<Result<Vec<f32>>>()?;
    Ok(squares.into_iter().map(f64::from).sum::<f64>().sqrt())
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

    fn along<'a>(var: &'a Var, grad: &'a Tensor) -> Move<'a> {
        let (name, lr) = ("w", 0.01);
        Move { name, var, grad, lr }
    }

    #[test]
    fn a_step_moves_a_weight_by_the_rate_against_its_gradient() -> anyhow::Result<()> {
        let var = Var::from_tensor(&Tensor::new(&[[1.0f32]], &Device::Cpu)?)?;
        let grad = Tensor::new(&[[3.0f32]], &Device::Cpu)?;
        AdamW::default().update(vec![along(&var, &grad)], 1.0, 0.0)?;
        let moved = var.to_vec2::<f32>()?[0][0];
        assert!((moved - 0.99).abs() < 1e-6, "{moved}");
        Ok(())
    }

    #[test]
    fn a_step_in_one_pass_is_the_composed_one_bit_for_bit() -> Result<()> {
        let values = |seed: f32| {
            Tensor::from_vec(
                (0..77).map(|i| (i as f32 * seed).sin()).collect(),
                (7, 11),
                &Device::Cpu,
            )
        };
        let (x, grad, m, v) = (values(0.7)?, values(1.3)?, values(0.4)?, values(2.1)?.sqr()?);
        let rates = Rates {
            scale: 0.7,
            lr: 3e-3,
            decay: 0.999,
            m_share: 1.7,
            v_share: 9.1,
        };
        let composed = rates.compose([&x, &grad, &m, &v])?;
        rates.pass([&x, &grad, &m, &v])?;
        for (one, other) in [x, m, v].iter().zip(composed) {
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
            optimizer.update(vec![along(&whole, &grad(step)?)], 1.0, 0.1)?;
        }
        let mut optimizer = AdamW::default();
        for step in 0..6 {
            if step == 3 {
                let path = dir.path().join("optimizer.safetensors");
                candle_core::safetensors::save(&optimizer.state()?, &path)?;
                optimizer = AdamW::restore(&path)?;
            }
            optimizer.update(vec![along(&halves, &grad(step)?)], 1.0, 0.1)?;
        }
        assert_eq!(whole.to_vec2::<f32>()?, halves.to_vec2::<f32>()?);
        Ok(())
    }
}
