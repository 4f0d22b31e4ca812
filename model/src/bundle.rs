//! A bundle: everything that turns ECGs into text, in one directory, each part named by its hash.
//!
//! Place: written by the pipeline, loaded by a node at start. Layout: bundle.json; config.json and model.safetensors, or an
//! index and its shards (language model); encoder.safetensors (encoder and projector); tokenizer.json; adapter/, where there is one.
//! Invariant: a bundle with a part that differs from its recorded hash, is missing or is not recorded does not load.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use ecg::SEGMENT_SAMPLES;
use ecg::lead::Lead;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::backbone::BackboneConfig;
use crate::config::EncoderConfig;
use crate::error::{Error, Result};
use crate::evidence::Evidence;
use crate::files::{self, hex, parse, pretty, read, write};
use crate::findings::{Finding, FindingsHead, MorphologyConfig};
use crate::fusion::Fusion;
use crate::lora::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adaptable, Adapter};
use crate::meit::{Drafting, Meit};
use crate::prompt::PromptTokenizer;
use crate::served::ServedWeights;
use crate::weights::{self, Weights};

pub const MANIFEST: &str = "bundle.json";
pub const DECODER_CONFIG: &str = "config.json";
pub const DECODER: &str = weights::SINGLE;
pub const ENCODER: &str = "encoder.safetensors";
pub const TOKENIZER: &str = "tokenizer.json";
/// Directory of the adapter that belongs to the bundle.
pub const ADAPTER: &str = "adapter";
const FORMAT: &str = "meit-bundle/1";

/// bundle.json.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: String,
    pub name: String,
    pub encoder: EncoderConfig,
    /// How the embeddings enter the decoder; left out, a prefix in every layer.
    #[serde(default, skip_serializing_if = "Fusion::is_default")]
    pub fusion: Fusion,
    /// Names of the model's input leads, in order.
    pub lead_order: Vec<String>,
    /// Input is filtered millivolts, clipped to this bound; no other scaling.
    pub clip_mv: f32,
    /// Filter chain whose output the model was trained on.
    pub chain: String,
    pub prompt: String,
    /// What the prompt tells beside the ECG; absent in bundles that tell nothing.
    #[serde(default)]
    pub evidence: Evidence,
    /// Statements that the encoder's head names, in the order of its outputs; left out where the prompt tells none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// What their head makes of the recording's morphology; left out where it sees the encoder's frames alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub morphology: Option<MorphologyConfig>,
    /// sha256 of each part, hexadecimal.
    pub parts: BTreeMap<String, String>,
}

/// Hashes that a draft carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    pub base_sha256: String,
    pub encoder_sha256: String,
    pub tokenizer_sha256: String,
    pub adapter_sha256: Option<String>,
}

/// A bundle that was checked and loaded. A clone shares the weights.
#[derive(Clone)]
pub struct Bundle {
    id: String,
    manifest: Manifest,
    drafting: Drafting,
}

