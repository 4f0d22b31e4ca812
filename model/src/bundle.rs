//! A bundle: everything that turns ECGs into text, in one directory, each part named by its hash.
//!
//! Place: written by the pipeline, loaded by a node at start. Layout: bundle.json, config.json and model.safetensors
//! (decoder), encoder.safetensors (encoder and projector), tokenizer.json. Invariant: a bundle with a part that differs from
//! its recorded hash does not load.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use ecg::lead::Lead;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::architecture::Architecture;
use crate::config::EncoderConfig;
use crate::error::{Error, Result};
use crate::evidence::Evidence;
use crate::meit::{Drafting, Meit};
use crate::prompt::PromptTokenizer;
use crate::weights::Weights;

pub const MANIFEST: &str = "bundle.json";
pub const DECODER_CONFIG: &str = "config.json";
pub const DECODER: &str = "model.safetensors";
pub const ENCODER: &str = "encoder.safetensors";
pub const TOKENIZER: &str = "tokenizer.json";
const FORMAT: &str = "meit-bundle/1";
const PARTS: [&str; 4] = [DECODER_CONFIG, DECODER, ENCODER, TOKENIZER];

/// bundle.json.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: String,
    pub name: String,
    pub encoder: EncoderConfig,
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

/// A bundle that was checked and loaded.
pub struct Bundle {
    id: String,
    manifest: Manifest,
    drafting: Drafting,
}

impl Bundle {
    /// Checks every hash, then loads the weights as f32 onto `device`.
    ///
    /// # Errors
    /// A part that is missing, differs from its hash, has another shape than its config, or holds a non-finite value.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        let bytes = read(&dir.join(MANIFEST))?;
        let manifest: Manifest = parse(&dir.join(MANIFEST), &bytes)?;
        if manifest.format != FORMAT {
            return Err(Error::Config {
                key: "format",
                value: manifest.format,
                bound: format!("must be {FORMAT}"),
            });
        }
        for part in PARTS {
            check_hash(dir, part, &manifest)?;
        }
        let architecture = Architecture::read(&dir.join(DECODER_CONFIG))?;
        let encoder = Weights::load(&[&dir.join(ENCODER)], DType::F32, device)?;
        let decoder = Weights::load(&[&dir.join(DECODER)], DType::F32, device)?;
        let drafting = Drafting {
            model: Meit::assemble(&encoder, &manifest.encoder, &decoder, &architecture)?,
            tokenizer: load_tokenizer(&dir.join(TOKENIZER))?,
            prompt: manifest.prompt.clone(),
            evidence: manifest.evidence,
            lead_order: lead_order(&manifest)?,
            clip_mv: manifest.clip_mv,
            device: device.clone(),
        };
        Ok(Self {
            id: short(&sha256(&bytes)),
            manifest,
            drafting,
        })
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
        Lineage {
            base_sha256: part(DECODER),
            encoder_sha256: part(ENCODER),
            tokenizer_sha256: part(TOKENIZER),
            adapter_sha256: None,
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
    for part in PARTS {
        manifest.parts.insert(part.to_owned(), sha256(&read(&dir.join(part))?));
    }
    let path = dir.join(MANIFEST);
    let mut bytes = serde_json::to_vec_pretty(&manifest).map_err(|source| Error::Json {
        path: path.clone(),
        source,
    })?;
    bytes.push(b'\n');
    std::fs::write(&path, &bytes).map_err(|source| Error::Read { path, source })?;
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

fn check_hash(dir: &Path, part: &str, manifest: &Manifest) -> Result<()> {
    let got = sha256(&read(&dir.join(part))?);
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

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json {
        path: PathBuf::from(path),
        source,
    })
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn short(hash: &str) -> String {
    hash.chars().take(16).collect()
}
