//! Keys and values of the text so far, one pair a layer.
//!
//! Place: owned by `generate`, filled by `attention`. The ECG prefix is not in it: it is a value of its own.
//! Invariant: `len` columns are cached in every layer; without padding the next token has position `len`.

use candle_core::{Result, Tensor};

use crate::columns::Pads;

/// A growing cache of text keys and values, each (B, K, T, D).
pub struct Cache {
    layers: Vec<Option<(Tensor, Tensor)>>,
    len: usize,
    pads: Pads,
}

impl Cache {
    pub fn new(layers: usize) -> Self {
        Self {
            layers: vec![None; layers],
            len: 0,
            pads: Pads::default(),
        }
    }

    /// Columns cached so far, padding included.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Padding among the columns.
    pub fn pads(&self) -> &Pads {
        &self.pads
    }

    /// Says that the last columns of each row are padding.
    pub fn pad(&mut self, of_row: Vec<usize>) {
        self.pads = Pads::new(self.len, of_row);
    }

    /// Appends this step's keys and values to a layer and returns all of them.
    pub fn append(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let pair = match &self.layers[layer] {
            None => (k.clone(), v.clone()),
            Some((old_k, old_v)) => (Tensor::cat(&[old_k, k], 2)?, Tensor::cat(&[old_v, v], 2)?),
        };
        self.layers[layer] = Some(pair.clone());
        Ok(pair)
    }

    /// Called once a forward, after the last layer.
    pub fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}
