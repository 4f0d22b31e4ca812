//! The agent: waveform packets in, segments out.
//!
//! Place: between the monitors' topic and the model's. [`run`] reads `ecg.waveforms.v1`, decodes (`ingest`), cuts windows
//! (`windows`), analyses them (`ecg::dsp`), chooses their way (`route`) and sends them on it (`dispatch`), in batches that
//! also say how far reading has come (`partitions`) and which windows were made (`marks`).
//! Invariant: the commit floor of a partition is the first record that an open window, or a window in analysis, still needs;
//! so after a stop at any point a restart makes every remaining segment, with the same ids, and on a real broker, where a
//! batch is a transaction, none twice.

mod dispatch;
mod fates;
mod hearing;
pub mod ingest;
pub mod letters;
mod marks;
pub mod metrics;
pub mod monitors;
mod partitions;
pub mod policy;
pub mod route;
pub mod settings;
#[cfg(test)]
mod testing;
pub mod windows;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ecg::topic;
use prometheus::Registry;
use service::kafka::KafkaSettings;
use service::kafka::cluster;
use service::kafka::commit::{Batch, CommitError, Committer, Output};
use service::kafka::source::{Assignment, Event, Record, Source};
use service::kafka::table;
use service::settings::Check as _;
use service::shutdown::Shutdown;
use service::telemetry::Meter;
use tokio::task::JoinHandle;

use crate::dispatch::{Analysed, Analyses, Made};
use crate::hearing::Hearing;
use crate::marks::Marks;
use crate::metrics::{AgentSummary, Metrics};
use crate::monitors::Monitors;
use crate::partitions::Partitions;
use crate::policy::{Changes, Omitted, Policy};
use crate::settings::AgentSettings;
use crate::windows::{Closings, Windows};

/// Consumer group of the agents, after the prefix of the kafka settings.
const GROUP: &str = "agent";
/// Events that are taken at once, between two looks at everything else.
const EVENTS_MAX: usize = 64;
/// Bytes that may wait for the batch on its way; more stops the reading.
const WAITING_BYTES_MAX: usize = 32 << 20;

/// Runs an agent with its own registry and listener until `shutdown`.
///
/// # Errors
/// As [`run_with`], or when the listener's address cannot be bound.
pub async fn run(settings: AgentSettings, shutdown: Shutdown) -> anyhow::Result<AgentSummary> {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry).context("register metrics")?;
    service::telemetry::describe(Meter::new(&registry, "agent"), &settings).context("register metrics")?;
    if !settings.agent.metrics_address.is_empty() {
        let address = settings.agent.metrics_address.as_str();
        let bound = service::telemetry::serve(registry, address, shutdown.clone())
            .await
            .context("serve metrics")?;
        tracing::info!(%bound, "serving /metrics and /healthz");
    }
    run_with(settings, metrics, shutdown).await
}

/// Runs an agent until `shutdown`: then reading stops, windows in analysis are delivered, and the floor is committed. Open
/// windows are not flushed; their records stay uncommitted.
///
/// # Errors
/// When a setting is out of bounds, the broker refuses the client, the source fails, a delivery fails for good, or another
/// process took the place of this one.
pub async fn run_with(settings: AgentSettings, metrics: Metrics, shutdown: Shutdown) -> anyhow::Result<AgentSummary> {
    settings.check()?;
    let section = &settings.agent;
    let committer = tokio::select! {
        opened = open(&settings.kafka) => opened?,
        () = shutdown.wait() => return Ok(metrics.summary()),
    };
    let (source, mut events) = Source::start(&settings.kafka, GROUP, &[topic::WAVEFORMS], section.queue_records)
        .context("open kafka source")?;
    let mut agent = Agent {
        windows: Windows::new(section.windows()),
        monitors: Monitors::new(section.monitors()),
        policy: section.policy(),
        changes: Changes::new(section.policy()),
        // the oldest one is waited for, so others may be done before it
        analyses: Analyses::new(
            section.dsp.clone(),
            metrics.analyse_seconds.clone(),
            2 * section.workers,
        ),
        partitions: Partitions::default(),
        held: BTreeMap::new(),
        waiting: Waiting::default(),
        hearing: Hearing::new(Duration::from_millis(settings.kafka.fetch_wait_ms.into())),
        on_its_way: None,
        committer,
        source,
        kafka: settings.kafka.clone(),
        metrics,
    };
    let mut commit = tokio::time::interval(Duration::from_millis(section.commit_ms));
    let mut taken = Vec::with_capacity(EVENTS_MAX);
    let read = loop {
        let done = tokio::select! {
            () = shutdown.wait() => break Ok(()),
            analysed = agent.analyses.next() => agent.take_analysed(analysed),
            committed = joined(&mut agent.on_its_way) => agent.take_committed(committed),
            read = events.recv_many(&mut taken, EVENTS_MAX), if agent.waiting.bytes < WAITING_BYTES_MAX => match read {
                0 => Err(anyhow::anyhow!("kafka source ended early")),
                _ => agent.take_all(&mut taken).await,
            },
            _ = commit.tick() => {
                agent.metrics.kafka.observe(topic::WAVEFORMS, &agent.source, events.len());
                agent.tick().await
            }
        };
        if let Err(error) = done {
            break Err(error);
        }
        if !agent.waiting.outputs.is_empty() {
            agent.start_commit();
        }
    };
    agent.stop(read).await
}

