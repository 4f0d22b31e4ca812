//! Batch norm with an optional ReLU, fused for training on the CPU.
//!
//! Place: after every convolution of `encoder` and every linear layer of `projector`. Conventions are PyTorch's: eps 1e-5,
//! unbiased variance in the running statistics. Composed of single tensor operations, its forward and backward make some
//! twenty passes over memory and dominate a training step; fused they make four. Other devices and types run the composed
//! form. Invariant: both forms have the same output and gradient (tests: finite differences in f64, PyTorch in f32).

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor, Var, WithDType};

use crate::error::Result as ModelResult;
use crate::mode::Mode;
use crate::weights::Weights;

const EPS: f64 = 1e-5;

/// What follows the norm.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    None,
    Relu,
}

/// Batch norm over the last axis.
#[derive(Clone)]
pub struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Var,
    running_var: Var,
    activation: Activation,
}

impl BatchNorm {
    pub fn load(w: &Weights, c: usize, activation: Activation) -> ModelResult<Self> {
        Ok(Self {
            weight: w.get(&[c], "weight")?,
            bias: w.get(&[c], "bias")?,
            running_mean: Var::from_tensor(&w.get(&[c], "running_mean")?)?,
            running_var: Var::from_tensor(&w.get(&[c], "running_var")?)?,
            activation,
        })
    }

    /// (.., C) -> (.., C). Training normalises by the batch and updates the running statistics in place.
    pub fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        let rows = x.reshape(((), x.dim(D::Minus1)?))?.contiguous()?;
        let y = match mode {
            Mode::Eval => {
                let scale = (&self.weight / (self.running_var.as_detached_tensor() + EPS)?.sqrt()?)?;
                let shift = (&self.bias - (self.running_mean.as_detached_tensor() * &scale)?)?;
                self.activate(&rows.broadcast_mul(&scale)?.broadcast_add(&shift)?)?
            }
            Mode::Train(training) => self.train(&rows, training.momentum)?,
        };
        y.reshape(x.shape())
    }

    fn train(&self, rows: &Tensor, momentum: f64) -> Result<Tensor> {
        let (n, _) = rows.dims2()?;
        let unbias = n as f64 / (n as f64 - 1.0).max(1.0);
        if rows.device().is_cpu() && matches!(rows.dtype(), DType::F32 | DType::F64) {
            let (mean, var) = column_statistics(rows)?;
            let as_running = |v: &[f64]| Tensor::new(v, rows.device())?.to_dtype(rows.dtype());
            blend(&self.running_mean, &as_running(&mean)?, momentum)?;
            blend(&self.running_var, &(as_running(&var)? * unbias)?, momentum)?;
            let inverse_sd = var.iter().map(|v| 1.0 / (v + EPS).sqrt()).collect();
            let op = Fused {
                mean,
                inverse_sd,
                activation: self.activation,
            };
            return rows.apply_op3(&self.weight, &self.bias, op);
        }
        let mean = rows.mean(0)?;
        let centred = rows.broadcast_sub(&mean)?;
        let var = centred.sqr()?.mean(0)?;
        blend(&self.running_mean, &mean.detach(), momentum)?;
        blend(&self.running_var, &(var.detach() * unbias)?, momentum)?;
        let scale = (&self.weight / (var + EPS)?.sqrt()?)?;
        self.activate(&centred.broadcast_mul(&scale)?.broadcast_add(&self.bias)?)
    }

    fn activate(&self, y: &Tensor) -> Result<Tensor> {
        match self.activation {
            Activation::None => Ok(y.clone()),
            Activation::Relu => y.relu(),
        }
    }
}

fn blend(running: &Var, batch: &Tensor, momentum: f64) -> Result<()> {
    running.set(&((running.as_detached_tensor() * (1.0 - momentum))? + (batch * momentum)?)?)
}

/// Mean and biased variance of every column, accumulated in f64.
fn column_statistics(rows: &Tensor) -> Result<(Vec<f64>, Vec<f64>)> {
    let (n, c) = rows.dims2()?;
    let mut mean = vec![0.0; c];
    for_rows(rows, |row| mean.iter_mut().zip(row).for_each(|(m, v)| *m += v))?;
    mean.iter_mut().for_each(|m| *m /= n as f64);
    let mut var = vec![0.0; c];
    for_rows(rows, |row| {
        var.iter_mut()
            .zip(row)
            .zip(&mean)
            .for_each(|((s, v), m)| *s += (v - m) * (v - m))
    })?;
    var.iter_mut().for_each(|v| *v /= n as f64);
    Ok((mean, var))
}

