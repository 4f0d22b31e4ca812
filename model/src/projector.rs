//! Projector: encoder frames to P unit vectors of the decoder's head width.
//!
//! Place: after `encoder`, before `prefix`. Shapes: (B, S', C) -> (B, P, D).
//! Source: MEIT section 3.2 (two linear layers, each with batch norm) and the reference ecg_llm.py (L2 normalisation). The
//! reference pools the whole recording to one token; P time tokens keep the order of events (meit-reference section 1).

use candle_core::{D, Tensor};

use crate::batch_norm::{Activation, BatchNorm};
use crate::config::EncoderConfig;
use crate::error::Result;
use crate::layers::Linear;
use crate::mode::Mode;
use crate::weights::Weights;

/// Time pooling, optional time embedding, two-layer perceptron, L2 norm. A clone shares the weights.
#[derive(Clone)]
pub struct Projector {
    linear1: Linear,
    bn1: BatchNorm,
    linear2: Linear,
    bn2: BatchNorm,
    time_embedding: Option<Tensor>,
    tokens: usize,
    /// The first frame is a token as it is; the rest are pooled.
    summary: bool,
}

impl Projector {
    /// Reads `projector.{0,1,3,4}` and, where configured, `time_embedding` (P, C).
    pub fn load(w: &Weights, config: &EncoderConfig) -> Result<Self> {
        let (features, p) = (config.features(), w.pp("projector"));
        let time_embedding = config
            .time_embedding
            .then(|| w.get(&[config.tokens, features], "time_embedding"))
            .transpose()?;
        Ok(Self {
            linear1: Linear::load(&p.pp(0), features, config.hidden)?,
            bn1: BatchNorm::load(&p.pp(1), config.hidden, Activation::Relu)?,
            linear2: Linear::load(&p.pp(3), config.hidden, config.dim)?,
            bn2: BatchNorm::load(&p.pp(4), config.dim, Activation::None)?,
            time_embedding,
            tokens: config.tokens,
            summary: config.has_summary(),
        })
    }

    /// (B, S', C) -> (B, P, D), each token of unit length.
    pub fn forward(&self, frames: &Tensor, mode: &Mode) -> candle_core::Result<Tensor> {
        let mut pooled = self.pool(frames)?; // (B, P, C)
        if let Some(embedding) = &self.time_embedding {
            pooled = pooled.broadcast_add(embedding)?;
        }
        let y = self.bn1.forward(&self.linear1.forward(&pooled)?, mode)?;
        let y = self.bn2.forward(&self.linear2.forward(&mode.dropout(&y)?)?, mode)?;
        let norm = (y.sqr()?.sum_keepdim(D::Minus1)? + 1e-24)?.sqrt()?;
        y.broadcast_div(&norm)
    }
}

impl Projector {
    fn pool(&self, frames: &Tensor) -> candle_core::Result<Tensor> {
        if !self.summary {
            return adaptive_mean(frames, self.tokens);
        }
        let (_, n, _) = frames.dims3()?;
        let summary = frames.narrow(1, 0, 1)?;
        if self.tokens == 1 {
            return Ok(summary);
        }
        Tensor::cat(
            &[summary, adaptive_mean(&frames.narrow(1, 1, n - 1)?, self.tokens - 1)?],
            1,
        )
    }
}

/// PyTorch's adaptive average pooling over time: bin i covers floor(i S / P) .. ceil((i + 1) S / P).
pub fn adaptive_mean(frames: &Tensor, tokens: usize) -> candle_core::Result<Tensor> {
    let (_, s, _) = frames.dims3()?;
    let bins = (0..tokens)
        .map(|i| {
            let (from, to) = (i * s / tokens, ((i + 1) * s).div_ceil(tokens));
            frames.narrow(1, from, to - from)?.mean_keepdim(1)
        })
        .collect::<candle_core::Result<Vec<_>>>()?;
    Tensor::cat(&bins, 1) // (B, P, C)
}
