//! Where a training run stands, on disk.
//!
//! Place: written after each validation, read at start. Layout of a generation: params.safetensors, optimizer.safetensors,
//! state.json. Invariant: a generation is renamed into place whole, and the pointer to it is replaced last, so a run killed at
//! any moment resumes from a complete one.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::disk;

use crate::optimizer::AdamW;
use crate::params::Params;
use crate::settings::TrainSettings;

/// state.json of a run with settings `S`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State<S = TrainSettings> {
    pub settings: S,
    /// sha256 over the ids and reports that are trained on.
    pub data_sha256: String,
    /// Steps done, both stages together.
    pub step: u64,
    /// Lowest validation loss so far and the step it was measured at.
    pub best: Option<(f64, u64)>,
}

/// The checkpoint directory of one run.
pub struct Checkpoints {
    dir: PathBuf,
}

const CURRENT: &str = "current";
const BEST: &str = "best.safetensors";

impl Checkpoints {
    /// # Errors
    /// A directory that cannot be made.
    pub fn open(dir: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// Restores the newest generation into `params`, where there is one.
    ///
    /// # Errors
    /// A generation that cannot be read, or that belongs to other settings or other data.
    pub fn resume<S: DeserializeOwned + PartialEq>(
        &self,
        params: &Params,
        fresh: &State<S>,
    ) -> anyhow::Result<Option<(State<S>, AdamW)>> {
        let Ok(name) = fs::read_to_string(self.dir.join(CURRENT)) else {
            return Ok(None);
        };
        let generation = self.dir.join(name.trim());
        let path = generation.join("state.json");
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let state: State<S> = serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
        if state.settings != fresh.settings || state.data_sha256 != fresh.data_sha256 {
            bail!(
                "{} belongs to other settings or data: remove it, or choose another --out",
                self.dir.display()
            );
        }
        params.restore(&generation.join("params.safetensors"))?;
        Ok(Some((
            state,
            AdamW::restore(&generation.join("optimizer.safetensors"))?,
        )))
    }

    /// Writes a generation and makes it the current one; the one before it is removed.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save<S: Serialize>(&self, params: &Params, optimizer: &AdamW, state: &State<S>) -> anyhow::Result<()> {
        let name = format!("step-{:08}", state.step);
        let (partial, whole) = (self.dir.join(format!("{name}.partial")), self.dir.join(&name));
        let previous = fs::read_to_string(self.dir.join(CURRENT)).ok();
        for stale in [&partial, &whole] {
            if stale.exists() {
                fs::remove_dir_all(stale).with_context(|| format!("remove {}", stale.display()))?;
            }
        }
        fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
        candle_core::safetensors::save(&params.snapshot()?, partial.join("params.safetensors"))?;
        candle_core::safetensors::save(&optimizer.state()?, partial.join("optimizer.safetensors"))?;
        fs::write(partial.join("state.json"), serde_json::to_vec_pretty(state)?)?;
        fs::rename(&partial, &whole).with_context(|| format!("rename to {}", whole.display()))?;
        disk::replace(&self.dir.join(CURRENT), name.as_bytes())?;
        if let Some(old) = previous.filter(|old| *old != name) {
            fs::remove_dir_all(self.dir.join(old)).ok();
        }
        Ok(())
    }

    /// Keeps these weights as the best so far.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_best(&self, params: &Params) -> anyhow::Result<()> {
        let partial = self.dir.join("best.partial");
        candle_core::safetensors::save(&params.snapshot()?, &partial)?;
        fs::rename(&partial, self.best()).context("rename best weights")
    }

    /// Path of the best weights.
    pub fn best(&self) -> PathBuf {
        self.dir.join(BEST)
    }
}
