//! Patches in time, with a class token and learned positions.
//!
//! Place: what `vit` and `vim` begin with. Shapes: (B, L, S) -> (B, 1 + N, C). Source: Dosovitskiy et al. 2021 (ViT), with
//! patches of all leads along time; names are timm's.

use candle_core::Tensor;

use crate::error::Result;
use crate::layers::Linear;
use crate::weights::Weights;

#[derive(Clone)]
pub(super) struct Patches {
    /// (C, L patch).
    linear: Linear,
    /// (1, 1, C).
    class: Tensor,
    /// (1, 1 + N, C).
    positions: Tensor,
    patch: usize,
    count: usize,
    /// Patches before the class token.
    class_at: usize,
}

impl Patches {
    /// Reads `patch_embed.proj`, `cls_token` and `pos_embed`.
    pub fn load(w: &Weights, leads: usize, width: usize, [patch, count]: [usize; 2], class_at: usize) -> Result<Self> {
        let proj = w.pp("patch_embed.proj");
        let weight = proj.get(&[width, leads, patch], "weight")?;
        Ok(Self {
            linear: Linear::new(
                weight.reshape((width, leads * patch))?,
                Some(proj.get(&[width], "bias")?),
            ),
            class: w.get(&[1, 1, width], "cls_token")?,
            positions: w.get(&[1, 1 + count, width], "pos_embed")?,
            patch,
            count,
            class_at,
        })
    }

    /// Samples after the last whole patch are left out.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (b, leads, samples) = x.dims3()?;
        if samples / self.patch != self.count {
            candle_core::bail!(
                "{samples} samples have {} patches of {}: the encoder has positions for {}",
                samples / self.patch,
                self.patch,
                self.count
            );
        }
        let x = x
            .narrow(2, 0, self.count * self.patch)?
            .reshape((b, leads, self.count, self.patch))?
            .transpose(1, 2)?
            .contiguous()?; // (B, N, L, patch)
        let x = self.linear.forward(&x.reshape((b, self.count, leads * self.patch))?)?; // (B, N, C)
        let (_, _, width) = x.dims3()?;
        let before = x.narrow(1, 0, self.class_at)?;
        let after = x.narrow(1, self.class_at, self.count - self.class_at)?;
        let class = self.class.broadcast_as((b, 1, width))?;
        Tensor::cat(&[&before, &class, &after], 1)?.broadcast_add(&self.positions)
    }

    /// (B, 1 + N, C) in the order of [`Self::forward`] -> the class token first.
    pub fn class_first(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        if self.class_at == 0 {
            return Ok(x.clone());
        }
        let class = x.narrow(1, self.class_at, 1)?;
        let before = x.narrow(1, 0, self.class_at)?;
        let after = x.narrow(1, self.class_at + 1, self.count - self.class_at)?;
        Tensor::cat(&[&class, &before, &after], 1)
    }
}
