//! One batch of work to the broker: what was made, and how far reading has come, together.
//!
//! Place: last step of agent and node. On a real broker a batch is one Kafka transaction: a reader of committed records
//! sees all of it or nothing, and a restart reads from the offsets that belong to it. On the embedded broker, which has no
//! transactions, the records are acknowledged first and the offsets stored after, so a record may come twice, with the same
//! id. Invariant: work on a partition that went to another member is left out, and no partition goes while a batch is on
//! its way, so two members never both deliver a record's consequences.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::runtime::Handle;

use super::cluster::Cluster;
use super::sink::{Sink, SinkError, owned_headers};
use super::source::{Membership, Owner, Ownership};
use super::{KafkaSettings, Logging};

/// Time before an aborted transaction is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// Time before a full producer queue is tried again.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(2);

/// A record that follows from records of one partition.
#[derive(Clone, Debug)]
pub struct Output {
    /// The assignment that its cause was read under.
    pub owner: Owner,
    /// Where it goes.
    pub topic: &'static str,
    /// The partition; chosen by the key where not given.
    pub partition: Option<i32>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; none is a tombstone.
    pub payload: Vec<u8>,
    /// Its headers.
    pub headers: Vec<(&'static str, String)>,
}

/// How far reading of a partition has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floor {
    /// The assignment that it was read under.
    pub owner: Owner,
    /// First record that a restart must read.
    pub next_offset: i64,
    /// What a restart should know besides; comes back in the next assignment.
    pub metadata: String,
}

/// What belongs together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Records to write, in order.
    pub outputs: Vec<Output>,
    /// Offsets to commit with them.
    pub floors: Vec<Floor>,
}

