//! Layers with exact gradients: linear and 1-D convolution.
//!
//! Place: below `encoder`, `projector` and `decoder`. candle's conv1d has a wrong kernel gradient (0.11.1),
//! so it is composed of operations whose gradients were checked; tests compare each layer with finite differences. Signals are laid out (B, S, C): a convolution is one gather and one matrix product.

use candle_core::{DType, Result, Tensor};

use crate::error::Result as ModelResult;
use crate::frozen::matmul_t;
use crate::weights::Weights;

/// `x W^T + b` over the last axis.
#[derive(Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Reads `weight` (O, I), and `bias` (O) where the checkpoint has one.
    pub fn load(w: &Weights, inputs: usize, outputs: usize) -> ModelResult<Self> {
        let weight = w.get(&[outputs, inputs], "weight")?;
        let bias = w.find("bias").map(|_| w.get(&[outputs], "bias")).transpose()?;
        Ok(Self { weight, bias })
    }

    /// A weight (O, I) that may be shared with another layer or a view of another layout, and a bias (O).
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// (O, I).
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// (.., I) -> (.., O).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (outputs, inputs) = self.weight.dims2()?;
        let mut shape = x.dims().to_vec();
        let y = matmul_t(&x.contiguous()?.reshape(((), inputs))?, &self.weight)?; // (N, O)
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
        let (outputs, inputs) = self.weight.dims2()?;
        let weight = self.weight.reshape((outputs, inputs / d, d))?.sum(1)?; // (O, D)
        Linear {
            weight,
            bias: self.bias.clone(),
        }
        .forward(e)
    }
}

/// 1-D convolution without bias over (B, S, C).
#[derive(Clone)]
pub struct Conv1d {
    weight: Tensor,
    stride: usize,
    padding: usize,
}

impl Conv1d {
    /// Reads `weight` (O, C, kernel); the padding is `(kernel - 1) / 2`.
    pub fn load(w: &Weights, inputs: usize, outputs: usize, kernel: usize, stride: usize) -> ModelResult<Self> {
        Ok(Self {
            weight: w.get(&[outputs, inputs, kernel], "weight")?,
            stride,
            padding: (kernel - 1) / 2,
        })
    }

    /// (B, S, C) -> (B, floor((S + 2 padding - kernel) / stride) + 1, O).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (o, c, kernel) = self.weight.dims3()?;
        let (b, s, _) = x.dims3()?;
        let taps = self.weight.permute((2, 1, 0))?.reshape((kernel * c, o))?; // (kernel C, O)
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

/// `x` in f32, or in f64 where it already is.
pub fn widen(x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::F64 {
        Ok(x.clone())
    } else {
        x.to_dtype(DType::F32)
    }
}
