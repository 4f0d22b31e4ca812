//! One agent or node as a child process.
//!
//! Place: under the chaos harness. Invariant: at most one child at a time, and none outlives the handle.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use service::kafka::KafkaSettings;

/// How long a process may take to stop when asked to.
const STOP_MAX: Duration = Duration::from_secs(60);

/// A process that is started again after each kill, under the same name.
pub struct Process {
    program: PathBuf,
    folder: PathBuf,
    name: String,
    variables: Vec<(String, String)>,
    child: Option<Child>,
}

impl Process {
    /// Not started yet.
    pub fn new(program: PathBuf, folder: &Path, kafka: &KafkaSettings, name: &str) -> Self {
        let variable = |key: &str, value: String| (format!("MEIT__{key}"), value);
        let variables = vec![
            variable("KAFKA__BROKERS", kafka.brokers.clone()),
            variable("KAFKA__INSTANCE", name.to_owned()),
            variable("KAFKA__SESSION_TIMEOUT_MS", kafka.session_timeout_ms.to_string()),
            variable("KAFKA__HEARTBEAT_MS", kafka.heartbeat_ms.to_string()),
            variable("KAFKA__PARTITIONS", kafka.partitions.to_string()),
            variable("AGENT__METRICS_ADDRESS", "127.0.0.1:0".to_owned()),
            variable("NODE__METRICS_ADDRESS", "127.0.0.1:0".to_owned()),
        ];
        Self {
            program,
            folder: folder.to_owned(),
            name: name.to_owned(),
            variables,
            child: None,
        }
    }

    /// Its name on the broker.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it; what it says is appended to its log.
    ///
    /// # Errors
    /// When the program is missing or the log cannot be written.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let log = self
            .folder
            .join("target/kafka")
            .join(format!("chaos-{}.log", self.name));
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let child = Command::new(&self.program)
            .current_dir(&self.folder)
            .envs(self.variables.iter().map(|(key, value)| (key, value)))
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn();
        self.child = Some(child.with_context(|| format!("start {}", self.program.display()))?);
        Ok(())
    }

    /// Starts it when it was killed or ended by itself.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_if_dead(&mut self) -> anyhow::Result<()> {
        if self.is_alive() { Ok(()) } else { self.start() }
    }

    /// True while it runs.
    pub fn is_alive(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().with_context(|| format!("kill {}", self.name))?;
            child.wait().with_context(|| format!("wait for {}", self.name))?;
        }
        Ok(())
    }

    /// SIGINT, then waits; true when it ended with code 0.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> anyhow::Result<bool> {
        let Some(mut child) = self.child.take() else {
            return Ok(false);
        };
        let id = child.id().to_string();
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .context("send SIGINT")?;
        let start = Instant::now();
        while start.elapsed() < STOP_MAX {
            if let Some(status) = child.try_wait().context("wait")? {
                return Ok(ExitStatus::success(&status));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().context("kill")?;
        anyhow::bail!("{} did not stop within {STOP_MAX:?}", self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{}: {error:#}", self.name);
        }
    }
}
