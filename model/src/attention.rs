//! Self-attention over [ECG prefix | text] in one softmax.
//!
//! Place: inside every `decoder` layer. Shapes: (B, T, C) -> (B, T, C).
//! The prefix is visible to every query, is never rotated, and does not shift text positions. Source: MEIT eqs 3-5.

use candle_core::{D, Tensor};

use crate::architecture::{Architecture, LayerShape, Qkv};
use crate::cache::Cache;
use crate::error::Result;
use crate::fused::{self, attention::Attend};
use crate::layers::widen;
use crate::mask::Masks;
use crate::mode::Mode;
use crate::prefix::{EcgPrefix, KeysValues};
use crate::projection::{Projection, Site};
use crate::rotary::Rotation;

/// Grouped-query attention.
#[derive(Clone)]
pub struct Attention {
    qkv: Projections,
    out: Projection,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    shape: LayerShape,
    layer: usize,
}

#[derive(Clone)]
enum Projections {
    Split {
        q: Projection,
        k: Projection,
        v: Projection,
    },
    Stacked(Projection),
    PerHead(Projection),
}

/// What all layers of one forward share.
pub struct Step<'a> {
    /// None where positions are not rotary.
    pub rotation: Option<Rotation>,
    pub masks: Masks,
    pub prefix: Option<&'a EcgPrefix>,
    pub mode: &'a Mode<'a>,
}

impl Attention {
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(site: &Site, a: &Architecture, layer: usize) -> Result<Self> {
        let (q_dim, kv_dim) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        let project = |name, outputs| site.projection(name, a.hidden_size, outputs, a.biases.qkv);
        let qkv = match a.names.qkv {
            Qkv::Split { q, k, v } => Projections::Split {
                q: project(q, q_dim)?,
                k: project(k, kv_dim)?,
                v: project(v, kv_dim)?,
            },
            Qkv::Stacked(name) => Projections::Stacked(project(name, 3 * q_dim)?),
            Qkv::PerHead(name) => Projections::PerHead(project(name, 3 * q_dim)?),
        };
        Ok(Self {
            qkv,
            out: site.projection(a.names.attention_out, q_dim, a.hidden_size, a.biases.attention_out)?,
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: a.head_dim,
            shape: a.layers[layer],
            layer,
        })
    }

    pub(crate) fn projections(&self) -> Vec<&Projection> {
        let mut all = match &self.qkv {
            Projections::Split { q, k, v } => vec![q, k, v],
            Projections::Stacked(all) | Projections::PerHead(all) => vec![all],
        };
        all.push(&self.out);
        all
    }

    pub(crate) fn projections_mut(&mut self) -> Vec<&mut Projection> {
        let mut all = match &mut self.qkv {
            Projections::Split { q, k, v } => vec![q, k, v],
            Projections::Stacked(all) | Projections::PerHead(all) => vec![all],
        };
        all.push(&mut self.out);
        all
    }

    /// This layer's prefix: its own projections of the tiled embeddings e (B, P, D) -> K, V (B, P, K, D).
    pub fn prefix(&self, e: &Tensor, mode: &Mode) -> candle_core::Result<(Tensor, Tensor)> {
        let [_, k, v] = match &self.qkv {
            Projections::Split { k, v, .. } => {
                let k = self.split(&k.forward_tiled(e, mode)?, self.kv_heads)?;
                [k.clone(), k, self.split(&v.forward_tiled(e, mode)?, self.kv_heads)?]
            }
            Projections::Stacked(all) => self.stacked(&all.forward_tiled(e, mode)?)?,
            Projections::PerHead(all) => self.per_head(&all.forward_tiled(e, mode)?)?,
        };
        Ok((k, v))
    }

    /// x (B, T, C) -> queries (B, T, H, D), keys and values (B, T, K, D).
    fn project(&self, x: &Tensor, mode: &Mode) -> candle_core::Result<[Tensor; 3]> {
        match &self.qkv {
            Projections::Split { q, k, v } => Ok([
                q.forward_heads(x, self.heads, mode)?,
                k.forward_heads(x, self.kv_heads, mode)?,
                v.forward_heads(x, self.kv_heads, mode)?,
            ]),
            Projections::Stacked(all) => self.stacked(&all.forward(x, mode)?),
            Projections::PerHead(all) => self.per_head(&all.forward(x, mode)?),
        }
    }

    /// (B, T, n D) -> (B, T, n, D).
    fn split(&self, x: &Tensor, n: usize) -> candle_core::Result<Tensor> {
        let (b, t, _) = x.dims3()?;
        x.contiguous()?.reshape((b, t, n, self.head_dim))
    }

