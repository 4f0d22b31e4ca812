//! Bytes to segments: every record gets a segment or a reason.
//!
//! Place: first step after the sources; refused records go to the dead letters.
//! Invariant: total; a decoded segment has 12 x 5000 samples, so the model takes it.

use anyhow::Context as _;
use ecg::segment::SegmentError;
use ecg::topic;
use service::kafka::sink::Sink;
use service::kafka::source::Record;

/// Every value of [`refusal`].
pub(crate) const REFUSALS: [&str; 5] = ["too_large", "decode", "schema", "length", "value"];

/// Label value of an error.
pub(crate) fn refusal(error: &SegmentError) -> &'static str {
    match error {
        SegmentError::TooLarge { .. } => "too_large",
        SegmentError::Decode(_) => "decode",
        SegmentError::Schema { .. } => "schema",
        SegmentError::Length { .. } => "length",
        SegmentError::Value { .. } => "value",
    }
}

/// Sends a refused record's bytes to the dead letters, with where it came from and why it was refused.
///
/// # Errors
/// When the broker does not take it within the sink's retries.
pub(crate) async fn dead_letter(record: &Record, error: &SegmentError, sink: &Sink) -> anyhow::Result<()> {
    let (partition, offset) = (record.partition.to_string(), record.offset.to_string());
    let text = error.to_string();
    let headers = [
        ("reason", refusal(error)),
        ("error", text.as_str()),
        ("topic", &*record.topic),
        ("partition", partition.as_str()),
        ("offset", offset.as_str()),
    ];
    sink.send(topic::DEAD_LETTERS, record.key.as_deref(), &record.payload, &headers)
        .await
        .context("send dead letter")
}

#[cfg(test)]
mod tests {
    use ecg::segment::Segment;

    use super::*;

    #[test]
    fn a_refusal_is_one_of_the_closed_set() {
        let error = Segment::decode(b"\xff\xff\xff").unwrap_err();
        assert_eq!(refusal(&error), "decode");
        for error in [
            SegmentError::TooLarge { bytes: 1 },
            SegmentError::Schema { version: 9 },
            error,
        ] {
            assert!(REFUSALS.contains(&refusal(&error)));
        }
    }
}
