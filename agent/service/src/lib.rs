//! The I/O shell of every process: settings, telemetry, shutdown, Kafka.
//!
//! Place: around the pure packages; the only package that knows rdkafka. It knows nothing of ECGs: bytes, keys and offsets.
//! Invariant: nothing is lost in silence. A setting that is wrong stops the start, a record that is gone is an event, a
//! delivery that failed is an error.

pub mod allocator;
pub mod kafka;
pub mod output;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod time;
