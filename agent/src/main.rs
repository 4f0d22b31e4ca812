//! meit-agent: waveform packets in, segments out.
//!
//! Place: the command line around [`agent::run`] and [`agent::letters`].
//! Invariant: holds no logic; a bad setting exits before anything starts.

use std::path::PathBuf;

use agent::letters::{self, Choice};
use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};
use service::allocator::{self, MiMalloc};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What stands under --help.
const EXAMPLES: &str = "\
Examples:
  meit-agent --config config/agent.toml                 waveforms in, segments out, until SIGTERM
  meit-agent check-config config/agent.toml             the settings in force, and where each comes from
  meit-agent dead-letters list --reason schema          what was refused, one JSON object a letter
  MEIT__KAFKA__BROKERS=broker:9092 meit-agent           a variable overrides file and defaults";

/// Cuts the monitors' waveforms into ten-second segments, measures and gates them.
#[derive(Parser)]
#[command(name = "meit-agent", version, after_help = EXAMPLES)]
struct Arguments {
    /// Settings file (TOML); its values override the defaults, and MEIT__SECTION__KEY variables override both.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Show(service::settings::show::Command),
    /// Reads or sends again what was refused.
    #[command(subcommand)]
    DeadLetters(DeadLetters),
}

#[derive(Subcommand)]
enum DeadLetters {
    /// Prints one JSON object a letter: place, reason, where it came from.
    List(Choice),
    /// Sends letters again to where they came from, with their original bytes.
    Replay {
        #[command(flatten)]
        choice: Choice,
        /// Send every letter.
        #[arg(long)]
        all: bool,
    },
}

fn main() -> anyhow::Result<()> {
    allocator::settle();
    service::output::end_when_closed();
    start()
}

#[tokio::main]
async fn start() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Command::Show(command)) = &arguments.command {
        return Ok(command.run::<agent::settings::AgentSettings>("agent")?);
    }
    service::telemetry::init_tracing("info");
    let settings: agent::settings::AgentSettings =
        service::settings::load_checked("agent", arguments.config.as_deref()).context("read settings")?;
    match arguments.command {
        None | Some(Command::Show(_)) => {
            let summary = agent::run(settings, service::shutdown::Shutdown::from_signals()).await?;
            println!("{}", serde_json::to_string(&summary).context("encode summary")?);
        }
        Some(Command::DeadLetters(DeadLetters::List(choice))) => {
            for letter in letters::list(&settings.kafka, &choice).await? {
                println!("{}", serde_json::to_string(&letter).context("encode letter")?);
            }
        }
        Some(Command::DeadLetters(DeadLetters::Replay { choice, all })) => {
            ensure!(
                all != choice.is_all(),
                "name letters by --reason, --topic or --at, or all of them by --all"
            );
            let replayed = letters::replay(&settings.kafka, &choice).await?;
            println!("{}", serde_json::json!({ "replayed": replayed }));
        }
    }
    Ok(())
}
