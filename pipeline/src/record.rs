//! How a bundle was trained, and for how long: training.json beside it.
//!
//! Place: written by training and by the nightly job with each checkpoint, read by the benchmark. Invariant: it is no part of the
//! bundle, whose id and weights are the same however long a run took.

use std::path::Path;
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::disk;

use crate::night::files::read_json;
pub use crate::train::pretrained::Pretrained;

/// Name of the file.
pub(crate) const FILE: &str = "training.json";

/// What training.json holds of a run with settings `S`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record<S> {
    pub settings: S,
    /// Steps done.
    pub steps: u64,
    /// Time of those steps and their validations; `None` where that of an earlier start is not known.
    pub seconds: Option<f64>,
    /// Processors of the machine that did the last of them.
    pub cores: usize,
    /// What the encoder started from, where not from fresh weights alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<Pretrained>,
}

impl<S: DeserializeOwned> Record<S> {
    /// The record beside a bundle; `None` where there is none.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(bundle: &Path) -> anyhow::Result<Option<Self>> {
        read_json(&bundle.join(FILE))
    }
}

/// Takes the time of a run.
pub(crate) struct Stopwatch {
    start: Instant,
    before: Option<f64>,
    pretrained: Option<Pretrained>,
}

impl Stopwatch {
    /// Goes on from the record in `out` when this run has done steps before.
    pub fn start<S: DeserializeOwned + PartialEq>(settings: &S, steps: u64, out: &Path) -> Self {
        let earlier = || {
            let record = Record::<S>::read(out).ok().flatten()?;
            (record.settings == *settings && record.steps >= steps).then_some(record.seconds)?
        };
        Self {
            start: Instant::now(),
            before: if steps == 0 { Some(0.0) } else { earlier() },
            pretrained: None,
        }
    }

    /// Of a run whose encoder started from these weights.
    #[must_use]
    pub fn with_pretrained(mut self, pretrained: Option<Pretrained>) -> Self {
        self.pretrained = pretrained;
        self
    }

    /// Writes the record.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn note(&self, settings: &impl Serialize, steps: u64, out: &Path) -> anyhow::Result<()> {
        let record = Record {
            settings,
            steps,
            seconds: self.before.map(|before| before + self.start.elapsed().as_secs_f64()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            pretrained: self.pretrained.clone(),
        };
        disk::replace(&out.join(FILE), &serde_json::to_vec_pretty(&record)?)
    }
}
