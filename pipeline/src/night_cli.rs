//! The commands of the nightly job.
//!
//! Place: the edge, beside `cli`. Invariant: a command that finds its work done says so and changes nothing; too little data
//! is no error.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use service::settings::Check as _;
use service::time::{day, now_us};
use store::Location;

use crate::curate::{self, CurateSettings};
use crate::erasure::Erasures;
use crate::night::files::{PLAN, Plan, read_json};
use crate::night::settings::{EncoderMode, PipelineSection, PipelineSettings};
use crate::night::status::Report;
use crate::night::{Night, Progress, Step, undo};
use crate::registry::Registry;
use crate::schedule::At;
use crate::sources::Source;
use crate::{lease, metrics};

/// How often the daemon looks at the clock.
const TICK: Duration = Duration::from_secs(5);
/// Tries of a night that failed, and the wait between them.
const TRIES: u32 = 3;
const RETRY_AFTER: Duration = Duration::from_secs(300);

/// Which run of which job.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct JobPlace {
    /// Settings file of the job (TOML); its values override the defaults, and MEIT__SECTION__KEY variables override both.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of the run; today's date in UTC where not given. A run of that name is gone on with.
    #[arg(long)]
    run: Option<String>,
    /// Registry, a directory or s3://BUCKET/PREFIX, instead of pipeline.registry.
    #[arg(long, value_name = "PLACE")]
    registry: Option<Location>,
    /// Directory of the runs, instead of pipeline.work.
    #[arg(long)]
    work: Option<PathBuf>,
}

/// Settings of the job: the file, and what the command line puts over it.
#[derive(Args, Clone, Debug, Default)]
pub struct JobArgs {
    #[command(flatten)]
    place: JobPlace,
    /// Source of signed reports, KIND:PLACE, instead of pipeline.sources; may be repeated.
    #[arg(long = "source")]
    sources: Vec<Source>,
    /// Base data to replay, KIND:PLACE, instead of pipeline.base_sources; may be repeated.
    #[arg(long = "base-source")]
    base_sources: Vec<Source>,
    /// Base bundle, instead of pipeline.bundle.
    #[arg(long = "base")]
    bundle: Option<PathBuf>,
    /// Size of the set of prompts, instead of pipeline.prompts: 1, 128, 256 or 512.
    #[arg(long)]
    prompts: Option<usize>,
    /// Share of base samples in a step, instead of pipeline.train.replay.
    #[arg(long)]
    replay: Option<f64>,
    /// LoRA rank, instead of pipeline.train.rank.
    #[arg(long)]
    rank: Option<usize>,
    /// LoRA alpha, instead of pipeline.train.alpha.
    #[arg(long)]
    alpha: Option<f64>,
    /// Passes over the signed samples, instead of pipeline.train.epochs.
    #[arg(long)]
    epochs: Option<u64>,
    /// Peak learning rate, instead of pipeline.train.learning_rate.
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Whether the encoder learns, instead of pipeline.train.encoder.
    #[arg(long, value_enum)]
    encoder: Option<EncoderMode>,
    /// Signed training samples below which the night is skipped, instead of pipeline.samples_min.
    #[arg(long)]
    samples_min: Option<usize>,
}

impl JobArgs {
    fn run(&self) -> String {
        self.place.run.clone().unwrap_or_else(|| day(now_us()))
    }

    /// The job's settings: defaults, file, environment, and what the command line says.
    fn settings(&self) -> anyhow::Result<PipelineSettings> {
        let mut all: PipelineSettings =
            service::settings::load_checked("pipeline", self.place.config.as_deref()).context("read settings")?;
        let section = &mut all.pipeline;
        let set = |to: &mut Vec<Source>, from: &Vec<Source>| {
            if !from.is_empty() {
                to.clone_from(from);
            }
        };
        set(&mut section.sources, &self.sources);
        set(&mut section.base_sources, &self.base_sources);
        put(&mut section.bundle, self.bundle.clone());
        put(&mut section.registry, self.place.registry.clone());
        put(&mut section.work, self.place.work.clone());
        put(&mut section.prompts, self.prompts);
        put(&mut section.samples_min, self.samples_min);
        let train = &mut section.train;
        put(&mut train.replay, self.replay);
        put(&mut train.rank, self.rank);
        put(&mut train.alpha, self.alpha);
        put(&mut train.epochs, self.epochs);
        put(&mut train.learning_rate, self.learning_rate);
        put(&mut train.encoder, self.encoder);
        all.check()?;
        Ok(all)
    }
}

