//! LLaMA-family decoder: embeddings, pre-norm layers, tied or separate output head.
//!
//! Place: after `prefix`; called by `generate` step by step and by training on whole rows.
//! Shapes: ids (B, T) -> logits (B, T, V). Tensor names are those of Hugging Face checkpoints.

use candle_core::{DType, Tensor};

use crate::attention::{Attention, Rope, causal_mask};
use crate::cache::Cache;
use crate::config::DecoderConfig;
use crate::error::Result;
use crate::layers::{Linear, RmsNorm, widen};
use crate::mode::Mode;
use crate::prefix::EcgPrefix;
use crate::weights::Weights;

/// The language model.
pub struct Decoder {
    embed_tokens: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    lm_head: Linear,
    rope: Rope,
}

struct Layer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Decoder {
    /// Reads a checkpoint of `LlamaForCausalLM`.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape than the config says.
    pub fn load(w: &Weights, config: &DecoderConfig) -> Result<Self> {
        config.validate()?;
        let (v, c) = (config.vocab_size, config.hidden_size);
        let body = w.pp("model");
        let embed_tokens = body.pp("embed_tokens").get(&[v, c], "weight")?;
        let lm_head = if config.tie_word_embeddings {
            Linear::tied(embed_tokens.clone())
        } else {
            Linear::load(&w.pp("lm_head"), c, v)?
        };
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::load(&body.pp(format!("layers.{i}")), config, i))
            .collect::<Result<Vec<_>>>()?;
        let norm = RmsNorm::load(&body.pp("norm"), c, config.rms_norm_eps)?;
        Ok(Self {
            embed_tokens,
            layers,
            norm,
            lm_head,
            rope: Rope::new(config),
        })
    }

    /// An empty cache for this decoder.
    pub fn cache(&self) -> Cache {
        Cache::new(self.layers.len())
    }

    /// The dtype of the weights.
    pub fn dtype(&self) -> DType {
        self.embed_tokens.dtype()
    }

    /// Each layer's key/value prefix of ECG embeddings e (B, P, D), once per request.
    pub fn prefix(&self, e: &Tensor) -> candle_core::Result<EcgPrefix> {
        let e = e.to_dtype(self.dtype())?;
        let layers = self.layers.iter().map(|layer| layer.self_attn.prefix(&e));
        Ok(EcgPrefix::new(layers.collect::<candle_core::Result<Vec<_>>>()?))
    }

    /// Logits of `ids` (B, T), which follow what `cache` holds: (B, T, V) in f32 or wider.
    pub fn forward(
        &self,
        ids: &Tensor,
        prefix: Option<&EcgPrefix>,
        cache: &mut Cache,
        mode: &Mode,
    ) -> candle_core::Result<Tensor> {
        let x = self.hidden(ids, prefix, cache, mode)?;
        widen(&self.lm_head.forward(&x)?)
    }

    /// As [`Self::forward`], for the last position only: (B, V).
    pub fn forward_last(
        &self,
        ids: &Tensor,
        prefix: Option<&EcgPrefix>,
        cache: &mut Cache,
    ) -> candle_core::Result<Tensor> {
        let x = self.hidden(ids, prefix, cache, &Mode::Eval)?;
        let last = x.narrow(1, x.dim(1)? - 1, 1)?.squeeze(1)?; // (B, C)
        widen(&self.lm_head.forward(&last)?)
    }

    fn hidden(
        &self,
        ids: &Tensor,
        prefix: Option<&EcgPrefix>,
        cache: &mut Cache,
        mode: &Mode,
    ) -> candle_core::Result<Tensor> {
        let (b, t) = ids.dims2()?;
        let (_, c) = self.embed_tokens.dims2()?;
        let (dtype, device) = (self.dtype(), ids.device());
        let rotation = self.rope.rotation(cache.len(), t, dtype, device)?;
        let p = prefix.and_then(|p| p.layer(0)).map_or(Ok(0), |(k, _)| k.dim(2))?;
        let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let mask = causal_mask(t, cache.len(), p, wide, device)?;
        let mut x = self
            .embed_tokens
            .index_select(&ids.flatten_all()?, 0)?
            .reshape((b, t, c))?;
        x = mode.dropout(&x)?;
        for layer in &self.layers {
            let y = layer
                .self_attn
                .forward(&layer.input_layernorm.forward(&x)?, &rotation, &mask, prefix, cache)?;
            x = (x + mode.dropout(&y)?)?;
            let y = layer.mlp(&layer.post_attention_layernorm.forward(&x)?)?;
            x = (x + mode.dropout(&y)?)?;
        }
        cache.advance(t);
        self.norm.forward(&x)
    }
}

impl Layer {
    fn load(w: &Weights, config: &DecoderConfig, index: usize) -> Result<Self> {
        let (c, m) = (config.hidden_size, config.intermediate_size);
        let mlp = w.pp("mlp");
        Ok(Self {
            input_layernorm: RmsNorm::load(&w.pp("input_layernorm"), c, config.rms_norm_eps)?,
            self_attn: Attention::load(&w.pp("self_attn"), config, index)?,
            post_attention_layernorm: RmsNorm::load(&w.pp("post_attention_layernorm"), c, config.rms_norm_eps)?,
            gate_proj: Linear::load(&mlp.pp("gate_proj"), c, m)?,
            up_proj: Linear::load(&mlp.pp("up_proj"), c, m)?,
            down_proj: Linear::load(&mlp.pp("down_proj"), m, c)?,
        })
    }

    fn mlp(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let gate = self.gate_proj.forward(x)?.silu()?;
        self.down_proj.forward(&(gate * self.up_proj.forward(x)?)?)
    }
}
