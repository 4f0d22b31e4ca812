//! meit-pipeline: trains, evaluates and scores from the command line.

use clap::Parser;

/// Tensors are large and short-lived; the system allocator returns and faults their pages at every operation.
#[global_allocator]
static ALLOCATOR: pipeline::allocator::MiMalloc = pipeline::allocator::MiMalloc;

fn main() -> anyhow::Result<()> {
    // SAFETY: nothing has started a thread yet
    unsafe { model::threads::settle() };
    pipeline::allocator::settle();
    service::output::end_when_closed();
    service::telemetry::init_tracing("info");
    pipeline::cli::Cli::parse().run()
}
