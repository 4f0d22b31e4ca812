//! The encoder's or the decoder's layers.
//!
//! Place: twice in every `seq2seq` model. Shapes: (B, T, C) -> (B, T, C). Invariant: what differs between BART and T5 is in the
//! config; a layer of the decoder is one of the encoder with attention over the memory between its halves.

use candle_core::Tensor;

use super::attention::Attention;
use super::config::{NormPlace, StackShape};
use super::place::Place;
use super::positions::{Table, causal};
use crate::cache::Cache;
use crate::error::Result;
use crate::layers::wide;
use crate::mlp::Mlp;
use crate::mode::Mode;
use crate::norm::NormLayer;
use crate::prefix::KeysValues;
use crate::projection::Projection;

/// What the decoder's cross-attention sees: keys and values of every layer, and the mask of their columns (B, 1, 1, S).
pub struct Memory {
    pub(super) layers: Vec<KeysValues>,
    pub(super) mask: Tensor,
}

#[derive(Clone)]
pub(super) struct Stack {
    positions: Table,
    embed_norm: Option<NormLayer>,
    layers: Vec<Layer>,
    final_norm: Option<NormLayer>,
}

#[derive(Clone)]
struct Layer {
    attention: Attention,
    attention_norm: NormLayer,
    cross: Option<(Attention, NormLayer)>,
    mlp: Mlp,
    mlp_norm: NormLayer,
    norm_place: NormPlace,
}

impl Stack {
    /// The encoder of a checkpoint.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn encoder(body: &Place) -> Result<Self> {
        Self::load(&body.pp("encoder"), body.config.encoder, false)
    }

    /// Its decoder.
    ///
    /// # Errors
    /// As [`Self::encoder`].
    pub fn decoder(body: &Place) -> Result<Self> {
        Self::load(&body.pp("decoder"), body.config.decoder, true)
    }

    fn load(at: &Place, shape: StackShape, is_decoder: bool) -> Result<Self> {
        let names = &at.config.names;
        let layers = at.pp(names.layers);
        let layer = |i: usize| Layer::load(&layers.pp(&i.to_string()), shape, is_decoder);
        Ok(Self {
            positions: Table::load(at, shape, is_decoder)?,
            embed_norm: names.embed_norm.map(|name| at.norm(name)).transpose()?,
            layers: (0..shape.layers).map(layer).collect::<Result<_>>()?,
            final_norm: names.final_norm.map(|name| at.norm(name)).transpose()?,
        })
    }

    pub fn len(&self) -> usize {
        self.layers.len()
    }

    pub fn projections(&self) -> impl Iterator<Item = &Projection> {
        self.layers.iter().flat_map(Layer::projections)
    }

    pub fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        self.layers.iter_mut().flat_map(Layer::projections_mut)
    }

    /// Keys and values of each decoder layer's cross-attention to x (B, S, C).
    pub fn keys_values(&self, x: &Tensor, mode: &Mode) -> candle_core::Result<Vec<KeysValues>> {
        let crosses = self.layers.iter().filter_map(|layer| layer.cross.as_ref());
        crosses.map(|(attention, _)| attention.keys_values(x, mode)).collect()
    }

    /// Runs the encoder's layers over embedded text (B, S, C); `padding` (B, 1, 1, S) hides what is none.
    pub fn encode(&self, x: &Tensor, padding: &Tensor, mode: &Mode) -> candle_core::Result<Tensor> {
        let mask = match self.positions.bias(0, x.dim(1)?, padding.dtype())? {
            Some(bias) => bias.broadcast_add(padding)?, // (B, H, S, S)
            None => padding.clone(),
        };
        let mut x = self.start(x, 0, mode)?;
        for layer in &self.layers {
            x = layer.half(&x, &layer.attention_norm, mode, |x| {
                let (k, v) = layer.attention.keys_values(x, mode)?;
                layer.attention.forward(x, [&k, &v], &mask, mode)
            })?;
            x = layer.feed(&x, mode)?;
        }
        self.finish(x)
    }

    /// Runs the decoder's layers over embedded tokens (B, T, C), which follow what `cache` holds.
    pub fn decode(&self, x: &Tensor, memory: &Memory, cache: &mut Cache, mode: &Mode) -> candle_core::Result<Tensor> {
        let (past, t) = (cache.past().longest(), x.dim(1)?);
        let wide = wide(x.dtype());
        let mask = causal(past, t, wide, x.device())?;
        let mask = match self.positions.bias(past, t, wide)? {
            Some(bias) => bias.broadcast_add(&mask)?, // (H, T, past + T)
            None => mask,
        };
        let mut x = self.start(x, past, mode)?;
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.half(&x, &layer.attention_norm, mode, |x| {
                let (k, v) = layer.attention.keys_values(x, mode)?;
                let [k, v] = cache.append(i, 1, [&k, &v], None)?;
                layer.attention.forward(x, [&k, &v], &mask, mode)
            })?;
            if let (Some((cross, norm)), Some((k, v))) = (&layer.cross, memory.layers.get(i)) {
                x = layer.half(&x, norm, mode, |x| cross.forward(x, [k, v], &memory.mask, mode))?;
            }
            x = layer.feed(&x, mode)?;
        }
        cache.advance(t);
        self.finish(x)
    }

    /// Positions, and the norm after the embedding where the family has one.
    fn start(&self, x: &Tensor, past: usize, mode: &Mode) -> candle_core::Result<Tensor> {
        let x = self.positions.place(x, past)?;
        let x = self
            .embed_norm
            .as_ref()
            .map_or(Ok(x.clone()), |norm| norm.forward(&x))?;
        mode.dropout(&x)
    }

    fn finish(&self, x: Tensor) -> candle_core::Result<Tensor> {
        self.final_norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(&x))
    }
}

