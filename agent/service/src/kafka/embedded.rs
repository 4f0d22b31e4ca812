//! A Kafka-protocol broker inside the process: librdkafka's mock cluster, reached over TCP by the production clients.
//!
//! Place: instead of Apache Kafka in the demo and in tests. Its limits: a partition is a ring of 5 MiB that drops its oldest
//! records in silence (the source reports the gap), nothing is kept after the process, there is no admin API, and
//! transactions succeed without effect; [`super::cluster::create_topics`] recognises it.
//! Invariant: it lives as long as this handle; its port is random.

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, Producer as _};

use super::KafkaSettings;

/// One broker is enough: the ring is the limit, not the throughput, and each client runs a thread a broker.
const BROKERS: &str = "1";

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The mock cluster does not start.
    #[error("start embedded broker")]
    Start(#[source] KafkaError),
    /// A topic cannot be made.
    #[error("create topic {topic} with {partitions} partitions on the embedded broker")]
    Topic {
        /// The topic.
        topic: String,
        /// Its partitions.
        partitions: i32,
        /// Why.
        source: KafkaError,
    },
}

/// A handle that keeps the broker alive.
pub struct EmbeddedBroker {
    /// The client that owns the mock cluster; the cluster type itself cannot be sent between threads.
    _owner: FutureProducer,
    bootstrap: String,
}

impl EmbeddedBroker {
    /// Starts a broker with these topics and their numbers of partitions.
    ///
    /// # Errors
    /// [`EmbeddedError`].
    pub fn start(topics: &[(&str, i32)]) -> Result<Self, EmbeddedError> {
        let owner: FutureProducer = ClientConfig::new()
            .set("test.mock.num.brokers", BROKERS)
            .create()
            .map_err(EmbeddedError::Start)?;
        let cluster = owner
            .client()
            .mock_cluster()
            .expect("the client was made with mock brokers");
        for &(topic, partitions) in topics {
            let created = cluster.create_topic(topic, partitions, 1);
            created.map_err(|source| EmbeddedError::Topic {
                topic: topic.to_owned(),
                partitions,
                source,
            })?;
        }
        let bootstrap = cluster.bootstrap_servers();
        drop(cluster);
        // SAFETY: `owner` is a live client that owns a mock cluster (checked above), so the handle is not null and valid
        // during the call; the function takes the cluster's own lock. The safe API has no such knob, and without it the
        // first member of a group waits 3 s.
        unsafe {
            let cluster = rdkafka_sys::rd_kafka_handle_mock_cluster(owner.client().native_ptr());
            rdkafka_sys::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0);
        }
        Ok(Self {
            _owner: owner,
            bootstrap,
        })
    }

    /// Addresses of the broker, for `bootstrap.servers`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// `base` pointed at this broker, with short timers: it does not wake a waiting fetch, so latency follows the fetch wait
    /// (measured p50: 500 ms -> 279 ms, 20 ms -> 16 ms).
    pub fn settings(&self, base: &KafkaSettings) -> KafkaSettings {
        KafkaSettings {
            brokers: self.bootstrap.clone(),
            session_timeout_ms: 1000,
            heartbeat_ms: 100,
            fetch_wait_ms: 10,
            commit_ms: 100,
            linger_ms: 1,
            ..base.clone()
        }
    }
}
