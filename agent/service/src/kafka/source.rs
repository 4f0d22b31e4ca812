//! Records in: one poll thread, one bounded channel, one closed set of events.
//!
//! Place: first step of every process. The thread polls without pause, because rebalances happen inside of a poll; when the
//! channel is full it waits for the reader, and when the reader stands still it pauses the partitions and resumes them when
//! half of the channel is free.
//! Invariant: per partition and assignment, records come in the order of their offsets and none is left out in silence:
//! records that the broker dropped before they were read are an [`Event::OffsetGap`]. Offsets are stored only by
//! [`Source::commit`].

mod member;
mod poll;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::mpsc;

use super::lag::{Lag, LagTable};
use super::{KafkaSettings, Logging};
use poll::Poller;

pub use member::{Membership, Ownership};

/// A topic and one of its partitions.
pub type Partition = (Arc<str>, i32);

/// One assignment of a partition to this member; a partition that goes and comes back has another epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The partition.
    pub partition: Partition,
    /// Which of its assignments.
    pub epoch: u64,
}

/// A partition that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The partition and its new epoch.
    pub owner: Owner,
    /// The offset that the last owner committed, if any did.
    pub committed: Option<i64>,
    /// What was committed with it.
    pub metadata: String,
}

/// All that can come out of a source.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A record.
    Record(Record),
    /// Partitions came; their records follow, from the committed offset or the oldest record on.
    Assigned(Vec<Assignment>),
    /// Partitions went; no record of theirs follows, and commits to them do nothing.
    Revoked(Vec<Partition>),
    /// The broker dropped the records from `expected` on before they were read; the record at `got` is next.
    OffsetGap(OffsetGap),
    /// The source cannot go on; last event.
    Fatal(String),
}

/// A stretch of a partition that was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetGap {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// Offset that should have come.
    pub expected: i64,
    /// Offset that came.
    pub got: i64,
}

impl OffsetGap {
    /// Records lost.
    pub fn records(&self) -> u64 {
        (self.got - self.expected).max(0) as u64
    }
}

/// One record, copied out of librdkafka's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; empty when there is none.
    pub payload: Vec<u8>,
    /// When it was written, milliseconds since the Unix epoch.
    pub timestamp_ms: Option<i64>,
}

