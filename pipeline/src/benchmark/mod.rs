//! The paper's benchmark on our bundles: quality, zero-shot transfer, robustness to noise, an LLM judge, ablations, and cost.
//!
//! Place: `meit-pipeline benchmark`; writes benchmark.json, table.md and plots (SVG) to one directory. Invariant: texts are
//! scored clean; what the authors' scoring would say stands in its own table, with what inflates it.
//! Source: MEIT (ACL 2025 Findings), tables 1 to 6 and 15, figures 2 and 3.

mod ablations;
mod chart;
pub mod cost;
mod judge;
mod quality;
mod robustness;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use candle_core::Device;
use model::bundle::Bundle;
use serde_json::{Value, json};

use crate::evaluate;
use crate::evaluate::cases::TestSet;
use crate::sources::Source;
use chart::Chart;
use table::Table;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Task {
    /// Report quality (tables 1 to 3).
    Quality,
    /// Bundles trained on one data set, tested on another (figure 2).
    ZeroShot,
    /// Quality under noise (figure 3).
    Robustness,
    /// Four criteria by a language model (tables 4 and 6).
    Judge,
    /// Bundles that differ in how they were made, each beside the first.
    Ablations,
    /// Time and memory (table 15).
    Cost,
}

/// A benchmark run.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchmarkArgs {
    /// Data set to test on, ptbxl:DIR, mimic:DIR or wfdb:DIR.
    #[arg(long)]
    pub dataset: Source,
    /// Folds of PTB-XL to test on, comma-separated; of another data set its test split is.
    #[arg(long, value_delimiter = ',', default_value = "9")]
    pub folds: Vec<u8>,
    /// Bundle directory, or NAME=DIR; several make several rows.
    #[arg(long = "bundle", required = true)]
    pub bundles: Vec<String>,
    /// What to measure.
    #[arg(long, value_enum)]
    pub task: Task,
    /// Directory of the results.
    #[arg(long)]
    pub out: PathBuf,
    /// zero-shot: bundles trained without instructions, as NAME=DIR.
    #[arg(long = "without-it")]
    pub without_it: Vec<String>,
    /// zero-shot: bundles trained on the tested data set itself, as NAME=DIR.
    #[arg(long = "in-domain")]
    pub in_domain: Vec<String>,
    /// Add the authors' scoring and, in the robustness task, the authors' noise.
    #[arg(long)]
    pub reference_mode: bool,
    #[command(flatten)]
    pub judge: judge::JudgeArgs,
    #[command(flatten)]
    pub settings: evaluate::Settings,
}

/// What a task gives.
pub struct Results {
    /// Machine-readable results.
    pub json: Value,
    /// Tables in the paper's layout.
    pub tables: Vec<Table>,
    /// Plots and their file names.
    pub charts: Vec<(String, Chart)>,
}

/// Runs the task on `set` and writes its results; returns the tables as Markdown.
///
/// # Errors
/// A bundle or recording that cannot be read, a judge that cannot be reached, results that cannot be written.
pub fn run(args: &BenchmarkArgs, set: &TestSet) -> anyhow::Result<String> {
    ensure!(!set.cases.is_empty(), "the test set has no recording");
    std::fs::create_dir_all(&args.out).with_context(|| format!("create {}", args.out.display()))?;
    let results = match args.task {
        Task::Quality => quality::quality(args, set)?,
        Task::ZeroShot => quality::zero_shot(args, set)?,
        Task::Robustness => robustness::robustness(args, set)?,
        Task::Judge => judge::judge(args, set)?,
        Task::Ablations => ablations::ablations(args, set)?,
        Task::Cost => cost::cost(args, set)?,
    };
    write(args, set, &results)
}

fn write(args: &BenchmarkArgs, set: &TestSet, results: &Results) -> anyhow::Result<String> {
    let put = |name: &str, text: &str| {
        let path = args.out.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    let whole = json!({
        "task": format!("{:?}", args.task),
        "dataset": args.dataset.kind(),
        "folds": args.folds,
        "recordings": set.cases.len(),
        "seed": args.settings.seed,
        "results": results.json,
    });
    put("benchmark.json", &(serde_json::to_string_pretty(&whole)? + "\n"))?;
    let markdown: String = results
        .tables
        .iter()
        .map(Table::markdown)
        .collect::<Vec<_>>()
        .join("\n");
    put("table.md", &markdown)?;
    for (name, chart) in &results.charts {
        put(&format!("{name}.svg"), &chart.svg())?;
    }
    Ok(markdown)
}

/// Loads a bundle given as DIR or NAME=DIR; its name is the manifest's without one.
fn open(bundle: &str) -> anyhow::Result<(String, Bundle)> {
    let dir = directory(bundle);
    let name = bundle.split_once('=').map(|(name, _)| name.to_owned());
    let bundle = Bundle::load(dir, &Device::Cpu).with_context(|| format!("load bundle {}", dir.display()))?;
    Ok((name.unwrap_or_else(|| bundle.manifest().name.clone()), bundle))
}

/// The directory of DIR or NAME=DIR.
fn directory(bundle: &str) -> &Path {
    Path::new(bundle.split_once('=').map_or(bundle, |(_, dir)| dir))
}

#[cfg(test)]
mod tests;
