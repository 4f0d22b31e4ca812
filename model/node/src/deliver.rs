//! Finished batches to drafts, drafts to the broker.
//!
//! Place: last step of the node; what is acknowledged here lets the commit floor move.
//! Invariant: batches are delivered in the order in which they were started; a draft's records are done only when the broker
//! has the draft.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use ecg::report::DraftReport;
use ecg::segment::Segment;
use ecg::topic;
use service::kafka::sink::Sink;
use tokio::sync::{mpsc, oneshot};

use crate::device::Answer;
use crate::draft::{self, Abstain, Author, Times};
use crate::ledger::Ledger;
use crate::metrics::Metrics;

/// A segment on its way to a draft.
pub(crate) struct Job {
    pub segment: Segment,
    /// When the node took it.
    pub came: Instant,
}

/// What is to be delivered next.
pub(crate) enum Delivery {
    /// A batch on the device.
    Batch {
        jobs: Vec<Job>,
        answer: oneshot::Receiver<anyhow::Result<Answer>>,
    },
    /// A segment that the model need not see.
    Abstained { job: Box<Job>, why: Abstain },
}

/// What a delivery needs.
pub(crate) struct Deliverer {
    pub sink: Sink,
    pub author: Author,
    pub ledger: Ledger,
    pub metrics: Metrics,
}

impl Deliverer {
    /// Delivers until the queue closes.
    ///
    /// # Errors
    /// When the device fails, or the broker does not take a draft within the sink's retries; the records stay uncommitted.
    pub(crate) async fn run(self, mut queue: mpsc::Receiver<Delivery>) -> anyhow::Result<()> {
        while let Some(delivery) = queue.recv().await {
            match delivery {
                Delivery::Batch { jobs, answer } => {
                    let answer = answer.await.context("the device thread panicked")??;
                    self.deliver_batch(&jobs, &answer).await?;
                }
                Delivery::Abstained { job, why } => {
                    let times = times(&job, Instant::now(), None);
                    self.send(&draft::abstained(&job.segment, why, &self.author, &times), job.came)
                        .await?;
                }
            }
        }
        Ok(())
    }

    async fn deliver_batch(&self, jobs: &[Job], answer: &Answer) -> anyhow::Result<()> {
        self.metrics.batch_done(jobs.len(), answer.took);
        for (job, text) in jobs.iter().zip(&answer.texts) {
            let times = times(job, answer.started, Some(answer));
            self.metrics.text_written(text, times.queue);
            self.send(&draft::drafted(&job.segment, text, &self.author, &times), job.came)
                .await?;
        }
        Ok(())
    }

    async fn send(&self, draft: &DraftReport, came: Instant) -> anyhow::Result<()> {
        let payload = serde_json::to_vec(draft).context("encode draft")?;
        let key = Some(draft.segment_id.as_bytes());
        self.sink
            .send(topic::REPORTS, key, &payload, &[])
            .await
            .context("send draft")?;
        self.ledger.acknowledged(&draft.draft_id);
        self.metrics.draft_delivered(draft, came.elapsed());
        Ok(())
    }
}

fn times(job: &Job, started: Instant, answer: Option<&Answer>) -> Times {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Times {
        queue: started.saturating_duration_since(job.came),
        infer: answer.map(|answer| answer.took).unwrap_or_default(),
        now_us: since_epoch.as_micros() as i64,
    }
}
