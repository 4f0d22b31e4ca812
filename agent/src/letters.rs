//! Dead letters, to be read and to be sent again.
//!
//! Place: `meit-agent dead-letters`, beside the stream. A letter is what was refused, byte for byte, with its reason and its
//! place in headers; after the cause is mended it can be sent again to where it came from. A record too large for one letter lies
//! there in parts, which are one letter here.
//! Invariant: reading changes nothing; sending again leaves the letter where it is and names its place in the copy's headers.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use ecg::letter::{KEY_BYTES, PART};
use ecg::topic;
use serde::Serialize;
use service::kafka::KafkaSettings;
use service::kafka::sink::Sink;
use service::kafka::table::{self, Row};
use service::kafka::{cluster, table::TableError};

use crate::dispatch::EVENT_SOURCE;

/// Header of a letter that was sent again: partition and offset of the letter.
const REPLAYED_FROM: &str = "replayed-from";

/// Which letters.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Choice {
    /// Only letters with this reason.
    #[arg(long)]
    pub reason: Option<String>,
    /// Only letters that were refused as records of this topic.
    #[arg(long)]
    pub topic: Option<String>,
    /// Only the letter at this place of the dead letters.
    #[arg(long, value_name = "PARTITION:OFFSET", value_parser = place)]
    pub at: Option<(i32, i64)>,
}

fn place(text: &str) -> Result<(i32, i64), String> {
    let parse = || {
        let (partition, offset) = text.split_once(':')?;
        Some((partition.parse().ok()?, offset.parse().ok()?))
    };
    parse().ok_or_else(|| format!("{text:?} is not PARTITION:OFFSET"))
}

impl Choice {
    fn takes(&self, row: &Row) -> bool {
        let is = |wanted: &Option<String>, header| wanted.is_none() || wanted.as_deref() == row.header(header);
        is(&self.reason, "reason")
            && is(&self.topic, "topic")
            && self.at.is_none_or(|at| at == (row.partition, row.offset))
    }

    /// True when it takes every letter.
    pub fn is_all(&self) -> bool {
        self.reason.is_none() && self.topic.is_none() && self.at.is_none()
    }
}

/// One letter, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Letter {
    /// Where the letter lies: partition and offset.
    pub at: (i32, i64),
    /// Why it was refused.
    pub reason: String,
    /// The same in words.
    pub error: String,
    /// The topic that it was read from.
    pub topic: String,
    /// The partition that it was read from.
    pub partition: String,
    /// Its offset there.
    pub offset: String,
    /// Its length.
    pub bytes: usize,
}

/// A refused record, put together from its letters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refused {
    /// The record's key and value; place and headers of its first letter.
    row: Row,
    /// Letters that it has, and that it should have.
    parts: (usize, usize),
}

impl Letter {
    fn of(Refused { row, .. }: &Refused) -> Self {
        let header = |name| row.header(name).unwrap_or_default().to_owned();
        Self {
            at: (row.partition, row.offset),
            reason: header("reason"),
            error: header("error"),
            topic: header("topic"),
            partition: header("partition"),
            offset: header("offset"),
            bytes: row.value.len(),
        }
    }
}

/// The letters that are there, by partition and offset.
///
/// # Errors
/// When the broker does not answer.
pub async fn list(kafka: &KafkaSettings, choice: &Choice) -> anyhow::Result<Vec<Letter>> {
    Ok(refused(kafka, choice).await?.iter().map(Letter::of).collect())
}

/// Sends letters again, each with its bytes and key to the topic that it was read from; says how many.
///
/// # Errors
/// When the broker does not answer or take them, or a letter does not say where it came from or lacks a part.
pub async fn replay(kafka: &KafkaSettings, choice: &Choice) -> anyhow::Result<usize> {
    let refused = refused(kafka, choice).await?;
    let sink = Sink::new(kafka).context("open kafka sink")?;
    for Refused { row, parts } in &refused {
        let place = format!("{}:{}", row.partition, row.offset);
        ensure!(
            parts.0 == parts.1,
            "letter {place} has {} of its {} parts",
            parts.0,
            parts.1
        );
        let to = row
            .header("topic")
            .with_context(|| format!("letter {place} names no topic"))?;
        ensure!(
            topic::ALL.contains(&to),
            "letter {place} is of topic {to:?}, which is none of ours"
        );
        // an empty key was none: no stream has an empty name
        let key = (!row.key.is_empty()).then_some(row.key.as_slice());
        let mut headers = ecg::event::headers(to, EVENT_SOURCE, &place).to_vec();
        headers.push((REPLAYED_FROM, &place));
        sink.send(to, key, &row.value, &headers)
            .await
            .with_context(|| format!("send letter {place} again"))?;
    }
    Ok(refused.len())
}

