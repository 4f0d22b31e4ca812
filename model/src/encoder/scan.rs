//! The selective scan of a state-space layer, with its gradient.
//!
//! Place: inside each direction of `vim`. Composed of tensor operations it would be a chain as long as the sequence in every
//! layer; here it is one operation. Invariant: computed in f64 on the CPU, wherever its inputs are; the same bits whatever the
//! number of cores.
//! Source: Gu and Dao 2023 (arXiv 2312.00752), algorithm 2: h = exp(s A) h + s B u, y = C h, for each channel by itself.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

/// u and step sizes (B, T, E), a (E, states), b and c (B, T, states) -> y (B, T, E).
pub(super) fn selective_scan(u: &Tensor, step: &Tensor, a: &Tensor, b: &Tensor, c: &Tensor) -> Result<Tensor> {
    let device = u.device();
    let on_cpu = |t: Tensor| t.to_device(&Device::Cpu)?.contiguous();
    let us = on_cpu(Tensor::cat(&[u, step], 2)?)?;
    let bc = on_cpu(Tensor::cat(&[b, c], 2)?)?;
    us.apply_op3(&on_cpu(a.clone())?, &bc, Scan)?.to_device(device)
}

/// Of u and step sizes side by side, a, and b and c side by side.
struct Scan;

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    t: usize,
    inner: usize,
    state: usize,
}

/// Inputs in f64.
struct Inputs {
    us: Vec<f64>,
    a: Vec<f64>,
    bc: Vec<f64>,
}

/// Channels of one task of the backward pass; they share one sum of the gradients of b and c.
const BAND: usize = 32;

/// Gradients of one channel of one row.
struct Channel {
    u: Vec<f64>,
    step: Vec<f64>,
    a: Vec<f64>,
}

impl Sizes {
    fn new(us: &Shape, a: &Shape) -> Result<Self> {
        let ((batch, t, _), (inner, state)) = (us.dims3()?, a.dims2()?);
        Ok(Self { batch, t, inner, state })
    }

    /// Row and channel of each task.
    fn channels(self) -> impl IndexedParallelIterator<Item = (usize, usize)> {
        (0..self.batch * self.inner)
            .into_par_iter()
            .map(move |i| (i / self.inner, i % self.inner))
    }
}

impl Inputs {
    fn u(&self, z: Sizes, row: usize, t: usize, e: usize) -> (f64, f64) {
        let at = (row * z.t + t) * 2 * z.inner + e;
        (self.us[at], self.us[at + z.inner])
    }

    fn bc(&self, z: Sizes, row: usize, t: usize) -> (&[f64], &[f64]) {
        let at = (row * z.t + t) * 2 * z.state;
        self.bc[at..at + 2 * z.state].split_at(z.state)
    }

    /// Outputs of a channel, and with `states` every state after each step.
    fn run(&self, z: Sizes, row: usize, e: usize, mut states: Option<&mut Vec<f64>>) -> Vec<f64> {
        let a = &self.a[e * z.state..(e + 1) * z.state];
        let mut h = vec![0f64; z.state];
        let outputs = (0..z.t).map(|t| {
            let ((u, step), (b, c)) = (self.u(z, row, t, e), self.bc(z, row, t));
            let mut y = 0.0;
            for s in 0..z.state {
                h[s] = (step * a[s]).exp() * h[s] + step * b[s] * u;
                y += c[s] * h[s];
            }
            if let Some(states) = &mut states {
                states.extend_from_slice(&h);
            }
            y
        });
        outputs.collect()
    }

    /// Gradients of a channel, given that of its outputs; those of b and c (T, 2 states) are added to `bc`.
    fn gradients(&self, z: Sizes, (row, e): (usize, usize), grad: &[f64], bc: &mut [f64]) -> Channel {
        let mut states = Vec::with_capacity(z.t * z.state);
        self.run(z, row, e, Some(&mut states));
        let a = &self.a[e * z.state..(e + 1) * z.state];
        let mut channel = Channel {
            u: vec![0.0; z.t],
            step: vec![0.0; z.t],
            a: vec![0.0; z.state],
        };
        let mut dh = vec![0f64; z.state];
        for t in (0..z.t).rev() {
            let ((u, step), (b, c)) = (self.u(z, row, t, e), self.bc(z, row, t));
            let dy = grad[(row * z.t + t) * z.inner + e];
            let (db, dc) = bc[t * 2 * z.state..(t + 1) * 2 * z.state].split_at_mut(z.state);
            for s in 0..z.state {
                let before = if t == 0 { 0.0 } else { states[(t - 1) * z.state + s] };
                let decay = (step * a[s]).exp();
                dc[s] += dy * states[t * z.state + s];
                let d = dh[s] + dy * c[s];
                db[s] += d * step * u;
                channel.u[t] += d * step * b[s];
                channel.step[t] += d * (before * decay * a[s] + b[s] * u);
                channel.a[s] += d * before * decay * step;
                dh[s] = d * decay;
            }
        }
        channel
    }
}

