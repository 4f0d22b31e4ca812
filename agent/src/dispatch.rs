//! Finished segments to their topics, refused records to the dead letters.
//!
//! Place: last step of the agent; what is delivered here lets the commit floor move.
//! Invariant: windows are dispatched in the order in which they closed, and a window holds back its records
//! ([`Holds`]) until the broker has its segment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Context as _;
use ecg::packet::PacketError;
use ecg::report::RejectRecord;
use ecg::segment::Segment;
use ecg::topic;
use service::kafka::sink::Sink;
use service::kafka::source::Record;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::metrics::Metrics;
use crate::route::{Route, route};

/// A window in analysis.
pub(crate) struct Job {
    pub partition: i32,
    /// First offset that the window needs.
    pub tag: u64,
    pub segment: JoinHandle<Segment>,
}

/// Records that windows in analysis or on their way to the broker hold back.
#[derive(Clone, Default)]
pub(crate) struct Holds {
    held: Arc<Mutex<BTreeMap<(i32, u64), usize>>>,
}

impl Holds {
    /// Holds back `tag` of a partition once more.
    pub(crate) fn add(&self, partition: i32, tag: u64) {
        *self.lock().entry((partition, tag)).or_insert(0) += 1;
    }

    /// Undoes one [`Holds::add`].
    pub(crate) fn release(&self, partition: i32, tag: u64) {
        let mut held = self.lock();
        if let Some(count) = held.get_mut(&(partition, tag)) {
            *count -= 1;
            if *count == 0 {
                held.remove(&(partition, tag));
            }
        }
    }

    /// First offset of a partition that is held back.
    pub(crate) fn floor(&self, partition: i32) -> Option<u64> {
        self.lock()
            .range((partition, 0)..=(partition, u64::MAX))
            .next()
            .map(|(&(_, tag), _)| tag)
    }

    /// Windows that hold something back.
    pub(crate) fn len(&self) -> usize {
        self.lock().values().sum()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(i32, u64), usize>> {
        self.held.lock().expect("no code panics while it holds this lock")
    }
}

/// Sends each job's segment on its way, until the queue of jobs closes.
///
/// # Errors
/// When the broker does not take a segment within the sink's retries; its records stay uncommitted.
pub(crate) async fn dispatch(
    mut jobs: mpsc::Receiver<Job>,
    sink: Sink,
    holds: Holds,
    metrics: Metrics,
) -> anyhow::Result<()> {
    while let Some(job) = jobs.recv().await {
        match job.segment.await {
            Ok(segment) => deliver(&segment, &sink, &metrics).await?,
            Err(error) => {
                // a panic in the analysis would come again after a restart, so the window is given up, counted
                tracing::error!(%error, partition = job.partition, tag = job.tag, "analysis failed, window given up");
                metrics.analysis_failed();
            }
        }
        holds.release(job.partition, job.tag);
    }
    Ok(())
}

async fn deliver(segment: &Segment, sink: &Sink, metrics: &Metrics) -> anyhow::Result<()> {
    let way = route(segment);
    let payload = match way {
        Route::Stat | Route::Routine => segment.encode(),
        Route::Reject => serde_json::to_vec(&RejectRecord::of(segment)).context("encode reject record")?,
    };
    let key = Some(segment.stream_id.as_bytes());
    sink.send(way.topic(), key, &payload, &[])
        .await
        .context("send segment")?;
    metrics.segment_dispatched(segment, way);
    Ok(())
}

/// Sends a refused record's bytes to the dead letters, with where it came from and why it was refused.
///
/// # Errors
/// When the broker does not take it within the sink's retries.
pub(crate) async fn dead_letter(record: &Record, error: &PacketError, sink: &Sink) -> anyhow::Result<()> {
    let (partition, offset) = (record.partition.to_string(), record.offset.to_string());
    let text = error.to_string();
    let headers = [
        ("reason", error.reason().as_str()),
        ("error", text.as_str()),
        ("topic", &*record.topic),
        ("partition", partition.as_str()),
        ("offset", offset.as_str()),
    ];
    sink.send(topic::DEAD_LETTERS, None, &record.payload, &headers)
        .await
        .context("send dead letter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_held_record_of_a_partition_is_its_floor_until_released_as_often_as_held() {
        let holds = Holds::default();
        for (partition, tag) in [(0, 7), (0, 5), (0, 5), (1, 1)] {
            holds.add(partition, tag);
        }
        assert_eq!(
            (holds.floor(0), holds.floor(1), holds.floor(2), holds.len()),
            (Some(5), Some(1), None, 4)
        );
        holds.release(0, 5);
        assert_eq!(holds.floor(0), Some(5));
        holds.release(0, 5);
        assert_eq!(holds.floor(0), Some(7));
    }
}
