//! The commands of meit-pipeline.
//!
//! Place: the edge; everything behind it is a library call with a settings struct.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

use crate::benchmark::{self, BenchmarkArgs};
use crate::dataset::PtbXl;
use crate::evaluate::cases::TestSet;
use crate::evaluate::pairs::{ScoreArgs, score_file};
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
    /// The paper's benchmark on bundles: JSON, a Markdown table in the paper's layout, and plots.
    ///
    /// Example: meit-pipeline benchmark --dataset ptbxl:/data/ptbxl --bundle model/bundle --task quality --out results
    Benchmark(Box<BenchmarkArgs>),
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
    #[command(flatten)]
    settings: evaluate::Settings,
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
                let mut set = test_set(&args.dataset, &args.folds)?;
                set.truncate(args.settings.limit);
                let report = evaluate::run(&args.bundle, &set, &args.settings)?;
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
            Command::Score(args) => score_file(&args),
            Command::Benchmark(args) => {
                let mut set = test_set(&args.dataset, &args.folds)?;
                set.truncate(args.settings.limit);
                print!("{}", benchmark::run(&args, &set)?);
                Ok(())
            }
        }
    }
}

fn open(dataset: &str) -> anyhow::Result<PtbXl> {
    match dataset.split_once(':') {
        Some(("ptbxl", dir)) => PtbXl::open(dir.as_ref()),
        _ => bail!("dataset is {dataset}: expected ptbxl:DIR"),
    }
}

fn test_set(dataset: &str, folds: &[u8]) -> anyhow::Result<TestSet> {
    match dataset.split_once(':') {
        Some(("ptbxl", dir)) => TestSet::ptbxl(&PtbXl::open(dir.as_ref())?, dir.as_ref(), folds),
        _ => bail!("dataset is {dataset}: expected ptbxl:DIR"),
    }
}
