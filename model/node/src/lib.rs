//! The node: segments in, drafts out.
//!
//! Place: between the agent's topics and the readers'. [`run`] reads `ecg.segments.stat.v1` before `ecg.segments.v1`,
//! decodes (`ingest`), drops what is drafted already (`ledger`), gathers batches (`batch`), runs them (`device`), judges the
//! texts (`model::validate`, `model::checks`), makes drafts (`draft`) and sends them (`deliver`).
//! Invariant: an offset is committed only with or after the draft of its segment; ids are functions of segment and bundle. So
//! a restart at any point makes the remaining drafts, on a real broker, where both are one transaction, none twice, and on
//! the embedded one a draft that comes twice has the same id.

pub mod batch;
pub mod canary;
mod deliver;
pub mod desk;
pub mod device;
pub mod draft;
pub mod drafter;
mod ingest;
mod ledger;
pub mod metrics;
pub mod settings;
pub mod slot;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ecg::segment::Segment;
use ecg::topic;
use model::meit::EcgInput;
use service::kafka::KafkaSettings;
use service::kafka::cluster;
use service::kafka::commit::Committer;
use service::kafka::source::{Event, Record, Source};
use service::settings::Check as _;
use service::shutdown::Shutdown;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;

use crate::batch::{BatchLimits, Batcher, Urgency};
use crate::canary::Canary;
use crate::deliver::{Deliverer, Delivery, Job, Place};
use crate::device::Device;
use crate::draft::abstains;
use crate::drafter::Drafter;
use crate::ledger::{Claim, Ledger};
use crate::metrics::{Metrics, NodeSummary};
use crate::settings::NodeSettings;
use crate::slot::Slot;

/// Source of this process's events.
pub(crate) const EVENT_SOURCE: &str = "/meit/node";

/// Deliveries that may wait for the broker: texts and abstentions; when full, the device waits.
const DELIVERIES: usize = 16;

/// Runs a node until `shutdown`: then reading stops, what was read is drafted and delivered, and the floor is committed.
///
/// # Errors
/// When a setting is out of bounds, the broker refuses the client, a source or the device fails, or a delivery fails for
/// good.
pub async fn run(
    settings: NodeSettings,
    drafter: Arc<dyn Drafter>,
    metrics: Metrics,
    shutdown: Shutdown,
) -> anyhow::Result<NodeSummary> {
    run_with(settings, (Slot::new(drafter), Canary::default()), metrics, shutdown).await
}

