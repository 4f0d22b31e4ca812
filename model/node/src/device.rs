//! The thread that owns the device.
//!
//! Place: between the batches and the delivery. Every ECG on the device has a seat; who waits for one is not on the device yet,
//! so the most urgent gets it. What comes takes its place between two steps, where the drafter has slots, else when the batch
//! has ended. Invariant: every ECG gets one answer, from the drafter that was in use when it was taken, and none is taken while one
//! that is in use no more still writes. The thread has ended when [`Device`] is dropped, unless it hangs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use model::meit::EcgInput;
use model::slots::SlotLimits;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::draft::Author;
use crate::drafter::{DraftText, Drafter};
use crate::slot::{Slot, author};

/// How long a drop waits for what the device is at. One that hangs is left behind: its process ends.
const HANGS: Duration = Duration::from_secs(5);
/// Time between two looks at it.
const LOOK: Duration = Duration::from_millis(5);

/// ECGs for the device, each with whatever is to come back with its text, and their seats.
struct Work<T> {
    ecgs: Vec<(T, EcgInput)>,
    seats: OwnedSemaphorePermit,
}

/// Texts that ended together.
#[derive(Debug)]
pub struct Answer<T> {
    pub written: Vec<Written<T>>,
    /// Who wrote them.
    pub author: Arc<Author>,
    /// ECGs that were on the device, these included.
    pub running: usize,
    /// Time of the device since its last answer, or since it began.
    pub took: Duration,
}

/// One text.
#[derive(Debug)]
pub struct Written<T> {
    pub of: T,
    pub text: DraftText,
    /// When the device began with it.
    pub started: Instant,
    /// From then to its end.
    pub took: Duration,
}

/// Handle on the thread.
pub struct Device<T> {
    works: Option<mpsc::Sender<Work<T>>>,
    seats: Arc<Semaphore>,
    /// Since when the device has been at a step.
    step: watch::Receiver<Option<Instant>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Device<T> {
    /// Starts the thread, which gives what it makes to `answer`.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start(
        slot: Slot,
        limits: SlotLimits,
        answer: impl Fn(anyhow::Result<Answer<T>>) + Send + 'static,
    ) -> std::io::Result<Self> {
        // a work has at least one seat, so none waits for room
        let (works, queue) = mpsc::channel(limits.slots);
        let (steps, step) = watch::channel(None);
        let thread = std::thread::Builder::new().name("device".to_owned()).spawn(move || {
            let alarm = Alarm { answer: &answer };
            Shift {
                slot: &slot,
                limits,
                queue,
                steps,
                answer: alarm.answer,
            }
            .run();
        })?;
        Ok(Self {
            works: Some(works),
            seats: Arc::new(Semaphore::new(limits.slots)),
            step,
            thread: Some(thread),
        })
    }

    /// Returns when the device is at one step for longer than `most`: one that hangs holds up its partitions for as long as its
    /// process is a member of the group.
    pub fn hangs(&self, most: Duration) -> impl Future<Output = anyhow::Error> + use<T> {
        let mut step = self.step.clone();
        async move {
            loop {
                let began = *step.borrow_and_update();
                let changed = match began {
                    Some(began) if began.elapsed() > most => {
                        return anyhow::anyhow!("the device is at a step for longer than {most:?}");
                    }
                    Some(began) => tokio::time::timeout_at((began + most + LOOK).into(), step.changed()).await,
                    None => Ok(step.changed().await),
                };
                if matches!(changed, Ok(Err(_))) {
                    // the thread has ended, and says why elsewhere
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Waits for a free seat.
    pub fn reserve(&self) -> impl Future<Output = anyhow::Result<OwnedSemaphorePermit>> + use<T> {
        let seats = Arc::clone(&self.seats);
        async move { seats.acquire_owned().await.context("the device was closed") }
    }

    /// Takes up to `more` free seats beside one.
    pub fn reserve_more(&self, seats: &mut OwnedSemaphorePermit, more: usize) {
        for _ in 0..more {
            match Arc::clone(&self.seats).try_acquire_owned() {
                Ok(seat) => seats.merge(seat),
                Err(_) => return,
            }
        }
    }

    /// Hands ECGs over, one a seat.
    ///
    /// # Errors
    /// When the thread has ended, which only a panic of the drafter does.
    pub fn send(&self, ecgs: Vec<(T, EcgInput)>, seats: OwnedSemaphorePermit) -> anyhow::Result<()> {
        let works = self.works.as_ref().context("the device was closed")?;
        let sent = works.try_send(Work { ecgs, seats });
        sent.ok().context("the device thread panicked")
    }
}

impl<T> Device<T> {
    /// Lets the thread end once all that it was given is answered.
    pub fn close(&mut self) {
        self.works = None;
    }
}

impl<T> Drop for Device<T> {
    fn drop(&mut self) {
        self.close();
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

/// Says so when the thread panics, or those who wait for texts would wait for ever.
struct Alarm<'a, T> {
    answer: &'a dyn Fn(anyhow::Result<Answer<T>>),
}

impl<T> Drop for Alarm<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.answer)(Err(anyhow::anyhow!("the device thread panicked")));
        }
    }
}

/// What the thread does.
struct Shift<'a, T> {
    slot: &'a Slot,
    limits: SlotLimits,
    queue: mpsc::Receiver<Work<T>>,
    steps: watch::Sender<Option<Instant>>,
    answer: &'a dyn Fn(anyhow::Result<Answer<T>>),
}

