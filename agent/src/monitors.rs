//! What is known of the monitors besides their samples: alive or silent, electrodes off, clock running true.
//!
//! Place: beside `windows`; told of every packet, asked at every tick; what it knows goes to `metrics` and nowhere else.
//! Invariant: bounded like the windows' streams; the heartbeat's stream is no bed and is not counted. Time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ecg::id::HEARTBEAT_STREAM;
use ecg::packet::Packet;

/// Device time over which a clock is measured: a millisecond of jitter at both ends is then 33 parts a million.
const DRIFT_US: i64 = 60_000_000;

/// Bounds of [`Monitors`].
#[derive(Clone, Copy, Debug)]
pub struct MonitorsConfig {
    /// Silence after which a monitor counts as stalled.
    pub stalled_after: Duration,
    /// Silence after which it is forgotten.
    pub forget_after: Duration,
    /// Monitors at most; more are not counted.
    pub monitors_max: usize,
}

/// Monitors by state; each is in one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Sending, all electrodes on.
    pub live: usize,
    /// Sending, an electrode off.
    pub lead_off: usize,
    /// Silent.
    pub stalled: usize,
}

struct Monitor {
    partition: i32,
    last_seen: Instant,
    lead_off: bool,
    anchor: Anchor,
}

/// Where a clock measurement began.
struct Anchor {
    device_id: String,
    boot_id: u64,
    rate_hz: f64,
    first_sample: i64,
    device_time_us: i64,
}

impl Anchor {
    fn of(packet: &Packet) -> Self {
        Self {
            device_id: packet.device_id.clone(),
            boot_id: packet.boot_id,
            rate_hz: packet.rate_hz,
            first_sample: packet.first_sample,
            device_time_us: packet.device_time_us,
        }
    }

    /// True while both belong to one run of the device's clocks.
    fn continues(&self, packet: &Packet) -> bool {
        (self.boot_id, &self.device_id) == (packet.boot_id, &packet.device_id)
            && self.rate_hz == packet.rate_hz
            && packet.first_sample >= self.first_sample
            && packet.device_time_us >= self.device_time_us
    }

    /// How much faster the sampling runs than the device's clock says, parts a million; `None` until enough time has passed.
    fn drift_ppm(&self, packet: &Packet) -> Option<f64> {
        let clock_us = packet.device_time_us - self.device_time_us;
        let samples_us = (packet.first_sample - self.first_sample) as f64 / self.rate_hz * 1e6;
        (clock_us >= DRIFT_US).then(|| (samples_us / clock_us as f64 - 1.0) * 1e6)
    }
}

/// The monitors that this agent hears.
pub struct Monitors {
    cfg: MonitorsConfig,
    monitors: HashMap<String, Monitor>,
}

impl Monitors {
    /// None yet.
    pub fn new(cfg: MonitorsConfig) -> Self {
        let monitors = HashMap::new();
        Self { cfg, monitors }
    }

    /// Takes note of a packet; once a minute of a monitor's time, says how far its sampling runs from its clock, in parts a
    /// million (positive: fast).
    pub fn seen(&mut self, packet: &Packet, partition: i32, now: Instant) -> Option<f64> {
        let known = self.monitors.contains_key(&packet.stream_id);
        if packet.stream_id == HEARTBEAT_STREAM || (!known && self.monitors.len() >= self.cfg.monitors_max) {
            return None;
        }
        let monitor = self
            .monitors
            .entry(packet.stream_id.clone())
            .or_insert_with(|| Monitor {
                partition,
                last_seen: now,
                lead_off: false,
                anchor: Anchor::of(packet),
            });
        (monitor.partition, monitor.last_seen) = (partition, now);
        monitor.lead_off = packet.leads.iter().any(|lead| lead.lead_off);
        let drift = monitor
            .anchor
            .continues(packet)
            .then(|| monitor.anchor.drift_ppm(packet));
        // a packet that does not continue may be late: the measurement begins anew either way
        if drift.is_none_or(|measured| measured.is_some()) {
            monitor.anchor = Anchor::of(packet);
        }
        drift.flatten()
    }

