//! The language model: embeddings, layers and output head of any backbone family.
//!
//! Place: after `prefix`; called by `generate` step by step and by training on whole rows.
//! Shapes: ids (B, T) -> logits (B, T, V). What differs between families is in `architecture`.

use std::sync::Arc;

use candle_core::{DType, Device, IndexOp, Tensor};

use crate::architecture::{Architecture, Orientation, Positions, Residual};
use crate::attention::{Attention, Step};
use crate::cache::Cache;
use crate::embedding::Embedding;
use crate::error::Result;
use crate::fusion::{Fusion, Modules};
use crate::layers::{wide, widen};
use crate::lora::Adaptable;
use crate::loss;
use crate::mask::{Columns, Masks};
use crate::mlp::Mlp;
use crate::mode::Mode;
use crate::norm::NormLayer;
use crate::prefix::{EcgPrefix, Form};
use crate::projection::{Projection, Site};
use crate::weights::Weights;

/// The language model. A clone shares the weights.
#[derive(Clone)]
pub struct Decoder {
    architecture: Arc<Architecture>,
    embedding: Embedding,
    layers: Vec<Layer>,
    final_norm: Option<NormLayer>,
    project_out: Option<Projection>,
    head: Projection,
    fusion: Modules,
}

#[derive(Clone)]
struct Layer {
    attention_norm: NormLayer,
    attention: Attention,
    mlp_norm: Option<NormLayer>,
    mlp: Mlp,
    residual: Residual,
}

impl Decoder {
    /// Reads a checkpoint of the architecture's `...ForCausalLM` class, or of its bare model.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape than the architecture says.
    pub fn load(w: &Weights, architecture: &Architecture) -> Result<Self> {
        let (a, names) = (architecture, &architecture.names);
        let (root, body) = (Site::root(w, a), Site::body(w, a));
        let embedding = Embedding::load(&body, a)?;
        let layers = body.pp(names.layers);
        let project_out = names.project_out;
        Ok(Self {
            head: root.head(&embedding.tokens)?,
            layers: (0..a.layers.len())
                .map(|i| Layer::load(&layers.pp(i), a, i))
                .collect::<Result<_>>()?,
            final_norm: names.final_norm.map(|name| body.norm(name)).transpose()?,
            project_out: project_out
                .map(|name| body.projection(name, a.hidden_size, a.embed_size, false))
                .transpose()?,
            embedding,
            fusion: Modules::Prefix { layers: None },
            architecture: Arc::new(a.clone()),
        })
    }

    /// This decoder with another fusion than a prefix in every layer; `w` has the fusion's own weights, `ecg_dim` is the width
    /// of the embeddings.
    ///
    /// # Errors
    /// A choice that does not fit the decoder; a tensor that is missing or of another shape.
    pub fn with_fusion(mut self, fusion: &Fusion, w: &Weights, ecg_dim: usize) -> Result<Self> {
        self.fusion = Modules::load(&w.clone().in_dtype(self.dtype()), fusion, &self.architecture, ecg_dim)?;
        Ok(self)
    }

    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// An empty cache for this decoder.
    pub fn cache(&self) -> Cache {
        Cache::new(self.layers.len())
    }

    /// An empty cache of `rows` rows of at most `columns` columns of text, for [`crate::slots`].
    pub fn cache_of_slots(&self, rows: usize, columns: usize) -> Cache {
        Cache::of_slots(self.layers.len(), rows, columns)
    }

    /// The dtype of the weights.
    pub fn dtype(&self) -> DType {
        self.embedding.tokens.dtype()
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        self.embedding.tokens.device()
    }

    /// What the decoder sees of ECG embeddings e (B, P, D), once per request.
    pub fn prefix(&self, e: &Tensor) -> candle_core::Result<EcgPrefix> {
        self.prefix_in(e, &Mode::Eval)
    }

    /// As [`Self::prefix`], in training where `mode` says so.
    pub fn prefix_in(&self, e: &Tensor, mode: &Mode) -> candle_core::Result<EcgPrefix> {
        let e = e.to_dtype(self.dtype())?;
        let form = match &self.fusion {
            Modules::Prefix { layers: chosen } => {
                let layers = self.layers.iter().enumerate().map(|(i, layer)| {
                    let has_prefix = chosen.as_ref().is_none_or(|chosen| chosen.contains(&i));
                    has_prefix.then(|| layer.attention.prefix(&e, mode)).transpose()
                });
                Form::SelfAttention(layers.collect::<candle_core::Result<_>>()?)
            }
            Modules::Input { project } => Form::Input(project.forward(&e)?),
            Modules::CrossAttention { blocks } => {
                let blocks = blocks
                    .iter()
                    .map(|block| block.as_ref().map(|block| block.keys_values(&e)).transpose());
                Form::CrossAttention(blocks.collect::<candle_core::Result<_>>()?)
            }
        };
        Ok(EcgPrefix::new(form))
    }

