//! A compacted topic read as a table: what is known about each key.
//!
//! Place: read when partitions come, before their records; written in the same transactions as what it is about.
//! Invariant: what is returned includes every transaction that was begun before the call and was committed; one that is
//! still open is waited for, and ends at the latest by its own timeout.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::KafkaSettings;
use super::snapshot::is_transient;

/// Longest answer to one question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two looks at an open transaction.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A record of a table; a later one of a key replaces the earlier ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The key; empty when there is none.
    pub key: Vec<u8>,
    /// The value; empty when there is none.
    pub value: Vec<u8>,
    /// Headers with a value, as text.
    pub headers: Vec<(String, String)>,
}

impl Row {
    /// The first header of a name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let named = self.headers.iter().find(|(key, _)| key == name);
        named.map(|(_, value)| value.as_str())
    }
}

/// Why a table cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The broker refuses, or does not answer.
    #[error("read table {topic}")]
    Read {
        /// The topic.
        topic: String,
        /// Why.
        source: KafkaError,
    },
    /// A transaction stays open.
    #[error("table {topic} partition {partition} has a transaction that stays open for {waited:?}")]
    Open {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// How long was waited.
        waited: Duration,
    },
}

/// Which records are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Those of committed transactions, and those without one.
    Committed,
    /// Those of aborted transactions too.
    All,
}

/// Reads partitions of a topic from their first record to the last that is there now.
///
/// # Errors
/// [`TableError`].
pub async fn read(settings: &KafkaSettings, topic: &str, partitions: &[i32]) -> Result<Vec<Row>, TableError> {
    fold(settings, topic, partitions, Isolation::Committed, Vec::new(), Vec::push).await
}

/// As [`read`], one record at a time, each added to a state.
///
/// # Errors
/// [`TableError`].
pub async fn fold<State: Send + 'static>(
    settings: &KafkaSettings,
    topic: &str,
    partitions: &[i32],
    isolation: Isolation,
    state: State,
    add: fn(&mut State, Row),
) -> Result<State, TableError> {
    let (settings, topic, partitions) = (settings.clone(), topic.to_owned(), partitions.to_vec());
    let read = tokio::task::spawn_blocking(move || {
        let failed = |source| TableError::Read {
            topic: topic.clone(),
            source,
        };
        let committed: BaseConsumer = config(&settings, Isolation::Committed).create().map_err(failed)?;
        let all: BaseConsumer = config(&settings, Isolation::All).create().map_err(failed)?;
        let ends = wait_for_open(&settings, &committed, &all, &topic, &partitions)?;
        let consumer = match isolation {
            Isolation::Committed => &committed,
            Isolation::All => &all,
        };
        let mut state = state;
        each(consumer, &topic, &ends, |row| add(&mut state, row)).map_err(failed)?;
        Ok(state)
    });
    read.await.expect("reading a table does not panic")
}

fn config(settings: &KafkaSettings, isolation: Isolation) -> ClientConfig {
    let isolation = match isolation {
        Isolation::Committed => "read_committed",
        Isolation::All => "read_uncommitted",
    };
    let mut config = settings.client();
    config
        .set("group.id", format!("{}-table", settings.group_prefix))
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", isolation)
        .set("fetch.wait.max.ms", "10");
    config
}

/// Waits until every record that is there now is of an ended transaction; the partitions that have any.
fn wait_for_open(
    settings: &KafkaSettings,
    committed: &BaseConsumer,
    all: &BaseConsumer,
    topic: &str,
    partitions: &[i32],
) -> Result<Vec<i32>, TableError> {
    let failed = |source| TableError::Read {
        topic: topic.to_owned(),
        source,
    };
    let patience = Duration::from_millis(settings.transaction_timeout_ms.into()) + ANSWER_TIMEOUT;
    let watermarks = |consumer: &BaseConsumer, partition| {
        let start = Instant::now();
        loop {
            match consumer.fetch_watermarks(topic, partition, ANSWER_TIMEOUT) {
                Err(error) if passes(&error) && start.elapsed() < patience => std::thread::sleep(LOOK_AGAIN),
                answered => return answered.map_err(failed),
            }
        }
    };
    let mut filled = Vec::new();
    for &partition in partitions {
        let (first, end) = watermarks(all, partition)?;
        let start = Instant::now();
        while watermarks(committed, partition)?.1 < end {
            if start.elapsed() > patience {
                return Err(TableError::Open {
                    topic: topic.to_owned(),
                    partition,
                    waited: start.elapsed(),
                });
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        if end > first {
            filled.push(partition);
        }
    }
    Ok(filled)
}

fn each(consumer: &BaseConsumer, topic: &str, partitions: &[i32], mut take: impl FnMut(Row)) -> Result<(), KafkaError> {
    let mut list = TopicPartitionList::new();
    for &partition in partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let mut open: HashSet<i32> = partitions.iter().copied().collect();
    let mut heard = Instant::now();
    while !open.is_empty() {
        match consumer.poll(ANSWER_TIMEOUT) {
            Some(Ok(message)) => take(row(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
            Some(Err(error)) if passes(&error) && heard.elapsed() < ANSWER_TIMEOUT => continue,
            Some(Err(error)) => return Err(error),
            None => return Err(KafkaError::Global(RDKafkaErrorCode::OperationTimedOut)),
        }
        heard = Instant::now();
    }
    Ok(())
}

/// True of what one broker of several causes that goes: another leads its partitions soon, and the client finds it by itself.
fn passes(error: &KafkaError) -> bool {
    let of_leader = |code| {
        matches!(
            code,
            RDKafkaErrorCode::NotLeaderForPartition | RDKafkaErrorCode::LeaderNotAvailable
        )
    };
    error
        .rdkafka_error_code()
        .is_some_and(|code| is_transient(code) || of_leader(code))
}

fn row(message: &BorrowedMessage<'_>) -> Row {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    Row {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().unwrap_or_default().to_vec(),
        value: message.payload().unwrap_or_default().to_vec(),
        headers: headers
            .filter_map(|header| Some((header.key.to_owned(), text(header.value?))))
            .collect(),
    }
}
