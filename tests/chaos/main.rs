//! chaos: kills agents and nodes with SIGKILL at random moments and asks whether anything was lost or doubled.
//!
//! Place: the whole system as separate processes on a real Apache Kafka, with recordings replayed as monitors.
//! Invariant: when it ends with code 0, every window of the plan is one segment (or one reject) under read_committed, and
//! every segment has one draft. Build the processes first: `cargo build --release -p agent -p node`.

#[allow(dead_code)] // the tests restart it as well
#[path = "../it/broker.rs"]
mod broker;
mod count;
mod process;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bedside::settings::BedsideSettings;
use clap::Parser;
use ecg::topic;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use service::kafka::KafkaSettings;
use service::kafka::cluster::create_topics;
use service::shutdown::Shutdown;

use crate::broker::RealBroker;
use crate::count::Counts;
use crate::process::Process;

/// Boot of the monitors.
const BOOT_ID: u64 = 1;
/// Time between two looks at what is there.
const LOOK: Duration = Duration::from_secs(5);

/// Kills agents and nodes at random moments, then counts every segment and every draft.
#[derive(Parser)]
struct Arguments {
    /// Kills.
    #[arg(long, default_value_t = 100)]
    kills: usize,
    /// Monitors.
    #[arg(long, default_value_t = 16)]
    beds: usize,
    /// Agents, and nodes, at once.
    #[arg(long, default_value_t = 2)]
    processes: usize,
    /// Stream seconds a second.
    #[arg(long, default_value_t = 4.0)]
    speed: f64,
    /// Longest time between two kills, milliseconds; the shortest is a tenth of it.
    #[arg(long, default_value_t = 3000)]
    pause_ms: u64,
    /// Decides who is killed and when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long the last drafts may take after the last kill, seconds.
    #[arg(long, default_value_t = 300)]
    drain_s: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    service::telemetry::init_tracing("warn");
    let arguments = Arguments::parse();
    let Some(brokers) = RealBroker::cluster(1) else {
        return Ok(());
    };
    let base: BedsideSettings = service::settings::load("bedside", None)?;
    let kafka = KafkaSettings {
        partitions: 8,
        ..brokers[0].settings(&base.kafka)
    };
    create_topics(&kafka, topic::KEPT).await.context("create topics")?;
    let start = Instant::now();
    let replay = replay(&arguments, base, &kafka)?;
    let windows = replay.windows;
    let mut processes = processes(&arguments, &kafka)?;
    let kills = kill(&arguments, &mut processes).await?;
    eprintln!("{} kills in {:?}", arguments.kills, start.elapsed());
    for process in &mut processes {
        process.start_if_dead()?;
    }
    let sent = replay.task.await.context("the replay panicked")??;
    let counts = drained(&kafka, windows, Duration::from_secs(arguments.drain_s)).await?;
    let ends: Vec<bool> = processes.iter_mut().map(Process::stop).collect::<anyhow::Result<_>>()?;
    let verdict = counts.verdict(windows);
    let report = json!({
        "kills": arguments.kills,
        "killed": kills.killed,
        "ended_by_themselves": kills.ended,
        "beds": arguments.beds,
        "packets_sent": sent.packets_sent,
        "windows_expected": windows,
        "segments": counts.segments.len(),
        "segments_twice": counts.segments_twice(),
        "rejects": counts.rejects.len(),
        "drafts": counts.drafts.len(),
        "drafts_twice": counts.drafts_twice(),
        "records_of_aborted_transactions": counts.aborted,
        "clean_stops": ends.iter().filter(|clean| **clean).count(),
        "seconds": start.elapsed().as_secs(),
        "exactly_once": verdict.is_ok(),
    });
    println!("{report}");
    verdict
}

struct Replay {
    windows: usize,
    task: tokio::task::JoinHandle<anyhow::Result<bedside::BedsideSummary>>,
}

