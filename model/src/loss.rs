//! What training minimises over a decoder's logits.
//!
//! Place: after `decoder`, before a backward pass. Invariant: its gradient is exact on every device; tests compare it with finite
//! differences.

use candle_core::{D, DType, Result, Tensor};

use crate::fused::{self, cross_entropy::CrossEntropy};

/// Mean negative log likelihood of target tokens, in which target i weighs `weights[i]`: logits (.., V), targets and weights (..)
/// -> scalar. A weight of 0 leaves a target out.
///
/// # Errors
/// Shapes that do not fit; a target outside the vocabulary.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let weights = weights.to_dtype(logits.dtype())?;
    let sum = if fused::takes(logits) {
        let v = logits.dim(D::Minus1)?;
        let rows = logits.contiguous()?.reshape(((), v))?;
        let targets = targets.flatten_all()?.to_vec1::<u32>()?;
        let of_rows = weights.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let outside = targets.iter().find(|&&target| target as usize >= v);
        if let Some(target) = outside {
            candle_core::bail!("target {target}: the vocabulary has {v} tokens");
        }
        if targets.len() != rows.dim(0)? || of_rows.len() != targets.len() {
            candle_core::bail!(
                "{} targets and {} weights for logits {:?}",
                targets.len(),
                of_rows.len(),
                logits.shape()
            );
        }
        rows.apply_op1(CrossEntropy {
            targets,
            weights: of_rows,
        })?
    } else {
        let logprobs = candle_nn::ops::log_softmax(logits, D::Minus1)?;
        let picked = logprobs
            .gather(&targets.unsqueeze(D::Minus1)?, D::Minus1)?
            .squeeze(D::Minus1)?;
        (picked * &weights)?.sum_all()?.neg()?
    };
    sum / weights.sum_all()?
}