/// As [`run`], with a drafter that may be swapped between texts, and counts of what became of each one's drafts.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    settings: NodeSettings,
    (slot, canary): (Slot, Canary),
    metrics: Metrics,
    shutdown: Shutdown,
) -> anyhow::Result<NodeSummary> {
    settings.check()?;
    let section = &settings.node;
    let committer = tokio::select! {
        opened = open(&settings.kafka) => opened?,
        () = shutdown.wait() => return Ok(metrics.summary()),
    };
    let (sources, mut stat, mut routine) = start_sources(&settings)?;
    metrics.bundle_loaded(&slot.get().lineage().bundle_id);
    let ledger = Ledger::new(section.remembered_drafts);
    let (deliveries, queue) = mpsc::channel(DELIVERIES);
    let deliverer = Deliverer {
        committer,
        sources: Arc::clone(&sources),
        slot: slot.clone(),
        canary,
        ledger: ledger.clone(),
        metrics: metrics.clone(),
        waiting: Vec::new(),
    };
    let mut deliverer = tokio::spawn(deliverer.run(queue));
    let (slots, answers) = (section.slots(), deliveries.clone());
    // fails when the delivery has ended, and then so does the node
    let answer = move |answer| drop(answers.blocking_send(Delivery::Written(answer)));
    let limits = BatchLimits {
        size: section.batch_max,
        age: section.batch_wait(),
    };
    let mut node = Node {
        batch: Batcher::new(limits),
        device: Device::start(slot, slots, answer).context("start device thread")?,
        deliveries,
        ledger,
        metrics,
        step_timeout: section.batch_timeout(),
    };
    let mut commit = tokio::time::interval(Duration::from_millis(section.commit_ms));
    let read = loop {
        let closes_at = node.batch.closes_at();
        let closed = closes_at.is_some_and(|at| at <= Instant::now());
        let taken = tokio::select! {
            biased;
            () = shutdown.wait() => break Ok(()),
            ended = &mut deliverer => {
                ended.context("delivery panicked")??;
                anyhow::bail!("delivery ended early");
            }
            error = node.device.hangs(node.step_timeout) => Err(error),
            _ = commit.tick() => {
                node.metrics.kafka.observe(topic::SEGMENTS_STAT, &sources[0], stat.len());
                node.metrics.kafka.observe(topic::SEGMENTS, &sources[1], routine.len());
                node.tick()
            }
            event = stat.recv(), if node.batch.has_room(Urgency::Stat) => node.take(event, Urgency::Stat).await,
            seat = node.device.reserve(), if closed => seat.and_then(|seat| node.start_batch(seat)),
            event = routine.recv(), if node.batch.has_room(Urgency::Routine) => node.take(event, Urgency::Routine).await,
            () = until(closes_at), if !closed => Ok(()),
        };
        if let Err(error) = taken {
            break Err(error);
        }
    };
    node.stop(read, deliverer, sources).await
}

/// Waits for the cluster, makes the missing topics and the way to write batches.
async fn open(kafka: &KafkaSettings) -> anyhow::Result<Committer> {
    let cluster = cluster::create_topics(kafka, topic::KEPT).await;
    let committer = Committer::open(kafka, cluster.context("create topics")?, "node").await;
    committer.context("open kafka producer")
}

/// Returns at a time, or never.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// The sources of urgent and of routine segments, and the events of each.
type Sources = (Arc<Vec<Source>>, mpsc::Receiver<Event>, mpsc::Receiver<Event>);

/// One source for each topic, so that urgent segments do not wait behind others. Each has its own group, because the members
/// of a group should read the same topics.
fn start_sources(settings: &NodeSettings) -> anyhow::Result<Sources> {
    let (group, capacity) = (&settings.node.group, settings.node.queue_records);
    let start = |group: &str, topic| {
        Source::start(&settings.kafka, group, &[topic], capacity).with_context(|| format!("open source of {topic}"))
    };
    let (stat, stat_events) = start(&format!("{group}-stat"), topic::SEGMENTS_STAT)?;
    let (routine, routine_events) = start(group, topic::SEGMENTS)?;
    Ok((vec![stat, routine].into(), stat_events, routine_events))
}

/// What the main loop owns.
struct Node {
    batch: Batcher<Job>,
    device: Device<Job>,
    deliveries: mpsc::Sender<Delivery>,
    ledger: Ledger,
    metrics: Metrics,
    /// Longest time that the device may be at a step.
    step_timeout: Duration,
}

impl Node {
    async fn take(&mut self, event: Option<Event>, urgency: Urgency) -> anyhow::Result<()> {
        match event.context("kafka source ended early")? {
            Event::Record(record) => self.take_record(record, urgency).await?,
            Event::Assigned(assigned) => {
                tracing::info!(?assigned, "partitions assigned");
                assigned
                    .into_iter()
                    .for_each(|assignment| self.ledger.assign(assignment));
            }
            Event::Revoked(partitions) => {
                tracing::info!(?partitions, "partitions revoked");
                self.ledger.release(&partitions);
            }
            Event::OffsetGap(gap) => self.metrics.offset_gap(gap.records()),
            Event::Fatal(error) => anyhow::bail!("kafka source: {error}"),
        }
        Ok(())
    }

