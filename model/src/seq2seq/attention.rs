//! Attention of an encoder-decoder: over its own text, or over the memory.
//!
//! Place: inside every layer of both stacks. Shapes: x (B, T, C), keys and values (B, S, H, D) -> (B, T, C); the mask, which is
//! added to the scores, broadcasts to (B, H, T, S). Invariant: a masked column changes no bit of a row.

use candle_core::{D, Tensor};

use super::config::StackShape;
use super::place::Place;
use crate::error::Result;
use crate::fused::{self, attention::Attend};
use crate::layers::widen;
use crate::mode::Mode;
use crate::prefix::KeysValues;
use crate::projection::Projection;

#[derive(Clone)]
pub(super) struct Attention {
    q: Projection,
    k: Projection,
    v: Projection,
    out: Projection,
    heads: usize,
    head_dim: usize,
    scale: f64,
}

impl Attention {
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(at: &Place, shape: StackShape) -> Result<Self> {
        let (c, inner) = (at.config.hidden_size, shape.heads * shape.head_dim);
        let [q, k, v, out] = at.config.names.qkvo;
        Ok(Self {
            q: at.projection(q, c, inner)?,
            k: at.projection(k, c, inner)?,
            v: at.projection(v, c, inner)?,
            out: at.projection(out, inner, c)?,
            heads: shape.heads,
            head_dim: shape.head_dim,
            scale: at.config.score_scale.unwrap_or((shape.head_dim as f64).powf(-0.5)),
        })
    }

    pub fn projections(&self) -> [&Projection; 4] {
        [&self.q, &self.k, &self.v, &self.out]
    }

    pub fn projections_mut(&mut self) -> [&mut Projection; 4] {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.out]
    }

    /// Keys and values of what is attended to: (B, S, C) -> (B, S, H, D) each.
    pub fn keys_values(&self, x: &Tensor, mode: &Mode) -> candle_core::Result<KeysValues> {
        Ok((
            self.split(&self.k.forward(x, mode)?)?,
            self.split(&self.v.forward(x, mode)?)?,
        ))
    }

    /// (B, T, H D) -> (B, T, H, D).
    fn split(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (b, t, _) = x.dims3()?;
        x.contiguous()?.reshape((b, t, self.heads, self.head_dim))
    }

    pub fn forward(&self, x: &Tensor, [k, v]: [&Tensor; 2], mask: &Tensor, mode: &Mode) -> candle_core::Result<Tensor> {
        let (b, t, _) = x.dims3()?;
        let q = self.split(&self.q.forward(x, mode)?)?;
        // the one operation takes the mask as it is: a learning bias in it needs the composed form
        let y = if fused::takes(x) && !mask.track_op() {
            let (mask, scale) = (mask.contiguous()?, self.scale);
            q.apply_op3(k, v, Attend { mask, scale })?
        } else {
            self.composed(&q, k, v, mask)?
        };
        self.out.forward(&y.reshape((b, t, self.heads * self.head_dim))?, mode)
    }

    /// (B, T, H, D) -> (B, T, H, D).
    fn composed(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
        let heads_first = |x: &Tensor| x.transpose(1, 2)?.contiguous();
        let (q, k, v) = ((heads_first(q)? * self.scale)?, heads_first(k)?, heads_first(v)?);
        let scores = widen(&q.matmul(&k.t()?)?)?.broadcast_add(mask)?; // (B, H, T, S)
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(v.dtype())?;
        weights.matmul(&v)?.transpose(1, 2)?.contiguous()
    }
}
