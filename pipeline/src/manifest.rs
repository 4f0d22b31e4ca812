//! A curated data set on disk: what was asked for, what came of it, and every sample by its hash.
//!
//! Place: written by `curate`, read by the job's training and evaluation. Layout: manifest.json; NNNNN.safetensors (tensor
//! "ecg", int16 microvolts, N x 12 x 5000) with NNNNN.jsonl, a line a sample, in the same order.
//! Invariant: samples are sorted by id; no patient is in two splits; a file that differs from its hash does not open; no
//! patient is named other than by hash.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use ecg::segment::Measurements;
use ecg::{LEADS, SEGMENT_SAMPLES};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::dataset::Ecg;
use crate::sources::{Origin, Source, Split};
use crate::strata::Stratum;
use crate::text_rules::Drop;

pub const MANIFEST: &str = "manifest.json";
pub const FORMAT: &str = "meit-dataset/1";
/// Bytes of one ECG in a shard.
pub const ECG_BYTES: usize = LEADS * SEGMENT_SAMPLES * 2;

/// What was asked for; two queries that are equal give the same data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    pub sources: Vec<Source>,
    /// Samples a source at most, drawn by hash; 0 for all.
    pub limit: usize,
    /// Size of the set of prompts.
    pub prompts: usize,
    pub seed: u64,
    /// Where reading of topics ends: topic and partition to the offset after the last.
    pub ends: BTreeMap<String, i64>,
    /// SHA-256 of the erasure list.
    pub erasures_sha256: String,
    /// SHA-256 of the program.
    pub code_sha256: String,
    /// Id of the base bundle that is to learn from it.
    pub base: String,
}

/// One sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub id: String,
    pub patient_hash: String,
    pub split: Split,
    pub origin: Origin,
    pub prompt: String,
    pub report: String,
    #[serde(default)]
    pub labels: BTreeSet<String>,
    /// What it may be sliced by.
    #[serde(default)]
    pub strata: Vec<Stratum>,
    /// What was measured of the same ten seconds.
    pub measurements: Measurements,
    /// SHA-256 over the samples, the report and the prompt.
    pub sha256: String,
}

/// A file of the data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    pub name: String,
    pub samples: usize,
    pub ecg_sha256: String,
    pub rows_sha256: String,
}

/// manifest.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: String,
    pub query: Query,
    /// Kept samples.
    pub kept: usize,
    /// Candidates that were left out, by reason.
    pub dropped: BTreeMap<Drop, usize>,
    pub splits: BTreeMap<Split, usize>,
    pub origins: BTreeMap<Origin, usize>,
    pub patients: usize,
    /// Samples with each label, by split.
    pub labels: BTreeMap<String, BTreeMap<Split, usize>>,
    pub shards: Vec<Shard>,
    /// Id and hash of every sample, sorted by id.
    pub samples: Vec<(String, String)>,
}

impl Manifest {
    /// The statistics of some samples, which must be sorted by id.
    ///
    /// # Errors
    /// Samples out of order or twice; a patient in two splits.
    pub fn of(
        query: Query,
        dropped: BTreeMap<Drop, usize>,
        shards: Vec<Shard>,
        samples: &[Sample],
    ) -> anyhow::Result<Self> {
        for pair in samples.windows(2) {
            ensure!(
                pair[0].id < pair[1].id,
                "sample {} is not after {}",
                pair[1].id,
                pair[0].id
            );
        }
        let mut split_of: BTreeMap<&str, Split> = BTreeMap::new();
        let mut manifest = Self {
            format: FORMAT.to_owned(),
            query,
            kept: samples.len(),
            dropped,
            splits: BTreeMap::new(),
            origins: BTreeMap::new(),
            patients: 0,
            labels: BTreeMap::new(),
            shards,
            samples: samples.iter().map(|s| (s.id.clone(), s.sha256.clone())).collect(),
        };
        for sample in samples {
            let held = *split_of.entry(&sample.patient_hash).or_insert(sample.split);
            ensure!(
                held == sample.split,
                "patient {} is in {held:?} and, with {}, in {:?}",
                sample.patient_hash,
                sample.id,
                sample.split
            );
            *manifest.splits.entry(sample.split).or_default() += 1;
            *manifest.origins.entry(sample.origin).or_default() += 1;
            for label in &sample.labels {
                let counts = manifest.labels.entry(label.clone()).or_default();
                *counts.entry(sample.split).or_default() += 1;
            }
        }
        manifest.patients = split_of.len();
        Ok(manifest)
    }