    /// Gives one record its fate: a batch, an abstention, nothing because it is drafted already, or the dead letters.
    async fn take_record(&mut self, record: Record, urgency: Urgency) -> anyhow::Result<()> {
        let Some(owner) = self.ledger.begin(&record) else {
            tracing::error!(
                partition = record.partition,
                "a record of a partition that is not held is left alone"
            );
            return Ok(());
        };
        self.metrics.segment_received();
        let place = Place {
            owner,
            offset: record.offset,
        };
        let segment = match Segment::decode(&record.payload) {
            Ok(segment) => segment,
            Err(error) => {
                let (topic, partition, offset) = (&*record.topic, record.partition, record.offset);
                tracing::warn!(%error, reason = ingest::refusal(&error), topic, partition, offset, "segment refused");
                let record = Box::new(record);
                return self.deliver(Delivery::Refused { record, error, place }).await;
            }
        };
        self.metrics.segment_decoded(&segment);
        if self.ledger.claim(&segment.id, &record) == Claim::Duplicate {
            self.metrics.segment_duplicate();
            return Ok(());
        }
        let why = abstains(&segment);
        let came = Instant::now();
        let job = Job { segment, place, came };
        match why {
            Some(why) => {
                let job = Box::new(job);
                self.deliver(Delivery::Abstained { job, why }).await?;
            }
            None => self.batch.push(job, urgency, came),
        }
        Ok(())
    }

    /// Hands what waits to the device, as much as it has seats for.
    fn start_batch(&mut self, mut seats: OwnedSemaphorePermit) -> anyhow::Result<()> {
        self.device.reserve_more(&mut seats, self.batch.len().saturating_sub(1));
        let jobs = self.batch.take(seats.num_permits()).into_iter();
        let ecgs = jobs.map(|job| {
            let ecg = EcgInput::from(&job.segment);
            (job, ecg)
        });
        self.device.send(ecgs.collect(), seats)
    }

    async fn deliver(&self, delivery: Delivery) -> anyhow::Result<()> {
        self.deliveries
            .send(delivery)
            .await
            .ok()
            .context("delivery ended early")
    }

    /// Sets the gauges and lets floors that moved be committed.
    fn tick(&self) -> anyhow::Result<()> {
        self.metrics.set_levels(self.batch.len(), self.ledger.open());
        match self.deliveries.try_send(Delivery::Tick) {
            // what is before it in the queue commits as well
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => anyhow::bail!("delivery ended early"),
        }
    }

    /// Drafts what was read, delivers it, commits, and closes the clients.
    async fn stop(
        mut self,
        read: anyhow::Result<()>,
        mut deliverer: JoinHandle<anyhow::Result<()>>,
        sources: Arc<Vec<Source>>,
    ) -> anyhow::Result<NodeSummary> {
        let hangs = self.device.hangs(self.step_timeout);
        let drained = match read {
            Ok(()) => tokio::select! {
                drained = self.drain() => drained,
                error = hangs => Err(error),
            },
            failed => failed,
        };
        self.device.close();
        (self.deliveries, _) = mpsc::channel(1);
        tokio::select! {
            biased;
            // a dead delivery is the cause of a failed read, so its error comes first
            ended = &mut deliverer => ended.context("delivery panicked")??,
            error = self.device.hangs(self.step_timeout) => {
                // it would wait for the device, and with it the clients that it holds
                deliverer.abort();
                deliverer.await.ok();
                return Err(error);
            }
        }
        drained?;
        // the delivery has ended, so this is the last hold on them
        for source in Arc::into_inner(sources).context("a kafka source is still in use")? {
            source.stop().await.context("close kafka source")?;
        }
        Ok(self.metrics.summary())
    }

    async fn drain(&mut self) -> anyhow::Result<()> {
        while !self.batch.is_empty() {
            let seat = self.device.reserve().await?;
            self.start_batch(seat)?;
        }
        // floors that moved without a draft
        self.deliver(Delivery::Tick).await
    }
}