/// Plays the shipped recordings for as long as the kills will take on average, and a little more.
fn replay(arguments: &Arguments, base: BedsideSettings, kafka: &KafkaSettings) -> anyhow::Result<Replay> {
    let seconds = arguments.kills as f64 * arguments.pause_ms as f64 * 0.55 / 1000.0 + 10.0;
    // a gateway buffers for as long as the brokers need
    let kafka = KafkaSettings {
        delivery_timeout_ms: 600_000,
        ..kafka.clone()
    };
    let mut settings = BedsideSettings { kafka, ..base };
    let section = &mut settings.bedside;
    section.recordings = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("data/ptbxl")];
    section.beds = arguments.beds;
    section.speed = arguments.speed;
    section.minutes = seconds * arguments.speed / 60.0;
    section.boot_id = BOOT_ID;
    let plan = bedside::plan(section)?;
    let windows = plan.windows();
    let metrics = bedside::metrics::Metrics::new(&prometheus::Registry::new())?;
    let task = tokio::spawn(async move { bedside::run_with(settings, &plan, metrics, None, Shutdown::new()).await });
    Ok(Replay { windows, task })
}

/// Agents and nodes, each with its own name, all started.
fn processes(arguments: &Arguments, kafka: &KafkaSettings) -> anyhow::Result<Vec<Process>> {
    let here = std::env::current_exe().context("find this program")?;
    let folder = here.parent().context("this program has a folder")?;
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut processes = Vec::new();
    for number in 1..=arguments.processes {
        for program in ["meit-agent", "meit-node"] {
            let mut process = Process::new(folder.join(program), &root, kafka, &format!("{program}-{number}"));
            process.start()?;
            processes.push(process);
        }
    }
    Ok(processes)
}

/// What the harness did.
#[derive(Default)]
struct Kills {
    /// By process.
    killed: BTreeMap<String, usize>,
    /// Processes that ended without being killed and were started again, as a supervisor does.
    ended: usize,
}

/// Kills one process after another; most come back at once, some only after their session is over.
async fn kill(arguments: &Arguments, processes: &mut [Process]) -> anyhow::Result<Kills> {
    let mut rng = ChaCha8Rng::seed_from_u64(arguments.seed);
    let mut kills = Kills::default();
    let mut back = vec![None; processes.len()];
    for number in 1..=arguments.kills {
        let pause = rng.random_range(arguments.pause_ms / 10..=arguments.pause_ms);
        let until = Instant::now() + Duration::from_millis(pause);
        let index = loop {
            for (process, back) in processes.iter_mut().zip(&mut back) {
                if back.is_none() && !process.is_alive() {
                    kills.ended += 1;
                    process.start()?;
                }
                if back.is_some_and(|at| at <= Instant::now()) {
                    *back = None;
                    process.start()?;
                }
            }
            let alive: Vec<usize> = (0..back.len()).filter(|&index| back[index].is_none()).collect();
            match alive.choose(&mut rng) {
                Some(&index) if Instant::now() >= until => break index,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        processes[index].kill()?;
        *kills.killed.entry(processes[index].name().to_owned()).or_insert(0) += 1;
        let away = if rng.random_bool(0.25) {
            rng.random_range(4000..6000)
        } else {
            rng.random_range(0..800)
        };
        back[index] = Some(Instant::now() + Duration::from_millis(away));
        if number % 10 == 0 {
            eprintln!("{number} kills");
        }
    }
    Ok(kills)
}

/// What is on the broker once nothing more comes: every window has its fate and every segment its draft, or the time is over.
async fn drained(kafka: &KafkaSettings, windows: usize, most: Duration) -> anyhow::Result<Counts> {
    let start = Instant::now();
    loop {
        let done = count::progress(kafka).await?;
        if done.fates >= windows && done.drafts >= done.segments || start.elapsed() > most {
            // a late duplicate would come within the next transactions
            tokio::time::sleep(LOOK).await;
            return Counts::read(kafka).await;
        }
        eprintln!(
            "{} of {windows} windows, {} drafts of {} segments",
            done.fates, done.drafts, done.segments
        );
        tokio::time::sleep(LOOK).await;
    }
}
