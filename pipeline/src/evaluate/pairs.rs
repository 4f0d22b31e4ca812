//! Scores of a file of pairs, for texts that were made elsewhere.
//!
//! Place: `meit-pipeline score`. Invariant: a line is a pair or an error; the text is compared as it is, lower-cased.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Map, Value};

use crate::bertscore::{BertScoreArgs, BertScorer};

/// What to score and how to print it.
#[derive(clap::Args)]
pub struct ScoreArgs {
    /// One `hypothesis<TAB>reference` a line.
    #[arg(long)]
    pairs: PathBuf,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Add the per-pair arrays.
    #[arg(long)]
    each: bool,
    /// WordNet 3.0 directory, for METEOR's synonyms.
    #[arg(long)]
    wordnet: Option<PathBuf>,
    /// Add the statement-level clinical scores.
    #[arg(long)]
    clinical: bool,
    /// Add the authors' scoring, with prompt and <|assistant|> left in both texts and CIDEr-D without document frequencies.
    #[arg(long)]
    reference_mode: bool,
    /// Prompt that --reference-mode leaves in; the authors' MIMIC prompt.
    #[arg(long, default_value = AUTHORS_PROMPT)]
    prompt: String,
    #[command(flatten)]
    bertscore: BertScoreArgs,
}

/// The authors' prompt for MIMIC and zero-shot runs (finetune_ecgllm_with_lora_mimic.py:413).
pub const AUTHORS_PROMPT: &str =
    "Given the ECG signal embeddings, please help me generate an accurate description for this ECG signal embeddings:";

/// Scores the file and prints the result.
///
/// # Errors
/// A file or WordNet directory that cannot be read; no pair; a line that is none.
pub fn score_file(args: &ScoreArgs) -> anyhow::Result<()> {
    let pairs = read_pairs(&args.pairs)?;
    let options = score::Options {
        each: args.each,
        wordnet: args.wordnet.clone(),
    };
    let scores = score::score_pairs(&pairs, &options).context("read --wordnet")?;
    let mut values = match serde_json::to_value(scores)? {
        Value::Object(values) => values,
        other => unreachable!("scores serialize to an object, not {other}"),
    };
    if args.clinical {
        let agreement = score::clinical::agreement(&pairs);
        values.insert("clinical".to_owned(), serde_json::to_value(agreement)?);
    }
    if args.reference_mode {
        let scores = score::reference::score_as_authors(&pairs, &args.prompt);
        values.insert("reference_mode".to_owned(), serde_json::to_value(scores)?);
    }
    if let Some(scorer) = BertScorer::open(&args.bertscore).context("open --bertscore")? {
        let scores = scorer.score(&pairs)?;
        if args.each {
            for (at, name) in ["precision", "recall", "f1"].into_iter().enumerate() {
                let each: Vec<f64> = scores.each.iter().map(|values| values[at]).collect();
                values.insert(format!("bertscore_{name}_each"), serde_json::to_value(each)?);
            }
        }
        values.insert("bertscore".to_owned(), serde_json::to_value(scores)?);
    }
    if args.json {
        println!("{}", Value::Object(values));
    } else {
        print_numbers("", &values);
    }
    Ok(())
}

/// Numbers and sentences, with the keys that lead to them.
fn print_numbers(prefix: &str, values: &Map<String, Value>) {
    for (key, value) in values {
        match value {
            Value::Number(number) => println!("{:32} {number}", format!("{prefix}{key}")),
            Value::Object(inner) => print_numbers(&format!("{prefix}{key}."), inner),
            Value::Array(items) => items
                .iter()
                .filter_map(Value::as_str)
                .for_each(|text| println!("  {text}")),
            _ => {}
        }
    }
}

fn read_pairs(path: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let split = |(i, line): (usize, &str)| {
        let place = || format!("{} line {}", path.display(), i + 1);
        let (hypothesis, reference) = line.split_once('\t').with_context(|| format!("{}: no tab", place()))?;
        ensure!(!reference.contains('\t'), "{}: more than one tab", place());
        Ok((hypothesis.to_owned(), reference.to_owned()))
    };
    let pairs: Vec<(String, String)> = text.lines().enumerate().map(split).collect::<anyhow::Result<_>>()?;
    ensure!(!pairs.is_empty(), "{} has no pair", path.display());
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_no_pair_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.tsv");
        std::fs::write(&path, "a\tb\nc d\n").unwrap();
        assert!(read_pairs(&path).unwrap_err().to_string().contains("line 2: no tab"));
        std::fs::write(&path, "a\tb\tc\n").unwrap();
        let error = read_pairs(&path).unwrap_err().to_string();
        assert!(error.contains("line 1: more than one tab"), "{error}");
        std::fs::write(&path, "").unwrap();
        assert!(read_pairs(&path).unwrap_err().to_string().contains("no pair"));
        std::fs::write(&path, "A\tb\n").unwrap();
        assert_eq!(read_pairs(&path).unwrap(), [("A".to_owned(), "b".to_owned())]);
    }
}
