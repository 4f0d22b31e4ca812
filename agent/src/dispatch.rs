//! Windows in analysis, and what is ready for the broker.
//!
//! Place: last step of the agent before `service::kafka::commit`; what is committed here lets the commit floor move.
//! Invariant: segments leave in the order in which their windows closed, and a window holds back its records until its
//! segment is in a batch; the floor of that batch may lie behind it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use ecg::LEADS;
use ecg::dsp::DspConfig;
use ecg::event::owned_headers;
use ecg::letter::{Letter, Place, Refusal};
use ecg::packet::PacketError;
use ecg::report::RejectRecord;
use ecg::segment::Segment;
use ecg::topic;
use prometheus::Histogram;
use service::kafka::commit::Output;
use service::kafka::source::{Owner, Record};
use tokio::task::{JoinError, JoinHandle};

use crate::marks::Marks;
use crate::policy::Findings;
use crate::route::{Route, route};
use crate::windows::Closed;

/// Source of this process's events.
pub(crate) const EVENT_SOURCE: &str = "/meit/agent";

/// What is left of a segment once it is encoded.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub findings: Findings,
    /// Signal-to-noise ratios of the leads, decibels, standard order; none where unknown.
    pub snr_db: [Option<f32>; LEADS],
    pub last_gateway_time_us: i64,
    pub route: Route,
    payload: Vec<u8>,
}

impl Made {
    pub(crate) fn of(segment: &Segment) -> anyhow::Result<Self> {
        let way = route(segment);
        let payload = match way {
            Route::Stat | Route::Routine => segment.encode(),
            Route::Reject => serde_json::to_vec(&RejectRecord::of(segment)).context("encode reject record")?,
        };
        Ok(Self {
            findings: Findings::of(segment),
            snr_db: segment.quality.each_ref().map(|lead| lead.snr_db),
            last_gateway_time_us: segment.last_gateway_time_us,
            route: way,
            payload,
        })
    }
}

/// A window in analysis.
struct Job {
    owner: Owner,
    /// First offset that the window needs.
    tag: u64,
    made: JoinHandle<anyhow::Result<Made>>,
}

/// Windows in analysis, in the order in which they closed.
pub(crate) struct Analyses {
    dsp: Arc<DspConfig>,
    seconds: Histogram,
    jobs: VecDeque<Job>,
    /// Records that they hold back.
    held: BTreeMap<(i32, u64), usize>,
    most: usize,
}

/// The oldest window, analysed; an error when the analysis panicked.
pub(crate) struct Analysed {
    pub owner: Owner,
    pub tag: u64,
    pub made: Result<anyhow::Result<Made>, JoinError>,
}

impl Analyses {
    /// At most `most` at once.
    pub(crate) fn new(dsp: DspConfig, seconds: Histogram, most: usize) -> Self {
        Self {
            dsp: Arc::new(dsp),
            seconds,
            jobs: VecDeque::new(),
            held: BTreeMap::new(),
            most,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.jobs.len() >= self.most
    }

    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Starts the analysis of a window on a thread of its own.
    pub(crate) fn start(&mut self, owner: Owner, closed: Closed) {
        *self.held.entry((closed.partition, closed.tag)).or_insert(0) += 1;
        let (dsp, seconds) = (Arc::clone(&self.dsp), self.seconds.clone());
        let made = tokio::task::spawn_blocking(move || {
            let _timer = seconds.start_timer();
            Made::of(&ecg::dsp::analyse(&closed.context, &dsp))
        });
        self.jobs.push_back(Job {
            owner,
            tag: closed.tag,
            made,
        });
    }

    /// The oldest window when it is analysed; never when there is none. Its records are held back no longer. May be dropped
    /// before it returns.
    pub(crate) async fn next(&mut self) -> Analysed {
        let Some(job) = self.jobs.front_mut() else {
            return std::future::pending().await;
        };
        let made = (&mut job.made).await;
        let job = self.jobs.pop_front().expect("the front was there a line ago");
        let held = (job.owner.partition.1, job.tag);
        if let Some(count) = self.held.get_mut(&held) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&held);
            }
        }
        Analysed {
            owner: job.owner,
            tag: job.tag,
            made,
        }
    }

    /// First offset of a partition that is held back.
    pub(crate) fn floor(&self, partition: i32) -> Option<u64> {
        let held = self.held.range((partition, 0)..=(partition, u64::MAX));
        held.map(|(&(_, tag), _)| tag).next()
    }
}

