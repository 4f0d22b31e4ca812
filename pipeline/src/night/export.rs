//! A trained adapter to a generation: a bundle that a node loads, with the adapter and its lineage beside it.
//!
//! Place: end of the training step. Invariant: generation.json is written last, so a directory that has it is complete; what
//! the gate scores is what a node loads, rounding included.

use std::path::Path;

use anyhow::Context;
use model::bundle::{self, ADAPTER, ENCODER};
use model::registry::{Base, GENERATION, GENERATION_FORMAT, Generation};
use store::disk;

use super::learner::{Learner, Recipe};
use super::settings::EncoderMode;
use crate::record;

/// Base bundle's id and the hashes that a node compares with its own.
pub fn base_of(bundle: &bundle::Bundle) -> Base {
    let lineage = bundle.lineage();
    Base {
        bundle_id: bundle.id().to_owned(),
        decoder_sha256: lineage.base_sha256,
        tokenizer_sha256: lineage.tokenizer_sha256,
    }
}

/// Writes the generation to `out`, which is emptied first.
///
/// # Errors
/// A file that cannot be written.
pub fn export(
    learner: &Learner<'_>,
    recipe: &Recipe,
    places: &Places<'_>,
    run: &str,
    dataset_sha256: &str,
) -> anyhow::Result<Generation> {
    let out = places.out;
    if out.exists() {
        std::fs::remove_dir_all(out).with_context(|| format!("remove {}", out.display()))?;
    }
    std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let own = |part: &String| part.as_str() == ENCODER || part.starts_with(ADAPTER);
    for part in learner.bundle().manifest().parts.keys().filter(|part| !own(part)) {
        copy(&places.base.join(part), &out.join(part))?;
    }
    match recipe.train.encoder {
        EncoderMode::Trainable => {
            candle_core::safetensors::save(&learner.encoder_tensors()?, out.join(ENCODER)).context("write encoder")?
        }
        EncoderMode::Frozen => copy(&places.parent.unwrap_or(places.base).join(ENCODER), &out.join(ENCODER))?,
    }
    let adapter = out.join(ADAPTER);
    std::fs::create_dir(&adapter).with_context(|| format!("create {}", adapter.display()))?;
    let adapter_sha256 = learner.adapter().save(&adapter)?;
    let mut manifest = learner.bundle().manifest().clone();
    manifest.name = format!("{} after {run}", manifest.name);
    let record = learner.record();
    if record.is_file() {
        copy(&record, &out.join(record::FILE))?;
    }
    let id = bundle::seal(out, manifest)?;
    let generation = Generation {
        format: GENERATION_FORMAT.to_owned(),
        id,
        base: base_of(learner.bundle()),
        parent: recipe.parent.clone(),
        run: run.to_owned(),
        dataset_sha256: dataset_sha256.to_owned(),
        adapter_sha256,
    };
    disk::replace(&out.join(GENERATION), &serde_json::to_vec_pretty(&generation)?)?;
    Ok(generation)
}

/// Where the base and the parent lie, and where the generation goes.
pub struct Places<'a> {
    pub base: &'a Path,
    pub parent: Option<&'a Path>,
    pub out: &'a Path,
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
