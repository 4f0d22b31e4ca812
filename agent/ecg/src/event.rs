//! CloudEvents attributes as headers of a record.
//!
//! Place: beside every record that a process sends, whatever its topic. Invariant: pure; source and id together name one
//! event, so a record that was sent twice is known by them. The value stays as it is (binary content mode).
//!
//! Source: CloudEvents 1.0.2 and its Kafka protocol binding, section 3.2; `time` is optional and left out, because the
//! times that matter are in the values.

use crate::topic;

/// Version of the specification.
pub const SPEC_VERSION: &str = "1.0";
/// Content type of Protobuf values.
pub const PROTOBUF: &str = "application/protobuf";
/// Content type of JSON values.
pub const JSON: &str = "application/json";
/// Content type of bytes that could not be read.
pub const BYTES: &str = "application/octet-stream";

/// Content type of a topic's values.
pub fn content_type(topic: &str) -> &'static str {
    match topic {
        topic::WAVEFORMS | topic::SEGMENTS | topic::SEGMENTS_STAT => PROTOBUF,
        topic::DEAD_LETTERS => BYTES,
        _ => JSON,
    }
}

/// Headers of a record of `topic` that the process `source` ("/meit/agent") sends about the event `id`. The type is the
/// topic's name, whose version grows with a breaking change of the value.
pub fn headers<'a>(topic: &'a str, source: &'a str, id: &'a str) -> [(&'static str, &'a str); 5] {
    [
        ("ce_specversion", SPEC_VERSION),
        ("ce_type", topic),
        ("ce_source", source),
        ("ce_id", id),
        ("content-type", content_type(topic)),
    ]
}

/// As [`headers`], for records that outlive the id.
pub fn owned_headers(topic: &str, source: &str, id: &str) -> Vec<(&'static str, String)> {
    let all = headers(topic, source, id).map(|(key, value)| (key, value.to_owned()));
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_the_required_attributes_and_its_content_type() {
        for topic in topic::ALL {
            let headers = headers(topic, "/meit/agent", "event-1");
            for name in ["ce_specversion", "ce_type", "ce_source", "ce_id", "content-type"] {
                let value = headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
                assert!(value.is_some_and(|value| !value.is_empty()), "{topic} {name}");
            }
        }
        let owned = owned_headers(topic::REPORTS, "/meit/node", "draft-1");
        assert!(owned.contains(&("ce_id", "draft-1".to_owned())) && owned.len() == 5);
        assert_eq!(content_type(topic::SEGMENTS_STAT), PROTOBUF);
        assert_eq!(content_type(topic::SIGNED_REPORTS), JSON);
        assert_eq!(content_type(topic::DEAD_LETTERS), BYTES);
    }
}
