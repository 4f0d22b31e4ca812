//! The poll thread.
//!
//! Place: inside of a source; hands over what the consumer and its rebalances bring.
//! Invariant: events keep their order, no borrowed message outlives a poll, and no event is dropped while a reader is there.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::mpsc;

use super::{Assignment, Change, Event, Flags, OffsetGap, Partition, Rebalances, Record};

/// Longest poll; a stop is seen after it.
const POLL: Duration = Duration::from_millis(50);
/// How long a full channel may stand still before the partitions are paused.
const STALLED: Duration = Duration::from_secs(1);
/// Time between two looks at a full channel; a reader takes many records in it, so it does not run dry.
const FULL_WAIT: Duration = Duration::from_micros(200);
/// Longest poll while paused; a free channel is seen after it.
const POLL_PAUSED: Duration = Duration::from_millis(5);
/// How long the broker may take to answer a question about offsets.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time before a question that failed at once is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long the broker may leave open what the last owner committed; more than a transaction lives.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(120);

/// What the poll thread owns.
pub(super) struct Poller {
    pub(super) consumer: Arc<BaseConsumer<Rebalances>>,
    pub(super) flags: Arc<Flags>,
    /// The names, shared by all records.
    pub(super) topics: Vec<Arc<str>>,
    /// Offset of each partition's next record, where it is known.
    pub(super) expected: HashMap<Partition, i64>,
    /// Events for which the channel had no room; the partitions are paused, so these are few.
    pub(super) pending: VecDeque<Event>,
    /// Free places in the channel at which the partitions are resumed.
    pub(super) resume_at: usize,
    pub(super) events: mpsc::Sender<Event>,
}

impl Poller {
    /// Polls until stopped, until the reader is gone, or until an error that polling cannot mend.
    pub(super) fn run(mut self) {
        while !self.flags.stop.load(Ordering::Relaxed) && !self.events.is_closed() {
            let wait = if self.is_paused() { POLL_PAUSED } else { POLL };
            let polled = self
                .consumer
                .poll(wait)
                .map(|polled| polled.map(|message| self.record(&message)));
            self.take_changes();
            match polled {
                Some(Ok(record)) => self.take_record(record),
                Some(Err(error)) if is_fatal(&error) => return self.end(&error),
                Some(Err(error)) => tracing::warn!(%error, "kafka source goes on"),
                None => {}
            }
            self.forward();
        }
        if matches!(self.pending.back(), Some(Event::Fatal(_))) {
            self.hand_over();
        }
    }