/// An ECG on the device.
struct Seat<T> {
    of: T,
    started: Instant,
    _seat: Option<OwnedSemaphorePermit>,
}

impl<T> Shift<'_, T> {
    /// Works until the queue closes.
    fn run(mut self) {
        let mut next = None;
        while let Some(work) = next.take().or_else(|| self.queue.blocking_recv()) {
            let drafter = self.slot.get();
            let drafted = self.drafts(&drafter, work);
            self.steps.send_replace(None);
            match drafted {
                Ok(left) => next = left,
                Err(error) => (self.answer)(Err(error)),
            }
        }
    }

    /// Drafts with one drafter until there is nothing left to draft. What comes for another one ends the taking and is returned.
    fn drafts(&mut self, drafter: &Arc<dyn Drafter>, first: Work<T>) -> anyhow::Result<Option<Work<T>>> {
        let author = Arc::new(author(&**drafter));
        let mut desk = drafter.desk(self.limits)?;
        let mut seats: BTreeMap<usize, Seat<T>> = BTreeMap::new();
        let (mut names, mut since) = (0.., Instant::now());
        let (mut come, mut left) = (Some(first), None);
        loop {
            self.steps.send_replace(Some(Instant::now()));
            while left.is_none()
                && let Some(work) = come.take().or_else(|| self.queue.try_recv().ok())
            {
                if !Arc::ptr_eq(drafter, &self.slot.get()) {
                    left = Some(work);
                    break;
                }
                let Work {
                    ecgs,
                    seats: mut of_ecgs,
                } = work;
                let started = Instant::now();
                let ecgs = ecgs.into_iter().zip(names.by_ref()).map(|((of, ecg), name)| {
                    let _seat = of_ecgs.split(1);
                    seats.insert(name, Seat { of, started, _seat });
                    (name, ecg)
                });
                let ecgs: Vec<(usize, EcgInput)> = ecgs.collect();
                desk.admit(ecgs)?;
            }
            let running = seats.len();
            if running == 0 {
                return Ok(left);
            }
            let texts = desk.step().with_context(|| format!("draft {running} segments"))?;
            if texts.is_empty() {
                continue;
            }
            let written = texts.into_iter().map(|(name, text)| {
                let Seat { of, started, .. } = seats.remove(&name).context("a text of no segment")?;
                let took = started.elapsed();
                Ok(Written {
                    of,
                    text,
                    started,
                    took,
                })
            });
            let written = written.collect::<anyhow::Result<_>>()?;
            let (author, took) = (Arc::clone(&author), since.elapsed());
            since = Instant::now();
            // the delivery may take its time
            self.steps.send_replace(None);
            (self.answer)(Ok(Answer {
                written,
                author,
                running,
                took,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;

    use super::*;
    use crate::testing::{FakeDrafter, SteppedDrafter, text};

    const LIMITS: SlotLimits = SlotLimits { slots: 3, tokens: 64 };

    type Answers = std_mpsc::Receiver<anyhow::Result<Answer<&'static str>>>;

    fn start(slot: Slot) -> (Device<&'static str>, Answers) {
        let (sender, answers) = std_mpsc::channel();
        let device = Device::start(slot, LIMITS, move |answer| sender.send(answer).unwrap()).unwrap();
        (device, answers)
    }

    async fn send(device: &Device<&'static str>, names: &[&'static str]) {
        let mut seats = device.reserve().await.unwrap();
        device.reserve_more(&mut seats, names.len() - 1);
        assert_eq!(seats.num_permits(), names.len());
        let ecgs = names.iter().map(|name| (*name, EcgInput::default())).collect();
        device.send(ecgs, seats).unwrap();
    }

    fn names(answer: &Answer<&'static str>) -> Vec<&'static str> {
        answer.written.iter().map(|written| written.of).collect()
    }

    #[tokio::test]
    async fn a_batch_gets_a_text_for_each_of_its_ecgs() {
        let (device, answers) = start(Slot::new(Arc::new(FakeDrafter::writing("sinus rhythm"))));
        send(&device, &["one", "two"]).await;
        let answer = answers.recv().unwrap().unwrap();
        assert_eq!(names(&answer), ["one", "two"]);
        assert!(
            answer
                .written
                .iter()
                .all(|written| written.text == text("sinus rhythm"))
        );
        assert_eq!(answer.running, 2);
    }

    #[tokio::test]
    async fn a_failed_batch_is_an_error_and_the_device_goes_on() {
        let (device, answers) = start(Slot::new(Arc::new(FakeDrafter::failing())));
        for _ in 0..2 {
            send(&device, &["one"]).await;
            let error = answers.recv().unwrap().unwrap_err();
            assert_eq!(format!("{error:#}"), "draft 1 segments: out of memory");
        }
    }

    #[tokio::test]
    async fn a_seat_that_is_free_is_taken_while_others_are_drafted() {
        let drafter = SteppedDrafter::new("first");
        let (device, answers) = start(Slot::new(drafter.clone()));
        send(&device, &["a", "b", "c"]).await;
        drafter.step(&[1]); // b ends
        let answer = answers.recv().unwrap().unwrap();
        assert_eq!((names(&answer), answer.running), (vec!["b"], 3));
        send(&device, &["d"]).await;
        drafter.step(&[]); // d may come before this step or after it
        drafter.step(&[3, 0]);
        let answer = answers.recv().unwrap().unwrap();
        assert_eq!((names(&answer), answer.running), (vec!["d", "a"], 3));
        drafter.step(&[2]);
        assert_eq!(names(&answers.recv().unwrap().unwrap()), ["c"]);
    }

    #[tokio::test]
    async fn a_drafter_that_is_replaced_ends_what_it_has_and_the_next_one_takes_what_came_since() {
        let (old, new) = (SteppedDrafter::new("old"), SteppedDrafter::new("new"));
        let slot = Slot::new(old.clone());
        let (device, answers) = start(slot.clone());
        send(&device, &["a", "b"]).await;
        old.step(&[]);
        slot.swap(new.clone());
        send(&device, &["c"]).await;
        old.step(&[0]);
        old.step(&[1]);
        let written = |bundle: &str| {
            let answer = answers.recv().unwrap().unwrap();
            assert_eq!(answer.author.bundle.bundle_id, bundle);
            names(&answer)
        };
        assert_eq!([written("old"), written("old")], [["a"], ["b"]]);
        new.step(&[0]);
        assert_eq!(written("new"), ["c"]);
    }

    #[tokio::test]
    async fn a_drafter_that_panics_is_an_answer() {
        let drafter = SteppedDrafter::new("first");
        let (device, answers) = start(Slot::new(drafter.clone()));
        send(&device, &["a"]).await;
        drafter.step(&[7]); // no such name
        let error = answers.recv().unwrap().unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
        drop(device);
    }

    #[tokio::test]
    async fn a_step_that_takes_too_long_is_noticed_and_an_idle_device_is_not() {
        let drafter = SteppedDrafter::new("first");
        let (device, answers) = start(Slot::new(drafter.clone()));
        let (most, soon) = (Duration::from_millis(50), Duration::from_millis(200));
        assert!(tokio::time::timeout(soon, device.hangs(most)).await.is_err());
        send(&device, &["a"]).await;
        let error = device.hangs(most).await.to_string();
        assert!(error.contains("at a step for longer than 50ms"), "{error}");
        drafter.step(&[0]);
        answers.recv().unwrap().unwrap();
        assert!(tokio::time::timeout(soon, device.hangs(most)).await.is_err());
    }

    #[tokio::test]
    async fn the_thread_has_ended_after_the_drop() {
        let drafter = Arc::new(FakeDrafter::writing("sinus rhythm"));
        drop(start(Slot::new(drafter.clone())));
        assert_eq!(Arc::strong_count(&drafter), 1);
    }
}
