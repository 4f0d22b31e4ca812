//! Bytes to segments: every record gets a segment or a reason.
//!
//! Place: first step after the sources; refused records go to the dead letters.
//! Invariant: total; a decoded segment has 12 x 5000 samples, so the model takes it.

use ecg::letter::{Letter, Place, Refusal};
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

/// The dead letters of a refused record: its bytes, with where it came from and why it was refused.
pub(crate) fn dead_letters(record: Record, error: &SegmentError, owner: &Owner) -> impl Iterator<Item = Output> {
    let at = Place {
        topic: &record.topic,
        partition: record.partition,
        offset: record.offset,
    };
    let refused = Refusal {
        source: crate::EVENT_SOURCE,
        at,
        reason: refusal(error),
        error: &error.to_string(),
    };
    let letters = refused.letters(record.key, record.payload).into_iter();
    letters.map(|Letter { key, payload, headers }| Output {
        owner: owner.clone(),
        topic: topic::DEAD_LETTERS,
        partition: None,
        key,
        payload,
        headers,
    })
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
