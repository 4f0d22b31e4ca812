//! Signed reports and segments from their Kafka topics.
//!
//! Place: under `sources`; joins as `signed` does. Invariant: the topics are read from their oldest record to the ends that
//! were noted at the start, so a run that is resumed reads the same records; nothing is committed.

use std::collections::BTreeMap;

use ecg::report::SignedReport;
use ecg::segment::Segment;
use ecg::topic;
use service::kafka::config::{KafkaOnly, KafkaSettings};
use service::kafka::snapshot::Snapshot;

use super::Sourced;
use super::signed::{Latest, candidate};
use crate::text_rules::Drop;

pub(super) fn read(settings: &KafkaSettings, ends: &BTreeMap<String, i64>) -> anyhow::Result<Sourced> {
    let mut sourced = Sourced::default();
    let mut latest = Latest::default();
    let mut read = |topic: &str, each: &mut dyn FnMut(&[u8])| -> anyhow::Result<()> {
        let snapshot =
            Snapshot::open(settings, topic)?.bounded(|partition| ends.get(&end_key(topic, partition)).copied());
        for (partition, end) in snapshot.ends() {
            sourced.ends.insert(end_key(topic, partition), end);
        }
        snapshot.read(each)?;
        Ok(())
    };
    let mut unreadable = 0;
    read(
        topic::SIGNED_REPORTS,
        &mut |payload| match serde_json::from_slice::<SignedReport>(payload) {
            Ok(report) => latest.take(report),
            Err(_) => unreadable += 1,
        },
    )?;
    let mut counts = Sourced::default();
    let mut wanted = latest.usable(&mut counts);
    for topic in [topic::SEGMENTS, topic::SEGMENTS_STAT] {
        read(topic, &mut |payload| {
            // a segment that comes twice is the same segment
            match Segment::decode(payload) {
                Ok(segment) => {
                    if let Some(report) = wanted.remove(&segment.id) {
                        counts.add(candidate(report, segment));
                    }
                }
                Err(_) => unreadable += 1,
            }
        })?;
    }
    for _ in wanted {
        counts.drop(Drop::NoRecording);
    }
    for _ in 0..unreadable {
        counts.drop(Drop::Unreadable);
    }
    counts.ends = sourced.ends;
    Ok(counts)
}

/// Where the topics end now.
pub(super) fn ends(settings: &KafkaSettings) -> anyhow::Result<BTreeMap<String, i64>> {
    let mut ends = BTreeMap::new();
    for topic in [topic::SIGNED_REPORTS, topic::SEGMENTS, topic::SEGMENTS_STAT] {
        let snapshot = Snapshot::open(settings, topic)?;
        ends.extend(snapshot.ends().map(|(partition, end)| (end_key(topic, partition), end)));
    }
    Ok(ends)
}

/// `given`, or the defaults with the environment; with other brokers where the source names some.
pub(super) fn settings(brokers: &str, given: Option<&KafkaSettings>) -> anyhow::Result<KafkaSettings> {
    let mut settings = match given {
        Some(given) => given.clone(),
        None => service::settings::load::<KafkaOnly>("kafka", None)?.kafka,
    };
    if !brokers.is_empty() {
        settings.brokers = brokers.to_owned();
    }
    Ok(settings)
}

fn end_key(topic: &str, partition: i32) -> String {
    format!("{topic}/{partition}")
}

#[cfg(test)]
mod tests {
    use service::kafka::config::SecurityProtocol;

    use super::*;

    #[test]
    fn a_source_takes_the_logins_of_the_settings_and_its_own_brokers_where_it_names_some() {
        let given = KafkaSettings {
            brokers: "settings:9093".to_owned(),
            security_protocol: SecurityProtocol::SaslSsl,
            sasl_username: "pipeline".to_owned(),
            ..settings("", None).unwrap()
        };
        for (brokers, expected) in [("", "settings:9093"), ("other:9094", "other:9094")] {
            let of = settings(brokers, Some(&given)).unwrap();
            assert_eq!(of.brokers, expected);
            assert_eq!(of.security_protocol, SecurityProtocol::SaslSsl);
            assert_eq!(of.sasl_username, "pipeline");
        }
        assert_eq!(settings("alone:9092", None).unwrap().brokers, "alone:9092");
    }
}