/// Calls `f` with each row of a contiguous (N, C) tensor in f64.
fn for_rows(rows: &Tensor, mut f: impl FnMut(&[f64])) -> Result<()> {
    let (_, c) = rows.dims2()?;
    let (storage, layout) = rows.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("batch norm: not on the CPU")
    };
    let mut wide = vec![0.0; c];
    let range = layout.start_offset()..layout.start_offset() + rows.elem_count();
    match storage {
        CpuStorage::F32(v) => v[range].chunks_exact(c).for_each(|row| {
            wide.iter_mut().zip(row).for_each(|(w, v)| *w = f64::from(*v));
            f(&wide);
        }),
        CpuStorage::F64(v) => v[range].chunks_exact(c).for_each(f),
        _ => candle_core::bail!("batch norm: type {:?}", rows.dtype()),
    }
    Ok(())
}

/// `act(w (x - mean) / sd + b)` with the batch's own mean and sd.
struct Fused {
    mean: Vec<f64>,
    inverse_sd: Vec<f64>,
    activation: Activation,
}

impl Fused {
    fn forward<T: WithDType>(&self, x: &[T], weight: &[T], bias: &[T]) -> Vec<T> {
        let c = self.mean.len();
        let scale: Vec<T> = weight
            .iter()
            .zip(&self.inverse_sd)
            .map(|(w, i)| T::from_f64(w.to_f64() * i))
            .collect();
        let mean: Vec<T> = self.mean.iter().map(|&m| T::from_f64(m)).collect();
        let mut y = Vec::with_capacity(x.len());
        for row in x.chunks_exact(c) {
            y.extend((0..c).map(|j| {
                let v = (row[j] - mean[j]) * scale[j] + bias[j];
                if self.activation == Activation::Relu && v < T::zero() {
                    T::zero()
                } else {
                    v
                }
            }));
        }
        y
    }

    /// Gradients of x, weight and bias. Source: Ioffe and Szegedy 2015, section 3.
    fn gradients<T: WithDType>(&self, x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<[Tensor; 3]> {
        let (n, c) = x.dims2()?;
        let (device, x, grad) = (
            x.device(),
            x.flatten_all()?.to_vec1::<T>()?,
            grad.flatten_all()?.to_vec1::<T>()?,
        );
        let of = |values: &[f64]| values.iter().map(|&v| T::from_f64(v)).collect::<Vec<T>>();
        let (mean, inverse) = (of(&self.mean), of(&self.inverse_sd));
        let (mut sum, mut sum_normed) = (vec![0f64; c], vec![0f64; c]);
        for (x, g) in x.chunks_exact(c).zip(grad.chunks_exact(c)) {
            for j in 0..c {
                sum[j] += g[j].to_f64();
                sum_normed[j] += (g[j] * (x[j] - mean[j]) * inverse[j]).to_f64();
            }
        }
        let weight = weight.to_vec1::<T>()?;
        let scale: Vec<T> = weight.iter().zip(&inverse).map(|(&w, &i)| w * i).collect();
        let mean_of = |sums: &[f64]| sums.iter().map(|s| T::from_f64(s / n as f64)).collect::<Vec<T>>();
        let (of_mean, of_sd) = (mean_of(&sum), mean_of(&sum_normed));
        let mut dx = Vec::with_capacity(n * c);
        for (x, g) in x.chunks_exact(c).zip(grad.chunks_exact(c)) {
            dx.extend((0..c).map(|j| scale[j] * (g[j] - of_mean[j] - (x[j] - mean[j]) * inverse[j] * of_sd[j])));
        }
        let tensor = |values: Vec<T>| Tensor::from_vec(values, c, device);
        Ok([
            Tensor::from_vec(dx, (n, c), device)?,
            tensor(of(&sum_normed))?,
            tensor(of(&sum))?,
        ])
    }
}

fn slice<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let Some((from, to)) = layout.contiguous_offsets() else {
        candle_core::bail!("batch norm: input is not contiguous")
    };
    Ok(&storage.as_slice::<T>()?[from..to])
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = match x {
            CpuStorage::F32(_) => CpuStorage::F32(self.forward(
                slice(x, x_layout)?,
                slice(weight, weight_layout)?,
                slice(bias, bias_layout)?,
            )),
            CpuStorage::F64(_) => CpuStorage::F64(self.forward(
                slice(x, x_layout)?,
                slice(weight, weight_layout)?,
                slice(bias, bias_layout)?,
            )),
            _ => candle_core::bail!("batch norm: runs in f32 and f64"),
        };
        Ok((y, x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = match self.activation {
            Activation::None => grad.contiguous()?,
            Activation::Relu => (y.gt(0.0)?.to_dtype(grad.dtype())? * grad)?,
        };
        let [dx, dw, db] = match x.dtype() {
            DType::F64 => self.gradients::<f64>(x, weight, &grad)?,
            _ => self.gradients::<f32>(x, weight, &grad)?,
        };
        Ok((Some(dx), Some(dw), Some(db)))
    }
}
