//! What the registry and the runs say, for people and machines.
//!
//! Place: `meit-pipeline status`. Invariant: reads only.

use std::fmt;

use model::registry::Champion;
use serde::Serialize;

use super::files::{Outcome, PLAN, read_json};
use super::settings::PipelineSection;
use service::time::day;

use crate::registry::Registry;

/// Runs that are shown.
const RUNS: usize = 10;

/// Champion, candidate, lineage and last runs.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub champion: Option<Champion>,
    /// The newest candidate that was not promoted after the champion.
    pub candidate: Option<String>,
    /// The champion and its parents, newest first.
    pub lineage: Vec<String>,
    /// Newest first.
    pub runs: Vec<Outcome>,
    /// Runs without an outcome: under way, or stopped.
    pub open: Vec<String>,
}

impl Report {
    /// # Errors
    /// A registry or run that cannot be read.
    pub fn read(settings: &PipelineSection) -> anyhow::Result<Self> {
        let registry = Registry::open(&settings.registry)?;
        let champion = registry.champion()?;
        let (mut runs, mut open) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&settings.work).into_iter().flatten().flatten() {
            // what has no plan is no run
            if !entry.path().join(PLAN).is_file() {
                continue;
            }
            match read_json::<Outcome>(&entry.path().join("outcome.json"))? {
                Some(outcome) => runs.push(outcome),
                None => open.push(entry.file_name().to_string_lossy().into_owned()),
            }
        }
        runs.sort_by_key(|run| std::cmp::Reverse(run.at_us));
        open.sort();
        let serving = champion.as_ref().and_then(|c| c.generation.clone());
        let newest = runs.iter().find_map(|run| run.generation.clone());
        let mut lineage = Vec::new();
        let mut next = serving.clone();
        while let Some(id) = next {
            next = registry.generation(&id)?.parent;
            lineage.push(id);
        }
        runs.truncate(RUNS);
        Ok(Self {
            candidate: newest.filter(|id| Some(id) != serving.as_ref()),
            champion,
            lineage,
            runs,
            open,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.champion {
            Some(entry) => writeln!(
                f,
                "champion   {} (entry {}, {:?} by {}, {})",
                entry.generation.as_deref().unwrap_or("the base"),
                entry.number,
                entry.change,
                entry.by,
                day(entry.at_us)
            )?,
            None => writeln!(f, "champion   the base; nothing was promoted yet")?,
        }
        writeln!(f, "candidate  {}", self.candidate.as_deref().unwrap_or("none"))?;
        let lineage = if self.lineage.is_empty() {
            "the base".to_owned()
        } else {
            format!("{} <- the base", self.lineage.join(" <- "))
        };
        writeln!(f, "lineage    {lineage}")?;
        for run in &self.runs {
            let generation = run.generation.as_deref().unwrap_or("-");
            writeln!(
                f,
                "run        {} {:?} {generation} {}",
                run.run,
                run.status,
                run.reasons.join("; ")
            )?;
        }
        for run in &self.open {
            writeln!(f, "run        {run} has no outcome yet")?;
        }
        Ok(())
    }
}