    /// Logits of `ids` (B, T), which follow what `cache` holds: (B, T, V) in f32 or wider.
    pub fn forward(
        &self,
        ids: &Tensor,
        prefix: Option<&EcgPrefix>,
        cache: &mut Cache,
        mode: &Mode,
    ) -> candle_core::Result<Tensor> {
        let x = self.hidden(ids, prefix, cache, mode)?;
        widen(&self.head.forward(&x, mode)?)
    }

    /// Mean negative log likelihood of `targets` (B, T), which weigh `weights` (B, T), after each of `ids` (B, T): the
    /// [`cross_entropy`](crate::loss::cross_entropy) of the logits, without them in memory where the head does not learn.
    pub fn loss(
        &self,
        ids: &Tensor,
        prefix: Option<&EcgPrefix>,
        targets: (&Tensor, &Tensor),
        mode: &Mode,
    ) -> candle_core::Result<Tensor> {
        let x = self.hidden(ids, prefix, &mut self.cache(), mode)?;
        loss::after_head(&self.head, &x, targets, mode)
    }

    /// As [`Self::forward`], for the last position only: (B, V).
    pub fn forward_last(
        &self,
        ids: &Tensor,
        prefix: Option<&EcgPrefix>,
        cache: &mut Cache,
    ) -> candle_core::Result<Tensor> {
        let x = self.hidden(ids, prefix, cache, &Mode::Eval)?;
        let last = x.narrow(1, x.dim(1)? - 1, 1)?.squeeze(1)?; // (B, C)
        widen(&self.head.forward(&last, &Mode::Eval)?)
    }

    /// As [`Self::forward_last`], for prompts of different lengths: row i of `ids` (B, T) has `lengths[i]` tokens, then padding.
    pub fn forward_last_of(
        &self,
        ids: &Tensor,
        lengths: &[usize],
        prefix: Option<&EcgPrefix>,
        cache: &mut Cache,
    ) -> candle_core::Result<Tensor> {
        let (b, t) = ids.dims2()?;
        if lengths.len() != b || lengths.iter().any(|&n| n == 0 || n > t) || !cache.is_empty() {
            let past = cache.past().longest();
            candle_core::bail!("{b} prompts of up to {t} tokens: lengths {lengths:?} after {past} tokens");
        }
        let x = self.hidden(ids, prefix, cache, &Mode::Eval)?; // padding lies after every real token, so none sees it
        let last = lengths.iter().enumerate().map(|(row, n)| x.i((row..=row, n - 1)));
        let last = Tensor::cat(&last.collect::<candle_core::Result<Vec<_>>>()?, 0)?; // (B, C)
        widen(&self.head.forward(&last, &Mode::Eval)?)
    }

    fn hidden(
        &self,
        ids: &Tensor,
        prefix: Option<&EcgPrefix>,
        cache: &mut Cache,
        mode: &Mode,
    ) -> candle_core::Result<Tensor> {
        if let Some(tokens) = prefix.and_then(EcgPrefix::input)
            && cache.is_empty()
        {
            let x = mode.dropout(&self.embedding.place(tokens.clone(), cache.past())?)?;
            self.pass(x, prefix, cache, mode)?; // its outputs predict nothing; its keys and values are now cached
        }
        let x = self.embed(ids, cache, mode)?;
        self.finish(self.pass(x, prefix, cache, mode)?, mode)
    }

    /// What goes into the first layer, for tokens that follow what `cache` holds: (B, T) -> (B, T, C).
    pub(crate) fn embed(&self, ids: &Tensor, cache: &Cache, mode: &Mode) -> candle_core::Result<Tensor> {
        let x = self.embedding.embed(ids, mode)?;
        mode.dropout(&self.embedding.place(x, cache.past())?)
    }

    /// What comes out of the last layer (B, T, C) -> logits (B, T, V).
    pub(crate) fn logits(&self, x: &Tensor, mode: &Mode) -> candle_core::Result<Tensor> {
        self.head.forward(&self.finish(x.clone(), mode)?, mode)
    }

    /// Runs the layers over x (B, T, C), which follows what `cache` holds.
    fn pass(
        &self,
        mut x: Tensor,
        prefix: Option<&EcgPrefix>,
        cache: &mut Cache,
        mode: &Mode,
    ) -> candle_core::Result<Tensor> {
        let (_, t, _) = x.dims3()?;
        let step = self.step(t, prefix, cache, mode)?;
        for i in 0..self.layers.len() {
            x = self.layer(i, &x, &step, cache)?;
        }
        cache.advance(t);
        Ok(x)
    }

    /// Layer `i`, after the cross-attention block before it, where there is one: (B, T, C) -> (B, T, C).
    pub(crate) fn layer(&self, i: usize, x: &Tensor, step: &Step, cache: &mut Cache) -> candle_core::Result<Tensor> {
        let keys_values = step.prefix.and_then(|prefix| prefix.cross(i));
        match (self.fusion.block(i), keys_values) {
            (Some(block), Some(keys_values)) => self.layers[i].forward(&block.forward(x, keys_values)?, step, cache),
            _ => self.layers[i].forward(x, step, cache),
        }
    }

