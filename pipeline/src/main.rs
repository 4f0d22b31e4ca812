//! meit-pipeline: trains, evaluates and scores from the command line.

use clap::Parser;
use service::allocator::{self, MiMalloc};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> anyhow::Result<()> {
    // SAFETY: nothing has started a thread yet
    unsafe { model::threads::settle() };
    allocator::settle();
    service::output::end_when_closed();
    service::telemetry::init_tracing("info");
    pipeline::cli::Cli::parse().run()
}
