//! Taking back: the champion, and what a run learnt of samples that were erased.
//!
//! Place: `meit-pipeline rollback` and `erase`. Invariant: a champion, and the data set of a run, change under the lease alone;
//! outcomes and decisions of ended runs stay as records.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use model::registry::{Champion, Change};
use service::kafka::KafkaSettings;
use service::time::now_us;

use super::settings::PipelineSection;
use crate::curate;
use crate::erasure::Erasures;
use crate::lease::{Asked, Holder, Lease};
use crate::manifest::MANIFEST;
use crate::registry::Registry;

/// Removes what a run learnt, after samples were erased from its data set; a run that has no outcome yet trains again.
///
/// # Errors
/// A file that cannot be removed.
pub(super) fn forget(run: &Path) -> anyhow::Result<()> {
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
    let lease = lease(&registry, settings, by)?;
    let changed = registry.previous().and_then(|to| {
        let number = registry.champion()?.map_or(0, |champion| champion.number);
        registry.change(&lease, number, Change::Rollback, to.as_deref(), now_us())
    });
    lease.release()?;
    let entry = changed?;
    registry.event(&serde_json::json!({"kind": "rollback", "run": by, "at_us": entry.at_us, "entry": &entry}))?;
    Ok(entry)
}

/// Adds a patient to the erasure list, then rewrites every data set of the work directory, and those in `more`, without the patient;
/// how many samples went. What a run had not read to its end is removed: it is read again, without the patient.
///
/// # Errors
/// What is no hash; another job has the lease, and then the patient is on the list but the data sets are as they were; a data set
/// that cannot be rewritten.
pub fn erase(
    settings: &PipelineSection,
    kafka: Option<KafkaSettings>,
    patient_hash: &str,
    more: &[PathBuf],
) -> anyhow::Result<usize> {
    let registry = Registry::open(&settings.registry)?.announced_to(kafka);
    let mut erasures = Erasures::open(registry.store())?;
    erasures.add(patient_hash)?;
    let lease = lease(&registry, settings, "erase")
        .context("the patient is left out from now on, and not yet removed from the data sets: erase again")?;
    let samples = removed(settings, more, &erasures);
    lease.release()?;
    let samples = samples?;
    registry.event(&serde_json::json!({"kind": "erase", "at_us": now_us(), "samples": samples}))?;
    Ok(samples)
}

/// Samples removed from every data set.
fn removed(settings: &PipelineSection, more: &[PathBuf], erasures: &Erasures) -> anyhow::Result<usize> {
    let from =
        |dataset: &Path| curate::erase(dataset, erasures).with_context(|| format!("erase from {}", dataset.display()));
    let mut samples = 0;
    for dataset in more {
        samples += from(dataset)?;
    }
    for entry in std::fs::read_dir(&settings.work).into_iter().flatten().flatten() {
        let (run, dataset) = (entry.path(), entry.path().join("dataset"));
        let partial = run.join("dataset.partial");
        if partial.is_dir() {
            std::fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
        }
        if dataset.join(MANIFEST).is_file() {
            let gone = from(&dataset)?;
            if gone > 0 {
                forget(&run)?;
            }
            samples += gone;
        }
    }
    Ok(samples)
}

fn lease(registry: &Registry, settings: &PipelineSection, by: &str) -> anyhow::Result<Lease> {
    let length_us = i64::from(settings.lease_minutes) * 60_000_000;
    match Lease::ask(registry.store(), Holder::this(by), now_us(), length_us)? {
        Asked::Granted(lease) => Ok(lease),
        Asked::Held { by, .. } => bail!("run {} on {} has the lease: wait for it or stop it", by.run, by.host),
    }
}