    /// (B, T, 3 H D), every q before every k before every v -> three of (B, T, H, D).
    fn stacked(&self, x: &Tensor) -> candle_core::Result<[Tensor; 3]> {
        let width = self.heads * self.head_dim;
        let part = |i| self.split(&x.narrow(2, i * width, width)?, self.heads);
        Ok([part(0)?, part(1)?, part(2)?])
    }

    /// (B, T, H 3 D), q, k and v side by side in every head -> three of (B, T, H, D).
    fn per_head(&self, x: &Tensor) -> candle_core::Result<[Tensor; 3]> {
        let (b, t, _) = x.dims3()?;
        let x = x.reshape((b, t, self.heads, 3, self.head_dim))?;
        let part = |i| x.narrow(3, i, 1)?.squeeze(3)?.contiguous();
        Ok([part(0)?, part(1)?, part(2)?])
    }

    /// (B, T, C) -> (B, T, C); this step's keys and values join `cache`.
    pub fn forward(&self, x: &Tensor, step: &Step, cache: &mut Cache) -> candle_core::Result<Tensor> {
        let qkv = self.project(x, step.mode)?;
        let prefix = step.prefix.and_then(|p| p.layer(self.layer));
        let mask = step.masks.of(self.shape.window, prefix.is_some())?;
        let y = if fused::takes(x) {
            self.attend_fused(qkv, step, prefix, mask, cache)?
        } else {
            self.attend(qkv, step, prefix, &mask, cache)?
        };
        self.out.forward_of_heads(&y, step.mode)
    }

    /// q (B, T, H, D), k and v (B, T, K, D) -> (B, T, H, D), in one operation.
    fn attend_fused(
        &self,
        [q, k, v]: [Tensor; 3],
        step: &Step,
        prefix: Option<&KeysValues>,
        mask: Tensor,
        cache: &mut Cache,
    ) -> candle_core::Result<Tensor> {
        let rotate = |x: Tensor| step.rotation.as_ref().map_or(Ok(x.clone()), |r| r.apply_fused(&x));
        let (q, k) = (rotate(q)?, rotate(k)?);
        let prefix = prefix.map(|(k, v)| [k, v]);
        let [k, v] = cache.append(self.layer, 1, [&k, &v], prefix)?; // (B, P + T_all, K, D)
        let (mask, scale) = (mask.contiguous()?, self.shape.score_scale);
        q.contiguous()?.apply_op3(&k, &v, Attend { mask, scale })
    }

    /// As [`Self::attend_fused`], composed.
    fn attend(
        &self,
        qkv: [Tensor; 3],
        step: &Step,
        prefix: Option<&KeysValues>,
        mask: &Tensor,
        cache: &mut Cache,
    ) -> candle_core::Result<Tensor> {
        let heads_first = |x: &Tensor| x.transpose(1, 2)?.contiguous();
        let [q, k, v] = [heads_first(&qkv[0])?, heads_first(&qkv[1])?, heads_first(&qkv[2])?];
        let (b, _, t, _) = q.dims4()?;
        let rotate = |x: Tensor| step.rotation.as_ref().map_or(Ok(x.clone()), |r| r.apply(&x));
        let (q, k) = (rotate(q)?, rotate(k)?);
        let prefix = prefix.filter(|_| cache.is_empty());
        let prefix = prefix.map(|(k, v)| Ok::<_, candle_core::Error>([heads_first(k)?, heads_first(v)?]));
        let prefix = prefix.transpose()?;
        let prefix = prefix.as_ref().map(|[k, v]| [k, v]);
        let [k, v] = cache.append(self.layer, 2, [&k, &v], prefix)?; // (B, K, P + T_all, D)
        let group = self.heads / self.kv_heads;
        let columns = k.dim(2)?;
        let q = (q.reshape((b, self.kv_heads, group * t, self.head_dim))? * self.shape.score_scale)?;
        let scores = widen(&q.matmul(&k.t()?)?)?.reshape((b, self.heads, t, columns))?;
        let weights = candle_nn::ops::softmax(&scores.broadcast_add(mask)?, D::Minus1)?.to_dtype(v.dtype())?;
        let weights = weights.reshape((b, self.kv_heads, group * t, columns))?;
        let y = weights.matmul(&v)?.reshape((b, self.heads, t, self.head_dim))?; // (B, H, T, D)
        y.transpose(1, 2)?.contiguous()
    }
}
