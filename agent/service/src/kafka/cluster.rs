//! Which kind of cluster is on the other side, and the topics on it.
//!
//! Place: asked once at start. Invariant: the embedded broker is known by its cluster id, and nothing is asked of it that it
//! lacks: it has no admin API (calls would hang to their timeout) and no transactions (calls would succeed and do nothing).

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::DeliveryResult;
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use super::{KafkaSettings, Logging};

/// librdkafka's mock cluster names itself "mockCluster" and a number.
const EMBEDDED_PREFIX: &str = "mockCluster";
/// How long an answer of the cluster is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Time between two looks at what the client says of a cluster that does not answer.
const LOOK: Duration = Duration::from_millis(500);

/// The kind of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// [`super::embedded::EmbeddedBroker`]: a lossy ring without transactions, admin API or persistence.
    Embedded,
    /// Apache Kafka, or another broker of its own process.
    Real,
}

/// A topic that should exist.
#[derive(Clone, Copy, Debug)]
pub struct Topic<'a> {
    /// Its name.
    pub name: &'a str,
    /// How long its records are kept.
    pub retention_hours: u64,
    /// True when of each key only the last record is needed.
    pub compacted: bool,
}

impl<'a> From<(&'a str, u64, bool)> for Topic<'a> {
    /// Name, hours, compacted.
    fn from((name, retention_hours, compacted): (&'a str, u64, bool)) -> Self {
        Self {
            name,
            retention_hours,
            compacted,
        }
    }
}

/// Why a cluster cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No broker answers.
    #[error("no kafka broker answers at {brokers} within {}s", waited.as_secs())]
    Unreachable {
        /// Where was asked.
        brokers: String,
        /// How long an answer was waited for.
        waited: Duration,
    },
    /// A broker is there and does not let this client in, which waiting does not mend.
    #[error(
        "kafka at {brokers} refuses this client: {reason}; look at kafka.security_protocol, the login and the certificates"
    )]
    Refused {
        /// Where was asked.
        brokers: String,
        /// What the client says.
        reason: String,
    },
    /// The client cannot be made, or a request failed.
    #[error("{action}")]
    Client {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: KafkaError,
    },
    /// A topic was refused.
    #[error("create topic {topic}")]
    Topic {
        /// The topic.
        topic: String,
        /// Why.
        source: RDKafkaErrorCode,
    },
}

/// Creates the topics that are missing, with the partitions and replication of the settings; existing ones stay as they are.
/// The embedded broker's topics are its owner's, so there nothing is done.
///
/// Waits until a broker answers, for `kafka.outage_max_ms` at most: a process that is started while the cluster is down
/// stays up, and a supervisor that gives up after a few failed starts has nothing to give up. Drop it to stop waiting. A
/// login or certificate that brokers refuse for 15 s is not waited for.
///
/// # Errors
/// [`ClusterError`] when no broker answers in that time, or this client or a topic is refused.
pub async fn create_topics<'a>(
    settings: &KafkaSettings,
    topics: impl IntoIterator<Item = impl Into<Topic<'a>>>,
) -> Result<Cluster, ClusterError> {
    let topics: Vec<Topic<'a>> = topics.into_iter().map(Into::into).collect();
    let (start, most) = (Instant::now(), Duration::from_millis(settings.outage_max_ms.into()));
    let (kind, there) = loop {
        let owned = settings.clone();
        match blocking(move || found(&owned)).await {
            Err(ClusterError::Unreachable { brokers, .. }) => {
                let waited = start.elapsed();
                if waited >= most {
                    return Err(ClusterError::Unreachable { brokers, waited });
                }
                tracing::warn!(brokers, ?waited, ?most, "no kafka broker answers, asking again");
            }
            answered => break answered?,
        }
    };
    let missing: Vec<&Topic<'_>> = topics.iter().filter(|topic| !there.contains(topic.name)).collect();
    if kind == Cluster::Embedded || missing.is_empty() {
        return Ok(kind);
    }
    let cleanup = |topic: &Topic<'_>| if topic.compacted { "compact,delete" } else { "delete" };
    let retention_ms: Vec<String> = missing
        .iter()
        .map(|topic| (topic.retention_hours * 3_600_000).to_string())
        .collect();
    let new: Vec<NewTopic<'_>> = missing
        .iter()
        .zip(&retention_ms)
        .map(|(topic, retention)| NewTopic {
            config: vec![("retention.ms", retention), ("cleanup.policy", cleanup(topic))],
            ..NewTopic::new(
                topic.name,
                settings.partitions,
                TopicReplication::Fixed(settings.replication),
            )
        })
        .collect();
    let admin: AdminClient<Logging> = AdminClient::from_config_and_context(&settings.client(), Logging)
        .map_err(|source| client_error("make admin client", source))?;
    let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT));
    let results = admin.create_topics(&new, &options).await;
    let results = results.map_err(|source| client_error("create topics", source))?;
    for result in results {
        match result {
            Ok(topic) => tracing::info!(%topic, "topic created"),
            // another process was faster
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, source)) => return Err(ClusterError::Topic { topic, source }),
        }
    }
    Ok(kind)
}

