//! Follows the registry: a new champion is checked, tried and put in use; one that does worse is taken back.
//!
//! Place: a task beside the node's main loop; swaps the drafter in the slot. Invariant: nothing is served that was not checked
//! (hashes, shapes, finite weights, base, smoke ECGs); what was refused or taken back is not tried again; a registry that
//! cannot be reached is asked again at the next look, and the node goes on with what it has.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use candle_core::Device;
use model::bundle::{Bundle, Lineage};
use model::generate::DecodeOptions;
use model::registry::{Champion, generation, generation_key};
use model::served::ServedWeights;
use model::smoke;
use model::validate::validate;
use serde::{Deserialize, Serialize};
use service::shutdown::Shutdown;
use store::registry::champion_after;
use store::{Location, Store};
use tokio::time::MissedTickBehavior;

use crate::canary::{Canary, CanaryLimits};
use crate::drafter::{BundleDrafter, Drafter};
use crate::metrics::Metrics;
use crate::slot::Slot;

/// Section `node.watch`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WatchSettings {
    /// Where the registry is kept; empty for none.
    pub registry: Location,
    /// Directory of the copies of generations, where the registry is not a directory.
    pub cache: PathBuf,
    /// Time between two looks, milliseconds.
    pub poll_ms: u64,
    /// When a new generation is taken back.
    pub canary: CanaryLimits,
}

/// Follows one registry.
pub struct Watcher {
    settings: WatchSettings,
    store: Arc<dyn Store>,
    shutdown: Shutdown,
    device: Device,
    weights: ServedWeights,
    options: DecodeOptions,
    base: Arc<BundleDrafter>,
    base_lineage: Lineage,
    slot: Slot,
    canary: Canary,
    metrics: Metrics,
    /// Number of the entry that was looked at last.
    seen: u64,
    /// Whether the last look failed.
    is_cut_off: bool,
    /// The drafter before the one in use, while the one in use is on trial.
    before: Option<Arc<dyn Drafter>>,
    /// Generations that were refused or taken back.
    refused: BTreeSet<String>,
}

impl Watcher {
    /// Over a base bundle that the slot serves already. Generations are served in these weights and decoded with these options, as
    /// the base is.
    ///
    /// # Errors
    /// A registry that cannot be opened; whether it can be reached is seen later.
    pub fn new(
        settings: WatchSettings,
        base: &Arc<Bundle>,
        serving: (ServedWeights, DecodeOptions),
        parts: (Slot, Canary, Metrics),
    ) -> anyhow::Result<Self> {
        let store = store::open(&settings.registry).context("open the registry")?;
        Ok(Self::over(store, settings, base, serving, parts))
    }

    /// As [`Watcher::new`], over a registry that is open.
    pub fn over(
        store: Arc<dyn Store>,
        settings: WatchSettings,
        base: &Arc<Bundle>,
        (weights, options): (ServedWeights, DecodeOptions),
        (slot, canary, metrics): (Slot, Canary, Metrics),
    ) -> Self {
        Self {
            settings,
            store,
            shutdown: Shutdown::new(),
            device: base.drafting().device.clone(),
            base: Arc::new(BundleDrafter::new(Arc::clone(base), options.clone())),
            base_lineage: base.lineage(),
            weights,
            options,
            slot,
            canary,
            metrics,
            seen: 0,
            is_cut_off: false,
            before: None,
            refused: BTreeSet::new(),
        }
    }

