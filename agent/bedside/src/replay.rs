//! The replay: one task a bed, paced by the clock, held back by lag.
//!
//! Place: sends what `monitor` cuts to `ecg.waveforms.v1`.
//! Invariant: a packet is sent when its last sample would have been taken, not before; a hold shifts everything after it,
//! so no burst follows. The clock decides when a packet is sent, never what is in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use ecg::id::HEARTBEAT_STREAM;
use ecg::packet::Packet;
use ecg::{SAMPLE_RATE_HZ, SEGMENT_SAMPLES, topic};
use service::kafka::sink::Sink;
use service::shutdown::Shutdown;
use service::time::now_us;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::BedsideSummary;
use crate::fault::Injector;
use crate::metrics::Metrics;
use crate::monitor::{Disturbance, Monitor};
use crate::noise::NoiseSource;
use crate::plan::{Bed, Plan, Play};
use crate::recording::Recording;
use crate::settings::BedsideSection;

/// Packets that readers are behind.
pub type LagProbe = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How long a bed waits before it looks at the lag again.
const HOLD: Duration = Duration::from_millis(20);

/// Everything that the beds share.
pub(crate) struct Replay {
    section: BedsideSection,
    noise: Option<NoiseSource>,
    sink: Sink,
    metrics: Metrics,
    lag: Option<LagProbe>,
    /// What the heartbeat plays.
    heartbeat: Option<Arc<Recording>>,
    plays: AtomicU64,
    /// Packets of beds that the broker has.
    packets_sent: AtomicU64,
}

/// What became of a packet.
struct Sent {
    /// When it went through the gateway, microseconds since the Unix epoch.
    gateway_time_us: i64,
    /// Records that it gave.
    records: u64,
}

/// A bed's pace: where its stream's sample 0 lies on the clock.
struct Pace {
    zero: Instant,
    speed: f64,
}

impl Pace {
    fn due(&self, sample: i64) -> Instant {
        self.zero + Duration::from_secs_f64(sample as f64 / SAMPLE_RATE_HZ / self.speed)
    }
}

impl Replay {
    pub(crate) fn new(
        section: BedsideSection,
        noise: Option<NoiseSource>,
        sink: Sink,
        metrics: Metrics,
        lag: Option<LagProbe>,
        heartbeat: Option<Arc<Recording>>,
    ) -> Self {
        Self {
            section,
            noise,
            sink,
            metrics,
            lag,
            heartbeat,
            plays: AtomicU64::new(0),
            packets_sent: AtomicU64::new(0),
        }
    }

    /// Plays every bed's part of the plan.
    ///
    /// # Errors
    /// When the broker does not take a packet; the other beds stop.
    pub(crate) async fn play(self, plan: &Plan, shutdown: Shutdown) -> anyhow::Result<BedsideSummary> {
        let replay = Arc::new(self);
        let start_time_us = now_us();
        let boot_id = match replay.section.boot_id {
            0 => (start_time_us / 1_000_000).max(1) as u64,
            fixed => fixed,
        };
        let packet_time = Duration::from_millis(replay.section.packet_ms.into()).div_f64(replay.section.speed);
        let mut beds = JoinSet::new();
        for (number, bed) in plan.beds.iter().enumerate() {
            let monitor = Monitor {
                stream_id: bed.stream_id.clone(),
                boot_id,
                packet_samples: replay.section.packet_samples(),
                start_time_us,
            };
            // beds start spread over one packet, as monitors that know nothing of one another
            let zero = Instant::now() + packet_time.mul_f64(number as f64 / plan.beds.len() as f64);
            let (replay, bed, shutdown) = (Arc::clone(&replay), bed.clone(), shutdown.clone());
            beds.spawn(async move {
                tokio::select! {
                    played = replay.play_bed(number as u64, &bed, &monitor, zero) => played,
                    () = shutdown.wait() => Ok(()),
                }
            });
        }
        replay.metrics.beds.set(plan.beds.len() as i64);
        let heartbeat = replay.play_heartbeat(boot_id, start_time_us);
        tokio::select! {
            failed = heartbeat => failed?,
            played = replay.join(beds, &shutdown) => played?,
        }
        replay.sink.flush().await.context("flush kafka sink")?;
        let packets_sent = replay.packets_sent.load(Ordering::Relaxed);
        let plays = replay.plays.load(Ordering::Relaxed);
        Ok(BedsideSummary { packets_sent, plays })
    }

