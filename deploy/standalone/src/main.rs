//! meit: the command line of the standalone system.
//!
//! Place: the binary that `cargo run` starts. Invariant: holds no logic; every subcommand is a module of the library.

use clap::{Args as _, Command, FromArgMatches as _, Parser, Subcommand};
use service::allocator::{self, MiMalloc};
use standalone::{bench, demo, report};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What stands under --help.
const EXAMPLES: &str = "\
Examples:
  meit                                                  the demo: 8 monitors, embedded broker, drafts on the screen
  meit demo --review                                    the same, and a page on which drafts are read and signed
  meit report RECORD.hea --svg ecg.svg                  one recording (WFDB, EDF, DICOM) and its draft
  meit bench dsp                                        how fast this machine is";

/// Drafts reports of 12-lead ECGs. Without a command it runs the demo.
#[derive(Parser)]
#[command(name = "meit", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Meit>,
}

#[derive(Subcommand)]
enum Meit {
    /// Replays recordings as monitors through Kafka, agent and node, and shows every draft beside the recording's report.
    Demo(demo::Arguments),
    /// Reads one recording (WFDB, EDF or EDF+, DICOM ECG): measurements, quality, draft, and a picture on request.
    Report(report::Arguments),
    /// Measures how fast a part is on this machine, as JSON.
    Bench(bench::Arguments),
}

fn main() -> anyhow::Result<()> {
    // SAFETY: nothing has started a thread yet
    unsafe { model::threads::settle() };
    allocator::settle();
    service::output::end_when_closed();
    service::telemetry::init_tracing("warn");
    match Arguments::parse().command {
        Some(Meit::Demo(arguments)) => demo::run(&arguments),
        Some(Meit::Report(arguments)) => report::run(&arguments),
        Some(Meit::Bench(arguments)) => bench::run(&arguments),
        None => {
            let defaults = demo::Arguments::augment_args(Command::new("demo")).get_matches_from(["demo"]);
            demo::run(&demo::Arguments::from_arg_matches(&defaults)?)
        }
    }
}
