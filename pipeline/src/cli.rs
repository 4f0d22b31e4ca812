//! The commands of meit-pipeline.
//!
//! Place: the edge; everything behind it is a library call with a settings struct.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

use crate::dataset::PtbXl;
use crate::settings::TrainSettings;
use crate::{evaluate, metrics, train};

/// Trains and evaluates MEIT bundles.
#[derive(Parser)]
#[command(name = "meit-pipeline", version, about)]
pub struct Cli {
    /// File in which the command leaves its time, duration and outcome for node_exporter's textfile collector (*.prom).
    #[arg(long, global = true, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train encoder, projector and decoder, and write a bundle. Resumes where an earlier run with the same settings stopped.
    ///
    /// Example: meit-pipeline train --from-scratch --dataset ptbxl:/data/ptbxl --out bundle
    Train(TrainArgs),
    /// Score a bundle on held-out recordings, beside shuffled and zeroed ECGs, the most frequent report and kNN retrieval.
    ///
    /// Example: meit-pipeline evaluate --bundle model/bundle --dataset ptbxl:/data/ptbxl --folds 9 --json scores.json
    Evaluate(EvaluateArgs),
    /// Score hypothesis<TAB>reference pairs.
    ///
    /// Example: meit-pipeline score --pairs pairs.tsv --json
    Score(ScoreArgs),
}

#[derive(clap::Args)]
struct TrainArgs {
    /// Start from fresh weights.
    #[arg(long)]
    from_scratch: bool,
    /// Data set, as KIND:DIR; ptbxl is the kind this build reads.
    #[arg(long)]
    dataset: String,
    /// Directory of the bundle; checkpoints lie in OUT/checkpoint while training.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    settings: TrainSettings,
}

#[derive(clap::Args)]
struct EvaluateArgs {
    /// Bundle directory.
    #[arg(long)]
    bundle: PathBuf,
    /// Data set, as KIND:DIR.
    #[arg(long)]
    dataset: String,
    /// Folds to score, comma-separated; all others are the retrieval baseline's memory.
    #[arg(long, value_delimiter = ',', default_value = "9")]
    folds: Vec<u8>,
    /// Where the scores go, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where hypothesis<TAB>reference pairs go.
    #[arg(long)]
    pairs: Option<PathBuf>,
    /// Seed of the shuffled control.
    #[arg(long, default_value_t = 20_261_124)]
    seed: u64,
}

#[derive(clap::Args)]
struct ScoreArgs {
    /// One hypothesis<TAB>reference a line.
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
}

impl Cli {
    /// # Errors
    /// Whatever the command met, with its context.
    pub fn run(self) -> anyhow::Result<()> {
        let file = self.metrics_file;
        match self.command {
            Command::Train(args) => metrics::recorded(file.as_deref(), "train", || {
                if !args.from_scratch {
                    bail!("train needs --from-scratch: adapters on an existing base are not trained by this build");
                }
                let data = open(&args.dataset)?;
                if let Some(id) = train::run(&args.settings, &data, &args.out, &|_| false)? {
                    println!("bundle {id} written to {}", args.out.display());
                }
                Ok(())
            }),
            Command::Evaluate(args) => metrics::recorded(file.as_deref(), "evaluate", || {
                let data = open(&args.dataset)?;
                let report = evaluate::run(&args.bundle, &data, &args.folds, args.seed)?;
                if let Some(path) = &args.pairs {
                    std::fs::write(path, report.pairs_tsv()).with_context(|| format!("write {}", path.display()))?;
                }
                let json = serde_json::to_string_pretty(&report.scores)? + "\n";
                match &args.json {
                    Some(path) => std::fs::write(path, json).with_context(|| format!("write {}", path.display()))?,
                    None => print!("{json}"),
                }
                print!("{}", report.table());
                Ok(())
            }),
            Command::Score(args) => evaluate::score_file(&args.pairs, args.json, args.each, args.wordnet.as_deref()),
        }
    }
}

fn open(dataset: &str) -> anyhow::Result<PtbXl> {
    match dataset.split_once(':') {
        Some(("ptbxl", dir)) => PtbXl::open(dir.as_ref()),
        _ => bail!("dataset is {dataset}: expected ptbxl:DIR"),
    }
}