impl Bundle {
    /// Checks every hash, then loads the weights as f32 onto `device`.
    ///
    /// # Errors
    /// As [`Self::load_as`].
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        Self::load_as(dir, device, ServedWeights::F32)
    }

    /// As [`Self::load`], with the language model in `weights`; encoder and projector stay f32. Takes the memory of the model
    /// that comes out, and of one tensor more.
    ///
    /// # Errors
    /// A part that is missing, differs from its hash, has another shape than its config, or holds a non-finite value; an input or a
    /// vocabulary that the model cannot have; weights that the device or the model cannot have.
    pub fn load_as(dir: &Path, device: &Device, weights: ServedWeights) -> Result<Self> {
        let bytes = read(&dir.join(MANIFEST))?;
        let manifest: Manifest = parse(&dir.join(MANIFEST), &bytes)?;
        if manifest.format != FORMAT {
            return Err(Error::Config {
                key: "format",
                value: manifest.format,
                bound: format!("must be {FORMAT}"),
            });
        }
        check_input(&manifest)?;
        check_names(&manifest)?;
        for part in parts(dir)?.iter().chain(manifest.parts.keys()) {
            check_hash(dir, part, &manifest)?;
        }
        let config = BackboneConfig::read(&dir.join(DECODER_CONFIG))?;
        let encoder = Weights::load(&[&dir.join(ENCODER)], DType::F32, device)?;
        let base = weights.open(dir, device)?;
        let model = Meit::assemble(&encoder, &manifest.encoder, &base, &config, &manifest.fusion)?;
        weights.check(&model.backbone)?;
        let tokenizer = load_tokenizer(&dir.join(TOKENIZER))?;
        if tokenizer.rows() > config.vocab_size() {
            return Err(Error::Config {
                key: "vocab_size",
                value: config.vocab_size().to_string(),
                bound: format!("tokenizer.json has ids up to {}", tokenizer.rows() - 1),
            });
        }
        let drafting = Drafting {
            model,
            tokenizer,
            prompt: manifest.prompt.clone(),
            evidence: manifest.evidence,
            findings: findings_head(&manifest, &encoder)?,
            lead_order: lead_order(&manifest)?,
            clip_mv: manifest.clip_mv,
            device: device.clone(),
            adapter: None,
        };
        let bundle = Self {
            id: short(&sha256(&bytes)),
            manifest,
            drafting,
        };
        let adapter = dir.join(ADAPTER);
        if adapter.is_dir() {
            bundle.with_adapter(&adapter)
        } else {
            Ok(bundle)
        }
    }

    /// This bundle with the adapter in `dir`, instead of any that it had; the weights are shared, so it costs the adapter alone.
    ///
    /// # Errors
    /// As [`Adapter::load`].
    pub fn with_adapter(&self, dir: &Path) -> Result<Self> {
        Ok(self.with(Adapter::load(dir, &self.drafting.model.backbone)?))
    }

    /// As [`Self::with_adapter`], for one that is loaded or was trained in this process.
    pub fn with(&self, adapter: Adapter) -> Self {
        let mut bundle = self.clone();
        bundle.drafting.model.backbone = self.drafting.model.backbone.with_adapter(&adapter);
        bundle.drafting.adapter = Some(Arc::new(adapter));
        bundle
    }

    /// This bundle without an adapter.
    pub fn base(&self) -> Self {
        let mut bundle = self.clone();
        bundle.drafting.model.backbone = self.drafting.model.backbone.base();
        bundle.drafting.adapter = None;
        bundle
    }

    /// First 16 hexadecimal digits of the manifest's sha256; the manifest holds the parts' hashes.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn drafting(&self) -> &Drafting {
        &self.drafting
    }

    pub fn lineage(&self) -> Lineage {
        let part = |name: &str| self.manifest.parts.get(name).cloned().unwrap_or_default();
        let adapter = self.drafting.adapter.as_ref();
        Lineage {
            base_sha256: self.base_sha256(),
            encoder_sha256: part(ENCODER),
            tokenizer_sha256: part(TOKENIZER),
            adapter_sha256: adapter.and_then(|adapter| adapter.sha256()).map(str::to_owned),
        }
    }

    /// Of the language model's one file of weights, or of its shards' hashes in order, whatever the index calls them.
    fn base_sha256(&self) -> String {
        let is_weights = |name: &str| name.ends_with(".safetensors") && name != ENCODER && !name.contains('/');
        let hashes: Vec<&str> = self
            .manifest
            .parts
            .iter()
            .filter(|(name, _)| is_weights(name))
            .map(|(_, h)| h.as_str())
            .collect();
        match hashes.as_slice() {
            [one] => (*one).to_owned(),
            many => sha256(many.concat().as_bytes()),
        }
    }
}

/// Writes bundle.json for the parts that lie in `dir`, with their hashes, and returns the bundle's id.
///
/// # Errors
/// A part that cannot be read; a manifest that cannot be written.
pub fn seal(dir: &Path, mut manifest: Manifest) -> Result<String> {
    manifest.format = FORMAT.to_owned();
    manifest.parts.clear();
    for part in parts(dir)? {
        let hash = files::sha256(&dir.join(&part))?;
        manifest.parts.insert(part, hash);
    }
    let path = dir.join(MANIFEST);
    let bytes = pretty(&path, &manifest)?;
    write(&path, &bytes)?;
    Ok(short(&sha256(&bytes)))
}