/// Why a batch is not on the broker. None of these is mended by going on: the process should end, and a restart reads again
/// from the last commit.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The transactional producer cannot be made or cannot take its id over.
    #[error("open transactional producer {id} at {brokers}")]
    Open {
        /// The transactional id.
        id: String,
        /// The brokers.
        brokers: String,
        /// Why.
        source: Box<KafkaError>,
    },
    /// Another process took the transactional id over, so this one is a zombie; or the broker gave its transaction up for its
    /// age, as after an outage.
    #[error("transactional id {id} was taken over by another process, or its transaction outlived its time")]
    Fenced {
        /// The transactional id.
        id: String,
        /// What the client said.
        source: Box<KafkaError>,
    },
    /// A transaction failed for good, or for longer than the delivery time.
    #[error("commit transaction of {outputs} records after {tries} tries")]
    Transaction {
        /// Records in the batch.
        outputs: usize,
        /// Tries.
        tries: u32,
        /// Why the last one failed.
        source: Box<KafkaError>,
    },
    /// The consumer does not take the offsets.
    #[error("store offsets")]
    Offsets(#[source] Box<KafkaError>),
    /// A record was not delivered.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

type TransactionalProducer = ThreadedProducer<Logging>;

impl ProducerContext for Logging {
    type DeliveryOpaque = ();

    /// Nothing: a record that fails makes the commit of its transaction fail.
    fn delivery(&self, _: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {}
}

/// Writes batches, one at a time; clones share the producer.
#[derive(Clone)]
pub struct Committer {
    way: Way,
    patience: Duration,
}

#[derive(Clone)]
enum Way {
    Transaction {
        producer: Arc<TransactionalProducer>,
        id: Arc<str>,
    },
    Plain(Sink),
}

impl Committer {
    /// Opens the way that the cluster allows. On a real broker this takes the transactional id
    /// `{group_prefix}-{process}-{instance}` over from an earlier process of the same name, whose open transaction is
    /// aborted and which can write no more.
    ///
    /// # Errors
    /// [`CommitError::Open`], [`CommitError::Sink`].
    pub async fn open(settings: &KafkaSettings, cluster: Cluster, process: &str) -> Result<Self, CommitError> {
        let patience = Duration::from_millis(settings.delivery_timeout_ms.into());
        let way = match cluster {
            Cluster::Embedded => Way::Plain(Sink::new(settings)?),
            Cluster::Real => {
                let id: Arc<str> = format!("{}-{process}-{}", settings.group_prefix, instance(settings)).into();
                let config = settings.transactional_producer(&id);
                let (brokers, name) = (settings.brokers.clone(), id.to_string());
                let opened = tokio::task::spawn_blocking(move || {
                    let producer = TransactionalProducer::from_config_and_context(&config, Logging)?;
                    retrying(patience, || producer.init_transactions(patience))?;
                    Ok(producer)
                });
                let producer = opened.await.expect("opening a producer does not panic");
                let producer = producer.map_err(|source| CommitError::Open {
                    id: name,
                    brokers,
                    source: Box::new(source),
                })?;
                Way::Transaction {
                    producer: Arc::new(producer),
                    id,
                }
            }
        };
        Ok(Self { way, patience })
    }

    /// True when a batch is all or nothing.
    pub fn is_transactional(&self) -> bool {
        matches!(self.way, Way::Transaction { .. })
    }

    /// Writes a batch; says for each output whether it was written, or left out because its partition went. The members are
    /// the consumers that the owners come from.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn commit(&self, members: Vec<Membership>, batch: Batch) -> Result<Vec<bool>, CommitError> {
        let this = self.clone();
        let handle = Handle::current();
        let written = tokio::task::spawn_blocking(move || match &this.way {
            Way::Transaction { producer, id } => this.commit_transaction(producer, id, &members, &batch),
            Way::Plain(sink) => store(&handle, sink, &members, &batch),
        });
        written.await.expect("a commit does not panic")
    }

    fn commit_transaction(
        &self,
        producer: &TransactionalProducer,
        id: &str,
        members: &[Membership],
        batch: &Batch,
    ) -> Result<Vec<bool>, CommitError> {
        let deadline = Instant::now() + self.patience;
        for tries in 1.. {
            let source = match self.attempt(producer, members, batch) {
                Ok(kept) => return Ok(kept),
                Err(error) => error,
            };
            if is_fenced(&source) {
                return Err(CommitError::Fenced {
                    id: id.to_owned(),
                    source: Box::new(source),
                });
            }
            let aborted = retrying(self.patience, || producer.abort_transaction(self.patience));
            if aborted.is_err() || Instant::now() >= deadline {
                return Err(CommitError::Transaction {
                    outputs: batch.outputs.len(),
                    tries,
                    source: Box::new(source),
                });
            }
            // a rebalance is the common cause: it needs the locks, and then the next try leaves out what went
            tracing::warn!(error = %source, tries, "transaction aborted, trying again");
            std::thread::sleep(RETRY_AFTER);
        }
        unreachable!("the loop ends by its returns")
    }

    /// One transaction under the locks of all members, so that none of them gives a partition away before its end.
    fn attempt(
        &self,
        producer: &TransactionalProducer,
        members: &[Membership],
        batch: &Batch,
    ) -> KafkaResult<Vec<bool>> {
        let owned: Vec<_> = members.iter().map(Membership::ownership).collect();
        let kept = current(&owned, batch);
        let offsets = owned
            .iter()
            .map(|owned| offsets(owned, &batch.floors))
            .collect::<KafkaResult<Vec<_>>>()?;
        if !kept.contains(&true) && offsets.iter().all(|offsets| offsets.count() == 0) {
            return Ok(kept);
        }
        producer.begin_transaction()?;
        for (output, _) in batch.outputs.iter().zip(&kept).filter(|(_, kept)| **kept) {
            enqueue(producer, output)?;
        }
        for (member, offsets) in members.iter().zip(&offsets).filter(|(_, offsets)| offsets.count() > 0) {
            let group = member
                .group()
                .ok_or(KafkaError::Global(RDKafkaErrorCode::UnknownMemberId))?;
            retrying(self.patience, || {
                producer.send_offsets_to_transaction(offsets, &group, self.patience)
            })?;
        }
        retrying(self.patience, || producer.commit_transaction(self.patience))?;
        Ok(kept)
    }
}

/// Records acknowledged, then offsets stored, under the locks of all members.
fn store(handle: &Handle, sink: &Sink, members: &[Membership], batch: &Batch) -> Result<Vec<bool>, CommitError> {
    let owned: Vec<_> = members.iter().map(Membership::ownership).collect();
    let kept = current(&owned, batch);
    handle.block_on(deliver(sink, batch, &kept))?;
    for (member, owned) in members.iter().zip(&owned) {
        let offsets = offsets(owned, &batch.floors).map_err(|error| CommitError::Offsets(Box::new(error)))?;
        member
            .store(&offsets)
            .map_err(|error| CommitError::Offsets(Box::new(error)))?;
    }
    Ok(kept)
}

async fn deliver(sink: &Sink, batch: &Batch, kept: &[bool]) -> Result<(), SinkError> {
    let mut sent = Vec::new();
    for (output, _) in batch.outputs.iter().zip(kept).filter(|(_, kept)| **kept) {
        sent.push(sink.begin_output(output).await?);
    }
    for delivery in sent {
        delivery.acknowledged().await?;
    }
    Ok(())
}

fn current(owned: &[impl std::ops::Deref<Target = Ownership>], batch: &Batch) -> Vec<bool> {
    let is_current = |output: &Output| owned.iter().any(|owned| owned.holds(&output.owner));
    batch.outputs.iter().map(is_current).collect()
}

fn offsets(owned: &Ownership, floors: &[Floor]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for floor in floors.iter().filter(|floor| owned.holds(&floor.owner)) {
        let (topic, partition) = &floor.owner.partition;
        let mut element = list.add_partition(topic, *partition);
        element.set_offset(Offset::Offset(floor.next_offset))?;
        element.set_metadata(&floor.metadata);
    }
    Ok(list)
}

fn enqueue(producer: &TransactionalProducer, output: &Output) -> KafkaResult<()> {
    let mut record = BaseRecord::to(output.topic).payload(output.payload.as_slice());
    record.key = output.key.as_deref();
    record.partition = output.partition;
    record.headers = owned_headers(&output.headers);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                std::thread::sleep(QUEUE_FULL_WAIT);
                record = back;
            }
            Err((error, _)) => return Err(error),
        }
    }
}

/// Calls again while the client says that the same call may succeed, until the time is over.
fn retrying(patience: Duration, mut call: impl FnMut() -> KafkaResult<()>) -> KafkaResult<()> {
    let deadline = Instant::now() + patience;
    loop {
        match call() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {}
            result => return result,
        }
    }
}

fn is_fenced(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let fenced = |code| matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch);
    match error {
        KafkaError::Transaction(error) => error.is_fatal() && fenced(error.code()),
        error => error.rdkafka_error_code().is_some_and(fenced),
    }
}

/// The setting, or a name that no other process has.
fn instance(settings: &KafkaSettings) -> String {
    static OPENED: AtomicU64 = AtomicU64::new(0);
    if !settings.instance.is_empty() {
        return settings.instance.clone();
    }
    let clock = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let number = OPENED.fetch_add(1, Ordering::Relaxed);
    format!("{}-{:x}-{number}", std::process::id(), clock.as_nanos())
}
