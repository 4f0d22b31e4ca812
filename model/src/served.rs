//! The types in which a node can hold the weights of a language model.
//!
//! Place: a setting of the node, applied to every bundle that it loads. Invariant: a type that a decoder or a device cannot have is
//! refused; nothing is silently left in another type.

use std::path::Path;
use std::str::FromStr;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::lora::Adaptable;
use crate::weights::Weights;

/// A type of weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServedWeights {
    #[default]
    #[serde(rename = "f32")]
    F32,
    /// Half the memory; up to 65,504, with 11 bits of precision.
    #[serde(rename = "f16")]
    F16,
    /// Half the memory; the range of f32, with 8 bits of precision.
    #[serde(rename = "bf16")]
    Bf16,
    /// Eight bits, and a scale for each 32 weights.
    #[serde(rename = "q8_0")]
    Q8,
    /// Four bits, and two levels of scales for each 256 weights.
    #[serde(rename = "q4_k")]
    Q4,
}

impl ServedWeights {
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Bf16, Self::Q8, Self::Q4];

    /// Name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8_0",
            Self::Q4 => "q4_k",
        }
    }

    /// Type of the tensors that are in no blocks.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Q8 | Self::Q4 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Kind of block that the linear layers' weights are quantised to, if any.
    pub fn blocks(self) -> Option<GgmlDType> {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => None,
            Self::Q8 => Some(GgmlDType::Q8_0),
            Self::Q4 => Some(GgmlDType::Q4K),
        }
    }

    /// A language model's checkpoint that is read into such weights.
    ///
    /// # Errors
    /// [`Error::Config`] for quantised weights elsewhere than on the CPU; as [`Weights::load_checkpoint`].
    pub(crate) fn open(self, dir: &Path, device: &Device) -> Result<Weights> {
        if self.blocks().is_some() && !device.is_cpu() {
            let bound = "f32, f16 or bf16 on a GPU: quantised weights are multiplied on the CPU alone";
            return Err(self.refused(bound.to_owned()));
        }
        Ok(Weights::load_checkpoint(dir, self.dtype(), device)?.in_blocks(self.blocks()))
    }

    /// # Errors
    /// [`Error::Config`] for a layer of `model` that is not in these weights, since its inputs are no multiple of a block.
    pub(crate) fn check(self, model: &impl Adaptable) -> Result<()> {
        let Some(kind) = self.blocks() else { return Ok(()) };
        for projection in model.projections() {
            let linear = projection.linear();
            let (_, inputs) = linear.dims()?;
            if linear.weight().is_some() {
                return Err(self.refused(format!(
                    "{} has {inputs} inputs, which must be a multiple of {}",
                    projection.name(),
                    kind.block_size()
                )));
            }
        }
        Ok(())
    }

    /// Error of a setting that cannot be had.
    fn refused(self, bound: String) -> Error {
        Error::Config {
            key: "node.weights",
            value: self.name().to_owned(),
            bound,
        }
    }
}

impl FromStr for ServedWeights {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        serde_json::from_value(text.into())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;
    use rand::SeedableRng;

    use super::*;
    use crate::config::DecoderConfig;
    use crate::decoder::Decoder;

    /// What of a decoder with random weights is held in `weights`, or why not.
    fn served(hidden: usize, weights: ServedWeights) -> Result<Decoder> {
        let config: DecoderConfig = serde_json::from_value(serde_json::json!({
            "model_type": "llama", "vocab_size": 9, "hidden_size": hidden, "intermediate_size": 256, "num_hidden_layers": 1,
            "num_attention_heads": 2, "rms_norm_eps": 1e-5
        }))
        .unwrap();
        let tensors = crate::init::decoder(&config, &mut rand_chacha::ChaCha8Rng::seed_from_u64(1)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let bytes = crate::files::safetensors(&tensors).unwrap();
        std::fs::write(dir.path().join(crate::weights::SINGLE), bytes).unwrap();
        let weights_on_disk = weights.open(dir.path(), &Device::Cpu)?;
        let decoder = Decoder::load(&weights_on_disk, &config.architecture()?)?;
        weights.check(&decoder)?;
        Ok(decoder)
    }

    #[test]
    fn a_layer_that_does_not_fit_is_named_with_its_inputs_and_the_bound() {
        assert!(served(64, ServedWeights::F32).is_ok() && served(64, ServedWeights::Q8).is_ok());
        let refused = served(64, ServedWeights::Q4).err().unwrap().to_string();
        assert_eq!(
            refused,
            "config key node.weights is q4_k: model.layers.0.self_attn.q_proj has 64 inputs, which must be a multiple of 256"
        );
    }

    #[test]
    fn every_layer_is_in_the_type_that_was_asked_for() {
        for weights in ServedWeights::ALL {
            let decoder = served(256, weights).unwrap();
            assert_eq!(decoder.dtype(), weights.dtype());
            for projection in decoder.projections() {
                let held = projection.linear().weight().map(Tensor::dtype);
                let expected = weights.blocks().is_none().then(|| weights.dtype());
                assert_eq!(held, expected, "{weights:?} {}", projection.name());
            }
        }
    }

    #[test]
    fn names_are_those_of_settings() {
        for weights in ServedWeights::ALL {
            assert_eq!(serde_json::to_value(weights).unwrap(), weights.name());
            assert_eq!(weights.name().parse::<ServedWeights>().unwrap(), weights);
        }
        let refused = "int8".parse::<ServedWeights>().unwrap_err().to_string();
        assert!(
            refused.contains("expected one of `f32`, `f16`, `bf16`, `q8_0`, `q4_k`"),
            "{refused}"
        );
    }
}
