//! The bedside: recordings replayed as live monitors.
//!
//! Place: before the agent; stands in for the monitors and their gateway, for the demo, for tests and for load.
//! Invariant: the samples of every packet are a function of recordings, settings and seed; only the clocks differ from run
//! to run.

pub mod fault;
pub mod metrics;
mod monitor;
pub mod noise;
pub mod plan;
pub mod recording;
mod replay;
pub mod settings;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use prometheus::Registry;
use service::kafka::cluster;
use service::kafka::sink::Sink;
use service::settings::Check as _;
use service::shutdown::Shutdown;
use service::telemetry::Meter;

use crate::metrics::Metrics;
use crate::noise::NoiseSource;
use crate::plan::Plan;
use crate::recording::Recording;
use crate::settings::{BedsideSection, BedsideSettings};

pub use crate::replay::LagProbe;

/// Why recordings cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum BedsideError {
    /// A recording cannot be read.
    #[error("cannot read recording {}", header.display())]
    Recording {
        /// Its header.
        header: PathBuf,
        /// Why.
        source: ecg::wfdb::WfdbError,
    },
    /// A recording is shorter than ten seconds.
    #[error("recording {} is shorter than ten seconds", header.display())]
    TooShort {
        /// Its header.
        header: PathBuf,
    },
    /// A directory cannot be read.
    #[error("cannot read directory {}", path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No header was found.
    #[error("no recordings (*.hea) in {paths:?}")]
    NoRecordings {
        /// Where was looked.
        paths: Vec<PathBuf>,
    },
}

/// What a replay did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BedsideSummary {
    /// Packets that the broker took.
    pub packets_sent: u64,
    /// Recordings that were played to their end.
    pub plays: u64,
}

/// Reads the recordings and deals them out to the beds.
///
/// # Errors
/// [`BedsideError`] when a recording is missing or unreadable.
pub fn plan(section: &BedsideSection) -> Result<Plan, BedsideError> {
    if section.beds == 0 {
        return Ok(Plan::default());
    }
    let headers = recording::find(&section.recordings)?;
    let recordings: Vec<Arc<Recording>> = headers
        .iter()
        .map(|header| Recording::load(header).map(Arc::new))
        .collect::<Result<_, _>>()?;
    Ok(Plan::deal(&recordings, section.beds, section.plays(), section.seed))
}

/// Replays until the plan is played or `shutdown`.
///
/// # Errors
/// As [`run_with`], or when a recording is missing or unreadable.
pub async fn run(settings: BedsideSettings, shutdown: Shutdown) -> anyhow::Result<BedsideSummary> {
    settings.check()?;
    let plan = plan(&settings.bedside)?;
    let registry = Registry::new();
    let metrics = Metrics::new(&registry).context("register metrics")?;
    service::telemetry::describe(Meter::new(&registry, "bedside"), &settings).context("register metrics")?;
    let address = settings.bedside.metrics_address.as_str();
    if !address.is_empty() {
        let bound = service::telemetry::serve(registry, address, shutdown.clone()).await;
        tracing::info!(bound = %bound.context("serve metrics")?, "serving /metrics and /healthz");
    }
    tokio::select! {
        made = cluster::create_topics(&settings.kafka, ecg::topic::KEPT) => made.context("create topics")?,
        () = shutdown.wait() => return Ok(BedsideSummary { packets_sent: 0, plays: 0 }),
    };
    run_with(settings, &plan, metrics, None, shutdown).await
}

/// Replays `plan` until it is played or `shutdown`; beds wait while `lag` says that readers are more than
/// `lag_packets_max` packets behind.
///
/// # Errors
/// When a setting is out of bounds, the noise cannot be read, or the broker does not take a packet.
pub async fn run_with(
    settings: BedsideSettings,
    plan: &Plan,
    metrics: Metrics,
    lag: Option<LagProbe>,
    shutdown: Shutdown,
) -> anyhow::Result<BedsideSummary> {
    settings.check()?;
    let noise = NoiseSource::load(&settings.bedside.noise_directory, settings.bedside.noise)?;
    let sink = Sink::new(&settings.kafka).context("open kafka sink")?;
    let heartbeat = match settings.bedside.heartbeat.as_os_str().is_empty() {
        true => None,
        false => Some(Arc::new(Recording::load(&settings.bedside.heartbeat)?)),
    };
    let replay = replay::Replay::new(settings.bedside, noise, sink, metrics, lag, heartbeat);
    replay.play(plan, shutdown).await
}
