//! Fresh weights for training from nothing.
//!
//! Place: called by the pipeline before the first step. Invariant: the same config and seed give the same tensors.
//! Source: PyTorch's defaults for convolutions, linear and batch-norm layers; normal(0, 0.02) for the decoder, as in LLaMA; trunks
//! in `trunk`.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::architecture::{Architecture, Norm};
use crate::config::{DecoderConfig, EncoderConfig, Trunk};
use crate::findings::MorphologyConfig;
use crate::fusion::Fusion;
use crate::morphology;

mod trunk;

type Tensors = BTreeMap<String, Tensor>;

/// Encoder and projector, under the names that `EcgEncoder` and `Projector` read.
pub fn encoder(config: &EncoderConfig, rng: &mut ChaCha8Rng) -> Result<Tensors> {
    let mut init = Init {
        tensors: BTreeMap::new(),
        rng,
    };
    match &config.trunk {
        Trunk::Resnet1d(sizes) => init.resnet(config.leads, sizes)?,
        Trunk::Vit1d(sizes) => init.vit(config.leads, sizes)?,
        Trunk::Vim(sizes) => init.vim(config.leads, sizes)?,
    }
    let inputs = config.features();
    init.linear("projector.0", inputs, config.hidden)?;
    init.norm("projector.1", config.hidden)?;
    init.linear("projector.3", config.hidden, config.dim)?;
    init.norm("projector.4", config.dim)?;
    if config.time_embedding {
        init.normal("time_embedding", &[config.tokens, inputs], 0.1)?;
    }
    Ok(init.tensors)
}

/// The hidden layer over the morphology, under the name that `MorphologyLayer` reads.
pub fn morphology(config: MorphologyConfig, rng: &mut ChaCha8Rng) -> Result<Tensors> {
    let mut init = Init {
        tensors: BTreeMap::new(),
        rng,
    };
    init.linear("morphology.hidden", morphology::LENGTH, config.hidden)?;
    Ok(init.tensors)
}

/// A LLaMA decoder; residual outputs are scaled down by the depth.
pub fn decoder(config: &DecoderConfig, rng: &mut ChaCha8Rng) -> Result<Tensors> {
    let mut init = Init {
        tensors: BTreeMap::new(),
        rng,
    };
    for Start { name, shape, std } in decoder_starts(config) {
        match std {
            Some(std) => init.normal(&name, &shape, std)?,
            None => init.constant(&name, shape.iter().product(), 1.0)?,
        }
    }
    Ok(init.tensors)
}

/// How one tensor of a decoder starts.
pub struct Start {
    pub name: String,
    pub shape: Vec<usize>,
    /// Standard deviation of a normal distribution around zero; None for the ones of a norm.
    pub std: Option<f32>,
}

/// Every tensor of a LLaMA decoder, in the order in which [`decoder`] draws them.
pub fn decoder_starts(config: &DecoderConfig) -> Vec<Start> {
    let (c, m, v) = (config.hidden_size, config.intermediate_size, config.vocab_size);
    let q = config.num_attention_heads * config.head_dim();
    let kv = config.kv_heads() * config.head_dim();
    let std = 0.02;
    let residual = std / ((2 * config.num_hidden_layers) as f32).sqrt();
    let mut starts = Vec::new();
    let mut add = |name: String, shape: &[usize], std| {
        let (name, shape) = (format!("{name}.weight"), shape.to_vec());
        starts.push(Start { name, shape, std });
    };
    add("model.embed_tokens".to_owned(), &[v, c], Some(std));
    for i in 0..config.num_hidden_layers {
        let layer = |part: &str| format!("model.layers.{i}.{part}");
        add(layer("input_layernorm"), &[c], None);
        add(layer("post_attention_layernorm"), &[c], None);
        add(layer("self_attn.q_proj"), &[q, c], Some(std));
        add(layer("self_attn.k_proj"), &[kv, c], Some(std));
        add(layer("self_attn.v_proj"), &[kv, c], Some(std));
        add(layer("self_attn.o_proj"), &[c, q], Some(residual));
        add(layer("mlp.gate_proj"), &[m, c], Some(std));
        add(layer("mlp.up_proj"), &[m, c], Some(std));
        add(layer("mlp.down_proj"), &[c, m], Some(residual));
    }
    add("model.norm".to_owned(), &[c], None);
    if !config.tie_word_embeddings {
        add("lm_head".to_owned(), &[v, c], Some(std));
    }
    starts
}