/// The records of one segment, and the mark that goes with it where marks are kept.
pub(crate) fn outputs(made: &mut Made, owner: &Owner, marks: Option<&mut Marks>) -> anyhow::Result<Vec<Output>> {
    let of = &made.findings;
    let key = Some(of.stream_id.clone().into_bytes());
    let topic = made.route.topic();
    let window = format!("{}-{}-{}-{}", of.stream_id, of.device_id, of.boot_id, of.start_sample);
    let segment = Output {
        owner: owner.clone(),
        topic,
        partition: None,
        key: key.clone(),
        payload: std::mem::take(&mut made.payload),
        headers: owned_headers(topic, EVENT_SOURCE, &window),
    };
    let Some(marks) = marks else {
        return Ok(vec![segment]);
    };
    let mark = marks.add(&of.stream_id, of.boot(), of.start_sample, Instant::now());
    let mark = Output {
        owner: owner.clone(),
        topic: topic::AGENT_MARKS,
        partition: Some(owner.partition.1),
        key,
        payload: serde_json::to_vec(mark).context("encode mark")?,
        headers: owned_headers(topic::AGENT_MARKS, EVENT_SOURCE, &window),
    };
    Ok(vec![segment, mark])
}

/// The dead letters of a refused record: its bytes, with where it came from and why it was refused.
pub(crate) fn dead_letters(record: Record, error: &PacketError, owner: &Owner) -> impl Iterator<Item = Output> {
    let at = Place {
        topic: &record.topic,
        partition: record.partition,
        offset: record.offset,
    };
    let refusal = Refusal {
        source: EVENT_SOURCE,
        at,
        reason: error.reason().as_str(),
        error: &error.to_string(),
    };
    let letters = refusal.letters(record.key, record.payload).into_iter();
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
    use prometheus::HistogramOpts;

    use super::*;
    use crate::testing::{context, segment};

    fn owner(partition: i32) -> Owner {
        Owner {
            partition: (topic::WAVEFORMS.into(), partition),
            epoch: 1,
        }
    }

    #[tokio::test]
    async fn windows_leave_in_order_and_hold_their_records_back_until_they_do() {
        let seconds = Histogram::with_opts(HistogramOpts::new("seconds", "test")).unwrap();
        let mut analyses = Analyses::new(DspConfig::default(), seconds, 3);
        for (tag, start_sample) in [(5, 0), (5, 5000), (7, 10_000)] {
            assert!(!analyses.is_full());
            let context = context(start_sample, 0, false);
            analyses.start(
                owner(0),
                Closed {
                    partition: 0,
                    tag,
                    context,
                },
            );
        }
        assert!(analyses.is_full());
        for (start_sample, floor) in [(0, Some(5)), (5000, Some(7)), (10_000, None)] {
            let made = analyses.next().await.made.unwrap().unwrap();
            assert_eq!((made.findings.start_sample, analyses.floor(0)), (start_sample, floor));
        }
        assert_eq!((analyses.floor(1), analyses.len()), (None, 0));
    }

    #[test]
    fn a_segment_travels_with_its_mark_in_its_own_partition() {
        let mut made = Made::of(&segment(ecg::segment::Decision::Accept, true)).unwrap();
        let mut marks = Marks::default();
        let outputs = outputs(&mut made, &owner(3), Some(&mut marks)).unwrap();
        let way: Vec<_> = outputs.iter().map(|output| (output.topic, output.partition)).collect();
        assert_eq!(way, [(topic::SEGMENTS_STAT, None), (topic::AGENT_MARKS, Some(3))]);
        assert!(outputs.iter().all(|output| output.key.as_deref() == Some(b"bed-01")));
        for output in &outputs {
            for (name, value) in [
                ("ce_type", output.topic),
                ("ce_source", EVENT_SOURCE),
                ("ce_id", "bed-01-monitor-1-5000"),
            ] {
                assert!(
                    output.headers.contains(&(name, value.to_owned())),
                    "{name}: {:?}",
                    output.headers
                );
            }
        }
        assert!(marks.has("bed-01", ("monitor", 1), 5000));
        assert_eq!(outputs[1].payload, br#"{"boots":[[1,5000]],"devices":["monitor"]}"#);
    }
}