/// Kind of the cluster and the names of its topics.
fn found(settings: &KafkaSettings) -> Result<(Cluster, HashSet<String>), ClusterError> {
    let client = client(settings)?;
    let kind = kind(&client, settings)?;
    let topics = list(&client)?;
    let names = topics.topics().iter().map(|topic| topic.name().to_owned());
    Ok((kind, names.collect()))
}

/// Numbers of partitions of topics, 0 for one that is not there.
///
/// # Errors
/// [`ClusterError`] when no broker answers.
pub async fn partitions(settings: &KafkaSettings, topics: &[&str]) -> Result<Vec<usize>, ClusterError> {
    let settings = settings.clone();
    let topics: Vec<String> = topics.iter().map(|&topic| topic.to_owned()).collect();
    blocking(move || {
        let metadata = list(&client(&settings)?)?;
        let count = |name: &String| {
            let found = metadata.topics().iter().find(|topic| topic.name() == name);
            found.map_or(0, |topic| topic.partitions().len())
        };
        Ok(topics.iter().map(count).collect())
    })
    .await
}

/// Keeps why a broker refused this client.
#[derive(Default)]
struct Asking {
    refused: Mutex<Option<String>>,
}

impl ClientContext for Asking {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Logging.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::SSL)
        ) {
            let mut refused = self.refused.lock().expect("no code panics while it holds this lock");
            *refused = Some(reason.to_owned());
        }
        Logging.error(error, reason);
    }
}

impl ProducerContext for Asking {
    type DeliveryOpaque = ();

    /// Nothing: it only asks.
    fn delivery(&self, _: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {}
}

/// A client that is polled by whoever asks; an admin client's errors cannot be seen.
fn client(settings: &KafkaSettings) -> Result<BaseProducer<Asking>, ClusterError> {
    let made: KafkaResult<_> = BaseProducer::from_config_and_context(&settings.client(), Asking::default());
    made.map_err(|source| client_error("make client", source))
}

fn client_error(action: &'static str, source: KafkaError) -> ClusterError {
    ClusterError::Client { action, source }
}

fn list(client: &BaseProducer<Asking>) -> Result<Metadata, ClusterError> {
    let metadata = client.client().fetch_metadata(None, ANSWER_TIMEOUT);
    metadata.map_err(|source| client_error("list topics", source))
}

fn kind(client: &BaseProducer<Asking>, settings: &KafkaSettings) -> Result<Cluster, ClusterError> {
    let start = Instant::now();
    while start.elapsed() < ANSWER_TIMEOUT {
        match client.client().fetch_cluster_id(LOOK) {
            Some(id) if id.starts_with(EMBEDDED_PREFIX) => return Ok(Cluster::Embedded),
            Some(_) => return Ok(Cluster::Real),
            None => client.poll(LOOK / 10),
        }
    }
    let refused = &client.context().refused;
    let refused = refused.lock().expect("no code panics while it holds this lock");
    let brokers = settings.brokers.clone();
    Err(match refused.clone() {
        Some(reason) => ClusterError::Refused { brokers, reason },
        None => ClusterError::Unreachable {
            brokers,
            waited: ANSWER_TIMEOUT,
        },
    })
}

async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, ClusterError> + Send + 'static,
) -> Result<T, ClusterError> {
    tokio::task::spawn_blocking(ask)
        .await
        .expect("asking a cluster does not panic")
}
