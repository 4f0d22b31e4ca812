//! A named linear layer of the decoder.
//!
//! Place: every matrix of `attention`, `decoder` and the output head is one. Invariant: its name is the module's path in
//! transformers, whatever the checkpoint left out of it, so that adapters find it.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::architecture::{Architecture, Orientation};
use crate::error::Result as ModelResult;
use crate::fused;
use crate::fused::adapted::{Adapted, Layer};
use crate::layers::Linear;
use crate::mode::Mode;
use crate::norm::NormLayer;
use crate::weights::Weights;

/// `x W^T + b`, and what adapters add to it, by name.
#[derive(Clone)]
pub struct Projection {
    name: Arc<str>,
    linear: Linear,
    shares: Vec<Share>,
}

/// What one adapter adds: `scale B (A x)`, in all rows of the batch or in some.
#[derive(Clone)]
pub(crate) struct Share {
    /// Rows of the batch, u32; None means all.
    pub rows: Option<Tensor>,
    /// (R, I), in f32 whatever the base has.
    pub a: Linear,
    /// (O, R).
    pub b: Linear,
    pub scale: f64,
    pub dropout: f32,
}

impl Projection {
    pub fn new(name: String, linear: Linear) -> Self {
        Self {
            name: name.into(),
            linear,
            shares: Vec::new(),
        }
    }

    /// The module's path, such as `model.layers.0.self_attn.q_proj`.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn linear(&self) -> &Linear {
        &self.linear
    }

    pub(crate) fn set_linear(&mut self, linear: Linear) {
        self.linear = linear;
    }

    /// The weight (O, I) of a layer that is a product alone.
    pub(crate) fn plain(&self) -> Option<&Tensor> {
        let plain = self.shares.is_empty() && self.linear.bias().is_none();
        self.linear.weight().filter(|_| plain)
    }

    pub(crate) fn has_shares(&self) -> bool {
        !self.shares.is_empty()
    }

    pub(crate) fn set_shares(&mut self, shares: Vec<Share>) {
        self.shares = shares;
    }

    /// The layer and its one adapter, where an operation takes both together.
    pub(crate) fn adapted(&self, x: &Tensor, mode: &Mode) -> Option<Layer> {
        let [share] = self.shares.as_slice() else { return None };
        let (weight, a, b) = (self.linear.weight()?, share.a.weight()?, share.b.weight()?);
        let trains = a.track_op() && b.track_op();
        let plain = share.rows.is_none() && self.linear.bias().is_none() && !mode.drops(share.dropout);
        let alike = [weight, a, b]
            .iter()
            .all(|t| t.dtype() == x.dtype() && t.is_contiguous());
        (trains && plain && alike && fused::takes_frozen(x, [weight])).then(|| Layer {
            weight: weight.clone(),
            a: a.clone(),
            b: b.clone(),
            scale: share.scale,
        })
    }

    /// (B, .., I) -> (B, .., O).
    pub fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        if let Some(layer) = self.adapted(x, mode) {
            let mut dims = x.dims().to_vec();
            *dims.last_mut().expect("a linear layer's input has at least one axis") = layer.b.dim(0)?;
            return Adapted::apply(layer, x, dims);
        }
        let y = self.linear.forward(x)?;
        self.shares.iter().try_fold(y, |y, share| {
            share.add(y, x, |x| {
                let x = mode.dropout_of(x, share.dropout)?;
                share.b.forward(&share.a.forward(&x)?)
            })
        })
    }

    /// As [`Self::forward`], with the output in heads: (B, T, I) -> (B, T, n, O / n).
    pub(crate) fn forward_heads(&self, x: &Tensor, n: usize, mode: &Mode) -> Result<Tensor> {
        let (b, t, _) = x.dims3()?;
        let (outputs, _) = self.linear.dims()?;
        let shape = (b, t, n, outputs / n);
        match self.adapted(x, mode) {
            Some(layer) => Adapted::apply(layer, x, shape),
            None => self.forward(x, mode)?.contiguous()?.reshape(shape),
        }
    }

    /// As [`Self::forward`], with the input in heads: (B, T, n, D) -> (B, T, O).
    pub(crate) fn forward_of_heads(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        let (b, t, n, d) = x.dims4()?;
        match self.adapted(x, mode) {
            Some(layer) => {
                let outputs = layer.b.dim(0)?;
                Adapted::apply(layer, x, (b, t, outputs))
            }
            None => self.forward(&x.reshape((b, t, n * d))?, mode),
        }
    }

    /// The layer applied to `tile(e, n)`: e (B, P, D) with n D = I -> (B, P, O).
    pub fn forward_tiled(&self, e: &Tensor, mode: &Mode) -> Result<Tensor> {
        let y = self.linear.forward_tiled(e)?;
        self.shares.iter().try_fold(y, |y, share| {
            share.add(y, e, |e| {
                if mode.drops(share.dropout) {
                    // every copy of e in the tile is dropped by itself, so there is nothing to collapse
                    let (_, inputs) = share.a.dims()?;
                    let (_, _, d) = e.dims3()?;
                    let x = mode.dropout_of(&e.repeat((1, 1, inputs / d))?, share.dropout)?;
                    share.b.forward(&share.a.forward(&x)?)
                } else {
                    share.b.forward(&share.a.forward_tiled(e)?)
                }
            })
        })
    }
}