/// The own weights of a fusion, below `fusion.`; a prefix has none. The gates are zero: cross-attention starts as the backbone.
pub fn fusion(fusion: &Fusion, a: &Architecture, ecg_dim: usize, rng: &mut ChaCha8Rng) -> Result<Tensors> {
    let mut init = Init {
        tensors: BTreeMap::new(),
        rng,
    };
    let (c, inner) = (a.hidden_size, a.heads * a.head_dim);
    if *fusion == Fusion::Input {
        init.linear("fusion.input", ecg_dim, c)?;
    }
    for layer in fusion.cross_layers(a.layers.len()) {
        let name = |part: &str| format!("fusion.layers.{layer}.{part}");
        for norm in ["attention_norm", "mlp_norm"] {
            init.constant(&name(&format!("{norm}.weight")), c, 1.0)?;
            if matches!(a.norm, Norm::Layer { .. }) {
                init.constant(&name(&format!("{norm}.bias")), c, 0.0)?;
            }
        }
        for (part, inputs, outputs) in [
            ("q_proj", c, inner),
            ("k_proj", ecg_dim, inner),
            ("v_proj", ecg_dim, inner),
            ("out_proj", inner, c),
            ("up_proj", c, 4 * c),
            ("down_proj", 4 * c, c),
        ] {
            init.linear(&name(part), inputs, outputs)?;
        }
        init.constant(&name("attention_gate"), 1, 0.0)?;
        init.constant(&name("mlp_gate"), 1, 0.0)?;
    }
    Ok(init.tensors)
}

/// The own weights of an encoder-decoder's fusion, below `fusion.`: embeddings of width `ecg_dim` to the memory's, `hidden_size`.
pub fn memory(hidden_size: usize, ecg_dim: usize, rng: &mut ChaCha8Rng) -> Result<Tensors> {
    let mut init = Init {
        tensors: BTreeMap::new(),
        rng,
    };
    init.linear("fusion.memory", ecg_dim, hidden_size)?;
    Ok(init.tensors)
}

struct Init<'a> {
    tensors: Tensors,
    rng: &'a mut ChaCha8Rng,
}

impl Init<'_> {
    fn conv(&mut self, name: &str, inputs: usize, outputs: usize, kernel: usize) -> Result<()> {
        let std = (2.0 / (inputs * kernel) as f32).sqrt();
        self.normal(&format!("{name}.weight"), &[outputs, inputs, kernel], std)
    }

    fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<()> {
        self.normal(
            &format!("{name}.weight"),
            &[outputs, inputs],
            (1.0 / inputs as f32).sqrt(),
        )?;
        self.constant(&format!("{name}.bias"), outputs, 0.0)
    }

    fn norm(&mut self, name: &str, c: usize) -> Result<()> {
        for (part, value) in [
            ("weight", 1.0),
            ("bias", 0.0),
            ("running_mean", 0.0),
            ("running_var", 1.0),
        ] {
            self.constant(&format!("{name}.{part}"), c, value)?;
        }
        Ok(())
    }

    fn constant(&mut self, name: &str, c: usize, value: f32) -> Result<()> {
        self.tensors
            .insert(name.to_owned(), Tensor::full(value, c, &Device::Cpu)?);
        Ok(())
    }

    /// Box-Muller over the seeded stream.
    fn normal(&mut self, name: &str, shape: &[usize], std: f32) -> Result<()> {
        let n = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..n).map(|_| std * standard_normal(self.rng)).collect();
        self.tensors
            .insert(name.to_owned(), Tensor::from_vec(values, shape, &Device::Cpu)?);
        Ok(())
    }
}

/// One draw of the standard normal distribution.
pub fn standard_normal(rng: &mut ChaCha8Rng) -> f32 {
    let u1: f32 = 1.0 - rng.random::<f32>();
    let u2: f32 = rng.random();
    (-2.0 * u1.ln()).sqrt() * (2.0 * std::f32::consts::PI * u2).cos()
}
