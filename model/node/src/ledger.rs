//! Which records are under way, and which drafts exist.
//!
//! Place: shared by the main loop, which claims, and the delivery, which settles.
//! Invariant: a record's offset is committed only after the draft of its segment was acknowledged, also when another record
//! of the same segment is the one that is drafted.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use service::kafka::offsets::CommitFloor;
use service::kafka::source::{Partition, Record};

/// Where a record lies.
type Place = (Partition, i64);

/// What is to be done about a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Draft it.
    New,
    /// Nothing: it is drafted already, or under way.
    Duplicate,
}

/// Shared by its clones.
#[derive(Clone)]
pub struct Ledger {
    state: Arc<Mutex<State>>,
}

struct State {
    floors: BTreeMap<Partition, CommitFloor>,
    /// Records that wait for each draft under way.
    open: HashMap<String, Vec<Place>>,
    drafted: Remembered,
}

impl Ledger {
    /// Remembers at most `drafts` finished drafts.
    pub fn new(drafts: usize) -> Self {
        let state = State {
            floors: BTreeMap::new(),
            open: HashMap::new(),
            drafted: Remembered::new(drafts),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// A record was read.
    pub fn begin(&self, record: &Record) {
        self.lock()
            .floors
            .entry(partition(record))
            .or_default()
            .begin(record.offset);
    }

    /// A record that was begun is done with.
    pub fn done(&self, record: &Record) {
        self.lock().settle(&(partition(record), record.offset));
    }

    /// Says what to do about the draft that a record asks for. A new one, and a duplicate of one under way, hold the record
    /// back until [`Ledger::acknowledged`].
    pub fn claim(&self, draft_id: &str, record: &Record) -> Claim {
        let mut state = self.lock();
        let place = (partition(record), record.offset);
        if state.drafted.contains(draft_id) {
            state.settle(&place);
            return Claim::Duplicate;
        }
        let waiting = state.open.entry(draft_id.to_owned()).or_default();
        waiting.push(place);
        if waiting.len() == 1 {
            Claim::New
        } else {
            Claim::Duplicate
        }
    }

    /// The broker has a draft: its records are done with.
    pub fn acknowledged(&self, draft_id: &str) {
        let mut state = self.lock();
        for place in state.open.remove(draft_id).unwrap_or_default() {
            state.settle(&place);
        }
        state.drafted.insert(draft_id);
    }

    /// Partitions went: nothing of theirs is committed any more.
    pub fn release(&self, partitions: &[Partition]) {
        let mut state = self.lock();
        for partition in partitions {
            state.floors.remove(partition);
        }
        for waiting in state.open.values_mut() {
            // at least the drafted record stays, so that the draft counts as under way
            let keep = waiting[0].clone();
            waiting.retain(|(partition, _)| !partitions.contains(partition));
            if waiting.is_empty() {
                waiting.push(keep);
            }
        }
    }

    /// First record of each partition that is still needed.
    pub fn floors(&self) -> Vec<(Partition, i64)> {
        let state = self.lock();
        let floors = state.floors.iter();
        floors
            .filter_map(|(partition, floor)| Some((partition.clone(), floor.floor()?)))
            .collect()
    }

    /// Drafts under way.
    pub fn open(&self) -> usize {
        self.lock().open.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

impl State {
    fn settle(&mut self, (partition, offset): &Place) {
        if let Some(floor) = self.floors.get_mut(partition) {
            floor.done(*offset);
        }
    }
}

fn partition(record: &Record) -> Partition {
    (Arc::clone(&record.topic), record.partition)
}

/// A set that forgets its oldest member when it is full.
struct Remembered {
    capacity: usize,
    set: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl Remembered {
    fn new(capacity: usize) -> Self {
        Self {
            capacity,
            set: HashSet::new(),
            order: VecDeque::new(),
        }
    }

    fn contains(&self, id: &str) -> bool {
        self.set.contains(id)
    }

    fn insert(&mut self, id: &str) {
        let id: Arc<str> = id.into();
        if !self.set.insert(Arc::clone(&id)) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(partition: i32, offset: i64) -> Record {
        Record {
            topic: "t".into(),
            partition,
            offset,
            key: None,
            payload: vec![],
            timestamp_ms: None,
        }
    }

    fn floors(ledger: &Ledger) -> Vec<(i32, i64)> {
        let floors = ledger.floors().into_iter();
        floors.map(|((_, partition), floor)| (partition, floor)).collect()
    }

    fn claim(ledger: &Ledger, id: &str, record: &Record) -> Claim {
        ledger.begin(record);
        ledger.claim(id, record)
    }

    #[test]
    fn a_duplicate_of_a_draft_under_way_holds_its_own_record_back() {
        let ledger = Ledger::new(8);
        assert_eq!(claim(&ledger, "a", &record(0, 5)), Claim::New);
        assert_eq!(claim(&ledger, "a", &record(1, 3)), Claim::Duplicate);
        assert_eq!((floors(&ledger), ledger.open()), (vec![(0, 5), (1, 3)], 1));
        ledger.acknowledged("a");
        assert_eq!((floors(&ledger), ledger.open()), (vec![(0, 6), (1, 4)], 0));
        assert_eq!(claim(&ledger, "a", &record(1, 4)), Claim::Duplicate);
        assert_eq!(floors(&ledger), [(0, 6), (1, 5)]);
    }

    #[test]
    fn a_partition_that_comes_back_waits_for_the_draft_that_was_under_way() {
        let ledger = Ledger::new(8);
        claim(&ledger, "a", &record(0, 5));
        ledger.release(&[("t".into(), 0)]);
        assert!(floors(&ledger).is_empty());
        assert_eq!(claim(&ledger, "a", &record(0, 5)), Claim::Duplicate);
        assert_eq!(floors(&ledger), [(0, 5)]);
        ledger.acknowledged("a");
        assert_eq!(floors(&ledger), [(0, 6)]);
    }

    #[test]
    fn the_oldest_draft_is_forgotten_first() {
        let ledger = Ledger::new(2);
        for id in ["a", "b", "b", "c"] {
            ledger.acknowledged(id);
        }
        assert_eq!(claim(&ledger, "c", &record(0, 0)), Claim::Duplicate);
        assert_eq!(claim(&ledger, "b", &record(0, 1)), Claim::Duplicate);
        assert_eq!(claim(&ledger, "a", &record(0, 2)), Claim::New);
    }
}