/// Waits for the cluster, makes the missing topics and the way to write batches.
async fn open(kafka: &KafkaSettings) -> anyhow::Result<Committer> {
    let cluster = cluster::create_topics(kafka, topic::KEPT)
        .await
        .context("create topics")?;
    let committer = Committer::open(kafka, cluster, GROUP)
        .await
        .context("open kafka producer")?;
    if committer.is_transactional() {
        let counts = cluster::partitions(kafka, &[topic::WAVEFORMS, topic::AGENT_MARKS]).await;
        let counts = counts.context("count partitions")?;
        anyhow::ensure!(
            counts[0] == counts[1],
            "topic {} has {} partitions and {} has {}; they must be equal, because a stream's marks lie in its partition",
            topic::WAVEFORMS,
            counts[0],
            topic::AGENT_MARKS,
            counts[1]
        );
    }
    Ok(committer)
}

/// Records that wait for the next batch.
#[derive(Default)]
struct Waiting {
    outputs: Vec<Output>,
    /// The segments among them, each with its place in `outputs`; counted once they are delivered.
    made: Vec<(usize, Made)>,
    bytes: usize,
}

impl Waiting {
    fn add(&mut self, output: Output) {
        self.bytes += output.payload.len();
        self.outputs.push(output);
    }
}

/// A batch on its way, and what is to be counted once it is there.
struct OnItsWay {
    written: JoinHandle<Result<Vec<bool>, CommitError>>,
    made: Vec<(usize, Made)>,
}

/// What became of a batch.
type Committed = (Result<Vec<bool>, CommitError>, Vec<(usize, Made)>);

/// The batch on its way when it is there; never when there is none. May be dropped before it returns.
async fn joined(on_its_way: &mut Option<OnItsWay>) -> Committed {
    let Some(batch) = on_its_way else {
        return std::future::pending().await;
    };
    let written = (&mut batch.written).await.expect("a commit does not panic");
    let batch = on_its_way.take().expect("it was there a line ago");
    (written, batch.made)
}

/// What the main loop owns.
struct Agent {
    windows: Windows,
    monitors: Monitors,
    policy: Policy,
    changes: Changes,
    analyses: Analyses,
    partitions: Partitions,
    /// Records of boots on trial, by partition and offset; bounded by the windows, a few a stream.
    held: BTreeMap<(i32, i64), Record>,
    waiting: Waiting,
    hearing: Hearing,
    on_its_way: Option<OnItsWay>,
    committer: Committer,
    source: Source,
    kafka: KafkaSettings,
    metrics: Metrics,
}

impl Agent {
    async fn take_all(&mut self, events: &mut Vec<Event>) -> anyhow::Result<()> {
        for event in events.drain(..) {
            self.take(event).await?;
        }
        Ok(())
    }

