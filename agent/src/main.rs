//! meit-agent: waveform packets in, segments out.
//!
//! Place: the command line around [`agent::run`].
//! Invariant: holds no logic; a bad setting exits before anything starts.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;

/// Cuts the monitors' waveforms into ten-second segments, measures and gates them.
#[derive(Parser)]
#[command(name = "meit-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<service::settings::show::Command>,
    /// Settings file (TOML); its values override the defaults, and MEIT__SECTION__KEY variables override both.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(command) = &arguments.command {
        return Ok(command.run::<agent::settings::AgentSettings>("agent")?);
    }
    service::telemetry::init_tracing("info");
    let settings: agent::settings::AgentSettings =
        service::settings::load_checked("agent", arguments.config.as_deref()).context("read settings")?;
    let summary = agent::run(settings, service::shutdown::Shutdown::from_signals()).await?;
    println!("{}", serde_json::to_string(&summary).context("encode summary")?);
    Ok(())
}
