//! A transformer encoder over patches in time.
//!
//! Place: a trunk of `encoder`. Shapes: (B, L, S) -> (B, 1 + N, C), the class token first. Source: Dosovitskiy et al. 2021
//! (pre-norm, GELU, biases); names are timm's, so weights that self-supervised training left in them load.

use candle_core::Tensor;

use super::patches::Patches;
use crate::architecture::Norm;
use crate::config::VitConfig;
use crate::error::Result;
use crate::layers::{Linear, attend};
use crate::norm::NormLayer;
use crate::weights::Weights;

const NORM: Norm = Norm::Layer {
    eps: 1e-6,
    affine: true,
};

#[derive(Clone)]
pub(super) struct Vit1d {
    patches: Patches,
    blocks: Vec<Block>,
    norm: NormLayer,
}

#[derive(Clone)]
struct Block {
    norm1: NormLayer,
    qkv: Linear,
    proj: Linear,
    norm2: NormLayer,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
}

impl Vit1d {
    /// Reads what [`Patches`] reads, `blocks.<i>.*` and `norm`.
    pub fn load(w: &Weights, leads: usize, sizes: &VitConfig) -> Result<Self> {
        let blocks = w.pp("blocks");
        Ok(Self {
            patches: Patches::load(w, leads, sizes.width, [sizes.patch, sizes.patches], 0)?,
            blocks: (0..sizes.layers)
                .map(|i| Block::load(&blocks.pp(i), sizes))
                .collect::<Result<_>>()?,
            norm: NormLayer::load(&w.pp("norm"), sizes.width, NORM)?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x = self.patches.forward(x)?;
        let x = self.blocks.iter().try_fold(x, |x, block| block.forward(&x))?;
        self.norm.forward(&x)
    }
}

impl Block {
    fn load(w: &Weights, sizes: &VitConfig) -> Result<Self> {
        let (c, m) = (sizes.width, sizes.mlp);
        Ok(Self {
            norm1: NormLayer::load(&w.pp("norm1"), c, NORM)?,
            qkv: Linear::load(&w.pp("attn.qkv"), c, 3 * c)?,
            proj: Linear::load(&w.pp("attn.proj"), c, c)?,
            norm2: NormLayer::load(&w.pp("norm2"), c, NORM)?,
            fc1: Linear::load(&w.pp("mlp.fc1"), c, m)?,
            fc2: Linear::load(&w.pp("mlp.fc2"), m, c)?,
            heads: sizes.heads,
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x = (x + self.attend(&self.norm1.forward(x)?)?)?;
        let y = self.fc1.forward(&self.norm2.forward(&x)?)?.gelu_erf()?;
        &x + self.fc2.forward(&y)?
    }

    /// (B, T, C) -> (B, T, C), every token sees every other.
    fn attend(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (b, t, c) = x.dims3()?;
        let qkv = self.qkv.forward(x)?.reshape((b, t, 3, self.heads, c / self.heads))?;
        let part = |i| qkv.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous(); // (B, H, T, D)
        self.proj.forward(&attend(&part(0)?, &part(1)?, &part(2)?)?)
    }
}
