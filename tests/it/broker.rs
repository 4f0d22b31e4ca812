//! A real Apache Kafka for one test, of one broker or of several: deploy/kafka/kafka.sh in a folder for each, on free ports.
//!
//! Place: under `kafka` and the chaos harness. Invariant: a broker ends with its handle; where java or maven is missing there is
//! none, and that is printed.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use service::kafka::KafkaSettings;

/// Name of a cluster of several, as Kafka writes one: 16 bytes in base64.
const CLUSTER: &str = "bWVpdC10ZXN0LWNsdXN0ZQ";
/// Copies of a topic where there are enough brokers.
const COPIES: usize = 3;

/// A broker, stopped when dropped.
pub struct RealBroker {
    folder: tempfile::TempDir,
    /// Of every broker of its cluster.
    ports: Vec<u16>,
    /// Its place among them.
    place: usize,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl RealBroker {
    /// Starts a cluster of so many; `None`, with a printed line, where java or maven is missing.
    ///
    /// # Panics
    /// When they are there and a broker does not start.
    pub fn cluster(size: usize) -> Option<Vec<Self>> {
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
        let ports = free_ports(size);
        let broker = |place| Self {
            folder: tempfile::tempdir_in(&parent).expect("target/kafka is writable"),
            ports: ports.clone(),
            place,
        };
        let brokers: Vec<Self> = (0..size).map(broker).collect();
        brokers[0].script(&["jars"]);
        // none of several listens before most of them run
        std::thread::scope(|scope| {
            for broker in &brokers {
                scope.spawn(|| broker.start_again());
            }
        });
        Some(brokers)
    }

    /// `base` pointed at this broker and the others of its cluster, with timers for tests.
    pub fn settings(&self, base: &KafkaSettings) -> KafkaSettings {
        let addresses = self.ports.iter().map(|port| format!("127.0.0.1:{port}"));
        KafkaSettings {
            brokers: addresses.collect::<Vec<_>>().join(","),
            replication: self.ports.len().min(COPIES) as i32,
            session_timeout_ms: 3000,
            heartbeat_ms: 300,
            ..base.clone()
        }
    }

    /// Stops it in order; its data stay.
    pub fn stop(&self) {
        self.script(&["stop"]);
    }

    /// SIGKILL, if it is running; what it wrote is with the system.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(&self) {
        let file = self.folder.path().join("pid");
        let Ok(id) = std::fs::read_to_string(&file) else { return };
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
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        self.script(&["start", &ports.join(","), &(self.place + 1).to_string()]);
    }

    fn script(&self, arguments: &[&str]) {
        let status = Command::new(root().join("deploy/kafka/kafka.sh"))
            .args(arguments)
            .env("MEIT_KAFKA_DIR", self.folder.path())
            .env("MEIT_KAFKA_JARS", root().join("target/kafka/jars"))
            .env("MEIT_KAFKA_CLUSTER", CLUSTER)
            .stdout(Stdio::null())
            .status();
        let status = status.expect("bash runs kafka.sh");
        assert!(status.success(), "kafka.sh {arguments:?} ended with {status}");
    }
}

impl Drop for RealBroker {
    fn drop(&mut self) {
        // in order the last of a cluster would wait for a majority that has gone; nobody needs its data
        self.kill();
    }
}

/// Ports that are free and whose successors, the controllers', are free too.
fn free_ports(count: usize) -> Vec<u16> {
    let bind = |port: u16| TcpListener::bind(("127.0.0.1", port)).ok();
    // held until all are found, so that none is found twice
    let pair = || {
        let first = bind(0)?;
        let port = first.local_addr().ok()?.port();
        Some((port, first, bind(port.checked_add(1)?)?))
    };
    let pairs: Vec<_> = std::iter::repeat_with(pair).take(100).flatten().take(count).collect();
    assert_eq!(pairs.len(), count, "two free ports in a row for each broker");
    pairs.iter().map(|(port, ..)| *port).collect()
}
