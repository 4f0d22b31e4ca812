//! An embedded broker, packets of shipped recordings, and a drafter without a model.
//!
//! Place: under `stream`, `node` and `review`. Invariant: every topic has one partition, so a marker that is sent after the
//! processes stopped is the last record, and reading up to it reads all.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agent::metrics::AgentSummary;
use agent::settings::AgentSettings;
use bedside::recording::Recording;
use candle_core::Device;
use ecg::packet::{Packet, PacketLead};
use ecg::report::{BundleLineage, DecodeParameters};
use ecg::{SAMPLE_RATE_HZ, SEGMENT_SAMPLES, topic};
use model::generate::Finish;
use model::meit::EcgInput;
use node::drafter::{DraftText, Drafter};
use node::metrics::NodeSummary;
use node::settings::NodeSettings;
use prometheus::Registry;
use service::kafka::KafkaSettings;
use service::kafka::embedded::EmbeddedBroker;
use service::kafka::sink::Sink;
use service::kafka::source::{Event, Record, Source};
use service::kafka::table;
use service::shutdown::Shutdown;
use tokio::task::JoinHandle;

pub const STREAM: &str = "bed-01";
/// How long a record is waited for.
const WAIT_MAX: Duration = Duration::from_secs(30);
const MARKER: &[u8] = b"end of test";

/// Where tests of the model's arithmetic run: MEIT_DEVICE ("cuda" in a build with that feature), else the CPU. Opened once, for
/// tensors of two openings do not meet.
pub fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let open = || model::device::open(&std::env::var("MEIT_DEVICE").unwrap_or_else(|_| "cpu".to_owned())).unwrap();
    DEVICE.get_or_init(open).clone()
}

/// Root of the repository: where cargo, or deploy/gpu/run.sh, says at run time that it is, else where the tests were built.
pub fn root() -> PathBuf {
    let built = || env!("CARGO_MANIFEST_DIR").into();
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(built)).join("..")
}

/// Three recordings that the gate accepts.
pub fn recordings() -> Vec<Recording> {
    let names = ["00000/00020_hr", "13000/13246_hr", "10000/10452_hr"];
    let header = |name| root().join(format!("tests/data/ptbxl/records500/{name}.hea"));
    names.map(|name| Recording::load(&header(name)).unwrap()).into()
}

/// The recordings end to end as one stream, in packets of so many samples, and the heartbeat that ends it.
pub fn packets(recordings: &[Recording], packet_samples: usize) -> Vec<Packet> {
    let end = recordings.len() * SEGMENT_SAMPLES;
    let heartbeat = |first: usize| Packet {
        stream_id: STREAM.to_owned(),
        device_id: "monitor-1".to_owned(),
        boot_id: 1,
        sequence: first.div_ceil(packet_samples) as u64,
        first_sample: first as i64,
        device_time_us: 1_000_000 + (first as f64 * 1e6 / SAMPLE_RATE_HZ) as i64,
        gateway_time_us: 1_000_000,
        rate_hz: SAMPLE_RATE_HZ,
        leads: vec![],
        stat: false,
        filter_class: ecg::segment::FilterClass::Unspecified,
        heartbeat: true,
    };
    let lead = |index: usize, first: usize| {
        let range = first..(first + packet_samples).min(end);
        let unit = |at: usize| recordings[at / SEGMENT_SAMPLES].leads[index].1[at % SEGMENT_SAMPLES].round() as i16;
        PacketLead::of(recordings[0].leads[index].0, range.map(unit).collect(), 1.0)
    };
    let full = |first: usize| Packet {
        leads: (0..recordings[0].leads.len()).map(|index| lead(index, first)).collect(),
        heartbeat: false,
        ..heartbeat(first)
    };
    let starts = (0..end).step_by(packet_samples);
    starts.map(full).chain([heartbeat(end + SEGMENT_SAMPLES)]).collect()
}

/// A broker and its settings.
pub struct Rig {
    pub kafka: KafkaSettings,
    pub sink: Sink,
    _broker: EmbeddedBroker,
}

/// A process in a task.
pub struct Running<Summary> {
    stop: Shutdown,
    task: JoinHandle<anyhow::Result<Summary>>,
}

impl<Summary> Running<Summary> {
    /// Ends it at once, as a kill does: nothing is drained, nothing is committed.
    pub async fn kill(self) {
        self.task.abort();
        // an aborted task ends with an error, which is what was asked for
        let _ = self.task.await;
    }

    /// Stops it and waits for what it says.
    pub async fn stop(self) -> Summary {
        self.stop.trigger();
        self.ended().await.unwrap()
    }

    /// What stops it, from elsewhere.
    pub fn switch(&self) -> Shutdown {
        self.stop.clone()
    }

    /// Waits until it ends by itself.
    pub async fn ended(self) -> anyhow::Result<Summary> {
        self.task.await.unwrap()
    }
}

/// An agent on a broker.
pub fn agent_on(kafka: KafkaSettings) -> Running<AgentSummary> {
    agent_with(agent_settings(kafka), &Registry::new())
}

/// The shipped settings of an agent on a broker.
pub fn agent_settings(kafka: KafkaSettings) -> AgentSettings {
    let settings: AgentSettings = service::settings::load("agent", None).unwrap();
    AgentSettings { kafka, ..settings }
}

/// An agent that counts in a registry.
pub fn agent_with(settings: AgentSettings, registry: &Registry) -> Running<AgentSummary> {
    let stop = Shutdown::new();
    let metrics = agent::metrics::Metrics::new(registry).unwrap();
    let task = tokio::spawn(agent::run_with(settings, metrics, stop.clone()));
    Running { stop, task }
}

