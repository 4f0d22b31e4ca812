//! The types in which a node can hold the weights of a decoder's linear layers.
//!
//! Place: a setting of the node, applied to every bundle that it loads. Invariant: a type that a decoder or a device cannot have is
//! refused; nothing is silently left in another type.

use candle_core::quantized::GgmlDType;
use serde::{Deserialize, Serialize};

use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::lora::Adaptable;

/// A type of weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServedWeights {
    /// As they are loaded.
    #[default]
    #[serde(rename = "f32")]
    F32,
    /// Eight bits, and a scale for each 32 weights.
    #[serde(rename = "q8_0")]
    Q8,
    /// Four bits, and two levels of scales for each 256 weights.
    #[serde(rename = "q4_k")]
    Q4,
}

impl ServedWeights {
    /// Name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Q8 => "q8_0",
            Self::Q4 => "q4_k",
        }
    }

    /// Kind of block that weights are quantised to, if any.
    pub fn blocks(self) -> Option<GgmlDType> {
        match self {
            Self::F32 => None,
            Self::Q8 => Some(GgmlDType::Q8_0),
            Self::Q4 => Some(GgmlDType::Q4K),
        }
    }
}

/// A model with every linear layer in such weights; adapters still work on it, merging and training do not.
///
/// # Errors
/// [`Error::Config`] for quantised weights elsewhere than on the CPU, and for a layer whose inputs are no multiple of a block.
pub(crate) fn served_as<M: Adaptable>(model: &M, weights: ServedWeights) -> Result<M> {
    let Some(kind) = weights.blocks() else {
        return Ok(model.clone());
    };
    let refused = |bound| {
        Err(Error::Config {
            key: "node.weights",
            value: weights.name().to_owned(),
            bound,
        })
    };
    if !model.device().is_cpu() {
        return refused("f32 on a GPU: quantised weights are multiplied on the CPU alone".to_owned());
    }
    for projection in model.projections() {
        let (_, inputs) = projection.linear().dims()?;
        if !inputs.is_multiple_of(kind.block_size()) {
            return refused(format!(
                "{} has {inputs} inputs, which must be a multiple of {}",
                projection.name(),
                kind.block_size()
            ));
        }
    }
    quantised(model, kind)
}

fn quantised<M: Adaptable>(model: &M, kind: GgmlDType) -> Result<M> {
    let mut model = model.clone();
    for projection in model.projections_mut() {
        let linear = projection.linear().quantised(kind)?;
        projection.set_linear(linear);
    }
    Ok(model)
}

impl Decoder {
    /// This decoder with the weights of its linear layers quantised, for serving on the CPU; layers whose inputs are no multiple
    /// of a block stay as they are. Adapters still work on it; merging and training do not.
    ///
    /// # Errors
    /// A decoder that is quantised already, or is not on the CPU.
    pub fn quantised(&self, kind: GgmlDType) -> Result<Self> {
        quantised(self, kind)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::config::DecoderConfig;
    use crate::weights::Weights;

    fn decoder(hidden: usize, mlp: usize) -> Decoder {
        let config: DecoderConfig = serde_json::from_value(serde_json::json!({
            "model_type": "llama", "vocab_size": 9, "hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": 1,
            "num_attention_heads": 2, "rms_norm_eps": 1e-5
        }))
        .unwrap();
        let tensors = crate::init::decoder(&config, &mut rand_chacha::ChaCha8Rng::seed_from_u64(1)).unwrap();
        Decoder::load(&Weights::new(tensors), &config.architecture().unwrap()).unwrap()
    }

    #[test]
    fn a_layer_that_does_not_fit_is_named_with_its_inputs_and_the_bound() {
        let narrow = decoder(64, 256);
        assert!(served_as(&narrow, ServedWeights::F32).is_ok() && served_as(&narrow, ServedWeights::Q8).is_ok());
        let refused = served_as(&narrow, ServedWeights::Q4).err().unwrap().to_string();
        assert_eq!(
            refused,
            "config key node.weights is q4_k: model.layers.0.self_attn.q_proj has 64 inputs, which must be a multiple of 256"
        );
    }

    #[test]
    fn every_layer_is_in_the_type_that_was_asked_for() {
        let wide = decoder(256, 512);
        for (weights, dense) in [
            (ServedWeights::F32, true),
            (ServedWeights::Q8, false),
            (ServedWeights::Q4, false),
        ] {
            let served = served_as(&wide, weights).unwrap();
            assert!(
                served
                    .projections()
                    .iter()
                    .all(|p| p.linear().weight().is_some() == dense),
                "{weights:?}"
            );
        }
    }

    #[test]
    fn names_are_those_of_settings() {
        for weights in [ServedWeights::F32, ServedWeights::Q8, ServedWeights::Q4] {
            assert_eq!(serde_json::to_value(weights).unwrap(), weights.name());
        }
    }
}
