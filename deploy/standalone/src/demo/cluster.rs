//! What a demo runs on: a broker of its own or a real one, and the processes' settings pointed at it.
//!
//! Place: first step of `demo` and of `night`. Invariant: on the embedded broker boot and topics are the same each time.

use anyhow::Context as _;
use bedside::noise::Noise;
use ecg::topic;
use service::kafka::cluster::create_topics;
use service::kafka::config::{KafkaOnly, KafkaSettings};
use service::kafka::embedded::EmbeddedBroker;

use super::{Arguments, NoiseKind};
use crate::assets;

/// Partitions of each topic on the embedded broker, a ring of 5 MiB each.
const PARTITIONS: i32 = 8;
/// Boot of the monitors on the embedded broker: fixed, so that segment ids repeat.
const BOOT_ID: u64 = 1;

/// The broker that the demo runs on.
pub struct Cluster {
    pub kafka: KafkaSettings,
    pub description: String,
    _embedded: Option<EmbeddedBroker>,
}

impl Cluster {
    pub async fn open(brokers: Option<&str>) -> anyhow::Result<Self> {
        let base = service::settings::load::<KafkaOnly>("kafka", None)?.kafka;
        let Some(brokers) = brokers else {
            let topics: Vec<(&str, i32)> = topic::ALL.iter().map(|&name| (name, PARTITIONS)).collect();
            let broker = EmbeddedBroker::start(&topics).context("start embedded broker")?;
            let description = format!("embedded broker {} · {} topics", broker.bootstrap(), topics.len());
            return Ok(Self {
                kafka: broker.settings(&base),
                description,
                _embedded: Some(broker),
            });
        };
        let kafka = KafkaSettings {
            brokers: brokers.to_owned(),
            outage_max_ms: 0, // who names a broker wants to know at once that it is not there
            ..base
        };
        create_topics(&kafka, topic::KEPT).await.context("create topics")?;
        Ok(Self {
            description: format!("kafka {brokers}"),
            kafka,
            _embedded: None,
        })
    }
}

/// The settings of the three processes, pointed at one broker.
pub struct Settings {
    pub agent: agent::settings::AgentSettings,
    pub node: node::settings::NodeSettings,
    pub bedside: bedside::settings::BedsideSettings,
}

impl Settings {
    pub fn load(arguments: &Arguments, kafka: &KafkaSettings) -> anyhow::Result<Self> {
        let mut agent: agent::settings::AgentSettings = service::settings::load("agent", None)?;
        let mut node: node::settings::NodeSettings = service::settings::load("node", None)?;
        let mut bedside: bedside::settings::BedsideSettings = service::settings::load("bedside", None)?;
        agent.kafka = kafka.clone();
        node.kafka = kafka.clone();
        bedside.kafka = kafka.clone();
        let section = &mut bedside.bedside;
        section.recordings = vec![assets::recordings(arguments.recordings.as_deref())?];
        if arguments.heartbeat {
            section.heartbeat = assets::heartbeat()?;
        }
        section.beds = arguments.beds;
        section.minutes = arguments.minutes;
        section.speed = arguments.speed;
        section.seed = arguments.seed;
        section.faults.clone_from(&arguments.faults);
        section.snr_db = arguments.snr_db;
        section.noise_directory.clone_from(&arguments.noise_directory);
        section.noise = match arguments.noise {
            NoiseKind::None => Noise::None,
            NoiseKind::Bw => Noise::Bw,
            NoiseKind::Em => Noise::Em,
            NoiseKind::Ma => Noise::Ma,
        };
        // a real broker keeps earlier replays, so there a replay is a new boot of its monitors
        section.boot_id = if arguments.brokers.is_some() { 0 } else { BOOT_ID };
        Ok(Self { agent, node, bedside })
    }
}
