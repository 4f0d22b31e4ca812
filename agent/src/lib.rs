//! The agent: waveform packets in, segments out.
//!
//! Place: between the monitors' topic and the model's. [`run`] reads `ecg.waveforms.v1`, decodes (`ingest`), cuts windows
//! (`windows`), analyses them (`ecg::dsp`), chooses their way (`route`) and sends them on it (`dispatch`).
//! Invariant: the commit floor of a partition is the first record that an open window, or a window on its way to the
//! broker, still needs; so after a stop at any point a restart makes every remaining segment, with the same ids.

mod dispatch;
mod ingest;
pub mod metrics;
pub mod monitors;
pub mod route;
pub mod settings;
#[cfg(test)]
mod testing;
pub mod windows;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ecg::packet::PacketError;
use ecg::topic;
use ecg::window::PushOutcome;
use prometheus::Registry;
use service::kafka::sink::Sink;
use service::kafka::source::{Event, Record, Source};
use service::settings::Check as _;
use service::shutdown::Shutdown;
use service::telemetry::Meter;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::dispatch::{Holds, Job};
use crate::metrics::{AgentSummary, Metrics};
use crate::monitors::Monitors;
use crate::settings::AgentSettings;
use crate::windows::{Closings, Windows};

/// Consumer group of the agents, after the prefix of the kafka settings.
const GROUP: &str = "agent";

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
/// When a setting is out of bounds, the broker refuses the client, the source fails, or a delivery fails for good.
pub async fn run_with(settings: AgentSettings, metrics: Metrics, shutdown: Shutdown) -> anyhow::Result<AgentSummary> {
    settings.check()?;
    let section = &settings.agent;
    let sink = Sink::new(&settings.kafka).context("open kafka sink")?;
    let (source, mut events) = Source::start(&settings.kafka, GROUP, &[topic::WAVEFORMS], section.queue_records)
        .context("open kafka source")?;
    let holds = Holds::default();
    let (jobs, queue) = mpsc::channel(section.workers.saturating_sub(1).max(1));
    let mut dispatcher = tokio::spawn(dispatch::dispatch(queue, sink.clone(), holds.clone(), metrics.clone()));
    let mut agent = Agent {
        windows: Windows::new(section.windows()),
        monitors: Monitors::new(section.monitors()),
        dsp: Arc::new(section.dsp.clone()),
        next_offsets: BTreeMap::new(),
        jobs,
        holds,
        sink,
        metrics,
    };
    let mut commit = tokio::time::interval(Duration::from_millis(section.commit_ms));
    let read = loop {
        tokio::select! {
            () = shutdown.wait() => break Ok(()),
            ended = &mut dispatcher => {
                ended.context("dispatcher panicked")??;
                anyhow::bail!("dispatcher ended early");
            }
            event = events.recv() => match event {
                Some(event) => if let Err(error) = agent.take(event).await { break Err(error) },
                None => break Err(anyhow::anyhow!("kafka source ended early")),
            },
            _ = commit.tick() => {
                if let Err(error) = agent.tick().await { break Err(error) }
                agent.metrics.kafka.observe(topic::WAVEFORMS, &source, events.len());
                agent.commit(&source)?;
            }
        }
    };
    agent.stop(read, dispatcher, source).await
}

/// What the main loop owns.
struct Agent {
    windows: Windows,
    monitors: Monitors,
    dsp: Arc<ecg::dsp::DspConfig>,
    /// The offset after the last record taken, of each partition that this agent holds.
    next_offsets: BTreeMap<i32, i64>,
    jobs: mpsc::Sender<Job>,
    holds: Holds,
    sink: Sink,
    metrics: Metrics,
}

