//! The files of a run.
//!
//! Place: under `night`; read by `status` and by people. Invariant: a file is written once, whole, and what is in it does not
//! change; times in it are the only thing in which a resumed run differs from an uninterrupted one.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use model::registry::{Base, Champion};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::evaluate::Scored;
use super::settings::PipelineSection;
use crate::gate::Metrics;

/// Name of the first file of a run.
pub const PLAN: &str = "plan.json";

/// plan.json: what the run was started with, so that a resumed run does the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub run: String,
    pub settings: PipelineSection,
    /// Where reading of topics ends.
    pub ends: BTreeMap<String, i64>,
    pub base: Base,
    /// The champion that the candidate starts from and is compared with.
    pub champion: Option<Champion>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Promoted,
    /// The gate kept the champion.
    Kept,
    /// There was too little to learn from.
    Skipped,
    /// Training met a number that is not finite.
    Aborted,
}

/// outcome.json, and the event of a run's end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub run: String,
    pub status: Status,
    pub reasons: Vec<String>,
    /// The candidate, where there was one.
    pub generation: Option<String>,
    pub at_us: i64,
}

/// scores.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub champion: Scored,
    pub candidate: Scored,
    /// Text metrics of the most frequent training report and of retrieval.
    #[serde(default)]
    pub baselines: BTreeMap<String, Metrics>,
    pub samples: usize,
}

/// A JSON file, where it is there.
///
/// # Errors
/// A file that cannot be read or is something else.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let value = serde_json::from_slice(&bytes).with_context(|| format!("parse {}", path.display()))?;
            Ok(Some(value))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}
