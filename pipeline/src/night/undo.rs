//! Taking back: the champion, and what a run learnt of samples that were erased.
//!
//! Place: `meit-pipeline rollback` and `erase`. Invariant: a champion changes under the lease alone; outcomes and decisions of
//! ended runs stay as records.

use std::path::Path;

use anyhow::{Context, bail};
use model::registry::{Champion, Change};
use service::kafka::KafkaSettings;
use service::time::now_us;

use super::settings::PipelineSection;
use crate::lease::{Asked, Holder, Lease};
use crate::registry::Registry;

/// Removes what a run learnt, after samples were erased from its data set; a run that has no outcome yet trains again.
///
/// # Errors
/// A file that cannot be removed.
pub fn forget(run: &Path) -> anyhow::Result<()> {
    for folder in ["training", "candidate"] {
        let path = run.join(folder);
        if path.exists() {
            std::fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    // an ended run's decision is a record; the texts in its scores are not kept
    let has_ended = run.join("outcome.json").exists();
    for (file, stays) in [("scores.json", false), ("decision.json", has_ended)] {
        let path = run.join(file);
        if path.exists() && !stays {
            std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Takes the champion back to the generation before it, or to the base.
///
/// # Errors
/// Nothing to go back to; another job has the lease.
pub fn rollback(settings: &PipelineSection, kafka: Option<KafkaSettings>, by: &str) -> anyhow::Result<Champion> {
    let registry = Registry::open(&settings.registry)?.announced_to(kafka);
    let length_us = i64::from(settings.lease_minutes) * 60_000_000;
    let lease = match Lease::ask(registry.store(), Holder::this(by), now_us(), length_us)? {
        Asked::Granted(lease) => lease,
        Asked::Held { by, .. } => bail!("run {} on {} has the lease: wait for it or stop it", by.run, by.host),
    };
    let changed = registry.previous().and_then(|to| {
        let number = registry.champion()?.map_or(0, |champion| champion.number);
        registry.change(&lease, number, Change::Rollback, to.as_deref(), now_us())
    });
    lease.release()?;
    let entry = changed?;
    registry.event(&serde_json::json!({"kind": "rollback", "run": by, "at_us": entry.at_us, "entry": &entry}))?;
    Ok(entry)
}
