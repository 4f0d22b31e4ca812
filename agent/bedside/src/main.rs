//! meit-bedside: recordings replayed as live monitors.
//!
//! Place: the command line around [`bedside::run`].
//! Invariant: holds no logic; a flag overrides the setting of the same name.

use std::path::PathBuf;

use anyhow::Context as _;
use bedside::fault::Fault;
use bedside::noise::Noise;
use bedside::settings::BedsideSettings;
use clap::Parser;

/// What stands under --help.
const EXAMPLES: &str = "\
Examples:
  meit-bedside tests/data/ptbxl                         every recording of a folder as monitors
  meit-bedside --beds 16 --speed 1 --minutes 60 DIR     sixteen monitors for an hour in real time
  meit-bedside --noise em --snr-db 6 DIR                with electrode motion (bedside.noise_directory)
  meit-bedside check-config deploy/systemd/heartbeat.toml";

/// Replays WFDB recordings as bedside monitors on ecg.waveforms.v1.
#[derive(Parser)]
#[command(name = "meit-bedside", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Option<service::settings::show::Command>,
    /// Headers (*.hea) or directories of them, instead of the setting `bedside.recordings`.
    recordings: Vec<PathBuf>,
    /// Settings file (TOML); its values override the defaults, and MEIT__SECTION__KEY variables override both.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Monitors at once.
    #[arg(long)]
    beds: Option<usize>,
    /// Stream minutes that each bed plays.
    #[arg(long)]
    minutes: Option<f64>,
    /// Stream seconds a second; 1 is real time.
    #[arg(long)]
    speed: Option<f64>,
    /// Noise to add: none, bw (baseline wander), em (electrode motion) or ma (muscle artefact).
    #[arg(long)]
    noise: Option<Noise>,
    /// Signal-to-noise ratio of the added noise, decibels of window power.
    #[arg(long, allow_hyphen_values = true)]
    snr_db: Option<f64>,
    /// Decides order and noise.
    #[arg(long)]
    seed: Option<u64>,
    /// Injects a fault at a moment of stream time, such as clock-back@30s; repeatable; --help lists the kinds.
    #[arg(long = "fault", value_name = "KIND@SECONDSs[/STREAM]", long_help = bedside::fault::help())]
    faults: Vec<Fault>,
    /// Address of /metrics and /healthz; empty for none.
    #[arg(long, value_name = "HOST:PORT")]
    metrics_address: Option<String>,
}

impl Arguments {
    fn over(self, mut settings: BedsideSettings) -> BedsideSettings {
        let section = &mut settings.bedside;
        if !self.recordings.is_empty() {
            section.recordings = self.recordings;
        }
        section.beds = self.beds.unwrap_or(section.beds);
        section.minutes = self.minutes.unwrap_or(section.minutes);
        section.speed = self.speed.unwrap_or(section.speed);
        section.noise = self.noise.unwrap_or(section.noise);
        section.snr_db = self.snr_db.unwrap_or(section.snr_db);
        section.seed = self.seed.unwrap_or(section.seed);
        section.faults.extend(self.faults);
        section.metrics_address = self.metrics_address.unwrap_or(section.metrics_address.clone());
        settings
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    service::output::end_when_closed();
    let arguments = Arguments::parse();
    if let Some(command) = &arguments.command {
        return Ok(command.run::<bedside::settings::BedsideSettings>("bedside")?);
    }
    service::telemetry::init_tracing("info");
    let settings = service::settings::load_checked("bedside", arguments.config.as_deref()).context("read settings")?;
    let summary = bedside::run(arguments.over(settings), service::shutdown::Shutdown::from_signals()).await?;
    println!("{}", serde_json::to_string(&summary).context("encode summary")?);
    Ok(())
}
