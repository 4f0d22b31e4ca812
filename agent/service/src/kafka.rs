//! Kafka, as this system uses it: a source of events, a sink of records, a commit floor, and a broker in the process.
//!
//! Place: between processes. On a real broker a process reads, works and writes in transactions, so each record's consequences
//! are there once; on the embedded one at least once, with ids that are functions of their input.
//! Invariant: an offset is committed only after what it led to was acknowledged, never by librdkafka's own choice.

pub mod bare;
pub mod cluster;
pub mod commit;
pub mod config;
pub mod embedded;
pub mod lag;
pub mod offsets;
pub mod sink;
pub mod snapshot;
pub mod source;
pub mod table;

pub use config::KafkaSettings;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

/// Passes librdkafka's own log lines and errors to `tracing`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Logging;

impl ClientContext for Logging {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::error!(facility, "{message}");
            }
            RDKafkaLogLevel::Warning => tracing::warn!(facility, "{message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(facility, "{message}"),
            RDKafkaLogLevel::Debug => tracing::debug!(facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka client");
    }
}