    /// SHA-256 over the ids and hashes of the samples: what a training run learns from.
    ///
    /// # Errors
    /// Never in practice; JSON that cannot be written.
    pub fn samples_sha256(&self) -> anyhow::Result<String> {
        Ok(sha256(&serde_json::to_vec(&self.samples)?))
    }

    /// SHA-256 of the manifest's JSON: the name of the data set.
    ///
    /// # Errors
    /// Never in practice; JSON that cannot be written.
    pub fn sha256(&self) -> anyhow::Result<String> {
        Ok(sha256(&serde_json::to_vec(self)?))
    }
}

/// A data set that was opened and checked.
pub struct Dataset {
    dir: PathBuf,
    manifest: Manifest,
    samples: Vec<Sample>,
    /// Shard and place in it of each sample.
    places: Vec<(usize, usize)>,
}

impl Dataset {
    /// Reads the manifest and the rows, and checks every file against its hash.
    ///
    /// # Errors
    /// A file that cannot be read or differs from its hash.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let manifest = read_manifest(dir)?;
        let (mut samples, mut places) = (Vec::new(), Vec::new());
        for (at, shard) in manifest.shards.iter().enumerate() {
            check_hash(&ecg_path(dir, &shard.name), &shard.ecg_sha256)?;
            check_hash(&rows_path(dir, &shard.name), &shard.rows_sha256)?;
            let rows = read_rows(&rows_path(dir, &shard.name))?;
            places.extend((0..rows.len()).map(|i| (at, i)));
            samples.extend(rows);
        }
        ensure!(
            samples
                .iter()
                .map(|s| &s.id)
                .eq(manifest.samples.iter().map(|(id, _)| id)),
            "{} holds other samples than its manifest",
            dir.display()
        );
        Ok(Self {
            dir: dir.to_owned(),
            manifest,
            samples,
            places,
        })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Places of the samples that `keep` picks.
    pub fn indices(&self, keep: impl Fn(&Sample) -> bool) -> Vec<usize> {
        (0..self.samples.len()).filter(|&i| keep(&self.samples[i])).collect()
    }

    /// One ECG with its measurements.
    ///
    /// # Errors
    /// A shard that cannot be read.
    pub fn ecg(&self, index: usize) -> anyhow::Result<Ecg> {
        let (shard, row) = self.places[index];
        let path = ecg_path(&self.dir, &self.manifest.shards[shard].name);
        Ok(Ecg {
            filtered: read_ecg(&path, row).with_context(|| format!("read ECG {row} of {}", path.display()))?,
            measurements: self.samples[index].measurements.clone(),
        })
    }
}

/// The manifest of a directory.
///
/// # Errors
/// A file that is missing or of another format.
pub fn read_manifest(dir: &Path) -> anyhow::Result<Manifest> {
    let path = dir.join(MANIFEST);
    let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let manifest: Manifest = serde_json::from_slice(&bytes).with_context(|| format!("parse {}", path.display()))?;
    ensure!(
        manifest.format == FORMAT,
        "{} has format {:?}: this program reads {FORMAT}",
        path.display(),
        manifest.format
    );
    Ok(manifest)
}

/// Rows of a shard's JSONL file.
///
/// # Errors
/// A file that cannot be read; a line that is no sample.
pub fn read_rows(path: &Path) -> anyhow::Result<Vec<Sample>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let rows = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
    rows.with_context(|| format!("parse {}", path.display()))
}

/// Path of a shard's ECGs.
pub fn ecg_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.safetensors"))
}

/// Path of a shard's rows.
pub fn rows_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.jsonl"))
}

/// One ECG of a shard, without reading the others: the file is a length, a header, and the tensor.
fn read_ecg(path: &Path, row: usize) -> anyhow::Result<Vec<i16>> {
    let mut file = std::fs::File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    file.seek(SeekFrom::Current(
        (u64::from_le_bytes(length) + (row * ECG_BYTES) as u64) as i64,
    ))?;
    let mut bytes = vec![0; ECG_BYTES];
    file.read_exact(&mut bytes)?;
    Ok(bytes
        .chunks_exact(2)
        .map(|b| i16::from_le_bytes([b[0], b[1]]))
        .collect())
}

fn check_hash(path: &Path, expected: &str) -> anyhow::Result<()> {
    let got = file_sha256(path)?;
    ensure!(
        got == expected,
        "{} has hash {got}, its manifest says {expected}",
        path.display()
    );
    Ok(())
}

/// SHA-256 of a file, hexadecimal.
///
/// # Errors
/// A file that cannot be read.
pub fn file_sha256(path: &Path) -> anyhow::Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).with_context(|| format!("read {}", path.display()))?;
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of bytes, hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
