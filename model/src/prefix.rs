//! Key/value prefix that carries the ECG into every attention layer.
//!
//! Place: after `projector`, before `decoder`; built once per request, reused at every step.
//! Shapes: (B, P, D) -> per layer K, V of (B, K, P, D). Never rotated, never masked.
//! Source: MEIT section 3.4, eqs 3-5.

use candle_core::{Result, Tensor};

/// The prefix of one batch: keys and values per decoder layer.
pub struct EcgPrefix {
    layers: Vec<(Tensor, Tensor)>,
}

impl EcgPrefix {
    /// Wraps one (K, V) pair a layer, each (B, K, P, D).
    pub fn new(layers: Vec<(Tensor, Tensor)>) -> Self {
        Self { layers }
    }

    /// Keys and values of one layer.
    pub fn layer(&self, index: usize) -> Option<&(Tensor, Tensor)> {
        self.layers.get(index)
    }

    /// P.
    pub fn tokens(&self) -> Result<usize> {
        self.layers.first().map_or(Ok(0), |(k, _)| k.dim(2))
    }
}
