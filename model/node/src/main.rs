//! meit-node: segments in, drafts out.
//!
//! Place: the command line around [`node::run`].
//! Invariant: holds no logic; a bad setting, bundle or device exits before anything is read.

mod bundles;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use model::bundle::Bundle;
use node::canary::Canary;
use node::drafter::BundleDrafter;
use node::metrics::Metrics;
use node::settings::NodeSettings;
use node::slot::Slot;
use node::watch::Watcher;
use prometheus::Registry;
use service::allocator::{self, MiMalloc};
use service::shutdown::Shutdown;
use service::telemetry::Meter;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What stands under --help.
const EXAMPLES: &str = "\
Examples:
  meit-node --config config/node.toml                   segments in, drafts out, until SIGTERM
  meit-node --bundle model/bundle --device cpu          with another bundle or device
  meit-node check-config config/node.toml               the settings in force, and where each comes from
  meit-node bundle --help                               makes, checks and shows bundles";

/// Drafts a report on each segment.
#[derive(Parser)]
#[command(name = "meit-node", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Settings file (TOML); its values override the defaults, and MEIT__SECTION__KEY variables override both.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the bundle, instead of the setting node.bundle (model/bundle).
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Where the bundle runs, "cpu", "cuda" or "cuda:N", instead of the setting node.device (cpu).
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

/// What to do instead of drafting.
#[derive(clap::Subcommand)]
enum Command {
    #[command(flatten)]
    Settings(service::settings::show::Command),
    /// Makes, checks and shows bundles.
    #[command(subcommand)]
    Bundle(bundles::Command),
}

fn main() -> anyhow::Result<()> {
    // SAFETY: nothing has started a thread yet
    unsafe { model::threads::settle() };
    allocator::settle();
    service::output::end_when_closed();
    start()
}

#[tokio::main]
async fn start() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        None => {}
        Some(Command::Settings(command)) => return Ok(command.run::<NodeSettings>("node")?),
        Some(Command::Bundle(command)) => return command.run(),
    }
    service::telemetry::init_tracing("info");
    let mut settings: NodeSettings =
        service::settings::load_checked("node", arguments.config.as_deref()).context("read settings")?;
    settings.node.bundle = arguments.bundle.unwrap_or(settings.node.bundle);
    settings.node.device = arguments.device.unwrap_or(settings.node.device);
    let section = &settings.node;
    let device = model::device::open(&section.device)?;
    let bundle = Bundle::load_as(&section.bundle, &device, section.weights)
        .with_context(|| format!("load bundle {} onto {}", section.bundle.display(), section.device))?;
    let weights = section.weights.name();
    tracing::info!(bundle = bundle.id(), device = section.device, weights, "bundle loaded");
    let bundle = Arc::new(bundle);
    let drafter = Arc::new(BundleDrafter::new(Arc::clone(&bundle), section.decode.clone()));
    let (registry, shutdown) = (Registry::new(), Shutdown::from_signals());
    let metrics = Metrics::new(&registry).context("register metrics")?;
    service::telemetry::describe(Meter::new(&registry, "node"), &settings).context("register metrics")?;
    if !section.metrics_address.is_empty() {
        let bound = service::telemetry::serve(registry, &section.metrics_address, shutdown.clone())
            .await
            .context("serve metrics")?;
        tracing::info!(%bound, "serving /metrics and /healthz");
    }
    let (slot, canary) = (Slot::new(drafter), Canary::default());
    if !section.watch.registry.is_none() {
        let parts = (slot.clone(), canary.clone(), metrics.clone());
        let serving = (section.weights, section.decode.clone());
        let watcher = Watcher::new(section.watch.clone(), &bundle, serving, parts)?;
        // the first draft is already the champion's
        let watcher = watcher.looked(&shutdown).await?;
        tokio::spawn(watcher.run(shutdown.clone()));
    }
    let summary = node::run_with(settings, (slot, canary), metrics, shutdown).await?;
    println!("{}", serde_json::to_string(&summary).context("encode summary")?);
    Ok(())
}