/// # Errors
/// [`Error::Tokenizer`].
pub fn load_tokenizer(path: &Path) -> Result<PromptTokenizer> {
    let wrap = |e: tokenizers::Error| Error::Tokenizer {
        action: "load",
        message: format!("{}: {e}", path.display()),
    };
    PromptTokenizer::new(tokenizers::Tokenizer::from_file(path).map_err(wrap)?)
}

/// Files that a bundle in `dir` is made of, bundle.json left out.
fn parts(dir: &Path) -> Result<Vec<String>> {
    let mut parts: Vec<String> = [DECODER_CONFIG, ENCODER, TOKENIZER].map(str::to_owned).into();
    parts.extend(weights::shards(dir)?);
    if dir.join(weights::INDEX).exists() {
        parts.push(weights::INDEX.to_owned());
    }
    if dir.join(ADAPTER).is_dir() {
        parts.extend([ADAPTER_CONFIG, ADAPTER_WEIGHTS].map(|name| format!("{ADAPTER}/{name}")));
    }
    Ok(parts)
}

fn check_hash(dir: &Path, part: &str, manifest: &Manifest) -> Result<()> {
    let got = files::sha256(&dir.join(part))?;
    let expected = manifest
        .parts
        .get(part)
        .cloned()
        .unwrap_or_else(|| "nothing".to_owned());
    if got == expected {
        Ok(())
    } else {
        Err(Error::Hash {
            file: part.to_owned(),
            got,
            expected,
        })
    }
}

/// What can be said of a model's input without its weights.
fn check_input(manifest: &Manifest) -> Result<()> {
    let fail = |key, value: String, bound: String| Err(Error::Config { key, value, bound });
    if !(manifest.clip_mv.is_finite() && manifest.clip_mv > 0.0) {
        let bound = "must be a finite number of millivolts above 0".to_owned();
        return fail("clip_mv", manifest.clip_mv.to_string(), bound);
    }
    let (encoder, order) = (&manifest.encoder, &manifest.lead_order);
    if encoder.leads != order.len() {
        let bound = format!("must be the {} of lead_order", order.len());
        return fail("encoder.leads", encoder.leads.to_string(), bound);
    }
    if let Some((_, twice)) = order.iter().enumerate().find(|(at, lead)| order[..*at].contains(lead)) {
        return fail("lead_order", twice.clone(), "each lead must be there once".to_owned());
    }
    encoder.validate()?;
    encoder.check_samples(SEGMENT_SAMPLES)
}

/// Parts lie in the bundle's directory or its adapter's.
fn check_names(manifest: &Manifest) -> Result<()> {
    manifest.parts.keys().try_for_each(|part| {
        let in_adapter = part.strip_prefix(ADAPTER).and_then(|rest| rest.strip_prefix('/'));
        files::check_name("parts", in_adapter.unwrap_or(part))
    })
}

/// The head whose statements the prompt tells; None where it tells none.
fn findings_head(manifest: &Manifest, encoder: &Weights) -> Result<Option<FindingsHead>> {
    if !manifest.evidence.tells_findings() {
        return Ok(None);
    }
    if manifest.findings.is_empty() {
        return Err(Error::Config {
            key: "findings",
            value: "none".to_owned(),
            bound: "at least one where evidence tells findings".to_owned(),
        });
    }
    let features = manifest.encoder.features();
    FindingsHead::load(encoder, features, manifest.morphology, &manifest.findings).map(Some)
}

fn lead_order(manifest: &Manifest) -> Result<Vec<usize>> {
    let position = |name: &String| {
        let unknown = |_| Error::Config {
            key: "lead_order",
            value: name.clone(),
            bound: "a standard lead".to_owned(),
        };
        Ok(Lead::parse(name).map_err(unknown)?.index())
    };
    manifest.lead_order.iter().map(position).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn short(hash: &str) -> String {
    hash.chars().take(16).collect()
}