    fn record(&self, message: &BorrowedMessage<'_>) -> Record {
        Record {
            topic: self.name(message.topic()),
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec).unwrap_or_default(),
            timestamp_ms: message.timestamp().to_millis(),
        }
    }

    fn name(&self, topic: &str) -> Arc<str> {
        let known = self.topics.iter().find(|known| &***known == topic);
        known.map_or_else(|| Arc::from(topic), Arc::clone)
    }

    fn take_record(&mut self, record: Record) {
        let lag = &self.consumer.context().lag;
        lag.read(&record.topic, record.partition, record.timestamp_ms);
        let partition = (Arc::clone(&record.topic), record.partition);
        let expected = self.expected.insert(partition, record.offset + 1);
        if let Some(expected) = expected.filter(|&expected| self.is_gap(&record, expected)) {
            let gap = OffsetGap {
                topic: Arc::clone(&record.topic),
                partition: record.partition,
                expected,
                got: record.offset,
            };
            tracing::error!(?gap, "the broker dropped records before they were read");
            self.pending.push_back(Event::OffsetGap(gap));
        }
        self.pending.push_back(Event::Record(record));
    }

    /// True when records were dropped before they were read. Offsets also jump over the marks of transactions, so a jump is
    /// a gap only when the oldest record that the broker still has lies behind it, or when the broker cannot tell. One that is
    /// away is asked again, as no records come from it meanwhile: it should not look as if it had lost some.
    fn is_gap(&self, record: &Record, expected: i64) -> bool {
        if record.offset <= expected {
            return false;
        }
        let oldest = self.asked("oldest record", || {
            self.consumer
                .fetch_watermarks(&record.topic, record.partition, ANSWER_TIMEOUT)
        });
        oldest.map_or(true, |(oldest, _)| oldest > expected)
    }

    fn take_changes(&mut self) {
        for change in self.consumer.context().take() {
            let (Change::Assigned(moved) | Change::Revoked(moved)) = &change;
            let moved = moved.elements();
            let moved = moved.iter().map(|element| (element.topic(), element.partition()));
            self.consumer.context().lag.rebalanced(moved);
            match change {
                Change::Assigned(partitions) => self.take_assigned(partitions),
                Change::Revoked(partitions) => {
                    let partitions = self.names(&partitions);
                    for partition in &partitions {
                        self.expected.remove(partition);
                    }
                    self.pending.push_back(Event::Revoked(partitions));
                }
            }
        }
    }

    fn take_assigned(&mut self, partitions: TopicPartitionList) {
        // a partition may come back as it went, paused or not
        let set = if self.is_paused() {
            self.consumer.pause(&partitions)
        } else {
            self.consumer.resume(&partitions)
        };
        log_failed("pause or resume assigned partitions", set);
        let committed = match self.committed(&partitions) {
            Ok(committed) => committed,
            // without the floor nothing could be told from a repetition
            Err(error) => {
                self.pending
                    .push_back(Event::Fatal(format!("committed offsets stay unknown: {error}")));
                return self.flags.stop.store(true, Ordering::Relaxed);
            }
        };
        let mut assigned = Vec::new();
        for element in committed.elements() {
            let partition = (self.name(element.topic()), element.partition());
            let next = match element.offset() {
                Offset::Offset(next) => Some(next),
                _ => None,
            };
            if let Some(next) = next {
                self.expected.insert(partition.clone(), next);
            }
            assigned.push(Assignment {
                owner: self.consumer.context().ownership().assign(partition),
                committed: next,
                metadata: element.metadata().to_owned(),
            });
        }
        self.pending.push_back(Event::Assigned(assigned));
    }

    /// What the last owners committed; asks again while a transaction of theirs is open.
    fn committed(&self, partitions: &TopicPartitionList) -> KafkaResult<TopicPartitionList> {
        self.asked("committed offsets", || {
            self.consumer.committed_offsets(partitions.clone(), ANSWER_TIMEOUT)
        })
    }

    /// The broker's answer; a question that fails is asked again for [`COMMITTED_TIMEOUT`], until the source stops.
    fn asked<T>(&self, what: &str, ask: impl Fn() -> KafkaResult<T>) -> KafkaResult<T> {
        let start = Instant::now();
        loop {
            match ask() {
                Err(error) if start.elapsed() < COMMITTED_TIMEOUT && !self.flags.stop.load(Ordering::Relaxed) => {
                    tracing::warn!(%error, "{what} unknown, asking again");
                    std::thread::sleep(ASK_AGAIN);
                }
                answered => return answered,
            }
        }
    }

    fn names(&self, partitions: &TopicPartitionList) -> Vec<Partition> {
        let elements = partitions.elements();
        elements
            .iter()
            .map(|element| (self.name(element.topic()), element.partition()))
            .collect()
    }

    /// Moves events into the channel. A full one is waited for, because a pause throws the prefetched records away and
    /// fetches them again; only a reader that stands still for [`STALLED`] has its partitions paused, so that polling and
    /// with it rebalances go on. They are resumed at the channel's low watermark.
    fn forward(&mut self) {
        let start = Instant::now();
        while let Some(event) = self.pending.pop_front() {
            let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) else {
                continue;
            };
            self.pending.push_front(event);
            if self.is_paused() || start.elapsed() > STALLED || self.flags.stop.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(FULL_WAIT);
        }
        if !self.is_paused() && !self.pending.is_empty() {
            log_failed(
                "pause partitions",
                self.consumer.assignment().and_then(|all| self.consumer.pause(&all)),
            );
            self.flags.paused.store(true, Ordering::Relaxed);
        } else if self.is_paused() && self.events.capacity() >= self.resume_at {
            log_failed(
                "resume partitions",
                self.consumer.assignment().and_then(|all| self.consumer.resume(&all)),
            );
            self.flags.paused.store(false, Ordering::Relaxed);
        }
    }

    fn is_paused(&self) -> bool {
        self.flags.paused.load(Ordering::Relaxed)
    }

    /// Hands over what is left and the reason to end.
    fn end(mut self, error: &KafkaError) {
        self.pending.push_back(Event::Fatal(error.to_string()));
        self.hand_over();
    }

    /// Hands over what is left; waits for room.
    fn hand_over(&mut self) {
        for event in std::mem::take(&mut self.pending) {
            if self.events.blocking_send(event).is_err() {
                return;
            }
        }
    }
}

fn log_failed(action: &'static str, result: KafkaResult<()>) {
    if let Err(error) = result {
        tracing::error!(%error, action, "kafka source");
    }
}

/// librdkafka retries by itself all but these: its own fatal errors, and refusals that stay until somebody changes rights.
fn is_fatal(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    match error {
        KafkaError::MessageConsumptionFatal(_) => true,
        KafkaError::MessageConsumption(code) | KafkaError::Global(code) => matches!(
            code,
            Code::Fatal
                | Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::UnsupportedVersion
        ),
        _ => false,
    }
}
