//! Records out, each acknowledged or an error.
//!
//! Place: last step of every process. Invariant: `send` returns Ok only when all in-sync replicas have the record; retries
//! inside the delivery time keep order and make no copies (idempotent producer).

use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};

use super::{KafkaSettings, Logging};

/// Why a record is not on the broker.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The producer cannot be made.
    #[error("make kafka producer for {brokers}")]
    Create {
        /// The brokers.
        brokers: String,
        /// Why.
        source: KafkaError,
    },
    /// A record was not delivered within its time.
    #[error("deliver record of {bytes} bytes to {topic}")]
    Deliver {
        /// The topic.
        topic: String,
        /// Length of the value.
        bytes: usize,
        /// Why.
        source: KafkaError,
    },
    /// Records were left when the time was over.
    #[error("flush kafka producer within {timeout:?}")]
    Flush {
        /// The time.
        timeout: Duration,
        /// Why.
        source: KafkaError,
    },
}

/// A producer; clones share it.
#[derive(Clone)]
pub struct Sink {
    producer: FutureProducer<Logging>,
    delivery_timeout: Duration,
}

impl Sink {
    /// Makes the producer; the brokers need not answer yet.
    ///
    /// # Errors
    /// [`SinkError::Create`].
    pub fn new(settings: &KafkaSettings) -> Result<Self, SinkError> {
        let producer = FutureProducer::from_config_and_context(&settings.producer(), Logging);
        let producer = producer.map_err(|source| SinkError::Create {
            brokers: settings.brokers.clone(),
            source,
        })?;
        Ok(Self {
            producer,
            delivery_timeout: Duration::from_millis(settings.delivery_timeout_ms.into()),
        })
    }

    /// Sends one record and waits for its acknowledgement; records of one key keep the order of the calls.
    ///
    /// # Errors
    /// [`SinkError::Deliver`] when the broker does not take it within the delivery time.
    pub async fn send(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        payload: &[u8],
        headers: &[(&str, &str)],
    ) -> Result<(), SinkError> {
        let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic).payload(payload);
        record.key = key;
        if !headers.is_empty() {
            let with = |all: OwnedHeaders, &(key, value): &(&str, &str)| {
                all.insert(Header {
                    key,
                    value: Some(value),
                })
            };
            record = record.headers(
                headers
                    .iter()
                    .fold(OwnedHeaders::new_with_capacity(headers.len()), with),
            );
        }
        let sent = self.producer.send(record, self.delivery_timeout).await;
        sent.map(drop).map_err(|(source, _)| SinkError::Deliver {
            topic: topic.to_owned(),
            bytes: payload.len(),
            source,
        })
    }

    /// Waits until every record is acknowledged or has failed.
    ///
    /// # Errors
    /// [`SinkError::Flush`] when that takes longer than the delivery time.
    pub async fn flush(&self) -> Result<(), SinkError> {
        let (producer, timeout) = (self.producer.clone(), self.delivery_timeout);
        let flushed = tokio::task::spawn_blocking(move || producer.flush(timeout)).await;
        let flushed = flushed.expect("flushing does not panic");
        flushed.map_err(|source| SinkError::Flush { timeout, source })
    }
}