impl Share {
    /// `y + scale f(x)` in this share's rows, computed in the adapter's type and added in y's.
    fn add(&self, y: Tensor, x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let x = x.to_dtype(self.a.weight().map_or(x.dtype(), Tensor::dtype))?;
        let change = |x: &Tensor| (f(x)? * self.scale)?.to_dtype(y.dtype());
        match &self.rows {
            None => &y + change(&x)?,
            Some(rows) => y.index_add(rows, &change(&x.contiguous()?.index_select(rows, 0)?)?, 0),
        }
    }
}

/// A place in a checkpoint, under the names it has there and in transformers.
#[derive(Clone)]
pub struct Site<'a> {
    weights: Weights,
    path: String,
    architecture: &'a Architecture,
}

impl<'a> Site<'a> {
    /// The checkpoint's root, where the output head lies.
    pub fn root(weights: &Weights, architecture: &'a Architecture) -> Self {
        Self {
            weights: weights.clone(),
            path: String::new(),
            architecture,
        }
    }

    /// All but the head. Checkpoints of the bare model (gpt2, bloom and opt on the hub) leave some or all of its name out.
    pub fn body(weights: &Weights, architecture: &'a Architecture) -> Self {
        let names = &architecture.names;
        let mut stored = names.body;
        let mut view = weights.pp(stored);
        while !view.pp(names.embed).has("weight") && !stored.is_empty() {
            stored = stored.split_once('.').map_or("", |(_, rest)| rest);
            view = weights.pp(stored);
        }
        if stored.is_empty() && !view.pp(names.embed).has("weight") {
            view = weights.pp(names.body); // so that errors name what is missing in full
        }
        Self {
            weights: view,
            path: names.body.to_owned(),
            architecture,
        }
    }

    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        Self {
            weights: self.weights.pp(&name),
            path: self.join(&name.to_string()),
            architecture: self.architecture,
        }
    }

    fn join(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// The tensor `name` of exactly this shape.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn tensor(&self, shape: &[usize], name: &str) -> ModelResult<Tensor> {
        self.weights.get(shape, name)
    }

    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn norm(&self, name: &str) -> ModelResult<NormLayer> {
        NormLayer::load(
            &self.weights.pp(name),
            self.architecture.hidden_size,
            self.architecture.norm,
        )
    }

    /// A linear layer I -> O, laid out as the family lays out its layers.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn projection(&self, name: &str, inputs: usize, outputs: usize, bias: bool) -> ModelResult<Projection> {
        let w = self.weights.pp(name);
        let weight = match self.architecture.names.orientation {
            Orientation::OutIn => w.get(&[outputs, inputs], "weight")?,
            Orientation::InOut => {
                let weight = w.get(&[inputs, outputs], "weight")?.t()?;
                if weight.track_op() {
                    weight
                } else {
                    weight.contiguous()?
                }
            }
        };
        let bias = bias.then(|| w.get(&[outputs], "bias")).transpose()?;
        Ok(Projection::new(self.join(name), w.held(Linear::new(weight, bias))?))
    }

    /// The output head V x E: its own weight, always (V, E), or the tied embedding.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn head(&self, embed_tokens: &Tensor) -> ModelResult<Projection> {
        let a = self.architecture;
        let (v, e) = embed_tokens.dims2()?;
        let w = self.weights.pp(a.names.head);
        let weight = if a.tied {
            embed_tokens.clone()
        } else {
            w.get(&[v, e], "weight")?
        };
        let bias = a.biases.head.then(|| w.get(&[v], "bias")).transpose()?;
        Ok(Projection::new(
            self.join(a.names.head),
            w.held(Linear::new(weight, bias))?,
        ))
    }
}
