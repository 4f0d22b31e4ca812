//! Time and memory of drafting.
//!
//! Place: task cost (table 15). Invariant: figures are measured in this run on this machine, and say which; training time is
//! what training.json beside the bundle says, and a dash where there is none.

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device};
use model::bundle;
use model::weights::Weights;
use serde::Serialize;
use serde_json::{Value, json};

use super::table::Table;
use super::{BenchmarkArgs, Results, directory, open};
use crate::evaluate::cases::TestSet;
use crate::evaluate::{baselines, readings};
use crate::record::Record;

/// Recordings drafted once before time is taken.
const WARM_UP: usize = 4;

#[derive(Serialize)]
struct Line {
    name: String,
    bundle_id: String,
    parameters: usize,
    recordings: usize,
    /// Reading, filtering, gating and measuring one recording, milliseconds of all cores.
    chain_ms: f64,
    /// Encoding one recording, without drafting.
    encode_ms: f64,
    /// Encoding and drafting one recording.
    draft_ms: f64,
    drafts_per_s: f64,
    /// Largest resident memory of this process so far, MiB; none where the system does not tell.
    memory_mib_max: Option<f64>,
    /// Training from its first step to its last, where that is recorded.
    training_hours: Option<f64>,
    cores: usize,
}

/// Times each bundle on the test set.
///
/// # Errors
/// A bundle or recording that cannot be read.
pub fn cost(args: &BenchmarkArgs, set: &TestSet) -> anyhow::Result<Results> {
    let n = set.cases.len();
    let each_ms = |start: Instant| start.elapsed().as_secs_f64() * 1e3 / n as f64;
    let start = Instant::now();
    let readings = readings::read(&set.cases, |_, _| ())?;
    let chain_ms = each_ms(start);
    let ecgs = || readings.iter().map(|r| &r.ecg);
    let mut lines = Vec::new();
    for argument in &args.bundles {
        let (name, bundle) = open(argument)?;
        let training = Record::<Value>::read(directory(argument))?.and_then(|record| record.seconds);
        readings::draft(&bundle, ecgs().take(WARM_UP))?;
        let start = Instant::now();
        baselines::features(&bundle, ecgs())?;
        let encode_ms = each_ms(start);
        let start = Instant::now();
        readings::draft(&bundle, ecgs())?;
        let draft_ms = each_ms(start);
        lines.push(Line {
            name,
            bundle_id: bundle.id().to_owned(),
            parameters: parameters(directory(argument))?,
            recordings: n,
            chain_ms,
            encode_ms,
            draft_ms,
            drafts_per_s: 1e3 / draft_ms,
            memory_mib_max: memory_kib_max().map(|kib| kib / 1024.0),
            training_hours: training.map(|seconds| seconds / 3600.0),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        });
    }
    let mut table = Table::new(
        "Cost",
        &[
            "Model",
            "Parameters, M",
            "Chain, ms",
            "Encode, ms",
            "Draft, ms",
            "Drafts a second",
            "Peak memory, MiB",
            "Training, h",
        ],
    );
    for l in &lines {
        let values = [
            l.parameters as f64 / 1e6,
            l.chain_ms,
            l.encode_ms,
            l.draft_ms,
            l.drafts_per_s,
        ]
        .map(Some);
        table.rows.push((
            l.name.clone(),
            values.into_iter().chain([l.memory_mib_max, l.training_hours]).collect(),
        ));
    }
    let cores = lines.first().map_or(0, |line| line.cores);
    table.notes.push(format!(
        "Mean of {n} recordings on {cores} cores, CPU, f32, several recordings side by side. Training time is that of training.json beside \
         a bundle, on the machine that trained it."
    ));
    Ok(Results {
        json: json!(lines),
        tables: vec![table],
        charts: Vec::new(),
    })
}

/// Numbers in the weights of a bundle.
fn parameters(dir: &Path) -> anyhow::Result<usize> {
    let (dtype, device) = (DType::F32, Device::Cpu);
    let base = Weights::load_checkpoint(dir, dtype, &device)?;
    Ok(base.elements() + Weights::load(&[&dir.join(bundle::ENCODER)], dtype, &device)?.elements())
}

/// Largest resident memory of this process, KiB: the VmHWM line of /proc/self/status.
pub fn memory_kib_max() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
