//! Segments that wait for the device.
//!
//! Place: between the sources and the device. A batch closes when it is full, when its oldest segment has waited long
//! enough, which is at once where the device has slots, or when an urgent segment is in it.
//! Invariant: urgent segments leave first, and each kind leaves in the order of its coming; at most two batches wait.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// When a batch closes.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Segments a batch, at most.
    pub size: usize,
    /// How long its oldest segment waits for others.
    pub age: Duration,
}

/// How soon a segment must be drafted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Now: a monitor asked for it.
    Stat,
    /// In its turn.
    Routine,
}

/// Waiting segments.
#[derive(Debug)]
pub struct Batcher<T> {
    limits: BatchLimits,
    stat: VecDeque<(Instant, T)>,
    routine: VecDeque<(Instant, T)>,
}

impl<T> Batcher<T> {
    /// Nothing waits.
    pub fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            stat: VecDeque::new(),
            routine: VecDeque::new(),
        }
    }

    /// Adds a segment that came `now`.
    pub fn push(&mut self, item: T, urgency: Urgency, now: Instant) {
        self.queue(urgency).push_back((now, item));
    }

    /// True while there is room for one more of a kind; each kind fills one batch.
    pub fn has_room(&self, urgency: Urgency) -> bool {
        let queue = match urgency {
            Urgency::Stat => &self.stat,
            Urgency::Routine => &self.routine,
        };
        queue.len() < self.limits.size
    }

    /// When the batch closes, or closed; `None` when nothing waits.
    pub fn closes_at(&self) -> Option<Instant> {
        if let Some(&(came, _)) = self.stat.front() {
            return Some(came);
        }
        let &(oldest, _) = self.routine.front()?;
        if self.routine.len() >= self.limits.size {
            return Some(oldest);
        }
        Some(oldest + self.limits.age)
    }

    /// Takes the next batch of `most` segments or fewer, closed or not; empty when nothing waits.
    pub fn take(&mut self, most: usize) -> Vec<T> {
        let Self { limits, stat, routine } = self;
        let size = limits.size.min(most);
        let from_stat = stat.len().min(size);
        let from_routine = routine.len().min(size - from_stat);
        let items = stat.drain(..from_stat).chain(routine.drain(..from_routine));
        items.map(|(_, item)| item).collect()
    }

    /// Segments that wait.
    pub fn len(&self) -> usize {
        self.stat.len() + self.routine.len()
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn queue(&mut self, urgency: Urgency) -> &mut VecDeque<(Instant, T)> {
        match urgency {
            Urgency::Stat => &mut self.stat,
            Urgency::Routine => &mut self.routine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_millis(50);

    fn batcher() -> Batcher<u32> {
        Batcher::new(BatchLimits { size: 3, age: AGE })
    }

    #[test]
    fn a_batch_closes_by_the_age_of_its_oldest() {
        let (mut batch, start) = (batcher(), Instant::now());
        assert_eq!(batch.closes_at(), None);
        batch.push(1, Urgency::Routine, start);
        batch.push(2, Urgency::Routine, start + AGE / 2);
        assert_eq!(batch.closes_at(), Some(start + AGE));
        assert_eq!(batch.take(3), [1, 2]);
        assert!(batch.is_empty());
    }

    #[test]
    fn a_batch_closes_by_its_size_and_then_has_no_room_but_for_urgent_ones() {
        let (mut batch, start) = (batcher(), Instant::now());
        for item in 0..3 {
            batch.push(item, Urgency::Routine, start);
        }
        assert_eq!(batch.closes_at(), Some(start));
        assert!(!batch.has_room(Urgency::Routine));
        assert!(batch.has_room(Urgency::Stat));
    }

    #[test]
    fn an_urgent_segment_closes_the_batch_and_leaves_first() {
        let (mut batch, start) = (batcher(), Instant::now());
        for item in 0..3 {
            batch.push(item, Urgency::Routine, start);
        }
        batch.push(9, Urgency::Stat, start + AGE / 2);
        assert_eq!(batch.closes_at(), Some(start + AGE / 2));
        assert_eq!(batch.take(1), [9]);
        assert_eq!(batch.take(5), [0, 1, 2]);
        assert_eq!(batch.take(5), Vec::<u32>::new());
    }
}
