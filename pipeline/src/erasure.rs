//! Patients whose rows are gone and stay gone.
//!
//! Place: beside the registry; read by every curation. Invariant: a hash that was added is never removed, and the list
//! names patients by hash alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::disk;
use crate::manifest::sha256;

const FILE: &str = "erased.txt";

/// The erasure list of a registry.
#[derive(Clone, Debug, Default)]
pub struct Erasures {
    path: Option<PathBuf>,
    hashes: BTreeSet<String>,
}

impl Erasures {
    /// Reads the list in `dir`; there may be none.
    ///
    /// # Errors
    /// A list that is there and cannot be read.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        Ok(Self {
            path: Some(path),
            hashes: text.lines().map(str::to_owned).collect(),
        })
    }

    /// Adds a patient and writes the list; false when the patient is on it already.
    ///
    /// # Errors
    /// What is no hash; a list that cannot be written.
    pub fn add(&mut self, hash: &str) -> anyhow::Result<bool> {
        let is_hash = hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        ensure!(is_hash, "patient hash is {hash:?}: expected 32 hexadecimal digits");
        let fresh = self.hashes.insert(hash.to_lowercase());
        if let Some(path) = &self.path {
            disk::replace(path, self.text().as_bytes())?;
        }
        Ok(fresh)
    }

    pub fn contains(&self, hash: &str) -> bool {
        self.hashes.contains(hash)
    }

    /// SHA-256 of the list.
    pub fn sha256(&self) -> String {
        sha256(self.text().as_bytes())
    }

    fn text(&self) -> String {
        self.hashes.iter().map(|hash| format!("{hash}\n")).collect()
    }
}
