//! Finished texts to drafts, drafts to the broker.
//!
//! Place: last step of the node; what is committed here lets the commit floor move.
//! Invariant: texts come in the order in which they end. A draft leaves together with the floor that passes its record, in one
//! transaction on a real broker: one whose record lies behind a record that is not done waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ecg::report::DraftReport;
use ecg::segment::{Segment, SegmentError};
use ecg::topic;
use service::kafka::commit::{Batch, Committer, Output};
use service::kafka::source::{Owner, Record, Source};
use tokio::sync::mpsc;

use crate::canary::Canary;
use crate::device::{Answer, Written};
use crate::draft::{self, Abstain, Times};
use crate::ingest;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::slot::{Slot, author};

/// A segment on its way to a draft.
pub(crate) struct Job {
    pub segment: Segment,
    /// The record that it was read from.
    pub place: Place,
    /// When the node took it.
    pub came: Instant,
}

/// A record, under the assignment that it was read under.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub owner: Owner,
    pub offset: i64,
}

/// What is to be delivered next.
pub(crate) enum Delivery {
    /// What the device wrote, or failed to write.
    Written(anyhow::Result<Answer<Job>>),
    /// A segment that the model need not see.
    Abstained { job: Box<Job>, why: Abstain },
    /// A record that is no segment.
    Refused {
        record: Box<Record>,
        error: SegmentError,
        place: Place,
    },
    /// Nothing new; floors that moved are committed.
    Tick,
}

/// What a delivery needs.
pub(crate) struct Deliverer {
    pub committer: Committer,
    pub sources: Arc<Vec<Source>>,
    pub slot: Slot,
    pub canary: Canary,
    pub ledger: Ledger,
    pub metrics: Metrics,
    /// Records that wait for the floor to pass theirs.
    pub waiting: Vec<Ready>,
}

/// A record that is ready to leave.
pub(crate) struct Ready {
    offset: i64,
    output: Output,
    kind: Kind,
}

enum Kind {
    /// A draft, and when its segment came.
    Draft(Box<DraftReport>, Instant),
    DeadLetter(&'static str),
    /// Another letter of the record before it.
    Part,
}

impl Deliverer {
    /// Delivers until the queue closes.
    ///
    /// # Errors
    /// When the device fails, the broker does not take a batch, or another process took the place of this one; the records
    /// stay uncommitted.
    pub(crate) async fn run(mut self, mut queue: mpsc::Receiver<Delivery>) -> anyhow::Result<()> {
        while let Some(delivery) = queue.recv().await {
            self.take(delivery)?;
            // what came during the last commit leaves with the next one
            while let Ok(delivery) = queue.try_recv() {
                self.take(delivery)?;
            }
            self.commit().await?;
        }
        Ok(())
    }

    fn take(&mut self, delivery: Delivery) -> anyhow::Result<()> {
        match delivery {
            Delivery::Written(answer) => self.take_answer(&answer?),
            Delivery::Abstained { job, why } => {
                let times = times(&job, Instant::now(), Duration::ZERO);
                let draft = draft::abstained(&job.segment, why, &author(&*self.slot.get()), &times);
                self.take_draft(draft, &job)
            }
            Delivery::Refused { record, error, place } => {
                self.take_refused(*record, &error, place);
                Ok(())
            }
            Delivery::Tick => Ok(()),
        }
    }

    fn take_answer(&mut self, answer: &Answer<Job>) -> anyhow::Result<()> {
        self.metrics.texts_ended(answer);
        for Written {
            of: job,
            text,
            started,
            took,
        } in &answer.written
        {
            let times = times(job, *started, *took);
            self.metrics.text_written(text, times.queue);
            let draft = draft::drafted(&job.segment, text, &answer.author, &times);
            self.take_draft(draft, job)?;
        }
        Ok(())
    }

    fn take_draft(&mut self, draft: DraftReport, job: &Job) -> anyhow::Result<()> {
        self.ledger.finished(&draft.segment_id);
        let output = Output {
            owner: job.place.owner.clone(),
            topic: topic::REPORTS,
            partition: None,
            key: Some(draft.segment_id.clone().into_bytes()),
            payload: serde_json::to_vec(&draft).context("encode draft")?,
            headers: ecg::event::owned_headers(topic::REPORTS, crate::EVENT_SOURCE, &draft.draft_id),
        };
        self.waiting.push(Ready {
            offset: job.place.offset,
            output,
            kind: Kind::Draft(Box::new(draft), job.came),
        });
        Ok(())
    }

    fn take_refused(&mut self, record: Record, error: &SegmentError, place: Place) {
        self.ledger.done(&record);
        // the record is counted once, by the first of its letters
        let kinds =
            std::iter::once(Kind::DeadLetter(ingest::refusal(error))).chain(std::iter::repeat_with(|| Kind::Part));
        let letters = ingest::dead_letters(record, error, &place.owner).zip(kinds);
        self.waiting.extend(letters.map(|(output, kind)| Ready {
            offset: place.offset,
            output,
            kind,
        }));
    }

    /// Commits the floors that moved, with every record that they pass; records of partitions that went are dropped.
    async fn commit(&mut self) -> anyhow::Result<()> {
        let floors = self.ledger.floors();
        let passed = |ready: &Ready| {
            let floor = floors.iter().find(|floor| floor.owner == ready.output.owner);
            floor.is_none_or(|floor| ready.offset < floor.next_offset)
        };
        let (leaving, waiting): (Vec<Ready>, Vec<Ready>) =
            std::mem::take(&mut self.waiting).into_iter().partition(passed);
        self.waiting = waiting;
        let moved = self.ledger.moved(&floors);
        if leaving.is_empty() && moved.is_empty() {
            return Ok(());
        }
        let (kinds, outputs): (Vec<Kind>, Vec<Output>) =
            leaving.into_iter().map(|ready| (ready.kind, ready.output)).unzip();
        let members = self.sources.iter().map(Source::membership).collect();
        let batch = Batch { outputs, floors: moved };
        let written = self.committer.commit(members, batch).await.context("commit batch")?;
        for (kind, _) in kinds.iter().zip(written).filter(|(_, written)| *written) {
            match kind {
                Kind::Draft(draft, came) => {
                    self.ledger.acknowledged(&draft.segment_id);
                    self.canary.take(draft);
                    self.metrics.draft_delivered(draft, came.elapsed());
                }
                Kind::DeadLetter(reason) => self.metrics.dead_letter(reason),
                Kind::Part => {}
            }
        }
        Ok(())
    }
}

fn times(job: &Job, started: Instant, infer: Duration) -> Times {
    Times {
        queue: started.saturating_duration_since(job.came),
        infer,
        now_us: service::time::now_us(),
    }
}
