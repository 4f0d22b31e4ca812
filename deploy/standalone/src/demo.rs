//! `meit demo`: recordings replayed as monitors, through Kafka, agent and node, to drafts on the screen.
//!
//! Place: joins the processes' library calls in one process; topics are the only way between them. Invariant: with the
//! embedded broker a second run with the same arguments prints the same segments and texts; a record that the broker dropped
//! fails the run.

pub(crate) mod cluster;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent::metrics::AgentSummary;
use anyhow::{Context, bail};
use bedside::fault::Fault;
use ecg::id::HEARTBEAT_STREAM;
use ecg::report::DraftReport;
use indicatif::{ProgressBar, ProgressStyle};
use model::bundle::Bundle;
use node::drafter::BundleDrafter;
use prometheus::Registry;
use service::shutdown::Shutdown;
use service::telemetry::Meter;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use cluster::{Cluster, Settings};

use crate::assets;
use crate::draft_line::{self, Seen};
use crate::page::Page;
use crate::readers;
use crate::summary::Summary;

/// How long the last drafts may take after the last packet.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// Silence after which a replay with faults is over: longer than the agent takes to flush an idle stream.
const QUIET: Duration = Duration::from_secs(15);
/// Arguments of the demo.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Monitors at once.
    #[arg(long, default_value_t = 8)]
    pub beds: usize,
    /// Stream time that each bed plays, minutes.
    #[arg(long, default_value_t = 1.0)]
    pub minutes: f64,
    /// Stream seconds a second; 1 is real time.
    #[arg(long, default_value_t = 10.0)]
    pub speed: f64,
    /// Noise to add to the recordings.
    #[arg(long, value_enum, default_value_t = NoiseKind::None)]
    pub noise: NoiseKind,
    /// Signal-to-noise ratio of the added noise, decibels.
    #[arg(long, default_value_t = 6.0)]
    pub snr_db: f64,
    /// Directory of the noise records bw, em and ma (MIT-BIH Noise Stress Test Database).
    #[arg(long, default_value = "nstdb")]
    pub noise_directory: PathBuf,
    /// Order of the recordings and place of the noise.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Play the heartbeat too: one more stream in real time whose drafts are counted and not shown.
    #[arg(long)]
    pub heartbeat: bool,
    /// Address of /metrics and /healthz; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub metrics_address: String,
    /// Sign the drafts with the recordings' own reports, run the nightly job on them, and draft again with what it promotes.
    #[arg(long, conflicts_with_all = ["json", "brokers", "review", "heartbeat"])]
    pub night: bool,
    /// Injects a fault at a moment of stream time, such as clock-back@30s; repeatable; --help lists the kinds.
    #[arg(long = "fault", value_name = "KIND@SECONDSs[/BED]", long_help = bedside::fault::help())]
    pub faults: Vec<Fault>,
    /// Print one JSON object a draft instead of text.
    #[arg(long)]
    pub json: bool,
    /// Serve the review page too, and stay until Ctrl-C.
    #[arg(long)]
    pub review: bool,
    /// A real Kafka, host:port, instead of the embedded broker.
    #[arg(long)]
    pub brokers: Option<String>,
    /// Bundle directory; the shipped bundle where not given.
    #[arg(long)]
    pub bundle: Option<PathBuf>,
    /// Directory of WFDB recordings; the shipped PTB-XL recordings where not given.
    #[arg(long)]
    pub recordings: Option<PathBuf>,
}

/// Kinds of noise that can be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum NoiseKind {
    None,
    /// Baseline wander.
    Bw,
    /// Electrode motion.
    Em,
    /// Muscle artefact.
    Ma,
}

/// Runs the demo to its end or to an interrupt.
///
/// # Errors
/// A bundle or recording that cannot be read, a broker that refuses, records that the broker dropped.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start runtime")?;
    runtime.block_on(async { play(arguments, Shutdown::from_signals()).await })
}

/// As [`run`], with the shutdown as an argument.
///
/// # Errors
/// As [`run`].
pub async fn play(arguments: &Arguments, interrupt: Shutdown) -> anyhow::Result<()> {
    if arguments.night {
        crate::night::play(arguments, interrupt).await
    } else {
        stream(arguments, interrupt).await
    }
}

