//! Layers with exact gradients: linear and 1-D convolution.
//!
//! Place: below `encoder`, `projector` and `decoder`. candle's conv1d has a wrong kernel gradient (0.11.1), so it is composed of
//! operations whose gradients were checked; tests compare each layer with finite differences. Signals are laid out (B, S, C): a
//! convolution is one gather and one matrix product.

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{D, DType, Module, Result, Tensor};

use crate::error::Result as ModelResult;
use crate::frozen::{beside, learns_before, matmul_t};
use crate::weights::Weights;

/// `x W^T + b` over the last axis.
#[derive(Clone)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

#[derive(Clone)]
enum Weight {
    /// (O, I).
    Dense(Tensor),
    /// Blocks of small integers with a scale each; serves and never trains.
    Quantised {
        product: QMatMul,
        outputs: usize,
        inputs: usize,
    },
}

impl Linear {
    /// Reads `weight` (O, I), and `bias` (O) where the checkpoint has one.
    pub fn load(w: &Weights, inputs: usize, outputs: usize) -> ModelResult<Self> {
        let weight = w.get(&[outputs, inputs], "weight")?;
        let bias = w.has("bias").then(|| w.get(&[outputs], "bias")).transpose()?;
        Ok(Self::new(weight, bias))
    }

    /// A weight (O, I) that may be shared with another layer or a view of another layout, and a bias (O).
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        let weight = Weight::Dense(weight);
        Self { weight, bias }
    }

    /// This layer with its weight in blocks of `kind`, or as it is where the inputs are no multiple of a block.
    pub fn quantised(&self, kind: GgmlDType) -> Result<Self> {
        let Weight::Dense(weight) = &self.weight else {
            candle_core::bail!("a quantised weight cannot be quantised again");
        };
        let (outputs, inputs) = weight.dims2()?;
        if !inputs.is_multiple_of(kind.block_size()) {
            return Ok(self.clone());
        }
        let blocks = QTensor::quantize(&weight.contiguous()?, kind)?;
        let weight = Weight::Quantised {
            product: QMatMul::from_qtensor(blocks)?,
            outputs,
            inputs,
        };
        let bias = self.bias.clone();
        Ok(Self { weight, bias })
    }

    /// (O, I).
    pub fn dims(&self) -> Result<(usize, usize)> {
        match &self.weight {
            Weight::Dense(weight) => weight.dims2(),
            Weight::Quantised { outputs, inputs, .. } => Ok((*outputs, *inputs)),
        }
    }

    /// (O, I), where it is not quantised.
    pub fn weight(&self) -> Option<&Tensor> {
        match &self.weight {
            Weight::Dense(weight) => Some(weight),
            Weight::Quantised { .. } => None,
        }
    }

    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// (.., I) -> (.., O).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (outputs, inputs) = self.dims()?;
        if let Weight::Dense(weight) = &self.weight
            && learns_before(x, weight)
        {
            let y = beside(x, weight)?;
            return self.bias.as_ref().map_or(Ok(y.clone()), |bias| y.broadcast_add(bias));
        }
        let mut shape = x.dims().to_vec();
        let rows = x.contiguous()?.reshape(((), inputs))?;
        let y = match &self.weight {
            Weight::Dense(weight) => matmul_t(&rows, weight)?, // (N, O)
            Weight::Quantised { product, .. } if !x.track_op() => {
                product.forward(&rows.to_dtype(DType::F32)?)?.to_dtype(x.dtype())?
            }
            // candle's quantised product has no backward and would lose the gradient without a word
            Weight::Quantised { .. } => candle_core::bail!("a quantised weight serves and never trains"),
        };
        let y = self.bias.as_ref().map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))?;
        *shape.last_mut().expect("a linear layer's input has at least one axis") = outputs;
        y.reshape(shape)
    }

    /// The layer applied to `tile(e, n)`, with the tiling collapsed into the weight: `W tile(e) = (sum of W's n column
    /// blocks) e`. Source: MEIT section 3.4; exact, meit-reference section 2.
    ///
    /// e (B, P, D) with n D = I -> (B, P, O).
    pub fn forward_tiled(&self, e: &Tensor) -> Result<Tensor> {
        let (_, _, d) = e.dims3()?;
        let (outputs, inputs) = self.dims()?;
        let Weight::Dense(weight) = &self.weight else {
            return self.forward(&e.repeat((1, 1, inputs / d))?);
        };
        let weight = weight.reshape((outputs, inputs / d, d))?.sum(1)?; // (O, D)
        Linear::new(weight, self.bias.clone()).forward(e)
    }
}

