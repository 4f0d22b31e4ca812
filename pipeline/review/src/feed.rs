//! Kafka records to the list.
//!
//! Place: first step; reads segments, drafts and signatures. Invariant: a record that cannot be read goes to the dead letters
//! and is counted, so the page never stops on it. Offsets of drafts and segments are committed up to the oldest that is still
//! needed; those of signatures never, so that a restart knows everything that is signed.

use std::collections::HashMap;

use anyhow::Context as _;
use ecg::id::HEARTBEAT_STREAM;
use ecg::letter::{self, Refusal};
use ecg::report::{DraftReport, SignedReport};
use ecg::segment::Segment;
use ecg::topic;
use service::kafka::offsets::CommitFloor;
use service::kafka::sink::Sink;
use service::kafka::source::{Event, Partition, Record, Source};
use service::shutdown::Shutdown;
use tokio::sync::mpsc;

use crate::metrics::{self, Metrics};
use crate::worklist::{Place, Worklist};

/// Longest JSON of a draft or a signature that is read.
const JSON_BYTES_MAX: usize = 256 * 1024;

/// What a record says.
enum Said {
    Draft(Box<DraftReport>),
    Segment(Box<Segment>),
    Signed(Box<SignedReport>),
}

/// The reader of the topics.
pub(crate) struct Feed {
    pub source: Source,
    pub worklist: Worklist,
    pub sink: Sink,
    pub metrics: Metrics,
    pub floors: HashMap<Partition, CommitFloor>,
}

impl Feed {
    /// Reads until `shutdown`.
    ///
    /// # Errors
    /// When the source ends or an offset cannot be committed.
    pub(crate) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        commit_ms: u64,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let mut commit = tokio::time::interval(std::time::Duration::from_millis(commit_ms));
        loop {
            tokio::select! {
                () = shutdown.wait() => break,
                event = events.recv() => self.take(event.context("kafka source ended early")?).await?,
                _ = commit.tick() => {
                    for topic in metrics::TOPICS {
                        self.metrics.kafka.observe(topic, &self.source, events.len());
                    }
                    self.commit()?;
                }
            }
        }
        self.commit()?;
        self.source.stop().await.context("close kafka source")
    }

    async fn take(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Record(record) => self.take_record(&record).await,
            Event::Assigned(partitions) => tracing::info!(?partitions, "partitions assigned"),
            Event::Revoked(partitions) => {
                tracing::info!(?partitions, "partitions revoked");
                self.floors.retain(|partition, _| !partitions.contains(partition));
            }
            Event::OffsetGap(gap) => self.metrics.offset_gap(gap.records()),
            Event::Fatal(error) => anyhow::bail!("kafka source: {error}"),
        }
        Ok(())
    }

    async fn take_record(&mut self, record: &Record) {
        self.metrics.record(&record.topic);
        let place = Place {
            topic: record.topic.clone(),
            partition: record.partition,
            offset: record.offset,
        };
        if &*record.topic != topic::SIGNED_REPORTS {
            let partition = (record.topic.clone(), record.partition);
            self.floors.entry(partition).or_default().begin(record.offset);
        }
        match read(&record.topic, &record.payload) {
            // nobody reads the heartbeat's drafts; that they come says that the way is open
            Ok(Said::Draft(draft)) if draft.stream_id == HEARTBEAT_STREAM => {
                self.metrics.heartbeat(&draft);
                self.done(&record.topic, record.partition, record.offset);
            }
            Ok(Said::Segment(segment)) if segment.stream_id == HEARTBEAT_STREAM => {
                self.done(&record.topic, record.partition, record.offset);
            }
            Ok(Said::Draft(draft)) => self.worklist.add_draft(*draft, place),
            Ok(Said::Segment(segment)) => self.worklist.add_segment(*segment, place),
            Ok(Said::Signed(report)) => self.worklist.add_signed(*report),
            Err(error) => self.refuse(record, &error).await,
        }
    }

    /// Counts a record that cannot be read and sends its bytes to the dead letters; when that fails too, it is read again
    /// after a restart.
    async fn refuse(&mut self, record: &Record, error: &anyhow::Error) {
        self.metrics.refused(&record.topic);
        let (topic, partition, offset) = (&*record.topic, record.partition, record.offset);
        tracing::warn!(%error, topic, partition, offset, "record refused");
        let refusal = Refusal {
            source: crate::EVENT_SOURCE,
            at: letter::Place {
                topic,
                partition,
                offset,
            },
            reason: "decode",
            error: &format!("{error:#}"),
        };
        for letter in refusal.letters(record.key.clone(), record.payload.clone()) {
            let headers: Vec<(&str, &str)> = letter
                .headers
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            let (key, payload) = (letter.key.as_deref(), letter.payload.as_slice());
            if let Err(error) = self.sink.send(topic::DEAD_LETTERS, key, payload, &headers).await {
                return tracing::error!(%error, topic, partition, offset, "dead letter not delivered");
            }
        }
        self.done(&record.topic, record.partition, record.offset);
    }

    fn done(&mut self, topic: &std::sync::Arc<str>, partition: i32, offset: i64) {
        if let Some(floor) = self.floors.get_mut(&(topic.clone(), partition)) {
            floor.done(offset);
        }
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        for place in self.worklist.take_done() {
            self.done(&place.topic, place.partition, place.offset);
        }
        for ((topic, partition), floor) in &self.floors {
            if let Some(next) = floor.floor() {
                self.source.commit(topic, *partition, next).context("commit floor")?;
            }
        }
        Ok(())
    }
}

