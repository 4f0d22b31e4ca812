//! How often the checks of a draft would flag a cardiologist's own report: the figures of docs/safety.md.
//!
//! `cargo run --release -p pipeline --example false_alarms -- --dataset ptbxl:DIR [--folds 9] [--texts]`
//!
//! One JSON object: reports, those flagged, and how many say what kind of contradiction. With `--texts` each flagged report comes
//! before it, with its contradictions.

use std::collections::BTreeMap;

use clap::Parser;
use model::checks::contradictions;
use pipeline::evaluate::cases::TestSet;
use pipeline::evaluate::readings;
use pipeline::sources::Source;

#[derive(Parser)]
struct Arguments {
    /// Recordings with reports, such as ptbxl:DIR.
    #[arg(long)]
    dataset: Source,
    /// Folds of PTB-XL.
    #[arg(long, value_delimiter = ',', default_value = "9")]
    folds: Vec<u8>,
    /// Print the flagged reports too.
    #[arg(long)]
    texts: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let cases = TestSet::open(&arguments.dataset, &arguments.folds)?.cases;
    let readings = readings::read(&cases, |_, _| {})?;
    let (mut reports, mut flagged) = (0, 0);
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    // what the gate or a pacemaker keeps from the model is never drafted, so never checked
    for (case, reading) in cases.iter().zip(&readings).filter(|(_, reading)| !reading.refused) {
        let lines = contradictions(&case.report, &reading.ecg.measurements);
        reports += 1;
        flagged += usize::from(!lines.is_empty());
        for line in &lines {
            *kinds.entry(kind(line)).or_insert(0) += 1;
        }
        if arguments.texts && !lines.is_empty() {
            println!(
                "{}",
                serde_json::json!({ "record": case.header, "report": case.report, "contradictions": lines })
            );
        }
    }
    let figures = serde_json::json!({
        "folds": arguments.folds,
        "reports": reports,
        "flagged": flagged,
        "share": flagged as f64 / f64::max(reports as f64, 1.0),
        "kinds": kinds,
    });
    println!("{figures}");
    Ok(())
}

/// A contradiction without its numbers.
fn kind(line: &str) -> String {
    let words = line.split_whitespace().filter(|word| word.parse::<f32>().is_err());
    words.collect::<Vec<_>>().join(" ")
}
