//! Bytes to segments: every record gets a segment or a reason.
//!
//! Place: first step after the sources; refused records go to the dead letters.
//! Invariant: total; a decoded segment has 12 x 5000 samples, so the model takes it.

use ecg::event::{Place, dead_letter_headers};
use ecg::segment::SegmentError;
use ecg::topic;
use service::kafka::commit::Output;
use service::kafka::source::{Owner, Record};

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

/// A refused record's bytes for the dead letters, with where it came from and why it was refused.
pub(crate) fn dead_letter(record: Record, error: &SegmentError, owner: Owner) -> Output {
    let at = Place {
        topic: &record.topic,
        partition: record.partition,
        offset: record.offset,
    };
    let headers = dead_letter_headers(crate::EVENT_SOURCE, at, refusal(error), &error.to_string());
    Output {
        owner,
        topic: topic::DEAD_LETTERS,
        partition: None,
        key: record.key,
        payload: record.payload,
        headers,
    }
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
