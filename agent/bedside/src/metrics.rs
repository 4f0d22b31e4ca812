//! Every number that the replay exports.
//!
//! Place: counted in `replay`; read by Prometheus and by `meit demo`.
//! Invariant: a packet is counted as sent only once the broker has it.

use prometheus::{Counter, IntCounter, IntGauge, Registry};

/// The replay's metrics, registered once a process.
#[derive(Clone)]
pub struct Metrics {
    pub(crate) packets_sent: IntCounter,
    pub(crate) held_seconds: Counter,
    pub(crate) beds: IntGauge,
}

impl Metrics {
    /// Makes and registers the metrics.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            packets_sent: IntCounter::new("meit_bedside_packets_sent_total", "Packets that the broker has.")?,
            held_seconds: Counter::new(
                "meit_bedside_held_seconds_total",
                "Time that beds waited for slow readers, summed over beds.",
            )?,
            beds: IntGauge::new("meit_bedside_beds", "Beds that are playing.")?,
        };
        registry.register(Box::new(metrics.packets_sent.clone()))?;
        registry.register(Box::new(metrics.held_seconds.clone()))?;
        registry.register(Box::new(metrics.beds.clone()))?;
        Ok(metrics)
    }

    /// Packets sent so far.
    pub fn packets_sent(&self) -> u64 {
        self.packets_sent.get()
    }
}
