//! The model card of a generation.
//!
//! Place: written beside generation.json before promotion. Invariant: every number comes from the run's own files.

use model::registry::Generation;

use super::learner::Recipe;
use crate::gate::Decision;
use crate::manifest::Manifest;

/// README.md of a generation.
pub fn card(generation: &Generation, recipe: &Recipe, data: &Manifest, decision: &Decision) -> String {
    let train = &recipe.train;
    let sources: Vec<String> = data.query.sources.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "# Generation {}\n\nA LoRA adapter for drafting ECG reports; drafts need a clinician's signature. Not a medical device.\n\n\
         | | |\n|---|---|\n| base bundle | {} (decoder {}) |\n| parent | {} |\n| run | {} |\n| adapter | {} |\n\
         | data set | {} samples, {} patients, manifest {} |\n| sources | {} |\n\
         | LoRA | rank {}, alpha {}, encoder {:?}, {} epochs of the signed samples, batch {}, rate {} |\n\
         | replay | {} of each batch from base data; edited reports weigh {}, untouched drafts {} |\n",
        generation.id,
        generation.base.bundle_id,
        generation.base.decoder_sha256,
        generation.parent.as_deref().unwrap_or("none: a fresh adapter"),
        generation.run,
        generation.adapter_sha256,
        data.kept,
        data.patients,
        generation.dataset_sha256,
        sources.join(", "),
        train.rank,
        train.alpha,
        train.encoder,
        train.epochs,
        train.batch,
        train.learning_rate,
        train.replay,
        train.edited_weight,
        train.accepted_weight,
    );
    text += "\n## What was trained on\n\n| samples | split |\n|---|---|\n";
    for (split, n) in &data.splits {
        text += &format!("| {n} | {split:?} |\n");
    }
    for (origin, n) in &data.origins {
        text += &format!("| {n} | of all, {origin:?} |\n");
    }
    text += "\nLeft out: ";
    let dropped: Vec<String> = data.dropped.iter().map(|(why, n)| format!("{n} {why:?}")).collect();
    text += &if dropped.is_empty() {
        "nothing".to_owned()
    } else {
        dropped.join(", ")
    };
    text += &format!(
        ".\n\n## Against the champion, {} test samples\n\n| metric | champion | candidate | difference, 95 % | margin | |\n|---|---|---|---|---|---|\n",
        decision.samples
    );
    let number = |value: Option<f64>| value.map_or("unknown".to_owned(), |v| format!("{v:.4}"));
    for line in &decision.lines {
        text += &format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            line.metric,
            number(line.champion),
            number(line.candidate),
            line.difference
                .map_or("-".to_owned(), |[low, high]| format!("{low:.4} to {high:.4}")),
            line.margin,
            if line.passed { "passed" } else { "failed" }
        );
    }
    text
}
