//! Fresh weights of the encoder's trunks.
//!
//! Place: part of `init`. Invariant: names and shapes are those that `encoder` reads.
//! Source: timm's for the transformer (normal of 0.02); the reference Mamba's for the state space: A = -1, -2, .., step sizes
//! log-uniform between 0.001 and 0.1, projections scaled down by the depth.

use candle_core::{Device, Result, Tensor};
use rand::Rng;

use super::Init;
use crate::config::{Convolution, ResnetConfig, VimConfig, VitConfig};

const STD: f32 = 0.02;
const STEP_MIN: f32 = 1e-3;
const STEP_MAX: f32 = 0.1;

impl Init<'_> {
    pub(super) fn resnet(&mut self, leads: usize, sizes: &ResnetConfig) -> Result<()> {
        self.normed(&sizes.stem(leads))?;
        for block in sizes.residuals() {
            block
                .path
                .iter()
                .chain(&block.shortcut)
                .try_for_each(|conv| self.normed(conv))?;
        }
        Ok(())
    }

    fn normed(&mut self, c: &Convolution) -> Result<()> {
        self.conv(&c.name, c.inputs / c.groups, c.outputs, c.kernel)?;
        self.norm(&c.norm, c.outputs)
    }

    pub(super) fn vit(&mut self, leads: usize, v: &VitConfig) -> Result<()> {
        self.patches(leads, v.width, v.patch, v.patches)?;
        for i in 0..v.layers {
            let name = |part: &str| format!("blocks.{i}.{part}");
            for norm in ["norm1", "norm2"] {
                self.layer_norm(&name(norm), v.width)?;
            }
            for (part, inputs, outputs) in [
                ("attn.qkv", v.width, 3 * v.width),
                ("attn.proj", v.width, v.width),
                ("mlp.fc1", v.width, v.mlp),
                ("mlp.fc2", v.mlp, v.width),
            ] {
                self.normal(&format!("{}.weight", name(part)), &[outputs, inputs], STD)?;
                self.constant(&format!("{}.bias", name(part)), outputs, 0.0)?;
            }
        }
        self.layer_norm("norm", v.width)
    }

    pub(super) fn vim(&mut self, leads: usize, v: &VimConfig) -> Result<()> {
        self.patches(leads, v.width, v.patch, v.patches)?;
        for i in 0..v.layers {
            self.constant(&format!("layers.{i}.norm.weight"), v.width, 1.0)?;
            let name = |part: &str| format!("layers.{i}.mixer.{part}");
            self.normal(&name("in_proj.weight"), &[2 * v.inner, v.width], STD)?;
            let residual = STD / (v.layers as f32).sqrt();
            self.normal(&name("out_proj.weight"), &[v.width, v.inner], residual)?;
            for (suffix, a_log) in [("", "A_log"), ("_b", "A_b_log")] {
                self.direction(v, |part| name(&part.replace('*', suffix)), &name(a_log))?;
            }
        }
        self.constant("norm_f.weight", v.width, 1.0)
    }

    /// One direction of a layer; `name` puts the direction's mark in place of the star.
    fn direction(&mut self, v: &VimConfig, name: impl Fn(&str) -> String, a_log: &str) -> Result<()> {
        let conv_std = (1.0 / v.conv as f32).sqrt();
        self.normal(&name("conv1d*.weight"), &[v.inner, 1, v.conv], conv_std)?;
        self.constant(&name("conv1d*.bias"), v.inner, 0.0)?;
        self.normal(&name("x_proj*.weight"), &[v.rank + 2 * v.state, v.inner], STD)?;
        let rank_std = (1.0 / v.rank as f32).sqrt();
        self.normal(&name("dt_proj*.weight"), &[v.inner, v.rank], rank_std)?;
        let bias = (0..v.inner).map(|_| {
            let step = (self.rng.random::<f32>() * (STEP_MAX / STEP_MIN).ln()).exp() * STEP_MIN;
            step.exp_m1().ln() // softplus gives the step back
        });
        let bias: Vec<f32> = bias.collect();
        self.put(&name("dt_proj*.bias"), Tensor::new(bias, &Device::Cpu)?);
        let a: Vec<f32> = (1..=v.state).map(|s| (s as f32).ln()).collect();
        let a = Tensor::new(a, &Device::Cpu)?.broadcast_as((v.inner, v.state))?;
        self.put(a_log, a.contiguous()?);
        self.constant(&name("D*"), v.inner, 1.0)
    }

    fn patches(&mut self, leads: usize, width: usize, patch: usize, count: usize) -> Result<()> {
        let std = (1.0 / (leads * patch) as f32).sqrt();
        self.normal("patch_embed.proj.weight", &[width, leads, patch], std)?;
        self.constant("patch_embed.proj.bias", width, 0.0)?;
        self.normal("cls_token", &[1, 1, width], STD)?;
        self.normal("pos_embed", &[1, 1 + count, width], STD)
    }

    fn layer_norm(&mut self, name: &str, c: usize) -> Result<()> {
        self.constant(&format!("{name}.weight"), c, 1.0)?;
        self.constant(&format!("{name}.bias"), c, 0.0)
    }

    fn put(&mut self, name: &str, tensor: Tensor) {
        self.tensors.insert(name.to_owned(), tensor);
    }
}