async fn refused(kafka: &KafkaSettings, choice: &Choice) -> anyhow::Result<Vec<Refused>> {
    let count = cluster::partitions(kafka, &[topic::DEAD_LETTERS])
        .await
        .context("count partitions")?[0];
    let partitions: Vec<i32> = (0..count as i32).collect();
    let read: Result<Vec<Row>, TableError> = table::read(kafka, topic::DEAD_LETTERS, &partitions).await;
    let mut rows = read.context("read dead letters")?;
    rows.sort_by_key(|row| (row.partition, row.offset));
    let mut all = together(rows);
    all.retain(|refused| choice.takes(&refused.row));
    Ok(all)
}

/// Number of this part, and of all.
fn part(row: &Row) -> Option<(usize, usize)> {
    let (number, count) = row.header(PART)?.split_once(" of ")?;
    Some((number.parse().ok()?, count.parse().ok()?))
}

/// The records of letters, in the order of their first ones. Parts of a record without a key may lie in several partitions.
fn together(rows: Vec<Row>) -> Vec<Refused> {
    let mut records: Vec<Refused> = Vec::new();
    let mut in_parts: BTreeMap<(String, usize), BTreeMap<usize, Row>> = BTreeMap::new();
    for row in rows {
        match (part(&row), row.header("ce_id")) {
            (Some((number, count)), Some(id)) => {
                // one that was delivered twice replaces itself
                in_parts.entry((id.to_owned(), count)).or_default().insert(number, row);
            }
            _ => records.push(Refused { row, parts: (1, 1) }),
        }
    }
    records.extend(in_parts.into_iter().filter_map(|((_, count), parts)| {
        let parts_found = parts.len();
        let mut parts = parts.into_values();
        let mut row = parts.next()?;
        row.value.extend(parts.flat_map(|part| part.value));
        Some(Refused {
            row,
            parts: (parts_found, count),
        })
    }));
    for Refused { row, .. } in &mut records {
        let key_bytes = row.header(KEY_BYTES).and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
        let value = row.value.split_off(usize::min(key_bytes, row.value.len()));
        let key = std::mem::replace(&mut row.value, value);
        if key_bytes > 0 {
            row.key = key;
        }
    }
    records.sort_by_key(|refused| (refused.row.partition, refused.row.offset));
    records
}

#[cfg(test)]
mod tests {
    use ecg::letter::{Place, Refusal};

    use super::*;

    fn row(reason: &str, offset: i64) -> Row {
        let header = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        Row {
            partition: 1,
            offset,
            key: vec![],
            value: vec![1, 2, 3],
            headers: vec![header("reason", reason), header("topic", topic::WAVEFORMS)],
        }
    }

    #[test]
    fn a_choice_takes_what_it_names() {
        let by_reason = Choice {
            reason: Some("decode".to_owned()),
            ..Choice::default()
        };
        let by_place = Choice {
            at: Some(place("1:7").unwrap()),
            ..Choice::default()
        };
        for (choice, taken) in [
            (Choice::default(), [true, true]),
            (by_reason, [true, false]),
            (by_place, [false, true]),
        ] {
            let rows = [row("decode", 5), row("identity", 7)];
            assert_eq!(rows.map(|row| choice.takes(&row)), taken, "{choice:?}");
        }
        assert!(place("1").is_err() && place("a:b").is_err());
    }

    #[test]
    fn a_letter_tells_its_place_and_reason_and_not_its_bytes() {
        let refused = together(vec![row("decode", 5)]);
        let letter = serde_json::to_value(Letter::of(&refused[0])).unwrap();
        assert_eq!(letter["at"], serde_json::json!([1, 5]));
        assert_eq!((&letter["reason"], &letter["bytes"]), (&"decode".into(), &3.into()));
    }

    #[test]
    fn parts_of_a_record_are_one_letter_and_a_part_that_is_gone_is_noticed() {
        let bytes: Vec<u8> = (0..2_000_000).map(|i| (i % 251) as u8).collect();
        let refusal = Refusal {
            source: EVENT_SOURCE,
            at: Place {
                topic: topic::WAVEFORMS,
                partition: 0,
                offset: 9,
            },
            reason: "decode",
            error: "no Protobuf",
        };
        let key = vec![5; 20_000];
        let letters = refusal.letters(Some(key.clone()), bytes.clone());
        let rows: Vec<Row> = letters
            .into_iter()
            .zip(7..)
            .map(|(letter, offset)| Row {
                partition: offset as i32 % 2,
                offset,
                key: letter.key.unwrap_or_default(),
                value: letter.payload,
                headers: letter
                    .headers
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect(),
            })
            .chain([row("identity", 70)])
            .collect();
        let whole = together(rows.clone());
        assert_eq!(whole.len(), 2);
        let record = &whole[0];
        assert!(record.row.key == key && record.row.value == bytes && record.parts == (3, 3));
        let rest = together(rows[1..].to_vec());
        assert!(rest.iter().any(|refused| refused.parts == (2, 3)));
    }
}