/// 1-D convolution without bias over (B, S, C).
#[derive(Clone)]
pub struct Conv1d {
    weight: Tensor,
    stride: usize,
    padding: usize,
    groups: usize,
}

impl Conv1d {
    /// Reads `weight` (O, C / groups, kernel); the padding is `(kernel - 1) / 2`.
    pub fn load(
        w: &Weights,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        stride: usize,
        groups: usize,
    ) -> ModelResult<Self> {
        Ok(Self {
            weight: w.get(&[outputs, inputs / groups, kernel], "weight")?,
            stride,
            padding: (kernel - 1) / 2,
            groups,
        })
    }

    /// (B, S, C) -> (B, floor((S + 2 padding - kernel) / stride) + 1, O).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.groups == 1 {
            return self.convolve(x, &self.weight);
        }
        // each group of outputs sees its own channels
        let (outputs, inputs) = (self.weight.dim(0)? / self.groups, self.weight.dim(1)?);
        let groups = (0..self.groups).map(|g| {
            let channels = x.narrow(2, g * inputs, inputs)?.contiguous()?;
            self.convolve(&channels, &self.weight.narrow(0, g * outputs, outputs)?)
        });
        Tensor::cat(&groups.collect::<Result<Vec<_>>>()?, 2)
    }

    fn convolve(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (o, c, kernel) = weight.dims3()?;
        let (b, s, _) = x.dims3()?;
        let taps = weight.permute((2, 1, 0))?.reshape((kernel * c, o))?; // (kernel C, O)
        let s_out = (s + 2 * self.padding - kernel) / self.stride + 1;
        let columns = if kernel == 1 && self.stride == 1 {
            x.clone()
        } else {
            let index: Vec<u32> = (0..s_out)
                .flat_map(|i| (0..kernel).map(move |k| (i * self.stride + k) as u32))
                .collect();
            let index = Tensor::from_vec(index, s_out * kernel, x.device())?;
            x.pad_with_zeros(1, self.padding, self.padding)?
                .contiguous()?
                .index_select(&index, 1)?
        };
        columns
            .reshape((b * s_out, kernel * c))?
            .matmul(&taps)?
            .reshape((b, s_out, o))
    }
}

/// Attention in which every query sees every key: q (B, H, T, D), k and v (B, H, S, D) -> (B, T, H D).
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (b, h, t, d) = q.dims4()?;
    let scores = widen(&(q * (d as f64).powf(-0.5))?.matmul(&k.t()?)?)?; // (B, H, T, S)
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(v.dtype())?;
    let y = weights.matmul(v)?.transpose(1, 2)?.contiguous()?; // (B, T, H, D)
    y.reshape((b, t, h * d))
}

/// The type in which values of `dtype` are summed: f32, or f64 for its own.
pub(crate) fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// `x` in f32, or in f64 where it already is.
pub fn widen(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(wide(x.dtype()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::Device;

    use super::*;

    #[test]
    fn a_grouped_convolution_is_one_whose_weight_is_zero_between_the_groups() -> ModelResult<()> {
        let values = |n: usize| (0..n).map(|i| ((i * 37 % 19) as f32 - 9.0) / 9.0).collect::<Vec<_>>();
        let (c, o, kernel) = (4, 6, 3);
        let grouped = Tensor::from_vec(values(o * c / 2 * kernel), (o, c / 2, kernel), &Device::Cpu)?;
        let zeros = Tensor::zeros((o / 2, c / 2, kernel), DType::F32, &Device::Cpu)?;
        let halves = [grouped.narrow(0, 0, o / 2)?, grouped.narrow(0, o / 2, o / 2)?];
        let upper = Tensor::cat(&[&halves[0], &zeros], 1)?;
        let whole = Tensor::cat(&[upper, Tensor::cat(&[&zeros, &halves[1]], 1)?], 0)?;
        let conv = |weight: Tensor, groups| {
            Conv1d::load(
                &Weights::new(BTreeMap::from([("weight".to_owned(), weight)])),
                c,
                o,
                kernel,
                2,
                groups,
            )
        };
        let x = Tensor::from_vec(values(2 * 9 * c), (2, 9, c), &Device::Cpu)?;
        let (a, b) = (conv(grouped, 2)?.forward(&x)?, conv(whole, 1)?.forward(&x)?);
        assert_eq!(a.dims(), [2, 5, o]);
        let error = (a - b)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(error < 1e-6, "{error}");
        Ok(())
    }
}