    /// Looks at the registry until `shutdown`.
    ///
    /// # Errors
    /// When a look panics.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(Duration::from_millis(self.settings.poll_ms));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.wait() => return Ok(()),
                _ = tick.tick() => {}
            }
            self = self.looked(&shutdown).await?;
        }
    }

    /// One look, on a thread where reading a registry and loading a bundle may block; `shutdown` ends a download.
    ///
    /// # Errors
    /// When it panics.
    pub async fn looked(mut self, shutdown: &Shutdown) -> anyhow::Result<Self> {
        self.shutdown = shutdown.clone();
        let look = move || {
            self.look();
            self
        };
        tokio::task::spawn_blocking(look)
            .await
            .context("the registry's watcher panicked")
    }

    /// One look: judges the generation on trial, then follows a new entry. Blocks, so not for a task.
    pub fn look(&mut self) {
        self.judge();
        let entry = champion_after(&*self.store, self.seen);
        let followed = entry.and_then(|entry| entry.map_or(Ok(()), |entry| self.follow(&entry)));
        let was_cut_off = std::mem::replace(&mut self.is_cut_off, followed.is_err());
        match followed {
            Ok(()) if was_cut_off => tracing::info!("the registry can be read again"),
            Ok(()) => {}
            Err(error) => {
                self.metrics.registry_failed();
                if !was_cut_off {
                    tracing::warn!("the registry cannot be read, and is asked again: {error:#}");
                }
            }
        }
    }

    /// Puts an entry's generation in use, or refuses it.
    ///
    /// # Errors
    /// A generation that cannot be fetched; it may be the next time.
    fn follow(&mut self, entry: &Champion) -> anyhow::Result<()> {
        let wanted = entry.generation.as_deref();
        if wanted.is_some_and(|id| self.refused.contains(id)) {
            self.seen = entry.number;
            tracing::warn!(
                generation = wanted,
                "the champion was refused before, and is not tried again"
            );
            return Ok(());
        }
        let fetched = wanted.map(|id| self.fetch(id)).transpose()?;
        self.seen = entry.number;
        let loaded: anyhow::Result<Arc<dyn Drafter>> = match wanted.zip(fetched) {
            None => Ok(Arc::clone(&self.base) as Arc<dyn Drafter>),
            Some((id, dir)) => self.load(id, &dir).map(|drafter| Arc::new(drafter) as Arc<dyn Drafter>),
        };
        match loaded {
            Ok(drafter) => {
                let id = drafter.lineage().bundle_id;
                let before = self.slot.swap(drafter);
                self.prune(&[&id, &before.lineage().bundle_id]);
                self.before = Some(before);
                self.metrics.bundle_loaded(&id);
                tracing::info!(
                    entry = entry.number,
                    generation = wanted,
                    "generation in use for what is not begun yet"
                );
            }
            Err(error) => {
                self.refused.extend(wanted.map(str::to_owned));
                // after a restart it is fetched anew
                self.prune(&[&self.slot.get().lineage().bundle_id]);
                self.metrics.bundle_refused();
                tracing::error!(
                    entry = entry.number,
                    generation = wanted,
                    "generation refused: {error:#}"
                );
            }
        }
        Ok(())
    }

    /// Directory of a generation: the registry's own, or a copy.
    fn fetch(&self, id: &str) -> anyhow::Result<PathBuf> {
        let stop = || self.shutdown.is_triggered();
        let fetched = self.store.mirror(&generation_key(id), &self.settings.cache, &stop);
        fetched.with_context(|| format!("fetch generation {id}"))
    }

    /// Keeps some copies: each is as large as a model.
    fn prune(&self, keep: &[&str]) {
        if let Err(error) = self.store.prune(&self.settings.cache, keep) {
            tracing::warn!("copies of generations are not removed: {error:#}");
        }
    }

    /// Loads a generation with every check that there is.
    fn load(&self, id: &str, dir: &Path) -> anyhow::Result<BundleDrafter> {
        self.check_base(dir, id)?;
        let bundle = Bundle::load_as(dir, &self.device, self.weights).context("load")?;
        ensure!(
            bundle.id() == id,
            "its bundle is {}, the registry names {id}",
            bundle.id()
        );
        let base = bundle.lineage().base_sha256;
        ensure!(
            base == self.base_lineage.base_sha256,
            "its decoder is {base}, this node's base has {}",
            self.base_lineage.base_sha256
        );
        let drafter = BundleDrafter::new(Arc::new(bundle), self.options.clone());
        for (name, written) in smoke::NAMES.iter().zip(drafter.draft(&smoke::ecgs())?) {
            ensure!(
                written.logprob_mean.is_finite() && written.logprob_min.is_finite(),
                "log probabilities of smoke ECG {name} are not finite"
            );
            if let Err(fault) = validate(&written.text) {
                anyhow::bail!("text of smoke ECG {name} is unfit: {fault:?}");
            }
        }
        Ok(drafter)
    }

    fn check_base(&self, dir: &Path, id: &str) -> anyhow::Result<()> {
        let generation = generation(dir).context("read generation.json")?;
        ensure!(
            generation.id == id,
            "generation.json is of {}, the registry names {id}",
            generation.id
        );
        for (part, theirs, ours) in [
            (
                "decoder",
                &generation.base.decoder_sha256,
                &self.base_lineage.base_sha256,
            ),
            (
                "tokenizer",
                &generation.base.tokenizer_sha256,
                &self.base_lineage.tokenizer_sha256,
            ),
        ] {
            ensure!(
                theirs == ours,
                "it was trained on {part} {theirs}, this node's base has {ours}"
            );
        }
        Ok(())
    }

    /// Takes the generation on trial back if it does much worse than the one before.
    fn judge(&mut self) {
        let Some(before) = &self.before else { return };
        let (old, new) = (before.lineage().bundle_id, self.slot.get().lineage().bundle_id);
        let Some(why) = self.canary.verdict(&old, &new, &self.settings.canary) else {
            return;
        };
        tracing::error!(generation = new, "generation taken back: {why}");
        self.slot.swap(Arc::clone(before));
        self.before = None;
        self.refused.insert(new);
        self.metrics.bundle_taken_back(&old);
    }
}