impl Agent {
    async fn take(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Record(record) => self.take_record(record).await?,
            Event::Assigned(partitions) => tracing::info!(?partitions, "partitions assigned"),
            Event::Revoked(partitions) => {
                tracing::info!(?partitions, "partitions revoked");
                for (_, partition) in partitions {
                    self.windows.drop_partition(partition);
                    self.monitors.drop_partition(partition);
                    self.next_offsets.remove(&partition);
                }
            }
            Event::OffsetGap {
                topic,
                partition,
                expected,
                got,
            } => {
                tracing::error!(%topic, partition, expected, got, "the broker dropped records before they were read");
                self.metrics.offset_gap((got - expected).max(0) as u64);
            }
            Event::Fatal(error) => anyhow::bail!("kafka source: {error}"),
        }
        Ok(())
    }

    /// Gives one record its fate: into a window, or to the dead letters.
    async fn take_record(&mut self, record: Record) -> anyhow::Result<()> {
        let mut closings = Closings::default();
        let fate = self.push(&record, &mut closings);
        self.start_analyses(closings).await?;
        match fate {
            Ok(outcome) => self.metrics.packet_accepted(outcome),
            Err(error) => {
                let (partition, offset) = (record.partition, record.offset);
                tracing::warn!(%error, reason = error.reason().as_str(), partition, offset, "packet refused");
                dispatch::dead_letter(&record, &error, &self.sink).await?;
                self.metrics.packet_rejected(error.reason());
            }
        }
        self.next_offsets.insert(record.partition, record.offset + 1);
        Ok(())
    }

    fn push(&mut self, record: &Record, closings: &mut Closings) -> Result<PushOutcome, PacketError> {
        let (packet, now) = (ingest::decode(record.key.as_deref(), &record.payload)?, Instant::now());
        let drift_ppm = self.monitors.seen(&packet, record.partition, now);
        self.metrics.packet_seen(&packet, drift_ppm);
        let place = (record.partition, record.offset.max(0) as u64);
        self.windows.push(packet, place, now, closings)
    }

    /// Flushes idle streams and sets the gauges.
    async fn tick(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let closings = self.windows.tick(now);
        self.start_analyses(closings).await?;
        self.metrics.set_levels(self.monitors.levels(now), self.holds.len());
        Ok(())
    }

    /// Starts the analysis of each closed window; waits while the queue is full, and so does the source.
    async fn start_analyses(&mut self, closings: Closings) -> anyhow::Result<()> {
        self.metrics
            .windows_closed(closings.closed.len(), closings.skipped, closings.evicted);
        for closed in closings.closed {
            self.holds.add(closed.partition, closed.tag);
            let permit = self.jobs.reserve().await.context("dispatcher ended early")?;
            let (dsp, seconds) = (Arc::clone(&self.dsp), self.metrics.analyse_seconds.clone());
            let segment = tokio::task::spawn_blocking(move || {
                let _timer = seconds.start_timer();
                ecg::dsp::analyse(&closed.context, &dsp)
            });
            permit.send(Job {
                partition: closed.partition,
                tag: closed.tag,
                segment,
            });
        }
        Ok(())
    }

    /// Commits, for each partition, the first record that is still needed.
    fn commit(&self, source: &Source) -> anyhow::Result<()> {
        for (&partition, &next) in &self.next_offsets {
            let needed = [self.windows.floor(partition), self.holds.floor(partition)];
            let floor = needed
                .into_iter()
                .flatten()
                .map(|offset| offset as i64)
                .fold(next, i64::min);
            source
                .commit(topic::WAVEFORMS, partition, floor)
                .context("commit floor")?;
        }
        Ok(())
    }

    /// Lets the windows in analysis be delivered, commits what they held back, and closes the clients.
    async fn stop(
        mut self,
        read: anyhow::Result<()>,
        dispatcher: JoinHandle<anyhow::Result<()>>,
        source: Source,
    ) -> anyhow::Result<AgentSummary> {
        (self.jobs, _) = mpsc::channel(1);
        // a dead dispatcher is the cause of a failed read, so its error comes first
        dispatcher.await.context("dispatcher panicked")??;
        read?;
        self.commit(&source)?;
        self.sink.flush().await.context("flush kafka sink")?;
        source.stop().await.context("close kafka source")?;
        Ok(self.metrics.summary())
    }
}