impl CustomOp3 for Scan {
    fn name(&self) -> &'static str {
        "selective-scan"
    }

    fn cpu_fwd(
        &self,
        us: &CpuStorage,
        us_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        bc: &CpuStorage,
        bc_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let z = Sizes::new(us_layout.shape(), a_layout.shape())?;
        let inputs = Inputs {
            us: wide(us, us_layout)?,
            a: wide(a, a_layout)?,
            bc: wide(bc, bc_layout)?,
        };
        let rows: Vec<Vec<f64>> = z.channels().map(|(row, e)| inputs.run(z, row, e, None)).collect();
        let mut y = vec![0f64; z.batch * z.t * z.inner];
        for (i, channel) in rows.iter().enumerate() {
            place(&mut y, z, (i / z.inner, i % z.inner), (z.inner, 0), channel);
        }
        let storage = match us {
            CpuStorage::F32(_) => CpuStorage::F32(narrow(&y)),
            _ => CpuStorage::F64(y),
        };
        Ok((storage, Shape::from((z.batch, z.t, z.inner))))
    }

    fn bwd(
        &self,
        us: &Tensor,
        a: &Tensor,
        bc: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let z = Sizes::new(us.shape(), a.shape())?;
        let values = |t: &Tensor| t.to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let inputs = Inputs {
            us: values(us)?,
            a: values(a)?,
            bc: values(bc)?,
        };
        let grad = values(grad)?;
        let bands: Vec<(Vec<Channel>, Vec<f64>)> = (0..z.batch * z.inner.div_ceil(BAND))
            .into_par_iter()
            .map(|i| {
                let (row, band) = (i / z.inner.div_ceil(BAND), i % z.inner.div_ceil(BAND));
                let mut bc = vec![0f64; z.t * 2 * z.state];
                let channels = band * BAND..((band + 1) * BAND).min(z.inner);
                let channels = channels.map(|e| inputs.gradients(z, (row, e), &grad, &mut bc));
                (channels.collect(), bc)
            })
            .collect();
        let (mut d_us, mut d_a, mut d_bc) = (
            vec![0f64; inputs.us.len()],
            vec![0f64; inputs.a.len()],
            vec![0f64; inputs.bc.len()],
        );
        for (i, (channels, bc)) in bands.iter().enumerate() {
            let (row, first) = (i / z.inner.div_ceil(BAND), i % z.inner.div_ceil(BAND) * BAND);
            for (e, channel) in (first..).zip(channels) {
                place(&mut d_us, z, (row, e), (2 * z.inner, 0), &channel.u);
                place(&mut d_us, z, (row, e), (2 * z.inner, z.inner), &channel.step);
                add(&mut d_a[e * z.state..(e + 1) * z.state], &channel.a);
            }
            add(&mut d_bc[row * bc.len()..(row + 1) * bc.len()], bc);
        }
        let tensor =
            |v: Vec<f64>, like: &Tensor| Tensor::from_vec(v, like.shape(), like.device())?.to_dtype(like.dtype());
        Ok((Some(tensor(d_us, us)?), Some(tensor(d_a, a)?), Some(tensor(d_bc, bc)?)))
    }
}

/// Writes a channel's values over time into (B, T, width), at column `offset + e`.
fn place(all: &mut [f64], z: Sizes, (row, e): (usize, usize), (width, offset): (usize, usize), values: &[f64]) {
    for (t, value) in values.iter().enumerate() {
        all[(row * z.t + t) * width + offset + e] = *value;
    }
}

fn add(sums: &mut [f64], values: &[f64]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

fn wide(storage: &CpuStorage, layout: &Layout) -> Result<Vec<f64>> {
    let Some((from, to)) = layout.contiguous_offsets() else {
        candle_core::bail!("selective scan: input is not contiguous")
    };
    match storage {
        CpuStorage::F32(v) => Ok(v[from..to].iter().map(|v| f64::from(*v)).collect()),
        CpuStorage::F64(v) => Ok(v[from..to].to_vec()),
        _ => candle_core::bail!("selective scan: type {:?}, must be f32 or f64", storage.dtype()),
    }
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| f32::from_f64(v)).collect()
}
