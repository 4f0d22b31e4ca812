//! Every number that the replay exports.
//!
//! Place: counted in `replay`; read by Prometheus and by `meit demo`.
//! Invariant: a packet is counted as sent only once the broker has it.

use prometheus::{Counter, Error, GaugeVec, IntCounter, IntGauge, Registry};
use service::telemetry::Meter;

/// The replay's metrics, registered once a process.
#[derive(Clone)]
pub struct Metrics {
    pub(crate) packets_sent: IntCounter,
    pub(crate) held_seconds: Counter,
    pub(crate) beds: IntGauge,
    heartbeat: GaugeVec,
}

impl Metrics {
    /// Makes and registers the metrics.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn new(registry: &Registry) -> Result<Self, Error> {
        let meter = Meter::new(registry, "bedside");
        Ok(Self {
            packets_sent: meter.counter("packets_sent_total", "Packets that the broker has.")?,
            held_seconds: meter.seconds_counter(
                "held_seconds_total",
                "Time that beds waited for slow readers, summed over beds.",
            )?,
            beds: meter.gauge("beds", "Beds that are playing, the heartbeat not counted.")?,
            heartbeat: meter.times(
                "heartbeat_timestamp_seconds",
                "When the last heartbeat was inserted, seconds since the Unix epoch; 0 before the first.",
                ("stage", &["packet"]),
            )?,
        })
    }

    /// Packets sent so far, the heartbeat's included.
    pub fn packets_sent(&self) -> u64 {
        self.packets_sent.get()
    }

    /// The broker has a packet of the heartbeat with this gateway time, microseconds since the Unix epoch.
    pub(crate) fn heartbeat_sent(&self, gateway_time_us: i64) {
        let seconds = gateway_time_us as f64 / 1e6;
        self.heartbeat.with_label_values(&["packet"]).set(seconds);
    }
}
