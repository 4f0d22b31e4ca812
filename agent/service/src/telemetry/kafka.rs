//! What a process exports of its Kafka consumers.
//!
//! Place: set by every process's regular tick from [`Source::lag`]. Invariant: one label, the topic, from the closed set that the
//! process reads.

use prometheus::{Error, GaugeVec, IntCounterVec, IntGaugeVec};

use super::Meter;
use crate::kafka::source::Source;

/// Levels of a process's consumers, by topic.
#[derive(Clone)]
pub struct KafkaMetrics {
    lag_messages: IntGaugeVec,
    lag_seconds: GaugeVec,
    queued: IntGaugeVec,
    paused: IntGaugeVec,
    brokers_up: IntGaugeVec,
    rebalances: IntCounterVec,
}

impl KafkaMetrics {
    /// Makes and registers the metrics for the topics that the process reads.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn new(meter: Meter<'_>, topics: &[&'static str]) -> Result<Self, Error> {
        let topics = ("topic", topics);
        Ok(Self {
            lag_messages: meter.gauges(
                "kafka_lag_messages",
                "Records on the broker that this process has not read, of the partitions that it holds.",
                topics,
            )?,
            lag_seconds: meter.times(
                "kafka_lag_seconds",
                "Age of the last record read where there are unread ones, largest of the partitions held; 0 where all is read.",
                topics,
            )?,
            queued: meter.gauges(
                "kafka_queue_records",
                "Records between the poll thread and the process.",
                topics,
            )?,
            paused: meter.gauges(
                "kafka_paused",
                "1 while the queue is full and the partitions are paused.",
                topics,
            )?,
            brokers_up: meter.gauges(
                "kafka_brokers_up",
                "Brokers that the topic's consumer is connected to; 0 when none answers, and until one does after a start.",
                topics,
            )?,
            rebalances: meter.counters(
                "kafka_rebalances_total",
                "Times that partitions came or went.",
                topics,
            )?,
        })
    }

    /// Sets the levels of a topic; `queued` is the length of its source's channel, which topics of one source share.
    pub fn observe(&self, topic: &str, source: &Source, queued: usize) {
        let lag = source.lag(topic);
        self.lag_messages.with_label_values(&[topic]).set(lag.messages);
        self.lag_seconds.with_label_values(&[topic]).set(lag.seconds);
        self.queued.with_label_values(&[topic]).set(queued as i64);
        self.paused.with_label_values(&[topic]).set(source.is_paused().into());
        self.brokers_up.with_label_values(&[topic]).set(lag.brokers_up as i64);
        let rebalances = self.rebalances.with_label_values(&[topic]);
        rebalances.inc_by(lag.rebalances.saturating_sub(rebalances.get()));
    }
}