    /// Forgets the monitors that have been silent for long, each by the clock of its partition, and counts the others.
    pub fn levels(&mut self, clock: impl Fn(i32) -> Instant) -> Levels {
        let cfg = self.cfg;
        let silence = |monitor: &Monitor| clock(monitor.partition).duration_since(monitor.last_seen);
        self.monitors.retain(|_, monitor| silence(monitor) < cfg.forget_after);
        let mut levels = Levels::default();
        for monitor in self.monitors.values() {
            let stalled = silence(monitor) >= cfg.stalled_after;
            match (stalled, monitor.lead_off) {
                (true, _) => levels.stalled += 1,
                (false, true) => levels.lead_off += 1,
                (false, false) => levels.live += 1,
            }
        }
        levels
    }

    /// Forgets the monitors of a partition that went to another agent.
    pub fn drop_partition(&mut self, partition: i32) {
        self.monitors.retain(|_, monitor| monitor.partition != partition);
    }
}

#[cfg(test)]
mod tests {
    use ecg::lead::Lead;
    use ecg::packet::PacketLead;

    use super::*;
    use crate::testing::heartbeat;

    const CFG: MonitorsConfig = MonitorsConfig {
        stalled_after: Duration::from_secs(10),
        forget_after: Duration::from_secs(60),
        monitors_max: 2,
    };

    /// A packet `seconds` into a stream whose sampling runs `ppm` fast.
    fn packet(stream_id: &str, seconds: i64, ppm: f64) -> Packet {
        Packet {
            stream_id: stream_id.into(),
            first_sample: (seconds as f64 * 500.0 * (1.0 + ppm / 1e6)).round() as i64,
            device_time_us: seconds * 1_000_000,
            ..heartbeat()
        }
    }

    fn off(stream_id: &str) -> Packet {
        let lead = PacketLead {
            lead_off: true,
            ..PacketLead::of(Lead::I, vec![0], 1.0)
        };
        Packet {
            leads: vec![lead],
            ..packet(stream_id, 0, 0.0)
        }
    }

    #[test]
    fn each_monitor_is_live_or_lead_off_or_stalled_and_forgotten_later() {
        let (mut monitors, start) = (Monitors::new(CFG), Instant::now());
        monitors.seen(&packet("a", 0, 0.0), 0, start);
        monitors.seen(&off("b"), 0, start + Duration::from_secs(5));
        monitors.seen(&packet("one too many", 0, 0.0), 0, start);
        monitors.seen(&packet(HEARTBEAT_STREAM, 0, 0.0), 0, start);
        for (second, live, lead_off, stalled) in
            [(6, 1, 1, 0), (11, 0, 1, 1), (20, 0, 0, 2), (62, 0, 0, 1), (66, 0, 0, 0)]
        {
            let levels = Levels {
                live,
                lead_off,
                stalled,
            };
            assert_eq!(
                monitors.levels(|_| start + Duration::from_secs(second)),
                levels,
                "second {second}"
            );
        }
    }

    #[test]
    fn a_clock_is_measured_once_a_minute_and_anew_after_a_jump() {
        let (mut monitors, now) = (Monitors::new(CFG), Instant::now());
        let mut drift = |seconds, ppm| monitors.seen(&packet("a", seconds, ppm), 0, now);
        assert_eq!((drift(0, 0.0), drift(59, 300.0)), (None, None));
        let measured = drift(60, 300.0).unwrap();
        assert!(
            (measured - 300.0).abs() < 34.0,
            "{measured} is not 300 within a sample in a minute"
        );
        assert_eq!(drift(61, 0.0), None);
        assert_eq!(drift(10, 0.0), None, "the clock went back");
        assert_eq!(drift(69, 0.0), None);
        assert_eq!(drift(70, 0.0), Some(0.0));
    }

    #[test]
    fn the_monitors_of_a_partition_that_went_are_not_counted() {
        let (mut monitors, now) = (Monitors::new(CFG), Instant::now());
        monitors.seen(&packet("a", 0, 0.0), 0, now);
        monitors.seen(&packet("b", 0, 0.0), 1, now);
        monitors.drop_partition(0);
        assert_eq!(monitors.levels(|_| now).live, 1);
    }
}