/// A node on a broker, without a model.
pub fn node_on(kafka: KafkaSettings) -> Running<NodeSummary> {
    let settings: NodeSettings = service::settings::load("node", None).unwrap();
    node_with(
        NodeSettings { kafka, ..settings },
        Arc::new(SumDrafter),
        &Registry::new(),
    )
}

/// A node that drafts with `drafter` and counts in a registry.
pub fn node_with(settings: NodeSettings, drafter: Arc<dyn Drafter>, registry: &Registry) -> Running<NodeSummary> {
    let stop = Shutdown::new();
    let metrics = node::metrics::Metrics::new(registry).unwrap();
    let task = tokio::spawn(node::run(settings, drafter, metrics, stop.clone()));
    Running { stop, task }
}

impl Rig {
    pub fn start() -> Self {
        let broker = EmbeddedBroker::start(&topic::ALL.map(|name| (name, 1))).unwrap();
        let base: AgentSettings = service::settings::load("agent", None).unwrap();
        let kafka = broker.settings(&base.kafka);
        Self {
            sink: Sink::new(&kafka).unwrap(),
            kafka,
            _broker: broker,
        }
    }

    pub fn kafka(&self) -> &KafkaSettings {
        &self.kafka
    }

    pub fn agent(&self) -> Running<AgentSummary> {
        self.agent_with(&Registry::new())
    }

    /// An agent that counts in a registry.
    pub fn agent_with(&self, registry: &Registry) -> Running<AgentSummary> {
        agent_with(agent_settings(self.kafka.clone()), registry)
    }

    pub fn node(&self) -> Running<NodeSummary> {
        node_on(self.kafka.clone())
    }

    /// Sends bytes as a monitor's gateway would.
    pub async fn send_bytes(&self, payload: &[u8]) {
        self.send_under(STREAM, payload).await;
    }

    /// Sends bytes under another stream's key.
    pub async fn send_under(&self, stream_id: &str, payload: &[u8]) {
        let key = Some(stream_id.as_bytes());
        self.sink.send(topic::WAVEFORMS, key, payload, &[]).await.unwrap();
    }

    pub async fn send(&self, packets: &[Packet]) {
        for packet in packets {
            self.send_bytes(&packet.encode()).await;
        }
    }

    /// Waits until a topic holds so many records.
    pub async fn wait_for(&self, topic: &str, count: usize) {
        let mut seen = 0;
        self.read(topic, "wait", |_| {
            seen += 1;
            seen == count
        })
        .await;
    }

    /// Every record of a topic that nobody writes to any more.
    pub async fn all(&self, topic: &str) -> Vec<Record> {
        self.sink.send(topic, None, MARKER, &[]).await.unwrap();
        let mut records = self.read(topic, "all", |record| record.payload == MARKER).await;
        records.pop();
        records
    }

    /// Checks that every record of a topic is a CloudEvent of one of `sources`, none twice; returns how many there are.
    pub async fn events(&self, topic: &str, sources: &[&str]) -> usize {
        let rows = table::read(&self.kafka, topic, &[0]).await.unwrap();
        let mut events = BTreeSet::new();
        for row in rows.iter().filter(|row| row.value != MARKER) {
            let header = |name| {
                row.header(name)
                    .unwrap_or_else(|| panic!("{topic}: no {name} in {row:?}"))
            };
            assert_eq!(header("ce_specversion"), ecg::event::SPEC_VERSION);
            assert_eq!(header("ce_type"), topic);
            assert_eq!(header("content-type"), ecg::event::content_type(topic));
            let source = header("ce_source");
            assert!(sources.contains(&source), "{topic}: source {source}");
            let id = (source.to_owned(), header("ce_id").to_owned());
            assert!(!id.1.is_empty() && events.insert(id.clone()), "{topic}: {id:?} twice");
        }
        events.len()
    }

    /// Records of a topic from its first on, up to and with the one that `is_last`.
    async fn read(&self, topic: &str, reader: &str, mut is_last: impl FnMut(&Record) -> bool) -> Vec<Record> {
        let (source, mut events) = Source::start(&self.kafka, &format!("{reader}-{topic}"), &[topic], 256).unwrap();
        let mut records = Vec::new();
        loop {
            let event = tokio::time::timeout(WAIT_MAX, events.recv()).await;
            match event
                .unwrap_or_else(|_| panic!("{topic} stays at {} records", records.len()))
                .unwrap()
            {
                Event::Record(record) => {
                    let last = is_last(&record);
                    records.push(record);
                    if last {
                        break;
                    }
                }
                Event::Assigned(_) => {}
                other => panic!("{other:?}"),
            }
        }
        source.stop().await.unwrap();
        records
    }
}

/// Writes the sum of the samples, so that a text depends on every one of them.
pub struct SumDrafter;

impl Drafter for SumDrafter {
    fn draft(&self, ecgs: &[EcgInput]) -> anyhow::Result<Vec<DraftText>> {
        let text = |ecg: &EcgInput| DraftText {
            text: format!(
                "samples sum to {:.6}",
                ecg.millivolts.iter().copied().map(f64::from).sum::<f64>()
            ),
            tokens: 4,
            prompt_tokens: 0,
            steps: vec![],
            logprob_mean: -0.5,
            logprob_min: -2.0,
            finish: Finish::Stop,
        };
        Ok(ecgs.iter().map(text).collect())
    }

    fn lineage(&self) -> BundleLineage {
        BundleLineage {
            bundle_id: "sum".to_owned(),
            ..BundleLineage::default()
        }
    }

    fn decode_parameters(&self) -> DecodeParameters {
        DecodeParameters {
            strategy: "greedy".to_owned(),
            max_tokens: 4,
            ..DecodeParameters::default()
        }
    }
}

/// Copies the files of a folder, not those of its folders.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}
