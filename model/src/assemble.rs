//! A bundle from its parts: a Hugging Face checkpoint, an encoder, and where there is one an adapter.
//!
//! Place: `meit-node bundle create`; what comes out is what `bundle` loads. Invariant: the base's tensors keep their type and
//! values; where the template's special tokens are new, each table of the vocabulary gains a row for each, the mean of its rows.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer};

use crate::backbone::BackboneConfig;
use crate::bundle::{self, Bundle, Manifest};
use crate::error::{Error, Result};
use crate::files;
use crate::lora::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use crate::prompt::{self, ASSISTANT, PAD, STOP, USER};
use crate::served::ServedWeights;
use crate::shard::Shard;
use crate::smoke;
use crate::weights;

/// Where the parts of a bundle lie.
pub struct Parts<'a> {
    /// Directory of config.json, tokenizer.json and the weights, in one file or in shards.
    pub base: &'a Path,
    /// safetensors of encoder and projector, and of a fusion's own weights.
    pub encoder: &'a Path,
    /// Directory as peft writes it.
    pub adapter: Option<&'a Path>,
}

/// Writes a bundle into `out`, which must be missing or empty, once it has loaded with its language model in `weights` and drafted;
/// returns it.
///
/// # Errors
/// [`Error::NotEmpty`]; a part that cannot be read or written; a bundle that does not load or draft. Then `out` is as it was.
pub fn assemble(parts: &Parts, manifest: Manifest, out: &Path, weights: ServedWeights) -> Result<Bundle> {
    files::fill_directory(out, |partial| {
        write(parts, manifest, partial)?;
        let bundle = Bundle::load_as(partial, &Device::Cpu, weights)?;
        smoke::check(bundle.drafting())?;
        Ok(bundle)
    })
}

fn write(parts: &Parts, manifest: Manifest, out: &Path) -> Result<()> {
    language_model(parts.base, out)?;
    files::copy(parts.encoder, &out.join(bundle::ENCODER))?;
    if let Some(adapter) = parts.adapter {
        for name in [ADAPTER_CONFIG, ADAPTER_WEIGHTS] {
            files::copy(&adapter.join(name), &out.join(bundle::ADAPTER).join(name))?;
        }
    }
    bundle::seal(out, manifest).map(drop)
}

/// Writes a base's tokenizer with the template's tokens, and its config and weights with a place for each, into `out`.
///
/// # Errors
/// A part that cannot be read or written.
pub fn language_model(base: &Path, out: &Path) -> Result<()> {
    let tokens = write_tokenizer(&base.join(bundle::TOKENIZER), &out.join(bundle::TOKENIZER))?;
    let config_path = base.join(bundle::DECODER_CONFIG);
    let mut config: Value = files::parse(&config_path, &files::read(&config_path)?)?;
    let backbone = BackboneConfig::from_json(&config)?;
    if tokens > backbone.vocab_size() {
        config["vocab_size"] = Value::from(tokens);
        write_grown(base, out, &backbone, tokens)?;
    } else {
        for shard in weights::shards(base)? {
            files::copy(&base.join(&shard), &out.join(&shard))?;
        }
        let index = base.join(weights::INDEX);
        if index.exists() {
            files::copy(&index, &out.join(weights::INDEX))?;
        }
    }
    let config_path = out.join(bundle::DECODER_CONFIG);
    files::write(&config_path, &files::pretty(&config_path, &config)?)
}

/// Adds the template's special tokens that the tokenizer lacks; returns the rows that an embedding of it needs.
fn write_tokenizer(from: &Path, to: &Path) -> Result<usize> {
    let wrap = |action: &'static str| {
        move |e: tokenizers::Error| Error::Tokenizer {
            action,
            message: format!("{}: {e}", from.display()),
        }
    };
    let mut tokenizer = Tokenizer::from_file(from).map_err(wrap("load"))?;
    let special = [USER, ASSISTANT, STOP, PAD].map(|token| AddedToken::from(token, true));
    tokenizer
        .add_special_tokens(special)
        .map_err(wrap("add special tokens to"))?;
    let json = tokenizer.to_string(true).map_err(wrap("write"))?;
    files::write(to, json.as_bytes())?;
    Ok(prompt::rows(&tokenizer))
}

/// Writes the base in one file, each table of its vocabulary grown to `size`.
fn write_grown(base: &Path, out: &Path, backbone: &BackboneConfig, size: usize) -> Result<()> {
    let mut tensors = BTreeMap::new();
    for shard in weights::shards(base)? {
        let shard = Shard::open(&base.join(shard))?;
        for name in shard.shapes().into_keys() {
            let tensor = shard.read(&name)?;
            let tensor = match backbone.vocabulary_axis(&name) {
                Some(axis) => grown(&tensor, axis, size)?,
                None => tensor,
            };
            tensors.insert(name, tensor);
        }
    }
    files::write_safetensors(&out.join(weights::SINGLE), &tensors)
}

/// A table with `size` places on `axis`: new ones are the mean of the old.
fn grown(table: &Tensor, axis: usize, size: usize) -> Result<Tensor> {
    let more = size - table.dim(axis)?;
    let mean = table
        .to_dtype(DType::F32)?
        .mean_keepdim(axis)?
        .to_dtype(table.dtype())?;
    let mut shape = table.dims().to_vec();
    shape[axis] = more;
    Ok(Tensor::cat(&[table, &mean.broadcast_as(shape)?.contiguous()?], axis)?)
}
