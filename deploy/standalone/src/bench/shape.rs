//! Named sizes of decoders with random weights.
//!
//! Place: what `meit bench infer` and `meit bench train` run. Invariant: a name has the same sizes wherever it is measured, here
//! and by tests/peers.

use std::collections::BTreeMap;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use model::config::DecoderConfig;
use model::decoder::Decoder;
use model::init::{Start, decoder_starts};
use model::weights::Weights;

/// A LLaMA of one of four sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    #[value(name = "15m")]
    M15,
    #[value(name = "110m")]
    M110,
    #[value(name = "1b")]
    B1,
    #[value(name = "7b")]
    B7,
}

/// Type of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WeightType {
    F32,
    F16,
    Bf16,
    /// Eight bits and a scale for each 32 weights; on the CPU.
    #[value(name = "q8_0")]
    Q8,
    /// Four bits and two levels of scales for each 256 weights; on the CPU.
    #[value(name = "q4_k")]
    Q4,
}

impl WeightType {
    /// Type in which the weights are drawn.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Q8 | Self::Q4 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Kind of block that they are quantised to, if any.
    pub fn blocks(self) -> Option<GgmlDType> {
        match self {
            Self::Q8 => Some(GgmlDType::Q8_0),
            Self::Q4 => Some(GgmlDType::Q4K),
            Self::F32 | Self::F16 | Self::Bf16 => None,
        }
    }
}

impl Shape {
    pub fn config(self) -> DecoderConfig {
        let (hidden, mlp, layers, heads, kv_heads, vocabulary) = match self {
            Self::M15 => (256, 688, 8, 4, 4, 4096),
            Self::M110 => (768, 2048, 12, 12, 12, 32_000),
            Self::B1 => (2048, 5504, 22, 32, 4, 32_000),
            Self::B7 => (4096, 11_008, 32, 32, 32, 32_000),
        };
        DecoderConfig {
            model_type: "llama".to_owned(),
            vocab_size: vocabulary,
            hidden_size: hidden,
            intermediate_size: mlp,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: Some(kv_heads),
            head_dim: None,
            max_position_embeddings: Some(2048),
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            rope_theta: Some(10_000.0),
            rope_scaling: None,
            rope_parameters: None,
            bos_token_id: None,
            eos_token_id: None,
            pad_token_id: None,
        }
    }

    /// A decoder whose weights are drawn on `device`, tensor by tensor.
    pub fn decoder(self, weights: WeightType, device: &Device) -> anyhow::Result<Decoder> {
        let dtype = weights.dtype();
        let config = self.config();
        let mut tensors = BTreeMap::new();
        for Start { name, shape, std } in decoder_starts(&config) {
            let tensor = match std {
                Some(std) => Tensor::randn(0f32, std, shape, device)?.to_dtype(dtype)?,
                None => Tensor::ones(shape, dtype, device)?,
            };
            tensors.insert(name, tensor);
        }
        let decoder = Decoder::load(&Weights::new(tensors), &config.architecture()?)?;
        match weights.blocks() {
            Some(kind) => Ok(decoder.quantised(kind)?),
            None => Ok(decoder),
        }
    }

    /// Bytes of weights that every decoded token reads: all but the embedding's table.
    pub fn bytes_per_token(self, weights: WeightType) -> f64 {
        let dense = weights.dtype().size_in_bytes() as f64;
        let bytes = |shape: &[usize]| {
            let each = match (shape, weights.blocks()) {
                (&[_, inputs], Some(kind)) if inputs.is_multiple_of(kind.block_size()) => {
                    kind.type_size() as f64 / kind.block_size() as f64
                }
                _ => dense,
            };
            each * shape.iter().product::<usize>() as f64
        };
        let starts = decoder_starts(&self.config());
        let read = starts.iter().filter(|start| !start.name.contains("embed_tokens"));
        read.map(|start| bytes(&start.shape)).sum()
    }
}
