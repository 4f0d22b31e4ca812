//! The commands of meit-pipeline.
//!
//! Place: the edge; everything behind it is a library call with a settings struct.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Parser, Subcommand};

use crate::benchmark::{self, BenchmarkArgs};
use crate::corpus::Corpus;
use crate::evaluate::cases::TestSet;
use crate::evaluate::pairs::{ScoreArgs, score_file};
use crate::night::Step;
use crate::night_cli::{self, CurateArgs, JobArgs, JobPlace};
use crate::schedule::At;
use crate::settings::TrainSettings;
use crate::sources::Source;
use crate::{evaluate, metrics, train};

/// What stands under --help.
const EXAMPLES: &str = "\
Examples:
  meit-pipeline run --config config/pipeline.toml       curate, train, evaluate, promote or keep
  meit-pipeline status                                  champion, candidate, lineage, last runs
  meit-pipeline evaluate --bundle model/bundle --dataset ptbxl:DIR --folds 9";

/// Why arguments of the job are refused.
const NO_JOB: &str =
    "--config, --run, --registry and --work belong to the job's step, which --from-scratch and --bundle do not run";

/// Trains and evaluates MEIT bundles, and runs the nightly job.
#[derive(Parser)]
#[command(name = "meit-pipeline", version, about, after_help = EXAMPLES)]
pub struct Cli {
    /// File in which the command leaves its time, duration and outcome for node_exporter's textfile collector (*.prom).
    #[arg(long, global = true, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The whole job: curate, train, evaluate, promote. Goes on where an earlier start stopped; without --run, earlier runs that have
    /// no outcome come first.
    ///
    /// Example: meit-pipeline run --config config/pipeline.toml
    Run {
        #[command(flatten)]
        job: JobArgs,
        /// While another job has the lease, wait for its end instead of leaving the night to it: where a job that died is started again
        /// elsewhere, as by Kubernetes.
        #[arg(long)]
        wait: bool,
    },
    /// Curate a data set with --dataset and --out, or the job's first step without.
    ///
    /// Example: meit-pipeline curate --dataset ptbxl:/data/ptbxl --prompts 256 --out dataset
    Curate(Box<CurateArgs>),
    /// With --from-scratch: train encoder, projector and decoder (fresh, or of --base HF_DIR), and write a bundle; resumes where an
    /// earlier run with the same settings stopped. Without: the job up to its adapter.
    ///
    /// Example: meit-pipeline train --from-scratch --dataset ptbxl:/data/ptbxl --out bundle
    Train(Box<TrainArgs>),
    /// With --bundle: score it on held-out recordings, beside shuffled and zeroed ECGs, the most frequent report and kNN
    /// retrieval. Without: the job up to the gate's decision.
    ///
    /// Example: meit-pipeline evaluate --bundle model/bundle --dataset ptbxl:/data/ptbxl --folds 9 --json scores.json
    Evaluate(Box<EvaluateArgs>),
    /// The job to its end: promotes the candidate if the gate lets it.
    Promote(JobArgs),
    /// Make the generation before the champion's the champion again.
    Rollback(JobArgs),
    /// Champion, candidate, lineage and the last runs.
    Status {
        #[command(flatten)]
        job: JobArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run the job every day.
    ///
    /// Example: meit-pipeline daemon --at 02:30
    Daemon {
        #[command(flatten)]
        job: JobArgs,
        /// Time of day in UTC, HH:MM, instead of pipeline.at.
        #[arg(long)]
        at: Option<At>,
    },
    /// Remove a patient's samples from every run's data set, and leave the patient out from now on.
    Erase {
        #[command(flatten)]
        job: JobArgs,
        /// The patient's hash, as in the data sets' rows.
        #[arg(long)]
        patient_hash: String,
        /// Another data set to remove the patient from, as of curate --out; may be repeated.
        #[arg(long = "dataset", value_name = "DIR")]
        datasets: Vec<PathBuf>,
    },
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
    /// Start from fresh weights, but for the language model where --base names one.
    #[arg(long)]
    from_scratch: bool,
    /// Data set, ptbxl:DIR, mimic:DIR or wfdb:DIR; with --from-scratch.
    #[arg(long, requires = "from_scratch")]
    dataset: Option<Source>,
    /// Directory of the bundle; checkpoints lie in OUT/checkpoint while training. With --from-scratch.
    #[arg(long, requires = "from_scratch")]
    out: Option<PathBuf>,
    #[command(flatten)]
    settings: TrainSettings,
    #[command(flatten)]
    place: JobPlace,
}

#[derive(clap::Args)]
struct EvaluateArgs {
    /// Bundle directory; without it the job's step runs.
    #[arg(long, requires = "dataset")]
    bundle: Option<PathBuf>,
    /// Data set, ptbxl:DIR, mimic:DIR or wfdb:DIR.
    #[arg(long, requires = "bundle")]
    dataset: Option<Source>,
    #[command(flatten)]
    place: JobPlace,
    /// Folds of PTB-XL to score, comma-separated; of another data set its test split is scored. All others are the retrieval baseline's memory.
    #[arg(long, value_delimiter = ',', default_value = "9")]
    folds: Vec<u8>,
    /// Where the scores go, as JSON; without it they go to standard output, and the table to standard error.
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
            Command::Run { job, wait } => night_cli::recorded(file.as_deref(), || night_cli::run(&job, wait)),
            Command::Promote(job) => night_cli::recorded(file.as_deref(), || night_cli::go(&job, Step::Promote)),
            Command::Curate(args) => night_cli::curate(&args),
            Command::Train(args) => metrics::recorded(file.as_deref(), "train", |()| true, || train(&args)),
            Command::Evaluate(args) => metrics::recorded(file.as_deref(), "evaluate", |()| true, || evaluate(&args)),
            Command::Rollback(job) => night_cli::rollback(&job),
            Command::Status { job, json } => night_cli::status(&job, json),
            Command::Daemon { job, at } => night_cli::daemon(&job, at, file.as_deref()),
            Command::Erase {
                job,
                patient_hash,
                datasets,
            } => night_cli::erase(&job, &patient_hash, &datasets),
            Command::Score(args) => score_file(&args),
            Command::Benchmark(args) => {
                let set = test_set(&args.dataset, &args.folds, &args.settings)?;
                print!("{}", benchmark::run(&args, &set)?);
                Ok(())
            }
        }
    }
}

