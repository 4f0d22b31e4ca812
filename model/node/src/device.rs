//! The thread that owns the device.
//!
//! Place: between the batches and the delivery. One batch runs and one waits; whoever wants to hand over more waits.
//! Invariant: every batch gets one answer, and the thread has ended when [`Device`] is dropped, unless it hangs.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use model::meit::EcgInput;
use tokio::sync::{mpsc, oneshot};

use crate::draft::Author;
use crate::drafter::{DraftText, Drafter};
use crate::slot::{Slot, author};

/// How long a drop waits for the batch on the device. One that hangs is left behind: its process ends.
const HANGS: Duration = Duration::from_secs(5);
/// Time between two looks at it.
const LOOK: Duration = Duration::from_millis(5);

/// A batch for the device.
pub struct Work {
    /// What to draft.
    pub ecgs: Vec<EcgInput>,
    /// Where the answer goes; nobody need wait for it.
    pub answer: oneshot::Sender<anyhow::Result<Answer>>,
}

/// What the device made of a batch.
#[derive(Debug)]
pub struct Answer {
    /// One text for each ECG, in order.
    pub texts: Vec<DraftText>,
    /// Who wrote them.
    pub author: Author,
    /// When the device began.
    pub started: Instant,
    /// How long it took.
    pub took: Duration,
}

/// Handle on the thread.
pub struct Device {
    works: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Device {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start(slot: Slot) -> std::io::Result<Self> {
        let (works, mut queue) = mpsc::channel::<Work>(1);
        let thread = std::thread::Builder::new().name("device".to_owned()).spawn(move || {
            while let Some(work) = queue.blocking_recv() {
                // whoever asked may have stopped waiting
                let _ = work.answer.send(run(&*slot.get(), &work.ecgs));
            }
        })?;
        Ok(Self {
            works: Some(works),
            thread: Some(thread),
        })
    }

    /// Waits until one more batch may wait; `None` when the thread has ended, which only a panic of the drafter does.
    pub fn reserve(&self) -> impl Future<Output = Option<mpsc::OwnedPermit<Work>>> + use<> {
        let works = self.works.clone();
        async move { works?.reserve_owned().await.ok() }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.works = None;
        let Some(thread) = self.thread.take() else { return };
        let start = Instant::now();
        while !thread.is_finished() {
            if start.elapsed() > HANGS {
                return tracing::error!("the device thread hangs and is left behind");
            }
            std::thread::sleep(LOOK);
        }
        if thread.join().is_err() {
            tracing::error!("the device thread panicked");
        }
    }
}

fn run(drafter: &dyn Drafter, ecgs: &[EcgInput]) -> anyhow::Result<Answer> {
    let started = Instant::now();
    let texts = drafter
        .draft(ecgs)
        .with_context(|| format!("run batch of {}", ecgs.len()))?;
    anyhow::ensure!(
        texts.len() == ecgs.len(),
        "{} texts for {} ECGs",
        texts.len(),
        ecgs.len()
    );
    Ok(Answer {
        texts,
        author: author(drafter),
        started,
        took: started.elapsed(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::{FakeDrafter, text};

    async fn ask(device: &Device, batch: usize) -> anyhow::Result<Answer> {
        let (answer, answered) = oneshot::channel();
        let work = Work {
            ecgs: vec![EcgInput::default(); batch],
            answer,
        };
        drop(device.reserve().await.context("ended")?.send(work));
        answered.await?
    }

    #[tokio::test]
    async fn a_batch_gets_a_text_for_each_of_its_ecgs() {
        let device = Device::start(Slot::new(Arc::new(FakeDrafter::writing("sinus rhythm")))).unwrap();
        let answer = ask(&device, 2).await.unwrap();
        assert_eq!(answer.texts, [text("sinus rhythm"), text("sinus rhythm")]);
    }

    #[tokio::test]
    async fn a_failed_batch_is_an_error_and_the_device_goes_on() {
        let device = Device::start(Slot::new(Arc::new(FakeDrafter::failing()))).unwrap();
        for _ in 0..2 {
            let error = ask(&device, 1).await.unwrap_err();
            assert_eq!(format!("{error:#}"), "run batch of 1: out of memory");
        }
    }

    #[tokio::test]
    async fn the_thread_has_ended_after_the_drop() {
        let drafter = Arc::new(FakeDrafter::writing("sinus rhythm"));
        drop(Device::start(Slot::new(drafter.clone())).unwrap());
        assert_eq!(Arc::strong_count(&drafter), 1);
    }
}
