//! A real Apache Kafka for one test: deploy/kafka/kafka.sh in a folder of its own, on a free port.
//!
//! Place: under `kafka` and the chaos harness. Invariant: it ends with its handle; where java or maven is missing there is
//! none, and that is printed.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use service::kafka::KafkaSettings;

/// A broker, stopped when dropped.
pub struct RealBroker {
    folder: tempfile::TempDir,
    brokers: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl RealBroker {
    /// Starts one; `None`, with a printed line, where java or maven is missing.
    ///
    /// # Panics
    /// When they are there and the broker does not start.
    pub fn start() -> Option<Self> {
        for tool in ["java", "mvn"] {
            let found = Command::new(tool)
                .arg("-version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if !found.is_ok_and(|status| status.success()) {
                // written past the test runner's capture, so that a run without a broker says so
                let line =
                    format!("SKIPPED: {tool} is not on this machine, so nothing is tested against a real Kafka\n");
                std::io::stderr().write_all(line.as_bytes()).expect("stderr is open");
                return None;
            }
        }
        // beside the build: data of a long run is too large for some /tmp
        let parent = root().join("target/kafka");
        std::fs::create_dir_all(&parent).expect("target is writable");
        let folder = tempfile::tempdir_in(parent).expect("target/kafka is writable");
        let port = free_ports();
        let broker = Self {
            folder,
            brokers: format!("127.0.0.1:{port}"),
        };
        broker.script(&["start", &port.to_string()]);
        Some(broker)
    }

    /// `base` pointed at this broker, with a prefix and timers for tests.
    pub fn settings(&self, base: &KafkaSettings) -> KafkaSettings {
        KafkaSettings {
            brokers: self.brokers.clone(),
            session_timeout_ms: 3000,
            heartbeat_ms: 300,
            ..base.clone()
        }
    }

    /// Stops it in order; its data stay.
    pub fn stop(&self) {
        self.script(&["stop"]);
    }

    /// SIGKILL; what it wrote is with the system.
    ///
    /// # Panics
    /// When it is not running.
    pub fn kill(&self) {
        let file = self.folder.path().join("pid");
        let id = std::fs::read_to_string(&file).expect("the broker was started");
        let status = Command::new("kill").args(["-KILL", id.trim()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -KILL {id}");
        // a dead process that nobody has waited for has no command line
        let command = Path::new("/proc").join(id.trim()).join("cmdline");
        while std::fs::read(&command).is_ok_and(|line| !line.is_empty()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::fs::remove_file(file).expect("its folder is writable");
    }

    /// Starts it after a stop or kill, at the same address with the data that it had.
    pub fn start_again(&self) {
        let port = self.brokers.rsplit(':').next().expect("host:port");
        self.script(&["start", port]);
    }

    fn script(&self, arguments: &[&str]) {
        let status = Command::new(root().join("deploy/kafka/kafka.sh"))
            .args(arguments)
            .env("MEIT_KAFKA_DIR", self.folder.path())
            .env("MEIT_KAFKA_JARS", root().join("target/kafka/jars"))
            .stdout(Stdio::null())
            .status();
        let status = status.expect("bash runs kafka.sh");
        assert!(status.success(), "kafka.sh {arguments:?} ended with {status}");
    }
}

impl Drop for RealBroker {
    fn drop(&mut self) {
        self.script(&["stop"]);
    }
}

/// A port that is free and whose successor, the controller's, is free too.
fn free_ports() -> u16 {
    let free = |port: u16| {
        TcpListener::bind(("127.0.0.1", port))
            .ok()?
            .local_addr()
            .ok()
            .map(|it| it.port())
    };
    let pair = std::iter::repeat_with(|| free(0))
        .take(100)
        .flatten()
        .find(|port| free(port + 1).is_some());
    pair.expect("two free ports in a row")
}
