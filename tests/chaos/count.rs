//! What is on the broker in the end.
//!
//! Place: the verdict of the chaos harness. Invariant: only committed records count; what aborted transactions left is
//! counted beside, as the proof that kills hit transactions.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use ecg::report::{DraftReport, RejectRecord};
use ecg::segment::Segment;
use ecg::topic;
use service::kafka::KafkaSettings;
use service::kafka::table::{Isolation, Row, fold};

/// Segments and drafts, each with how often it came.
pub struct Counts {
    /// By stream and first sample: segment ids.
    pub segments: BTreeMap<(String, i64), Vec<String>>,
    /// As above, of refused segments.
    pub rejects: BTreeMap<(String, i64), Vec<String>>,
    /// By segment id: draft ids.
    pub drafts: BTreeMap<String, Vec<String>>,
    /// Segments and drafts in aborted transactions.
    pub aborted: usize,
}

/// Committed records so far.
pub struct Progress {
    /// Segments and rejects.
    pub fates: usize,
    /// Segments.
    pub segments: usize,
    /// Drafts.
    pub drafts: usize,
}

type Named = BTreeMap<(String, i64), Vec<String>>;

async fn read<State: Send + 'static>(
    kafka: &KafkaSettings,
    topic: &str,
    isolation: Isolation,
    state: State,
    add: fn(&mut State, Row),
) -> anyhow::Result<State> {
    let partitions: Vec<i32> = (0..kafka.partitions).collect();
    fold(kafka, topic, &partitions, isolation, state, add)
        .await
        .with_context(|| format!("read {topic}"))
}

async fn count(kafka: &KafkaSettings, topics: &[&str], isolation: Isolation) -> anyhow::Result<usize> {
    let mut sum = 0;
    for topic in topics {
        sum += read(kafka, topic, isolation, 0, |count, _| *count += 1).await?;
    }
    Ok(sum)
}

/// Counts what is committed so far.
///
/// # Errors
/// When the broker does not answer.
pub async fn progress(kafka: &KafkaSettings) -> anyhow::Result<Progress> {
    let segments = count(kafka, &[topic::SEGMENTS, topic::SEGMENTS_STAT], Isolation::Committed).await?;
    let rejects = count(kafka, &[topic::REJECTS], Isolation::Committed).await?;
    let drafts = count(kafka, &[topic::REPORTS], Isolation::Committed).await?;
    Ok(Progress {
        fates: segments + rejects,
        segments,
        drafts,
    })
}

fn add_segment(segments: &mut Named, row: Row) {
    let segment = Segment::decode(&row.value).expect("an agent writes segments");
    segments
        .entry((segment.stream_id, segment.start_sample))
        .or_default()
        .push(segment.id);
}

fn add_reject(rejects: &mut Named, row: Row) {
    let reject: RejectRecord = serde_json::from_slice(&row.value).expect("an agent writes rejects");
    rejects
        .entry((reject.stream_id, reject.start_sample))
        .or_default()
        .push(reject.segment_id);
}

fn add_draft(drafts: &mut BTreeMap<String, Vec<String>>, row: Row) {
    let draft: DraftReport = serde_json::from_slice(&row.value).expect("a node writes drafts");
    drafts.entry(draft.segment_id).or_default().push(draft.draft_id);
}

impl Counts {
    /// Reads every topic to its end.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn read(kafka: &KafkaSettings) -> anyhow::Result<Self> {
        let segments = read(kafka, topic::SEGMENTS, Isolation::Committed, Named::new(), add_segment).await?;
        let segments = read(kafka, topic::SEGMENTS_STAT, Isolation::Committed, segments, add_segment).await?;
        let rejects = read(kafka, topic::REJECTS, Isolation::Committed, Named::new(), add_reject).await?;
        let drafts = read(kafka, topic::REPORTS, Isolation::Committed, BTreeMap::new(), add_draft).await?;
        let topics = [topic::SEGMENTS, topic::SEGMENTS_STAT, topic::REJECTS, topic::REPORTS];
        let written = count(kafka, &topics, Isolation::All).await?;
        let committed = count(kafka, &topics, Isolation::Committed).await?;
        Ok(Self {
            segments,
            rejects,
            drafts,
            aborted: written - committed,
        })
    }

    /// Windows that came more than once.
    pub fn segments_twice(&self) -> usize {
        let twice = |named: &Named| named.values().filter(|ids| ids.len() > 1).count();
        let both = self
            .segments
            .keys()
            .filter(|name| self.rejects.contains_key(name))
            .count();
        twice(&self.segments) + twice(&self.rejects) + both
    }

    /// Segments with more than one draft.
    pub fn drafts_twice(&self) -> usize {
        self.drafts.values().filter(|ids| ids.len() > 1).count()
    }

    /// # Errors
    /// What is missing, or there twice.
    pub fn verdict(&self, windows: usize) -> anyhow::Result<()> {
        let fates = self.segments.len() + self.rejects.len();
        ensure!(
            fates == windows,
            "{fates} of {windows} windows became a segment or a reject"
        );
        ensure!(
            self.segments_twice() == 0,
            "{} windows came twice",
            self.segments_twice()
        );
        ensure!(
            self.drafts_twice() == 0,
            "{} segments have two drafts",
            self.drafts_twice()
        );
        let without = self
            .segments
            .values()
            .flatten()
            .filter(|id| !self.drafts.contains_key(*id))
            .count();
        ensure!(without == 0, "{without} segments have no draft");
        ensure!(
            self.drafts.len() == self.segments.len(),
            "{} drafts are of no segment",
            self.drafts.len() - self.segments.len()
        );
        Ok(())
    }
}