fn put<T>(to: &mut T, from: Option<T>) {
    if let Some(from) = from {
        *to = from;
    }
}

/// Goes on with a run up to and with a step.
///
/// # Errors
/// Whatever the run met, with its context.
pub fn go(args: &JobArgs, until: Step) -> anyhow::Result<Progress> {
    step(&args.settings()?, &args.run(), until)
}

/// Goes on with a run, with the settings that it was started with where it was started.
///
/// # Errors
/// As [`go`].
pub fn go_on(place: &JobPlace, until: Step) -> anyhow::Result<()> {
    let args = JobArgs {
        place: place.clone(),
        ..JobArgs::default()
    };
    let run = args.run();
    step(&started_with(&args.settings()?, &run)?, &run, until).map(drop)
}

/// The settings of a run: its own where it was started, as what it did follows from those.
fn started_with(settings: &PipelineSettings, run: &str) -> anyhow::Result<PipelineSettings> {
    let mut settings = settings.clone();
    let plan = read_json::<Plan>(&settings.pipeline.work.join(run).join(PLAN))?;
    // a directory of runs that was moved is another
    if let Some(plan) = plan.filter(|plan| plan.settings.work == settings.pipeline.work) {
        settings.pipeline = plan.settings;
    }
    Ok(settings)
}

/// The whole job, after what earlier runs left undone; with `wait`, once nobody else has the lease.
///
/// # Errors
/// As [`go`], of the run itself; earlier ones that cannot go on are told and left.
pub fn run(args: &JobArgs, wait: bool) -> anyhow::Result<Progress> {
    let settings = args.settings()?;
    let run = args.run();
    if wait {
        wait_for_lease(&settings.pipeline)?;
    }
    if args.place.run.is_none() {
        for earlier in Report::read(&settings.pipeline)?
            .open
            .iter()
            .filter(|earlier| **earlier != run)
        {
            let done = started_with(&settings, earlier).and_then(|own| step(&own, earlier, Step::Promote));
            if let Err(error) = done {
                eprintln!("run {earlier}: {error:#}");
            }
        }
    }
    step(&settings, &run, Step::Promote)
}

fn step(settings: &PipelineSettings, run: &str, until: Step) -> anyhow::Result<Progress> {
    let night = Night::open(&settings.pipeline, run)?.with_kafka(&settings.kafka);
    let progress = night.go(until, &|_| false)?;
    println!("{}", tell(run, &progress));
    Ok(progress)
}

/// Runs the job with its metrics. A night that another job has is not this one's success.
///
/// # Errors
/// As [`metrics::recorded`].
pub fn recorded(file: Option<&Path>, job: impl FnOnce() -> anyhow::Result<Progress>) -> anyhow::Result<()> {
    let worked = |progress: &Progress| !matches!(progress, Progress::Held { .. });
    metrics::recorded(file, "run", worked, job).map(drop)
}