impl Layer {
    fn load(at: &Place, shape: StackShape, is_decoder: bool) -> Result<Self> {
        let (config, names) = (at.config, &at.config.names);
        let layer = if is_decoder { names.decoder } else { names.encoder };
        let cross = layer.cross.map(|(attention, norm)| {
            Ok::<_, crate::error::Error>((Attention::load(&at.pp(attention), shape)?, at.norm(norm)?))
        });
        let (mlp, c, m) = (at.pp(layer.mlp), config.hidden_size, shape.mlp_size);
        Ok(Self {
            attention: Attention::load(&at.pp(layer.self_attention), shape)?,
            attention_norm: at.norm(layer.self_norm)?,
            cross: cross.transpose()?,
            mlp: Mlp {
                gate: names.gate.map(|name| mlp.projection(name, c, m)).transpose()?,
                up: mlp.projection(names.up, c, m)?,
                down: mlp.projection(names.down, m, c)?,
                activation: config.activation,
            },
            mlp_norm: at.norm(layer.mlp_norm)?,
            norm_place: config.norm_place,
        })
    }

    fn projections(&self) -> impl Iterator<Item = &Projection> {
        let cross = self.cross.iter().flat_map(|(attention, _)| attention.projections());
        self.attention
            .projections()
            .into_iter()
            .chain(cross)
            .chain(self.mlp.projections())
    }

    fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        let cross = self
            .cross
            .iter_mut()
            .flat_map(|(attention, _)| attention.projections_mut());
        let mlp = self.mlp.projections_mut();
        self.attention.projections_mut().into_iter().chain(cross).chain(mlp)
    }

    fn feed(&self, x: &Tensor, mode: &Mode) -> candle_core::Result<Tensor> {
        self.half(x, &self.mlp_norm, mode, |x| self.mlp.forward(x, mode))
    }

    /// One half of the layer with its norm, around the residual stream.
    fn half(
        &self,
        x: &Tensor,
        norm: &NormLayer,
        mode: &Mode,
        f: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<Tensor> {
        match self.norm_place {
            NormPlace::Before => x + mode.dropout(&f(&norm.forward(x)?)?)?,
            NormPlace::After => norm.forward(&(x + mode.dropout(&f(x)?)?)?),
        }
    }
}
