//! Kafka without anything of ours around it: a consumer, a producer, and a loop.
//!
//! Place: the yardstick of `meit bench stream`, and the few questions that a bench asks about offsets.
//! Invariant: records are copied as they are, one by one, with the same client settings as everywhere else.

use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{KafkaSettings, Logging};

/// Longest wait for one answer, or for one record.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Time before a full producer queue is tried again.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(1);

/// What was copied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Copied {
    /// Records.
    pub records: usize,
    /// Bytes of their values.
    pub bytes: usize,
    /// From the first record read to the last acknowledged.
    pub took: Duration,
}

/// A partition and an offset in it.
pub type Place = (i32, i64);

/// The end of each partition of a topic: the offset that the next record will have.
///
/// # Errors
/// When the broker does not answer.
pub async fn ends(settings: &KafkaSettings, topic: &str) -> KafkaResult<Vec<Place>> {
    let topic = topic.to_owned();
    blocking(settings, move |settings| {
        let consumer: BaseConsumer = settings.consumer("bare").create()?;
        let metadata = consumer.fetch_metadata(Some(&topic), ANSWER_TIMEOUT)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let partitions = found.map(|found| found.partitions()).unwrap_or_default();
        let end = |partition: i32| -> KafkaResult<Place> {
            let (_, end) = consumer.fetch_watermarks(&topic, partition, ANSWER_TIMEOUT)?;
            Ok((partition, end))
        };
        partitions.iter().map(|partition| end(partition.id())).collect()
    })
    .await
}

/// Makes `group` (after the prefix of the settings), which must have no members, start at these offsets.
///
/// # Errors
/// When the broker refuses.
pub async fn start_group_at(settings: &KafkaSettings, group: &str, topic: &str, places: &[Place]) -> KafkaResult<()> {
    let (group, topic, places) = (group.to_owned(), topic.to_owned(), places.to_vec());
    blocking(settings, move |settings| {
        let consumer: BaseConsumer = settings.consumer(&group).create()?;
        consumer.commit(&list(&topic, &places)?, CommitMode::Sync)
    })
    .await
}

/// Copies so many records from these places of a topic to another topic.
///
/// # Errors
/// When the broker refuses, or no record comes for long.
pub async fn copy(
    settings: &KafkaSettings,
    from: &str,
    places: &[Place],
    to: &str,
    records: usize,
) -> KafkaResult<Copied> {
    let (from, to, places) = (from.to_owned(), to.to_owned(), places.to_vec());
    blocking(settings, move |settings| {
        let consumer: BaseConsumer = settings.consumer("bare").create()?;
        let producer: ThreadedProducer<Logging> =
            ThreadedProducer::from_config_and_context(&settings.producer(), Logging)?;
        consumer.assign(&list(&from, &places)?)?;
        let (mut start, mut bytes) = (None, 0);
        for _ in 0..records {
            let message = consumer.poll(ANSWER_TIMEOUT);
            let message = message.ok_or(KafkaError::Global(RDKafkaErrorCode::OperationTimedOut))??;
            start.get_or_insert_with(Instant::now);
            let payload = message.payload().unwrap_or_default();
            bytes += payload.len();
            let mut record = BaseRecord::to(&to).payload(payload);
            record.key = message.key();
            while let Err((error, back)) = producer.send(record) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(error);
                }
                std::thread::sleep(QUEUE_FULL_WAIT);
                record = back;
            }
        }
        producer.flush(ANSWER_TIMEOUT)?;
        let took = start.map(|start| start.elapsed()).unwrap_or_default();
        Ok(Copied { records, bytes, took })
    })
    .await
}

fn list(topic: &str, places: &[Place]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for &(partition, offset) in places {
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    }
    Ok(list)
}

async fn blocking<T: Send + 'static>(
    settings: &KafkaSettings,
    ask: impl FnOnce(&KafkaSettings) -> KafkaResult<T> + Send + 'static,
) -> KafkaResult<T> {
    let settings = settings.clone();
    let asked = tokio::task::spawn_blocking(move || ask(&settings)).await;
    asked.expect("asking a broker does not panic")
}
