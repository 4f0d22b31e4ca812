//! Where the shipped bundle and recordings lie.
//!
//! Place: start of every command. Invariant: an explicit path is taken as it is; otherwise the working directory comes before
//! the source tree that built the program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

const BUNDLE: &str = "model/bundle";
const RECORDINGS: &str = "tests/data/ptbxl";
/// A recording among them that the gate accepts by a wide margin.
const HEARTBEAT: &str = "records500/00000/00020_hr.hea";

/// Directory of the bundle.
///
/// # Errors
/// No bundle at any of the places, all named.
pub fn bundle(explicit: Option<&Path>) -> anyhow::Result<PathBuf> {
    find(explicit, BUNDLE, model::bundle::MANIFEST)
}

/// Directory of the recordings.
///
/// # Errors
/// No recordings at any of the places, all named.
pub fn recordings(explicit: Option<&Path>) -> anyhow::Result<PathBuf> {
    find(explicit, RECORDINGS, "")
}

/// Header of the recording that the heartbeat plays.
///
/// # Errors
/// As [`recordings`].
pub fn heartbeat() -> anyhow::Result<PathBuf> {
    Ok(recordings(None)?.join(HEARTBEAT))
}

fn find(explicit: Option<&Path>, shipped: &str, inside: &str) -> anyhow::Result<PathBuf> {
    let places = match explicit {
        Some(path) => vec![path.to_owned()],
        None => vec![
            PathBuf::from(shipped),
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(shipped),
        ],
    };
    match places.iter().find(|place| place.join(inside).exists()) {
        Some(place) => Ok(place.clone()),
        None => bail!("none of {places:?} is there: run from the project's folder or name the directory"),
    }
}

/// Reports by record name, from a report_en.csv that lies at or above the recordings.
///
/// # Errors
/// A table that cannot be read.
pub fn references(headers: &[PathBuf]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut references = BTreeMap::new();
    let table = headers
        .first()
        .and_then(|h| h.ancestors().map(|dir| dir.join("report_en.csv")).find(|p| p.is_file()));
    let Some(table) = table else { return Ok(references) };
    let mut reader = csv::Reader::from_path(&table).with_context(|| format!("open {}", table.display()))?;
    let columns = reader.headers()?.clone();
    let column = |name: &str| {
        columns
            .iter()
            .position(|c| c == name)
            .with_context(|| format!("{} lacks {name}", table.display()))
    };
    let (id, report) = (column("ecg_id")?, column("report_en")?);
    for row in reader.records() {
        let row = row.with_context(|| format!("read {}", table.display()))?;
        let id: u32 = row[id]
            .parse()
            .with_context(|| format!("ecg_id {:?} in {}", &row[id], table.display()))?;
        references.insert(format!("{id:05}_hr"), row[report].to_owned());
    }
    Ok(references)
}