async fn stream(arguments: &Arguments, interrupt: Shutdown) -> anyhow::Result<()> {
    let bundle = assets::bundle(arguments.bundle.as_deref())?;
    let bundle = Arc::new(Bundle::load(&bundle, &candle_core::Device::Cpu).context("load bundle")?);
    let cluster = Cluster::open(arguments.brokers.as_deref()).await?;
    let settings = Settings::load(arguments, &cluster.kafka)?;
    let plan = bedside::plan(&settings.bedside.bedside)?;
    let references = assets::references(&plan.headers())?;

    let stop = Shutdown::new();
    let counters = Counters::serve(&arguments.metrics_address, &stop, &cluster, &bundle, &settings).await?;

    let mut page = open_page(arguments, &cluster, &counters, &stop).await?;

    let (drafts, mut arrived) = mpsc::channel(64);
    let reader = tokio::spawn(readers::drafts(cluster.kafka.clone(), drafts, stop.clone()));
    let rejected = tokio::spawn(readers::rejects(cluster.kafka.clone(), stop.clone()));
    let drafter = Arc::new(BundleDrafter::new(
        Arc::clone(&bundle),
        settings.node.node.decode.clone(),
    ));
    let node = tokio::spawn(node::run(settings.node, drafter, counters.node, stop.clone()));
    let agent = tokio::spawn(agent::run_with(settings.agent, counters.agent.clone(), stop.clone()));
    let (sent, read) = (counters.bedside.clone(), counters.agent.clone());
    let lag: bedside::LagProbe = Arc::new(move || sent.packets_sent().saturating_sub(read.packets_received()));
    let (replay_plan, replay_stop) = (plan.clone(), interrupt.clone());
    let replay = tokio::spawn(async move {
        bedside::run_with(settings.bedside, &replay_plan, counters.bedside, Some(lag), replay_stop).await
    });

    let mut show = Show::new(arguments.json, plan.windows())?;
    let mut seen = Vec::new();
    let played = follow(
        &mut arrived,
        &interrupt,
        &counters.agent,
        // faults change how many windows there are
        arguments.faults.is_empty().then(|| plan.windows()),
        replay,
        |draft| {
            let moved = arguments.faults.iter().any(|fault| fault.moves_index(&draft.stream_id));
            let recording = plan.recording_at(&draft.stream_id, draft.start_sample);
            let seen_draft = Seen::new(draft, recording.filter(|_| !moved), &references);
            show.draft(&seen_draft)?;
            seen.push(seen_draft.latency_ms());
            Ok(())
        },
    )
    .await;
    let interrupted = interrupt.is_triggered();
    if let Some(page) = page.as_mut().filter(|_| played.is_ok()) {
        show.finish();
        page.stay(&interrupt).await;
    }
    stop.trigger();
    let (node, agent) = (
        node.await.context("node panicked")??,
        agent.await.context("agent panicked")??,
    );
    reader.await.context("draft reader panicked")??;
    rejected.await.context("reject reader panicked")??;
    Page::close(page).await?;
    show.finish();
    let replay = played?;
    let summary = Summary {
        replay,
        agent,
        node,
        latencies_ms: seen,
    };
    eprint!("{summary}");
    summary.check(interrupted)
}

/// Serves the review page where it was asked for.
async fn open_page(
    arguments: &Arguments,
    cluster: &Cluster,
    counters: &Counters,
    stop: &Shutdown,
) -> anyhow::Result<Option<Page>> {
    if !arguments.review {
        return Ok(None);
    }
    let page = Page::open(&cluster.kafka, counters.review.clone(), stop.clone()).await?;
    Ok(Some(page))
}

/// The counters of all processes, served together.
pub(crate) struct Counters {
    pub agent: agent::metrics::Metrics,
    pub node: node::metrics::Metrics,
    pub bedside: bedside::metrics::Metrics,
    review: review::metrics::Metrics,
}