    /// Last norm and projection, where the family has them.
    fn finish(&self, mut x: Tensor, mode: &Mode) -> candle_core::Result<Tensor> {
        if let Some(norm) = &self.final_norm {
            x = norm.forward(&x)?;
        }
        self.project_out.as_ref().map_or(Ok(x.clone()), |p| p.forward(&x, mode))
    }

    /// What the layers need to know of `t` tokens after what `cache` holds.
    pub(crate) fn step<'a>(
        &self,
        t: usize,
        prefix: Option<&'a EcgPrefix>,
        cache: &Cache,
        mode: &'a Mode<'a>,
    ) -> candle_core::Result<Step<'a>> {
        let (dtype, device, past) = (self.dtype(), self.device(), cache.past());
        let rotation = match &self.architecture.positions {
            Positions::Rotary(rope) => Some(rope.rotation(past, t, dtype, device)?),
            Positions::Learned { .. } | Positions::Alibi => None,
        };
        let columns = Columns {
            prefix: prefix.map_or(Ok(0), EcgPrefix::columns)?,
            past,
            t,
        };
        Ok(Step {
            rotation,
            masks: Masks::new(&self.architecture, columns, wide(dtype), device)?,
            prefix,
            mode,
        })
    }
}

impl Adaptable for Decoder {
    fn projections(&self) -> Vec<&Projection> {
        let mut all: Vec<&Projection> = self.embedding.project_in.iter().collect();
        for layer in &self.layers {
            all.extend(layer.attention.projections());
            all.extend(layer.mlp.projections());
        }
        all.extend(self.project_out.iter().chain([&self.head]));
        all
    }

    fn projections_mut(&mut self) -> Vec<&mut Projection> {
        let mut all: Vec<&mut Projection> = self.embedding.project_in.iter_mut().collect();
        for layer in &mut self.layers {
            all.extend(layer.attention.projections_mut());
            all.extend(layer.mlp.projections_mut());
        }
        all.extend(self.project_out.iter_mut().chain([&mut self.head]));
        all
    }

    fn model_type(&self) -> &str {
        &self.architecture.model_type
    }

    fn head(&self) -> &str {
        self.architecture.names.head
    }

    fn embedding(&self) -> (String, &Tensor) {
        let names = &self.architecture.names;
        (format!("{}.{}", names.body, names.embed), &self.embedding.tokens)
    }

    fn weights_are_transposed(&self) -> bool {
        self.architecture.names.orientation == Orientation::InOut
    }
}

impl Layer {
    fn load(site: &Site, a: &Architecture, index: usize) -> Result<Self> {
        let (names, c, m) = (&a.names, a.hidden_size, a.mlp_size);
        let widen = |name| site.projection(name, c, m, a.biases.mlp);
        Ok(Self {
            attention_norm: site.norm(names.attention_norm)?,
            attention: Attention::load(site, a, index)?,
            mlp_norm: names.mlp_norm.map(|name| site.norm(name)).transpose()?,
            mlp: Mlp {
                gate: names.gate.map(widen).transpose()?,
                up: widen(names.up)?,
                down: site.projection(names.down, m, c, a.biases.mlp)?,
                activation: a.activation,
            },
            residual: a.residual,
        })
    }

    fn forward(&self, x: &Tensor, step: &Step, cache: &mut Cache) -> candle_core::Result<Tensor> {
        let mode = step.mode;
        let mut attend = |x: &Tensor| mode.dropout(&self.attention.forward(x, step, cache)?);
        let feed = |x: &Tensor| mode.dropout(&self.mlp.forward(x, mode)?);
        // a family with one norm gives both halves the same input
        let norm = self.mlp_norm.as_ref().unwrap_or(&self.attention_norm);
        let mlp_norm = |x: &Tensor| norm.forward(x);
        match self.residual {
            Residual::PreNorm => {
                let x = (x + attend(&self.attention_norm.forward(x)?)?)?;
                match self.mlp.half(norm, &x, mode)? {
                    Some(y) => Ok(y),
                    None => &x + feed(&mlp_norm(&x)?)?,
                }
            }
            Residual::PostNorm => {
                let x = self.attention_norm.forward(&(x + attend(x)?)?)?;
                mlp_norm(&(&x + feed(&x)?)?)
            }
            Residual::FromNorm => {
                let x = self.attention_norm.forward(x)?;
                let x = mlp_norm(&(&x + attend(&x)?)?)?;
                &x + feed(&x)?
            }
            Residual::Parallel => {
                let y = (x + attend(&self.attention_norm.forward(x)?)?)?;
                y + feed(&mlp_norm(x)?)?
            }
        }
    }
}