/// What a record of a topic says; the hash of a segment's samples is computed anew, not believed.
fn read(topic: &str, payload: &[u8]) -> anyhow::Result<Said> {
    if topic == topic::SEGMENTS || topic == topic::SEGMENTS_STAT {
        let segment = Segment::decode(payload).context("read segment")?;
        let found = ecg::id::samples_sha256(&[&segment.raw, &segment.filtered]);
        anyhow::ensure!(
            found == segment.samples_sha256,
            "segment says its samples hash to {}, they hash to {found}",
            segment.samples_sha256
        );
        return Ok(Said::Segment(Box::new(segment)));
    }
    let bytes = payload.len();
    anyhow::ensure!(
        bytes <= JSON_BYTES_MAX,
        "record of {bytes} bytes exceeds {JSON_BYTES_MAX}"
    );
    if topic == topic::SIGNED_REPORTS {
        let report = serde_json::from_slice(payload).context("read signed report")?;
        return Ok(Said::Signed(Box::new(report)));
    }
    let draft = serde_json::from_slice(payload).context("read draft")?;
    Ok(Said::Draft(Box::new(draft)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{draft, segment, signed};

    fn hashed() -> Segment {
        let mut segment = segment("bed-01", 0);
        segment.samples_sha256 = ecg::id::samples_sha256(&[&segment.raw, &segment.filtered]);
        segment
    }

    #[test]
    fn records_are_read_by_their_topic() {
        let segment = hashed();
        let draft = draft(&segment, Some("sinus rhythm"));
        let json = serde_json::to_vec(&draft).unwrap();
        assert!(matches!(read(topic::REPORTS, &json), Ok(Said::Draft(read)) if *read == draft));
        assert!(matches!(read(topic::SEGMENTS_STAT, &segment.encode()), Ok(Said::Segment(read)) if *read == segment));
        let json = serde_json::to_vec(&signed(&draft, 1)).unwrap();
        assert!(matches!(read(topic::SIGNED_REPORTS, &json), Ok(Said::Signed(_))));
    }

    #[test]
    fn other_bytes_and_samples_that_do_not_match_their_hash_are_refused() {
        for topic in crate::metrics::TOPICS {
            assert!(read(topic, b"\xff\xff").is_err(), "{topic}");
        }
        let mut changed = hashed();
        changed.filtered[17] += 1;
        let error = read(topic::SEGMENTS, &changed.encode()).err().unwrap().to_string();
        assert!(error.contains(&changed.samples_sha256), "{error}");
        assert!(read(topic::REPORTS, &vec![b' '; JSON_BYTES_MAX + 1]).is_err());
    }
}
