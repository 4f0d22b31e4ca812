//! What a batch job leaves for Prometheus: when each stage last succeeded, whether its last run did, and how long it took.
//!
//! Place: around a command of `cli`. A job is gone before it could be scraped, so it leaves a file, which node_exporter's
//! textfile collector serves. Invariant: a failed run keeps the time of the last success, and the file is replaced in one step.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use prometheus::{GaugeVec, Opts, Registry, TextEncoder};
use service::time::now_seconds;
use store::disk;

/// Commands that are told apart; `run` is the whole nightly job.
pub const STAGES: [&str; 3] = ["train", "evaluate", "run"];

const SUCCESS_TIME: &str = "meit_pipeline_last_success_timestamp_seconds";
const SUCCESS: &str = "meit_pipeline_last_run_success";
const DURATION: &str = "meit_pipeline_last_run_duration_seconds";

/// The levels of every stage; a stage that never ran has none.
pub struct Metrics {
    success_time: GaugeVec,
    success: GaugeVec,
    duration: GaugeVec,
}

impl Metrics {
    /// Makes and registers the metrics.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str| {
            let gauges = GaugeVec::new(Opts::new(name, help), &["stage"])?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        Ok(Self {
            success_time: gauges(
                SUCCESS_TIME,
                "When the stage last succeeded, seconds since the Unix epoch.",
            )?,
            success: gauges(SUCCESS, "1 when the last run of the stage succeeded, 0 when it failed.")?,
            duration: gauges(DURATION, "Time that the last run of the stage took.")?,
        })
    }

    /// A run of a stage ended at `now_seconds`.
    pub fn ended(&self, stage: &str, succeeded: bool, seconds: f64, now_seconds: f64) {
        self.success
            .with_label_values(&[stage])
            .set(f64::from(u8::from(succeeded)));
        self.duration.with_label_values(&[stage]).set(seconds);
        if succeeded {
            self.success_time.with_label_values(&[stage]).set(now_seconds);
        }
    }

    /// Takes over what an earlier job left.
    fn take(&self, text: &str) {
        for (name, gauges) in [
            (SUCCESS_TIME, &self.success_time),
            (SUCCESS, &self.success),
            (DURATION, &self.duration),
        ] {
            for stage in STAGES {
                let start = format!("{name}{{stage=\"{stage}\"}} ");
                let line = text.lines().find_map(|line| line.strip_prefix(&start));
                if let Some(value) = line.and_then(|value| value.parse().ok()) {
                    gauges.with_label_values(&[stage]).set(value);
                }
            }
        }
    }
}

/// Runs a stage and writes how it went to `file`, unless it did not work itself; without a file it only runs.
///
/// # Errors
/// The stage's own error; else that of a file that cannot be written.
pub fn recorded<T>(
    file: Option<&Path>,
    stage: &str,
    worked: impl FnOnce(&T) -> bool,
    run: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let Some(file) = file else { return run() };
    let start = Instant::now();
    let ran = run();
    if let Ok(value) = &ran
        && !worked(value)
    {
        return ran;
    }
    let written = write(file, stage, ran.is_ok(), start.elapsed().as_secs_f64());
    let value = ran?;
    written.with_context(|| format!("write metrics file {}", file.display()))?;
    Ok(value)
}

fn write(file: &Path, stage: &str, succeeded: bool, seconds: f64) -> anyhow::Result<()> {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry)?;
    metrics.take(&std::fs::read_to_string(file).unwrap_or_default());
    metrics.ended(stage, succeeded, seconds, now_seconds());
    let text = TextEncoder::new().encode_to_string(&registry.gather())?;
    disk::replace(file, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_run_keeps_the_last_success_and_other_stages() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("meit.prom");
        recorded(Some(&file), "train", |()| true, || Ok(())).unwrap();
        recorded(Some(&file), "evaluate", |()| true, || Ok(())).unwrap();
        let value = |name: &str, stage: &str| -> f64 {
            let text = std::fs::read_to_string(&file).unwrap();
            let start = format!("{name}{{stage=\"{stage}\"}} ");
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(&start).map(str::to_owned));
            line.unwrap_or_else(|| panic!("{start} is not in {text}"))
                .parse()
                .unwrap()
        };
        let trained = value(SUCCESS_TIME, "train");
        assert!(trained > 1.7e9 && value(SUCCESS, "train") == 1.0);
        let failed = recorded(Some(&file), "train", |()| true, || anyhow::bail!("no data"));
        assert_eq!(failed.unwrap_err().to_string(), "no data");
        assert_eq!((value(SUCCESS_TIME, "train"), value(SUCCESS, "train")), (trained, 0.0));
        assert_eq!(value(SUCCESS, "evaluate"), 1.0);
        // what others did is no success of this run
        recorded(Some(&file), "train", |()| false, || Ok(())).unwrap();
        assert_eq!((value(SUCCESS_TIME, "train"), value(SUCCESS, "train")), (trained, 0.0));
    }

    #[test]
    fn a_file_that_cannot_be_written_fails_a_run_that_succeeded() {
        let error = recorded(Some(Path::new("/nonexistent/meit.prom")), "train", |()| true, || Ok(())).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/meit.prom"), "{error}");
    }
}
