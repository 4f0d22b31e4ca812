//! A topic as it stands: every record from the oldest to the ends noted at the start, outside of any group.
//!
//! Place: where a job reads a topic once, unlike [`super::source`], which follows one. Invariant: nothing is committed; a
//! record that the broker dropped meanwhile is an error, never left out in silence.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::Message as _;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;

use super::{KafkaSettings, Logging};

/// How long the broker may take to answer a question.
const ANSWER_MAX: Duration = Duration::from_secs(30);

impl ConsumerContext for Logging {}

/// Why a topic cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The broker does not answer, or refuses.
    #[error("read topic {topic} of {brokers}")]
    Kafka {
        /// The topic.
        topic: String,
        /// The brokers.
        brokers: String,
        /// Why.
        source: Box<KafkaError>,
    },
    /// No record came for a while although there should be more.
    #[error("topic {topic} partition {partition} stays at offset {at} of {end} for {ANSWER_MAX:?}")]
    Stalled {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Next offset.
        at: i64,
        /// Offset after the last.
        end: i64,
    },
}

/// A topic's records between two offsets of each partition.
pub struct Snapshot {
    consumer: BaseConsumer<Logging>,
    topic: String,
    brokers: String,
    /// First offset and the one after the last, by partition.
    bounds: BTreeMap<i32, (i64, i64)>,
}

impl Snapshot {
    /// Notes where the topic starts and ends now; a topic that is not there has no records.
    ///
    /// # Errors
    /// [`SnapshotError::Kafka`].
    pub fn open(settings: &KafkaSettings, topic: &str) -> Result<Self, SnapshotError> {
        let failed = |source| SnapshotError::Kafka {
            topic: topic.to_owned(),
            brokers: settings.brokers.clone(),
            source: Box::new(source),
        };
        let mut config = settings.consumer("snapshot");
        config
            .set("enable.auto.commit", "false")
            // an offset that is gone is an error
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true");
        let consumer = BaseConsumer::from_config_and_context(&config, Logging).map_err(failed)?;
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER_MAX).map_err(failed)?;
        let mut bounds = BTreeMap::new();
        for partition in metadata.topics().iter().flat_map(|t| t.partitions()) {
            let marks = consumer
                .fetch_watermarks(topic, partition.id(), ANSWER_MAX)
                .map_err(failed)?;
            bounds.insert(partition.id(), marks);
        }
        Ok(Self {
            consumer,
            topic: topic.to_owned(),
            brokers: settings.brokers.clone(),
            bounds,
        })
    }

    /// With the ends that an earlier snapshot noted, where it noted one.
    #[must_use]
    pub fn bounded(mut self, end: impl Fn(i32) -> Option<i64>) -> Self {
        for (partition, bounds) in &mut self.bounds {
            bounds.1 = end(*partition).unwrap_or(bounds.1).min(bounds.1);
        }
        self
    }

    /// Partitions and the offsets after their last records.
    pub fn ends(&self) -> impl Iterator<Item = (i32, i64)> {
        self.bounds.iter().map(|(partition, bounds)| (*partition, bounds.1))
    }

    /// Hands every record's value on, each partition in order.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn read(self, mut each: impl FnMut(&[u8])) -> Result<(), SnapshotError> {
        let failed = |source| SnapshotError::Kafka {
            topic: self.topic.clone(),
            brokers: self.brokers.clone(),
            source: Box::new(source),
        };
        for (&partition, &(start, end)) in &self.bounds {
            if start >= end {
                continue;
            }
            let mut assigned = TopicPartitionList::new();
            assigned
                .add_partition_offset(&self.topic, partition, Offset::Offset(start))
                .map_err(failed)?;
            self.consumer.assign(&assigned).map_err(failed)?;
            let mut at = start;
            while at < end {
                let message = match self.consumer.poll(ANSWER_MAX) {
                    Some(Ok(message)) => message,
                    // transaction markers take offsets without records
                    Some(Err(KafkaError::PartitionEOF(_))) => break,
                    Some(Err(KafkaError::MessageConsumption(code))) if is_transient(code) => continue,
                    Some(Err(source)) => return Err(failed(source)),
                    None => {
                        return Err(SnapshotError::Stalled {
                            topic: self.topic.clone(),
                            partition,
                            at,
                            end,
                        });
                    }
                };
                if message.offset() >= end {
                    break;
                }
                at = message.offset() + 1;
                each(message.payload().unwrap_or_default());
            }
        }
        Ok(())
    }
}

/// Errors that librdkafka gets over by itself.
pub(super) fn is_transient(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::OperationTimedOut
    )
}