fn train(args: &TrainArgs) -> anyhow::Result<()> {
    if !args.from_scratch {
        return night_cli::go_on(&args.place, Step::Train);
    }
    ensure!(args.place == JobPlace::default(), "{NO_JOB}");
    let (Some(dataset), Some(out)) = (&args.dataset, &args.out) else {
        bail!("train --from-scratch needs --dataset ptbxl:DIR, mimic:DIR or wfdb:DIR, and --out DIR");
    };
    if let Some(id) = train::run(&args.settings, &Corpus::open(dataset)?, out, &|_| false)? {
        println!("bundle {id} written to {}", out.display());
    }
    Ok(())
}

fn evaluate(args: &EvaluateArgs) -> anyhow::Result<()> {
    let (Some(bundle), Some(dataset)) = (&args.bundle, &args.dataset) else {
        return night_cli::go_on(&args.place, Step::Evaluate);
    };
    ensure!(args.place == JobPlace::default(), "{NO_JOB}");
    for path in [&args.json, &args.pairs].into_iter().flatten() {
        check_place(path)?;
    }
    let set = test_set(dataset, &args.folds, &args.settings)?;
    let report = evaluate::run(bundle, &set, &args.settings)?;
    if let Some(path) = &args.pairs {
        std::fs::write(path, report.pairs_tsv()).with_context(|| format!("write {}", path.display()))?;
    }
    let json = serde_json::to_string_pretty(&report.scores)? + "\n";
    match &args.json {
        Some(path) => {
            std::fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
            print!("{}", report.table());
        }
        None => {
            print!("{json}");
            eprint!("{}", report.table());
        }
    }
    Ok(())
}

/// Finds out before minutes of work whether their result has a place.
fn check_place(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    ensure!(
        folder.is_dir(),
        "{} cannot be written: {} is no directory",
        path.display(),
        folder.display()
    );
    ensure!(
        !path.is_dir(),
        "{} cannot be written: it is a directory",
        path.display()
    );
    Ok(())
}

fn test_set(dataset: &Source, folds: &[u8], settings: &evaluate::Settings) -> anyhow::Result<TestSet> {
    let mut set = TestSet::open(dataset, folds)?;
    set.limit(settings.limit, settings.memory_max, settings.seed);
    Ok(set)
}