    async fn take(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Record(record) => self.take_record(record).await?,
            Event::Assigned(assigned) => self.take_assigned(assigned).await?,
            Event::Revoked(partitions) => {
                tracing::info!(?partitions, "partitions revoked");
                for (_, partition) in partitions {
                    self.windows.drop_partition(partition);
                    self.monitors.drop_partition(partition);
                    self.partitions.revoke(partition);
                    self.hearing.forget(partition);
                    // who takes the partition reads them again
                    self.held.retain(|(of, _), _| *of != partition);
                }
                self.metrics.packets_held(self.held.len());
            }
            Event::OffsetGap(gap) => self.metrics.offset_gap(gap.records()),
            Event::Fatal(error) => anyhow::bail!("kafka source: {error}"),
        }
        Ok(())
    }

    /// Reads which windows of the partitions' streams were made before their records come.
    async fn take_assigned(&mut self, assigned: Vec<Assignment>) -> anyhow::Result<()> {
        tracing::info!(?assigned, "partitions assigned");
        let mut marks: BTreeMap<i32, Marks> = BTreeMap::new();
        let partitions: Vec<i32> = assigned.iter().map(|assignment| assignment.owner.partition.1).collect();
        let rows = table::read(&self.kafka, topic::AGENT_MARKS, &partitions);
        for row in rows.await.context("read marks")? {
            let of_partition = marks.entry(row.partition).or_default();
            if let Err(error) = of_partition.restore(&row.key, &row.value, Instant::now()) {
                // without it windows may be made a second time, under the same ids; ending would stop every bed for good
                let (topic, partition, offset) = (topic::AGENT_MARKS, row.partition, row.offset);
                tracing::warn!(%error, topic, partition, offset, "a mark cannot be read and is left out");
                self.metrics.mark_unreadable();
            }
        }
        for assignment in assigned {
            let marks = marks.remove(&assignment.owner.partition.1).unwrap_or_default();
            self.partitions.assign(assignment, marks);
        }
        Ok(())
    }

    /// Flushes idle streams, sets the gauges, and commits floors that moved.
    async fn tick(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        self.hearing.note(self.source.heard(topic::WAVEFORMS));
        let clock = |partition| self.hearing.clock(partition, now);
        let (mut closings, levels) = (self.windows.tick(clock), self.monitors.levels(clock));
        for (partition, settled) in std::mem::take(&mut closings.settled) {
            self.settle(partition, settled);
        }
        self.start_analyses(closings).await?;
        self.partitions.prune(now);
        self.metrics.check_conservation();
        self.metrics.set_levels(levels, &self.windows, self.analyses.len());
        self.start_commit();
        Ok(())
    }

    /// Starts the analysis of each closed window that the policy admits and that was not made before, urgent streams first;
    /// waits while too many are under way, and so does the source.
    async fn start_analyses(&mut self, mut closings: Closings) -> anyhow::Result<()> {
        let now_us = service::time::now_us();
        closings.put_urgent_first();
        self.metrics
            .windows_closed(closings.closed.len(), closings.skipped, closings.evicted);
        for closed in closings.closed {
            let Some(part) = self.partitions.get(closed.partition) else {
                continue;
            };
            let context = &closed.context;
            let boot = (&*context.device_id, context.boot_id);
            if part.marks.has(&context.stream_id, boot, context.start_sample) {
                self.metrics.window_repeated();
                continue;
            }
            if let Err(cause) = self.policy.admits(context, now_us) {
                self.metrics.window_omitted(cause);
                continue;
            }
            let owner = part.owner.clone();
            while self.analyses.is_full() {
                let analysed = self.analyses.next().await;
                self.take_analysed(analysed)?;
            }
            self.analyses.start(owner, closed);
        }
        Ok(())
    }

    /// Puts an analysed window's segment into the next batch, unless its partition went.
    fn take_analysed(&mut self, analysed: Analysed) -> anyhow::Result<()> {
        let Analysed { owner, tag, made } = analysed;
        let mut made = match made {
            Ok(made) => made?,
            Err(error) => {
                // a panic in the analysis would come again after a restart, so the window is given up, counted
                tracing::error!(%error, partition = owner.partition.1, tag, "analysis failed, window given up");
                self.metrics.analysis_failed();
                return Ok(());
            }
        };
        let transactional = self.committer.is_transactional();
        let Some(part) = self.partitions.of(&owner) else {
            return Ok(());
        };
        if !self.changes.reports(&made.findings) {
            self.metrics.window_omitted(Omitted::Policy);
            return Ok(());
        }
        let marks = transactional.then_some(&mut part.marks);
        let place = self.waiting.outputs.len();
        for output in dispatch::outputs(&mut made, &owner, marks)? {
            self.waiting.add(output);
        }
        self.waiting.made.push((place, made));
        Ok(())
    }

    /// Sends what waits, with the floors that moved, unless a batch is on its way.
    fn start_commit(&mut self) {
        if self.on_its_way.is_some() {
            return;
        }
        let needed = |partition| {
            let needed = [self.windows.floor(partition), self.analyses.floor(partition)];
            needed.into_iter().flatten().min()
        };
        let floors = self.partitions.floors(needed);
        let Waiting { outputs, made, .. } = std::mem::take(&mut self.waiting);
        if floors.is_empty() && outputs.is_empty() {
            return;
        }
        let batch = Batch { outputs, floors };
        let (committer, members) = (self.committer.clone(), vec![self.source.membership()]);
        let written = tokio::spawn(async move { committer.commit(members, batch).await });
        self.on_its_way = Some(OnItsWay { written, made });
    }

    fn take_committed(&mut self, (written, made): Committed) -> anyhow::Result<()> {
        let written = written.context("commit batch")?;
        let delivered = made.iter().filter(|(place, _)| written[*place]);
        delivered.for_each(|(_, made)| self.metrics.segment_delivered(made));
        Ok(())
    }

    /// Lets the windows in analysis be delivered, commits what they held back, and closes the clients.
    async fn stop(mut self, read: anyhow::Result<()>) -> anyhow::Result<AgentSummary> {
        read?;
        while self.analyses.len() > 0 {
            let analysed = self.analyses.next().await;
            self.take_analysed(analysed)?;
        }
        self.start_commit();
        while self.on_its_way.is_some() {
            let committed = joined(&mut self.on_its_way).await;
            self.take_committed(committed)?;
            self.start_commit();
        }
        self.source.stop().await.context("close kafka source")?;
        Ok(self.metrics.summary())
    }
}
