//! Encoder-decoder comparators: BART and T5, whose decoder sees the ECG beside the encoder's output.
//!
//! Place: instead of `decoder` where a bundle's base is one; MEIT compares its fusion with such models. The instruction goes into the
//! encoder, the report comes from the decoder. Shapes: text (B, S) and ECG (B, P, ..) -> memory; ids (B, T) -> logits (B, T, V).
//! Invariant: a row's logits depend on its own text, ECG and tokens alone, whatever the padding of the batch.
//! Source: transformers' BartForConditionalGeneration and T5ForConditionalGeneration (5.24.0); candle-transformers has no BART, and
//! its T5 keeps its cache inside, takes no padding, and cuts the graph at its softmax.

mod attention;
pub mod config;
mod names;
mod place;
mod positions;
mod stack;

use std::sync::Arc;

use candle_core::Tensor;

pub use config::Seq2SeqConfig;
pub use stack::Memory;

use crate::cache::Cache;
use crate::error::Result;
use crate::layers::{Linear, wide, widen};
use crate::lora::Adaptable;
use crate::mode::Mode;
use crate::projection::Projection;
use crate::weights::Weights;
use place::{HEAD, Place};
use stack::Stack;

/// An encoder-decoder. A clone shares the weights.
#[derive(Clone)]
pub struct Seq2Seq {
    config: Arc<Seq2SeqConfig>,
    /// (V, C), of both stacks.
    embedding: Tensor,
    encoder: Stack,
    decoder: Stack,
    head: Projection,
    /// E -> C, where the ECG's embeddings have another width than the memory.
    ecg: Option<Linear>,
}

/// Text that goes into the encoder: ids (B, S), of which row i has `lengths[i]`, then padding.
pub struct Source<'a> {
    pub ids: &'a Tensor,
    pub lengths: &'a [usize],
}

impl Seq2Seq {
    /// Reads a checkpoint of the `...ForConditionalGeneration` class, or of its bare model.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape than the config says.
    pub fn load(w: &Weights, config: &Seq2SeqConfig) -> Result<Self> {
        let (root, body) = (Place::root(w, config), Place::body(w, config));
        let embedding = body.embedding()?;
        Ok(Self {
            encoder: Stack::encoder(&body)?,
            decoder: Stack::decoder(&body)?,
            head: root.head(&embedding)?,
            embedding,
            ecg: None,
            config: Arc::new(config.clone()),
        })
    }

    /// This model for ECG embeddings of width `ecg_dim`, which `memory` (C, E) in `w` projects to the memory's.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn with_memory(mut self, w: &Weights, ecg_dim: usize) -> Result<Self> {
        self.ecg = Some(Linear::load(
            &w.pp("memory").in_dtype(self.dtype()),
            ecg_dim,
            self.config.hidden_size,
        )?);
        Ok(self)
    }

    pub fn config(&self) -> &Seq2SeqConfig {
        &self.config
    }

    /// What the decoder sees of a text and of ECG embeddings (B, P, E), once a request.
    ///
    /// # Errors
    /// A length outside the text; a text that is longer than the model's positions; a tensor operation that fails.
    pub fn memory(&self, text: &Source, ecg: Option<&Tensor>, mode: &Mode) -> candle_core::Result<Memory> {
        let (b, s) = text.ids.dims2()?;
        let lengths = text.lengths;
        if lengths.len() != b || lengths.iter().any(|&n| n == 0 || n > s) {
            candle_core::bail!("{b} texts of up to {s} tokens: lengths {lengths:?}");
        }
        let wide = wide(self.dtype());
        let padding = positions::padding(lengths, s, wide, self.device())?;
        let hidden = self.encoder.encode(&self.embed(text.ids)?, &padding, mode)?; // (B, S, C)
        // the ECG first, so that padding is last: cross-attention knows no order
        let (hidden, mask) = match ecg {
            None => (hidden, padding),
            Some(ecg) => {
                let ecg = ecg.to_dtype(self.dtype())?;
                let ecg = self
                    .ecg
                    .as_ref()
                    .map_or(Ok(ecg.clone()), |linear| linear.forward(&ecg))?;
                let visible = Tensor::zeros((b, 1, 1, ecg.dim(1)?), wide, self.device())?;
                (
                    Tensor::cat(&[&ecg, &hidden], 1)?,
                    Tensor::cat(&[&visible, &padding], 3)?,
                )
            }
        };
        Ok(Memory {
            layers: self.decoder.keys_values(&hidden, mode)?,
            mask,
        })
    }

    /// An empty cache for the decoder, with room for `tokens`.
    pub fn cache_for(&self, tokens: usize) -> Cache {
        Cache::with_room(self.decoder.len(), tokens)
    }

    /// Logits of `ids` (B, T), which follow what `cache` holds: (B, T, V) in f32 or wider.
    ///
    /// # Errors
    /// More tokens than the model has positions; a tensor operation that fails.
    pub fn forward(
        &self,
        ids: &Tensor,
        memory: &Memory,
        cache: &mut Cache,
        mode: &Mode,
    ) -> candle_core::Result<Tensor> {
        let x = self.decoder.decode(&self.embed(ids)?, memory, cache, mode)?;
        let x = if self.config.output_scale == 1.0 {
            x
        } else {
            (x * self.config.output_scale)?
        };
        widen(&self.head.forward(&x, mode)?)
    }

    /// As [`Self::forward`], for the last position only: (B, V).
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_last(&self, ids: &Tensor, memory: &Memory, cache: &mut Cache) -> candle_core::Result<Tensor> {
        let logits = self.forward(ids, memory, cache, &Mode::Eval)?; // one new token a row while generating
        logits.narrow(1, logits.dim(1)? - 1, 1)?.squeeze(1)
    }

    /// (B, T) -> (B, T, C), scaled as the family does.
    fn embed(&self, ids: &Tensor) -> candle_core::Result<Tensor> {
        let (b, t) = ids.dims2()?;
        let x = self.embedding.index_select(&ids.flatten_all()?, 0)?;
        let x = x.reshape((b, t, self.config.hidden_size))?;
        if self.config.embed_scale == 1.0 {
            Ok(x)
        } else {
            x * self.config.embed_scale
        }
    }
}

impl Adaptable for Seq2Seq {
    fn projections(&self) -> Vec<&Projection> {
        let stacks = self.encoder.projections().chain(self.decoder.projections());
        stacks.chain([&self.head]).collect()
    }

    fn projections_mut(&mut self) -> Vec<&mut Projection> {
        let stacks = self.encoder.projections_mut().chain(self.decoder.projections_mut());
        stacks.chain([&mut self.head]).collect()
    }

    fn model_type(&self) -> &str {
        &self.config.model_type
    }

    fn head(&self) -> &str {
        HEAD
    }

    fn embedding(&self) -> (String, &Tensor) {
        let body = self.config.names.body;
        let name = if body.is_empty() {
            "shared".to_owned()
        } else {
            format!("{body}.shared")
        };
        (name, &self.embedding)
    }

    fn weights_are_transposed(&self) -> bool {
        false
    }
}
