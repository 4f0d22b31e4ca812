//! A place in an encoder-decoder's checkpoint, under the names it has there and in transformers.
//!
//! Place: while `seq2seq` loads. Invariant: a linear layer has the module's path in transformers, whatever the checkpoint left out
//! of it, so that adapters find it.

use candle_core::Tensor;

use super::config::Seq2SeqConfig;
use crate::error::Result;
use crate::layers::Linear;
use crate::norm::NormLayer;
use crate::projection::Projection;
use crate::weights::Weights;

#[derive(Clone)]
pub(super) struct Place<'a> {
    weights: Weights,
    path: String,
    pub config: &'a Seq2SeqConfig,
}

impl<'a> Place<'a> {
    /// The checkpoint's root, where the output head lies.
    pub fn root(weights: &Weights, config: &'a Seq2SeqConfig) -> Self {
        Self {
            weights: weights.clone(),
            path: String::new(),
            config,
        }
    }

    /// All but the head.
    pub fn body(weights: &Weights, config: &'a Seq2SeqConfig) -> Self {
        let named = Self::root(weights, config).pp(config.names.body);
        let bare = Self {
            weights: weights.clone(),
            ..named.clone()
        };
        if bare.embedding_name().is_some() { bare } else { named }
    }

    /// Below `name`, which may be empty.
    pub fn pp(&self, name: &str) -> Self {
        let path = [self.path.as_str(), name];
        let path = path.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
        Self {
            weights: self.weights.pp(name),
            path: path.join("."),
            config: self.config,
        }
    }

    /// The embedding of both stacks (V, C); some checkpoints name it after one of them.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn embedding(&self) -> Result<Tensor> {
        let name = self.embedding_name().unwrap_or(EMBEDDINGS[0]);
        self.tensor(&[self.config.vocab_size, self.config.hidden_size], name)
    }

    fn embedding_name(&self) -> Option<&'static str> {
        EMBEDDINGS.into_iter().find(|name| self.weights.has(name))
    }

    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn tensor(&self, shape: &[usize], name: &str) -> Result<Tensor> {
        self.weights.get(shape, name)
    }

    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn norm(&self, name: &str) -> Result<NormLayer> {
        NormLayer::load(&self.weights.pp(name), self.config.hidden_size, self.config.norm)
    }

    /// A linear layer I -> O, with a bias where the family has them.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn projection(&self, name: &str, inputs: usize, outputs: usize) -> Result<Projection> {
        let at = self.pp(name);
        let weight = at.tensor(&[outputs, inputs], "weight")?;
        let bias = self.config.biases.then(|| at.tensor(&[outputs], "bias")).transpose()?;
        Ok(Projection::new(at.path, self.weights.held(Linear::new(weight, bias))?))
    }

    /// The output head V x C: its own weight where the checkpoint has one, or the embedding, with the bias of the logits.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn head(&self, embedding: &Tensor) -> Result<Projection> {
        let (v, c) = embedding.dims2()?;
        let at = self.pp(HEAD);
        let weight = if self.config.tied && !at.weights.has("weight") {
            embedding.clone()
        } else {
            at.tensor(&[v, c], "weight")?
        };
        let bias = if self.weights.has(LOGITS_BIAS) {
            Some(self.tensor(&[1, v], LOGITS_BIAS)?.squeeze(0)?)
        } else {
            None
        };
        Ok(Projection::new(at.path, self.weights.held(Linear::new(weight, bias))?))
    }
}

const EMBEDDINGS: [&str; 3] = [
    "shared.weight",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
];
pub(super) const HEAD: &str = "lm_head";
/// BART's, (1, V).
const LOGITS_BIAS: &str = "final_logits_bias";
