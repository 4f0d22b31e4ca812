//! Records out, each acknowledged or an error.
//!
//! Place: last step of every process. Invariant: `send` returns Ok only when all in-sync replicas have the record; retries
//! inside the delivery time keep order and make no copies (idempotent producer).

use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode;

use super::commit::Output;
use super::{KafkaSettings, Logging};

/// Time before a full producer queue is tried again.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(2);

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
        record.headers = owned_headers(headers);
        let sent = self.producer.send(record, self.delivery_timeout).await;
        sent.map(drop).map_err(|(source, _)| SinkError::Deliver {
            topic: topic.to_owned(),
            bytes: payload.len(),
            source,
        })
    }

    /// Sends many records of (key, value) and waits for all acknowledgements; records of one key keep their order.
    ///
    /// # Errors
    /// [`SinkError::Deliver`] when the broker does not take one within the delivery time.
    pub async fn send_all(&self, topic: &'static str, records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), SinkError> {
        let mut sent = Vec::with_capacity(records.len());
        for (key, payload) in &records {
            sent.push(
                self.begin(FutureRecord::to(topic).key(key.as_slice()).payload(payload), topic)
                    .await?,
            );
        }
        for delivery in sent {
            delivery.acknowledged().await?;
        }
        Ok(())
    }

    /// Puts an output into the queue; it is on the broker when the delivery is acknowledged. Records of one key keep the
    /// order of the calls.
    pub(super) async fn begin_output(&self, output: &Output) -> Result<Delivery, SinkError> {
        let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(output.topic).payload(&output.payload);
        record.key = output.key.as_deref();
        record.partition = output.partition;
        record.headers = owned_headers(&output.headers);
        self.begin(record, output.topic).await
    }

    async fn begin(
        &self,
        mut record: FutureRecord<'_, [u8], [u8]>,
        topic: &'static str,
    ) -> Result<Delivery, SinkError> {
        let bytes = record.payload.map_or(0, <[u8]>::len);
        loop {
            match self.producer.send_result(record) {
                Ok(future) => return Ok(Delivery { future, topic, bytes }),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    tokio::time::sleep(QUEUE_FULL_WAIT).await;
                    record = back;
                }
                Err((source, _)) => {
                    return Err(SinkError::Deliver {
                        topic: topic.to_owned(),
                        bytes,
                        source,
                    });
                }
            }
        }
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

/// A record on its way.
pub(super) struct Delivery {
    future: DeliveryFuture,
    topic: &'static str,
    bytes: usize,
}

impl Delivery {
    /// Waits until all in-sync replicas have the record.
    pub(super) async fn acknowledged(self) -> Result<(), SinkError> {
        let Ok(sent) = self.future.await else {
            panic!("the producer outlives its records");
        };
        sent.map(drop).map_err(|(source, _)| SinkError::Deliver {
            topic: self.topic.to_owned(),
            bytes: self.bytes,
            source,
        })
    }
}

/// Headers as the client takes them; none when there are none.
pub(super) fn owned_headers<Value: AsRef<str>>(headers: &[(&str, Value)]) -> Option<OwnedHeaders> {
    let with = |all: OwnedHeaders, (key, value): &(&str, Value)| {
        all.insert(Header {
            key,
            value: Some(value.as_ref()),
        })
    };
    let none = headers.is_empty();
    (!none).then(|| {
        headers
            .iter()
            .fold(OwnedHeaders::new_with_capacity(headers.len()), with)
    })
}