    /// Waits for every bed; without beds, for the shutdown.
    async fn join(&self, mut beds: JoinSet<anyhow::Result<()>>, shutdown: &Shutdown) -> anyhow::Result<()> {
        if beds.is_empty() {
            shutdown.wait().await;
        }
        while let Some(bed) = beds.join_next().await {
            bed.context("a bed panicked")??;
            self.metrics.beds.dec();
        }
        Ok(())
    }

    /// Plays the heartbeat's recording over and over in real time, without noise and without holds; never returns without one.
    async fn play_heartbeat(&self, boot_id: u64, start_time_us: i64) -> anyhow::Result<()> {
        let Some(recording) = &self.heartbeat else {
            return std::future::pending().await;
        };
        let monitor = Monitor {
            stream_id: HEARTBEAT_STREAM.to_owned(),
            boot_id,
            packet_samples: self.section.packet_samples(),
            start_time_us,
        };
        let quiet = Disturbance {
            source: None,
            snr_db: 0.0,
            seed: 0,
            bed: 0,
        };
        let pace = Pace {
            zero: Instant::now(),
            speed: 1.0,
        };
        let mut undisturbed = Injector::default();
        let length = SEGMENT_SAMPLES as i64;
        for start in (0..).step_by(SEGMENT_SAMPLES) {
            let play = Play {
                recording: Arc::clone(recording),
                samples: start..start + length,
            };
            for packet in monitor.packets(&play, quiet) {
                tokio::time::sleep_until(pace.due(packet.first_sample + packet.len() as i64)).await;
                let sent = self.send(packet, &mut undisturbed).await?;
                self.metrics.heartbeat_sent(sent.gateway_time_us);
            }
        }
        Ok(())
    }

    async fn play_bed(&self, number: u64, bed: &Bed, monitor: &Monitor, zero: Instant) -> anyhow::Result<()> {
        let mut pace = Pace {
            zero,
            speed: self.section.speed,
        };
        let disturbance = Disturbance {
            source: self.noise.as_ref(),
            snr_db: self.section.snr_db,
            seed: self.section.seed,
            bed: number,
        };
        let mut injector = Injector::new(&self.section.faults, &bed.stream_id);
        for play in &bed.plays {
            for packet in monitor.packets(play, disturbance) {
                pace.zero += self.hold().await;
                tokio::time::sleep_until(pace.due(packet.first_sample + packet.len() as i64)).await;
                self.send_of_bed(packet, &mut injector).await?;
            }
            self.plays.fetch_add(1, Ordering::Relaxed);
        }
        match bed.plays.last() {
            Some(last) => {
                self.send_of_bed(monitor.farewell(last.samples.end), &mut injector)
                    .await
            }
            None => Ok(()),
        }
    }

    /// Waits while readers are too far behind; says how long that took.
    async fn hold(&self) -> Duration {
        let Some(lag) = &self.lag else { return Duration::ZERO };
        let start = Instant::now();
        while lag() > self.section.lag_packets_max {
            tokio::time::sleep(HOLD).await;
        }
        let held = start.elapsed();
        self.metrics.held_seconds.inc_by(held.as_secs_f64());
        held
    }

    async fn send_of_bed(&self, packet: Packet, injector: &mut Injector) -> anyhow::Result<()> {
        let sent = self.send(packet, injector).await?;
        self.packets_sent.fetch_add(sent.records, Ordering::Relaxed);
        Ok(())
    }

    /// Sends a packet through the gateway, with what goes wrong with it.
    async fn send(&self, packet: Packet, injector: &mut Injector) -> anyhow::Result<Sent> {
        let gateway_time_us = now_us();
        let packet = Packet {
            gateway_time_us,
            ..packet
        };
        let mut records = 0;
        let event_id = format!("{}-{}-{}", packet.stream_id, packet.boot_id, packet.sequence);
        let headers = ecg::event::headers(topic::WAVEFORMS, "/meit/bedside", &event_id);
        for record in injector.records(&packet) {
            self.sink
                .send(topic::WAVEFORMS, Some(&record.key), &record.payload, &headers)
                .await
                .context("send packet")?;
            self.metrics.packets_sent.inc();
            records += 1;
        }
        Ok(Sent {
            gateway_time_us,
            records,
        })
    }
}
