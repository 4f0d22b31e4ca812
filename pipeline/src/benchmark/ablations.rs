//! Bundles that differ in how they were made, beside the first of them.
//!
//! Place: task ablations (fusion, encoder, prompts, instruction, statements first). Invariant: what differs is read from the bundles
//! and from training.json beside them, never from their names; every row is scored on the same recordings.

use std::collections::BTreeMap;

use anyhow::ensure;
use model::bundle::Bundle;
use serde_json::{Map, Value, json};

use super::quality::Bench;
use super::table::Table;
use super::{BenchmarkArgs, Results, directory, open};
use crate::evaluate::cases::TestSet;
use crate::evaluate::leads;
use crate::record::Record;

/// What decides about a bundle.
struct Made {
    by_training: Option<Map<String, Value>>,
    by_manifest: Map<String, Value>,
}

impl Made {
    fn of(argument: &str, bundle: &Bundle) -> anyhow::Result<Self> {
        let object = |value: Value| match value {
            Value::Object(object) => object,
            _ => Map::new(),
        };
        let record = Record::<Value>::read(directory(argument))?;
        let manifest = bundle.manifest();
        Ok(Self {
            by_training: record.map(|record| object(record.settings)),
            by_manifest: object(json!({
                "fusion": manifest.fusion,
                "encoder": manifest.encoder,
                "prompt": manifest.prompt,
                "evidence": manifest.evidence,
            })),
        })
    }

    /// The choices that `self` made otherwise than `first`, of those that both tell.
    fn differs_from(&self, first: &Self) -> BTreeMap<String, Value> {
        let (own, others) = match (&self.by_training, &first.by_training) {
            (Some(own), Some(others)) => (own, others),
            _ => (&self.by_manifest, &first.by_manifest),
        };
        let keys = own.keys().chain(others.keys()).filter(|key| *key != "name");
        keys.filter(|key| own.get(*key) != others.get(*key))
            .map(|key| (key.clone(), own.get(key).cloned().unwrap_or_default()))
            .collect()
    }
}

/// Every bundle's row, what it did otherwise than the first, and the intervals of its lead over it.
///
/// # Errors
/// Fewer than two bundles; a bundle, recording or model for a metric that cannot be read.
pub fn ablations(args: &BenchmarkArgs, set: &TestSet) -> anyhow::Result<Results> {
    ensure!(
        args.bundles.len() > 1,
        "ablations has {} bundle: needs the one to compare with and at least one other",
        args.bundles.len()
    );
    let bench = Bench::new(args, set)?;
    let mut first = None;
    let (mut lines, mut beside) = (Vec::new(), Vec::new());
    let mut table = Table::new(
        "Lead over the first row, ends of the 95 % interval",
        &["Model", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr-D", "Clinical F1"],
    );
    for argument in &args.bundles {
        let (name, bundle) = open(argument)?;
        let made = Made::of(argument, &bundle)?;
        let (mut line, scored) = bench.drafted(name, &bundle)?;
        let Some((first_made, first_scored)) = &first else {
            lines.push(line);
            beside.push((BTreeMap::new(), BTreeMap::new()));
            first = Some((made, vec![("first", scored)]));
            continue;
        };
        let differs = made.differs_from(first_made);
        let choices: Vec<String> = differs
            .iter()
            .map(|(key, value)| format!("{key} {}", words(value)))
            .collect();
        line.name = format!("{} ({})", line.name, choices.join(", "));
        let lead = leads(&bench.ruler, &scored, first_scored)
            .remove("first")
            .unwrap_or_default();
        for (end, place) in [("from", 0), ("to", 1)] {
            let values = ["bleu4", "meteor", "rouge_l", "cider_d", "clinical_f1_macro"];
            let values = values.map(|metric| lead.get(metric).map(|interval| interval[place]));
            table.rows.push((format!("{}, {end}", line.name), values.to_vec()));
        }
        lines.push(line);
        beside.push((differs, lead));
    }
    let mut results = bench.results("Ablations", lines)?;
    if let Value::Array(lines) = &mut results.json {
        for (line, (differs, lead)) in lines.iter_mut().zip(beside) {
            line["differs"] = json!(differs);
            line["minus_first"] = json!(lead);
        }
    }
    results.tables.insert(1, table);
    Ok(results)
}

/// A choice for people: the kind of what has one.
fn words(value: &Value) -> String {
    match (value, value.get("kind")) {
        (_, Some(Value::String(kind))) | (Value::String(kind), _) => kind.clone(),
        (Value::Null, _) => "default".to_owned(),
        (other, _) => other.to_string(),
    }
}