/// Why a source does not start, commit or stop.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The consumer cannot be made, or refuses the topics.
    #[error("make kafka consumer of {topics:?} for {brokers}")]
    Create {
        /// The brokers.
        brokers: String,
        /// The topics.
        topics: Vec<String>,
        /// Why.
        source: Box<KafkaError>,
    },
    /// The poll thread cannot be started.
    #[error("start poll thread")]
    Thread(#[from] std::io::Error),
    /// An offset cannot be stored or committed.
    #[error("commit offsets")]
    Commit(#[source] KafkaError),
}

/// A consumer with its poll thread. Dropping it ends the thread; [`Source::stop`] also waits for the last commit.
pub struct Source {
    consumer: Arc<BaseConsumer<Rebalances>>,
    flags: Arc<Flags>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Flags {
    stop: AtomicBool,
    paused: AtomicBool,
}

impl Source {
    /// Subscribes `group` (after the prefix of the settings) to `topics`; at most `capacity` events wait in the channel.
    ///
    /// # Errors
    /// [`SourceError::Create`], [`SourceError::Thread`].
    ///
    /// # Panics
    /// When `capacity` is 0.
    pub fn start(
        settings: &KafkaSettings,
        group: &str,
        topics: &[&str],
        capacity: usize,
    ) -> Result<(Self, mpsc::Receiver<Event>), SourceError> {
        let failed = |source| SourceError::Create {
            brokers: settings.brokers.clone(),
            topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
            source: Box::new(source),
        };
        let consumer = BaseConsumer::from_config_and_context(&settings.consumer(group), Rebalances::default());
        let consumer = Arc::new(consumer.map_err(failed)?);
        consumer.subscribe(topics).map_err(failed)?;
        let (events, receiver) = mpsc::channel(capacity);
        let flags = Arc::new(Flags::default());
        let poller = Poller {
            consumer: Arc::clone(&consumer),
            flags: Arc::clone(&flags),
            topics: topics.iter().map(|&topic| Arc::from(topic)).collect(),
            expected: HashMap::new(),
            pending: VecDeque::new(),
            resume_at: (capacity / 2).max(1),
            events,
        };
        let thread = std::thread::Builder::new().name(format!("poll-{group}"));
        let thread = Some(thread.spawn(move || poller.run())?);
        let source = Self {
            consumer,
            flags,
            thread,
        };
        Ok((source, receiver))
    }

    /// Stores the commit floor of a partition: `next_offset` is the first record that a restart must read. It is committed
    /// within the commit time of the settings, when the partition goes, and at the stop. A partition that went is ignored.
    ///
    /// # Errors
    /// [`SourceError::Commit`].
    pub fn commit(&self, topic: &str, partition: i32, next_offset: i64) -> Result<(), SourceError> {
        let mut floor = TopicPartitionList::new();
        floor
            .add_partition_offset(topic, partition, Offset::Offset(next_offset))
            .map_err(SourceError::Commit)?;
        match self.consumer.store_offsets(&floor) {
            // the partition was revoked; its next owner starts from what was committed
            Err(KafkaError::StoreOffset(RDKafkaErrorCode::State)) => Ok(()),
            stored => stored.map_err(SourceError::Commit),
        }
    }

    /// This consumer as a member of its group, for [`super::commit::Committer::commit`]. Drop it before [`Source::stop`].
    pub fn membership(&self) -> Membership {
        Membership::new(Arc::clone(&self.consumer))
    }

    /// True while the channel is full and the partitions are paused.
    pub fn is_paused(&self) -> bool {
        self.flags.paused.load(Ordering::Relaxed)
    }

    /// How far this consumer is behind on a topic, as of the last second.
    pub fn lag(&self, topic: &str) -> Lag {
        self.consumer.context().lag.now(topic)
    }

    /// When the broker that each partition of a topic is read from last said anything, as of the last second; partitions that
    /// are not held are left out.
    pub fn heard(&self, topic: &str) -> Vec<(i32, Instant)> {
        self.consumer.context().lag.heard(topic)
    }

    /// Ends polling, commits the stored floors and leaves the group.
    ///
    /// # Errors
    /// [`SourceError::Commit`] when the last commit fails.
    ///
    /// # Panics
    /// When the poll thread panicked.
    pub async fn stop(mut self) -> Result<(), SourceError> {
        let (consumer, thread) = (Arc::clone(&self.consumer), self.thread.take());
        drop(self);
        // closing a consumer blocks
        let stopped = tokio::task::spawn_blocking(move || {
            if let Some(thread) = thread {
                thread.join().expect("the poll thread does not panic");
            }
            match consumer.commit_consumer_state(CommitMode::Sync) {
                // nothing new was stored
                Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => Ok(()),
                committed => committed.map_err(SourceError::Commit),
            }
        });
        stopped.await.expect("the poll thread does not panic")
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.flags.stop.store(true, Ordering::Relaxed);
    }
}

/// Notes rebalances, which happen inside of a poll, for the poll thread, and who owns what, for commits.
#[derive(Default)]
struct Rebalances {
    noted: Mutex<VecDeque<Change>>,
    lag: LagTable,
    ownership: Mutex<Ownership>,
}

enum Change {
    Assigned(TopicPartitionList),
    Revoked(TopicPartitionList),
}

impl Rebalances {
    fn note(&self, change: Change) {
        self.noted
            .lock()
            .expect("no code panics while it holds this lock")
            .push_back(change);
    }

    fn take(&self) -> VecDeque<Change> {
        std::mem::take(&mut self.noted.lock().expect("no code panics while it holds this lock"))
    }

    fn ownership(&self) -> MutexGuard<'_, Ownership> {
        self.ownership.lock().expect("no code panics while it holds this lock")
    }
}

impl ClientContext for Rebalances {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Logging.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Logging.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.lag.statistics(&statistics);
    }
}

impl ConsumerContext for Rebalances {
    /// Partitions go: waits for the end of a commit on its way, after which none can be made for them.
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(partitions) = rebalance {
            self.ownership().revoke(partitions);
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => self.note(Change::Assigned((*partitions).clone())),
            Rebalance::Revoke(partitions) => self.note(Change::Revoked((*partitions).clone())),
            Rebalance::Error(error) => tracing::error!(%error, "rebalance failed"),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        match result {
            Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
            // the floors stay stored, so the next commit carries them
            Err(error) => tracing::warn!(%error, "commit failed"),
        }
    }
}