/// Waits while another job has the lease: it is released at the job's end, and over some time after its death.
fn wait_for_lease(settings: &PipelineSection) -> anyhow::Result<()> {
    let registry = Registry::open(&settings.registry)?;
    let mut told = false;
    while let Some(by) = lease::held(registry.store(), now_us())? {
        if !told {
            println!(
                "waiting for run {} of process {} on {}, which has the lease",
                by.run, by.process, by.host
            );
            told = true;
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

fn tell(run: &str, progress: &Progress) -> String {
    match progress {
        Progress::Ended(outcome) => {
            let reasons = outcome.reasons.join("; ");
            let generation = outcome.generation.as_deref().unwrap_or("no candidate");
            format!("run {run}: {:?}, {generation} {reasons}", outcome.status)
                .trim_end()
                .to_owned()
        }
        Progress::Complete(step) => format!("run {run}: {step:?} is complete"),
        Progress::Stopped => format!("run {run}: stopped; start it again to go on"),
        Progress::Held { by, .. } => format!(
            "run {run}: not started, run {} of process {} on {} has the lease",
            by.run, by.process, by.host
        ),
    }
}

/// Arguments of `curate`.
#[derive(Args, Clone, Debug)]
pub struct CurateArgs {
    /// Source, KIND:PLACE, of kind ptbxl, mimic, wfdb, signed or kafka; may be repeated. Without one, the job's own step runs.
    #[arg(long = "dataset")]
    datasets: Vec<Source>,
    /// Directory of the data set.
    #[arg(long, requires = "datasets")]
    out: Option<PathBuf>,
    /// Samples a base source at most; 0 for all.
    #[arg(long, default_value_t = 0)]
    limit: usize,
    /// Seed of the prompts and of the limit.
    #[arg(long, default_value_t = 20_261_124)]
    seed: u64,
    #[command(flatten)]
    job: JobArgs,
}

/// Curates a data set of its own, or runs the job's first step.
///
/// # Errors
/// As [`curate::run`].
pub fn curate(args: &CurateArgs) -> anyhow::Result<()> {
    if args.datasets.is_empty() {
        return go(&args.job, Step::Curate).map(drop);
    }
    let out = args.out.as_deref().context("curate --dataset needs --out DIR")?;
    let PipelineSettings {
        kafka,
        pipeline: settings,
    } = args.job.settings()?;
    let curate = CurateSettings {
        sources: args.datasets.clone(),
        limit: args.limit,
        prompts: args.job.prompts.unwrap_or(256),
        seed: args.seed,
        ends: Default::default(),
        kafka: Some(kafka),
        base: String::new(),
        reserve_bytes: settings.reserve_mb << 20,
    };
    let manifest = curate::run(
        &curate,
        &Erasures::open(Registry::open(&settings.registry)?.store())?,
        out,
    )?;
    println!(
        "{} samples of {} patients in {}",
        manifest.kept,
        manifest.patients,
        out.display()
    );
    for (split, n) in &manifest.splits {
        println!("  {n} {split:?}");
    }
    for (why, n) in &manifest.dropped {
        println!("  {n} left out: {why:?}");
    }
    Ok(())
}

/// Takes the champion back.
///
/// # Errors
/// As [`undo::rollback`].
pub fn rollback(args: &JobArgs) -> anyhow::Result<()> {
    let settings = args.settings()?;
    let entry = undo::rollback(
        &settings.pipeline,
        settings.announced(),
        args.place.run.as_deref().unwrap_or("rollback"),
    )?;
    println!("champion is {}", entry.generation.as_deref().unwrap_or("the base"));
    Ok(())
}

/// Prints the status.
///
/// # Errors
/// As [`Report::read`].
pub fn status(args: &JobArgs, json: bool) -> anyhow::Result<()> {
    let report = Report::read(&args.settings()?.pipeline)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

/// Removes a patient, and leaves the patient out from now on.
///
/// # Errors
/// As [`undo::erase`].
pub fn erase(args: &JobArgs, patient_hash: &str, more: &[PathBuf]) -> anyhow::Result<()> {
    let settings = args.settings()?;
    let samples = undo::erase(&settings.pipeline, settings.announced(), patient_hash, more)?;
    println!("{samples} samples removed; the patient is left out from now on");
    Ok(())
}

/// Runs the job every day.
///
/// # Errors
/// Settings that cannot be used; a night that failed is tried again, then left for the next.
pub fn daemon(args: &JobArgs, at: Option<At>, metrics_file: Option<&Path>) -> anyhow::Result<()> {
    let settings = args.settings()?;
    let nightly = |run: &str| nightly(&settings, run, metrics_file);
    if args.place.run.is_some() {
        bail!("daemon names its runs by their day: leave --run out");
    }
    let at = at.unwrap_or(settings.pipeline.at);
    for run in Report::read(&settings.pipeline)?.open {
        tracing::info!(run, "going on with a run that has no outcome");
        nightly(&run);
    }
    loop {
        let next = at.after(now_us());
        tracing::info!(run = day(next), at = String::from(at), "waiting for the next night");
        while now_us() < next {
            std::thread::sleep(TICK);
        }
        nightly(&day(next));
    }
}

fn nightly(settings: &PipelineSettings, run: &str, metrics_file: Option<&Path>) {
    for attempt in 1..=TRIES {
        let night = || {
            let settings = started_with(settings, run)?;
            let night = Night::open(&settings.pipeline, run)?.with_kafka(&settings.kafka);
            night.go(Step::Promote, &|_| false)
        };
        let told = || night().inspect(|progress| tracing::info!("{}", tell(run, progress)));
        match recorded(metrics_file, told) {
            Ok(()) => return,
            Err(error) => tracing::error!(run, attempt, "{error:#}"),
        }
        if attempt < TRIES {
            std::thread::sleep(RETRY_AFTER);
        }
    }
}
