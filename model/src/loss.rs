//! What training minimises over a decoder's logits.
//!
//! Place: after `decoder`, before a backward pass. Invariant: its gradient is exact on every device; tests compare it with finite
//! differences.

use candle_core::{D, DType, Result, Tensor};

use crate::fused::{self, cross_entropy::CrossEntropy, head::HeadLoss};
use crate::layers::widen;
use crate::mode::Mode;
use crate::projection::Projection;

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
        let (targets, weights) = listed(targets, &weights, (rows.dim(0)?, v))?;
        rows.apply_op1(CrossEntropy { targets, weights })?
    } else {
        let logprobs = candle_nn::ops::log_softmax(logits, D::Minus1)?;
        let picked = logprobs
            .gather(&targets.unsqueeze(D::Minus1)?, D::Minus1)?
            .squeeze(D::Minus1)?;
        (picked * &weights)?.sum_all()?.neg()?
    };
    sum / weights.sum_all()?
}

/// As [`cross_entropy`] of the logits that `head` gives x (.., C). Where only x learns, they are never in memory together, and
/// those of targets that weigh nothing are not computed.
pub(crate) fn after_head(
    head: &Projection,
    x: &Tensor,
    (targets, weights): (&Tensor, &Tensor),
    mode: &Mode,
) -> Result<Tensor> {
    let Some(weight) = head
        .plain()
        .filter(|weight| fused::takes_frozen(x, [*weight]) && weight.is_contiguous())
    else {
        return cross_entropy(&widen(&head.forward(x, mode)?)?, targets, weights);
    };
    let weights = weights.to_dtype(x.dtype())?;
    let (v, c) = weight.dims2()?;
    let rows = x.elem_count() / c;
    let (targets, of_rows) = listed(targets, &weights, (rows, v))?;
    let sum = x
        .contiguous()?
        .apply_op1(HeadLoss::new(weight, targets, of_rows, x.track_op()))?;
    sum / weights.sum_all()?
}

/// Targets and weights of so many rows, in a vocabulary of v.
fn listed(targets: &Tensor, weights: &Tensor, (rows, v): (usize, usize)) -> Result<(Vec<u32>, Vec<f64>)> {
    let targets = targets.flatten_all()?.to_vec1::<u32>()?;
    let weights = weights.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    if let Some(target) = targets.iter().find(|&&target| target as usize >= v) {
        candle_core::bail!("target {target}: the vocabulary has {v} tokens");
    }
    if (targets.len(), weights.len()) != (rows, rows) {
        candle_core::bail!(
            "{} targets and {} weights for {rows} rows",
            targets.len(),
            weights.len()
        );
    }
    Ok((targets, weights))
}
