//! The registry's formats: which generation is champion, and what a generation is made of.
//!
//! Place: written by the pipeline, watched by nodes, kept by `store`. Layout: champion/NNNNNNNN.json, one entry a promotion or
//! rollback, the highest holds; generations/ID/, each a bundle with generation.json beside bundle.json.
//! Invariant: entries are created once and never change, so a reader sees an entry whole; a generation is in place before an
//! entry names it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;

pub const CHAMPION: &str = "champion";
pub const GENERATIONS: &str = "generations";
pub const GENERATION: &str = "generation.json";
pub const GENERATION_FORMAT: &str = "meit-generation/1";

/// Why an entry was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Promote,
    Rollback,
}

/// champion/NNNNNNNN.json.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Champion {
    /// The number in its name, one more than the entry before it.
    pub number: u64,
    /// Id of the generation; none for the base bundle alone.
    pub generation: Option<String>,
    pub change: Change,
    /// Token of the lease under which it was written; never smaller than in the entry before.
    pub fencing_token: u64,
    /// Run that led to it, or who asked for the rollback.
    pub by: String,
    /// Microseconds since the Unix epoch.
    pub at_us: i64,
}

/// generation.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    pub format: String,
    /// Id of its bundle, which hashes every part that serves.
    pub id: String,
    /// Id and hashes of the base bundle that it was trained on.
    pub base: Base,
    /// Generation that training started from; none for the base.
    pub parent: Option<String>,
    pub run: String,
    /// SHA-256 of the data set's manifest.
    pub dataset_sha256: String,
    /// SHA-256 of the adapter's two files, as its drafts name it.
    pub adapter_sha256: String,
}

/// What a generation was trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    pub bundle_id: String,
    pub decoder_sha256: String,
    pub tokenizer_sha256: String,
}

/// Key of a generation's folder; ids are hexadecimal, so that none leads out of the registry.
pub fn generation_key(id: &str) -> String {
    let plain: String = id.chars().filter(char::is_ascii_hexdigit).collect();
    format!("{GENERATIONS}/{plain}")
}

/// generation.json of a directory.
///
/// # Errors
/// A file that is missing or of another format.
pub fn generation(dir: &Path) -> Result<Generation> {
    let path = dir.join(GENERATION);
    let generation: Generation = files::parse(&path, &files::read(&path)?)?;
    generation.checked()
}

impl Generation {
    /// Itself, when this program knows its format.
    ///
    /// # Errors
    /// Another format.
    pub fn checked(self) -> Result<Self> {
        if self.format == GENERATION_FORMAT {
            return Ok(self);
        }
        Err(Error::Config {
            key: "format",
            value: self.format,
            bound: format!("must be {GENERATION_FORMAT}"),
        })
    }
}
