//! Dead letters: a refused record's bytes, with where they were read and why they were refused.
//!
//! Place: what every process makes of a record that it cannot read; `meit-agent dead-letters` puts the parts together again.
//! Invariant: no byte is lost, of value or key; a letter is never larger than what a broker takes by default, though the record was
//! as large as that and the letter has headers besides.

use crate::event::owned_headers;
use crate::topic;

/// Bytes of a letter's value at most; brokers take 1,048,588 bytes of a record by default, librdkafka sends 1,000,000.
pub const PART_BYTES_MAX: usize = 900_000;
/// Bytes of a key that stays a key; a longer one leads the bytes.
pub const KEY_BYTES_MAX: usize = 16_384;
/// Header of the letters of one record: "2 of 3".
pub const PART: &str = "part";
/// Header where the bytes begin with the record's key: its length.
pub const KEY_BYTES: &str = "key-bytes";

/// Where a refused record was read.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

/// Who refused a record, and why.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// The process, "/meit/agent".
    pub source: &'a str,
    /// Where it was read.
    pub at: Place<'a>,
    /// Why, of a closed set.
    pub reason: &'a str,
    /// The same in words.
    pub error: &'a str,
}

/// One letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its key, the record's.
    pub key: Option<Vec<u8>>,
    /// The record's bytes, or a part of them.
    pub payload: Vec<u8>,
    /// Its headers.
    pub headers: Vec<(&'static str, String)>,
}

impl Refusal<'_> {
    /// The letters of the record: one, or where it is too large for one, its parts in order.
    pub fn letters(&self, key: Option<Vec<u8>>, payload: Vec<u8>) -> Vec<Letter> {
        let Place {
            topic,
            partition,
            offset,
        } = self.at;
        let mut headers = owned_headers(
            topic::DEAD_LETTERS,
            self.source,
            &format!("{topic}-{partition}-{offset}"),
        );
        headers.extend([
            ("reason", self.reason.to_owned()),
            ("error", self.error.to_owned()),
            ("topic", topic.to_owned()),
            ("partition", partition.to_string()),
            ("offset", offset.to_string()),
        ]);
        let (key, bytes) = match key {
            Some(key) if key.len() > KEY_BYTES_MAX => {
                headers.push((KEY_BYTES, key.len().to_string()));
                (None, [key, payload].concat())
            }
            key => (key, payload),
        };
        if bytes.len() <= PART_BYTES_MAX {
            let payload = bytes;
            return vec![Letter { key, payload, headers }];
        }
        let count = bytes.len().div_ceil(PART_BYTES_MAX);
        let parts = bytes.chunks(PART_BYTES_MAX).zip(1..);
        let letter = |(part, number): (&[u8], usize)| Letter {
            key: key.clone(),
            payload: part.to_vec(),
            headers: [headers.clone(), vec![(PART, format!("{number} of {count}"))]].concat(),
        };
        parts.map(letter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::BYTES;

    fn letters(key: Option<Vec<u8>>, payload: Vec<u8>) -> Vec<Letter> {
        let at = Place {
            topic: topic::WAVEFORMS,
            partition: 3,
            offset: 17,
        };
        let refusal = Refusal {
            source: "/meit/agent",
            at,
            reason: "decode",
            error: "no Protobuf",
        };
        refusal.letters(key, payload)
    }

    fn header<'a>(letter: &'a Letter, name: &str) -> Option<&'a str> {
        let found = letter.headers.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn a_letter_says_where_it_was_read_and_is_one_event_by_that() {
        let letters = letters(Some(b"bed-01".to_vec()), vec![7; PART_BYTES_MAX]);
        let [letter] = letters.as_slice() else {
            panic!("{} letters", letters.len())
        };
        assert_eq!(
            (letter.key.as_deref(), letter.payload.len()),
            (Some(&b"bed-01"[..]), PART_BYTES_MAX)
        );
        for (name, value) in [
            ("ce_type", topic::DEAD_LETTERS),
            ("ce_id", "ecg.waveforms.v1-3-17"),
            ("content-type", BYTES),
            ("reason", "decode"),
            ("error", "no Protobuf"),
            ("topic", topic::WAVEFORMS),
            ("partition", "3"),
            ("offset", "17"),
        ] {
            assert_eq!(header(letter, name), Some(value), "{name}");
        }
        assert_eq!((header(letter, PART), header(letter, KEY_BYTES)), (None, None));
    }

    #[test]
    fn a_record_too_large_for_a_letter_goes_in_parts_of_which_none_is_lost() {
        let bytes: Vec<u8> = (0..2 * PART_BYTES_MAX + 1).map(|i| (i % 251) as u8).collect();
        let parts = letters(Some(b"bed-01".to_vec()), bytes.clone());
        let named: Vec<_> = parts.iter().map(|part| header(part, PART).unwrap()).collect();
        assert_eq!(named, ["1 of 3", "2 of 3", "3 of 3"]);
        assert_eq!(
            parts.iter().flat_map(|part| part.payload.clone()).collect::<Vec<_>>(),
            bytes
        );
        assert!(
            parts
                .iter()
                .all(|part| header(part, "ce_id") == Some("ecg.waveforms.v1-3-17"))
        );
    }

    #[test]
    fn a_key_too_long_for_a_key_leads_the_bytes() {
        let letters = letters(Some(vec![1; KEY_BYTES_MAX + 1]), vec![2]);
        let [letter] = letters.as_slice() else {
            panic!("{} letters", letters.len())
        };
        assert_eq!((letter.key.as_ref(), header(letter, KEY_BYTES)), (None, Some("16385")));
        assert_eq!(letter.payload, [vec![1; KEY_BYTES_MAX + 1], vec![2]].concat());
    }
}
