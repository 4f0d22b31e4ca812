//! What training minimises.
//!
//! Place: after a forward, before backward. Invariant: the loss is normalised by its target tokens, so reports of every
//! length weigh by their tokens; every operation here has an exact gradient.

use candle_core::{Result, Tensor};
use model::backbone::Backbone;
use model::loss::cross_entropy;
use model::mode::Mode;
use model::seq2seq::Source;

use crate::batch::TokenBatch;

/// Logits (B, T, V) of a batch's inputs, after ECG embeddings e (B, P, E) where there are some.
///
/// # Errors
/// A batch that was made for another kind of language model; a tensor operation that fails.
pub fn logits(backbone: &Backbone, batch: &TokenBatch, e: Option<&Tensor>, mode: &Mode) -> Result<Tensor> {
    match (backbone, &batch.source) {
        (Backbone::Decoder(decoder), None) => {
            let prefix = e.map(|e| decoder.prefix_in(e, mode)).transpose()?;
            decoder.forward(&batch.inputs, prefix.as_ref(), &mut decoder.cache(), mode)
        }
        (Backbone::Seq2Seq(model), Some((ids, lengths))) => {
            let memory = model.memory(&Source { ids, lengths }, e, mode)?;
            model.forward(&batch.inputs, &memory, &mut model.cache_for(0), mode)
        }
        (_, source) => candle_core::bail!(
            "a batch {} prompts for an encoder, and a language model of the other kind",
            if source.is_some() { "with" } else { "without" }
        ),
    }
}

/// The [`language_loss`] of a batch's [`logits`], which a decoder whose head does not learn never has in memory together.
///
/// # Errors
/// As [`logits`].
pub fn loss(backbone: &Backbone, batch: &TokenBatch, e: Option<&Tensor>, mode: &Mode) -> Result<Tensor> {
    match (backbone, &batch.source) {
        (Backbone::Decoder(decoder), None) => {
            let prefix = e.map(|e| decoder.prefix_in(e, mode)).transpose()?;
            decoder.loss(&batch.inputs, prefix.as_ref(), (&batch.targets, &batch.mask), mode)
        }
        _ => language_loss(&logits(backbone, batch, e, mode)?, batch),
    }
}

/// Mean negative log likelihood of the masked targets: logits (B, T, V) -> scalar.
pub fn language_loss(logits: &Tensor, batch: &TokenBatch) -> Result<Tensor> {
    cross_entropy(logits, &batch.targets, &batch.mask)
}

/// Binary cross-entropy of independent labels, mean over batch and labels: logits, labels (B, N) -> scalar.
pub fn label_loss(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    // max(x, 0) - x y + ln(1 + exp(-|x|)): finite for every x
    let softplus = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
    ((logits.relu()? - (logits * labels)?)? + softplus)?.mean_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn uniform_logits_cost_the_logarithm_of_the_vocabulary() -> Result<()> {
        let batch = TokenBatch {
            inputs: Tensor::zeros((1, 2), candle_core::DType::U32, &Device::Cpu)?,
            targets: Tensor::new(&[[1u32, 2]], &Device::Cpu)?,
            mask: Tensor::new(&[[0f32, 1.0]], &Device::Cpu)?,
            source: None,
        };
        let loss = language_loss(
            &Tensor::zeros((1, 2, 8), candle_core::DType::F32, &Device::Cpu)?,
            &batch,
        )?;
        assert!((loss.to_scalar::<f32>()? - 8f32.ln()).abs() < 1e-6);
        Ok(())
    }

    #[test]
    fn the_label_loss_of_a_zero_logit_is_ln_2_and_extremes_are_finite() -> Result<()> {
        let labels = Tensor::new(&[[1f32, 0.0]], &Device::Cpu)?;
        let loss = label_loss(&Tensor::zeros((1, 2), candle_core::DType::F32, &Device::Cpu)?, &labels)?;
        assert!((loss.to_scalar::<f32>()? - 2f32.ln()).abs() < 1e-6);
        let wrong = label_loss(&Tensor::new(&[[-1e4f32, 1e4]], &Device::Cpu)?, &labels)?.to_scalar::<f32>()?;
        assert!((wrong - 1e4).abs() < 1.0, "{wrong}");
        Ok(())
    }
}