impl Counters {
    /// Serves /metrics and /healthz and says where everything is.
    pub async fn serve(
        address: &str,
        stop: &Shutdown,
        cluster: &Cluster,
        bundle: &Bundle,
        settings: &Settings,
    ) -> anyhow::Result<Self> {
        let registry = Registry::new();
        let address = service::telemetry::serve(registry.clone(), address, stop.clone())
            .await
            .context("serve metrics")?;
        service::telemetry::describe(Meter::new(&registry, "agent"), &settings.agent)?;
        service::telemetry::describe(Meter::new(&registry, "node"), &settings.node)?;
        service::telemetry::describe(Meter::new(&registry, "bedside"), &settings.bedside)?;
        let review: review::settings::ReviewSettings = service::settings::load("review", None)?;
        service::telemetry::describe(Meter::new(&registry, "review"), &review)?;
        eprintln!("{}", cluster.description);
        eprintln!(
            "bundle {} · metrics http://{address}/metrics · health http://{address}/healthz",
            bundle.id()
        );
        Ok(Self {
            agent: agent::metrics::Metrics::new(&registry)?,
            node: node::metrics::Metrics::new(&registry)?,
            bedside: bedside::metrics::Metrics::new(&registry)?,
            review: review::metrics::Metrics::new(&registry)?,
        })
    }
}

/// The number of windows that will have a fate; not known where packets were refused, for no window is made of those.
fn expected(windows: Option<usize>, agent: &AgentSummary) -> Option<usize> {
    windows.filter(|_| agent.packets_rejected.is_empty())
}

/// Hands drafts on until every window has its fate, the interrupt comes, or the last draft is overdue; where the number of
/// windows is not known, until nothing came for [`QUIET`].
pub(crate) async fn follow(
    arrived: &mut mpsc::Receiver<DraftReport>,
    interrupt: &Shutdown,
    agent: &agent::metrics::Metrics,
    windows: Option<usize>,
    mut replay: JoinHandle<anyhow::Result<bedside::BedsideSummary>>,
    mut on_draft: impl FnMut(&DraftReport) -> anyhow::Result<()>,
) -> anyhow::Result<bedside::BedsideSummary> {
    let (mut drafts, mut fates_before) = (0, 0);
    let mut summary = None;
    let mut deadline = None;
    loop {
        let counted = agent.summary();
        let windows = expected(windows, &counted);
        let fates = drafts + counted.segments_rejected as usize;
        let all = windows.is_some_and(|windows| fates >= windows);
        if let Some(summary) = summary.filter(|_| all || interrupt.is_triggered()) {
            return Ok(summary);
        }
        if windows.is_none() && fates > fates_before {
            deadline = deadline.map(|_| tokio::time::Instant::now() + QUIET);
        }
        fates_before = fates;
        let overdue = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            draft = arrived.recv() => {
                let draft = draft.context("the draft reader ended early")?;
                if draft.stream_id != HEARTBEAT_STREAM {
                    on_draft(&draft)?;
                    drafts += 1;
                }
            }
            played = &mut replay, if summary.is_none() => {
                summary = Some(played.context("replay panicked")??);
                let wait = if windows.is_some() { DRAIN_MAX } else { QUIET };
                deadline = Some(tokio::time::Instant::now() + wait);
            }
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
            () = overdue => match (windows, summary) {
                (Some(windows), _) => bail!("{fates} of {windows} windows have a draft or a rejection {DRAIN_MAX:?} after the last packet"),
                (None, Some(summary)) => return Ok(summary),
                (None, None) => {}
            },
        }
    }
}

/// Where drafts are shown: lines above a progress bar, or JSON lines.
struct Show {
    bar: ProgressBar,
    json: bool,
}

impl Show {
    fn new(json: bool, windows: usize) -> anyhow::Result<Self> {
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} windows {elapsed}")?;
        Ok(Self {
            bar: ProgressBar::new(windows as u64).with_style(style),
            json,
        })
    }

    fn draft(&mut self, seen: &Seen) -> anyhow::Result<()> {
        self.bar.inc(1);
        let text = if self.json {
            serde_json::to_string(&draft_line::json(seen))?
        } else {
            draft_line::text(seen)
        };
        self.bar
            .suspend(|| writeln!(std::io::stdout().lock(), "{text}"))
            .context("print draft")
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bed_that_is_refused_leaves_the_number_of_windows_unknown() {
        let mut agent = AgentSummary::default();
        assert_eq!(expected(Some(48), &agent), Some(48));
        agent.packets_rejected.insert("no_room", 240);
        assert_eq!(expected(Some(48), &agent), None);
    }
}
