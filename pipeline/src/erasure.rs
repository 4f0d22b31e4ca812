//! Patients whose rows are gone and stay gone.
//!
//! Place: beside the registry; read by every curation. Invariant: a hash that was added is never removed, and the list
//! names patients by hash alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, ensure};
use store::Store;

use crate::manifest::sha256;

/// A hash a line.
const LOG: &str = "erased.txt";

/// The erasure list of a registry.
#[derive(Clone, Debug, Default)]
pub struct Erasures {
    store: Option<Arc<dyn Store>>,
    hashes: BTreeSet<String>,
}

impl Erasures {
    /// Reads the list of a registry; there may be none.
    ///
    /// # Errors
    /// A list that is there and cannot be read.
    pub fn open(store: &Arc<dyn Store>) -> anyhow::Result<Self> {
        let lines = store.lines(LOG).context("read the erasure list")?;
        Ok(Self {
            store: Some(Arc::clone(store)),
            // a line that a crash cut off is none
            hashes: lines.into_iter().filter(|line| is_hash(line)).collect(),
        })
    }

    /// Adds a patient to the list; false when the patient is on it already.
    ///
    /// # Errors
    /// What is no hash; a list that cannot be written.
    pub fn add(&mut self, hash: &str) -> anyhow::Result<bool> {
        ensure!(
            is_hash(hash),
            "patient hash is {hash:?}: expected 32 hexadecimal digits"
        );
        let hash = hash.to_lowercase();
        if self.hashes.contains(&hash) {
            return Ok(false);
        }
        if let Some(store) = &self.store {
            store.append(LOG, &hash)?;
        }
        Ok(self.hashes.insert(hash))
    }

    pub fn contains(&self, hash: &str) -> bool {
        self.hashes.contains(hash)
    }

    /// SHA-256 of the list, sorted.
    pub fn sha256(&self) -> String {
        let text: String = self.hashes.iter().map(|hash| format!("{hash}\n")).collect();
        sha256(text.as_bytes())
    }
}

fn is_hash(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
