//! Which records are under way, and which drafts exist.
//!
//! Place: shared by the main loop, which claims, and the delivery, which settles.
//! Invariant: a record's offset is committed only with or after the draft of its segment, also when another record of the
//! same segment is the one that is drafted. A partition that goes takes its drafts under way along: the next owner makes
//! them, also when that is this node again.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use service::kafka::commit::Floor;
use service::kafka::offsets::CommitFloor;
use service::kafka::source::{Assignment, Owner, Partition, Record};

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
    parts: BTreeMap<Partition, Part>,
    /// Records that wait for each draft under way; the first is the one that is drafted.
    open: HashMap<String, Vec<Place>>,
    /// Drafts that are made and on their way to the broker, with the partition of their record.
    finished: HashMap<String, Partition>,
    drafted: Remembered,
}

/// A partition that this node holds.
struct Part {
    owner: Owner,
    floor: CommitFloor,
    /// The floor of the last batch.
    committed: Option<i64>,
}

impl Ledger {
    /// Remembers at most `drafts` finished drafts.
    pub fn new(drafts: usize) -> Self {
        let state = State {
            parts: BTreeMap::new(),
            open: HashMap::new(),
            finished: HashMap::new(),
            drafted: Remembered::new(drafts),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// A partition came.
    pub fn assign(&self, assignment: Assignment) {
        let owner = assignment.owner;
        let part = Part {
            owner: owner.clone(),
            floor: CommitFloor::default(),
            committed: assignment.committed,
        };
        self.lock().parts.insert(owner.partition, part);
    }

    /// A record was read; the assignment that it was read under, `None` when its partition went.
    pub fn begin(&self, record: &Record) -> Option<Owner> {
        let mut state = self.lock();
        let part = state.parts.get_mut(&partition(record))?;
        part.floor.begin(record.offset);
        Some(part.owner.clone())
    }

    /// A record that was begun is done with.
    pub fn done(&self, record: &Record) {
        self.lock().settle(&(partition(record), record.offset));
    }

    /// Says what to do about the segment of a record, by its id: which bundle drafts it is known only when its batch runs. A
    /// new one, and a duplicate of one under way, hold the record back until [`Ledger::finished`].
    pub fn claim(&self, segment_id: &str, record: &Record) -> Claim {
        let mut state = self.lock();
        let place = (partition(record), record.offset);
        if state.drafted.contains(segment_id) || state.finished.contains_key(segment_id) {
            state.settle(&place);
            return Claim::Duplicate;
        }
        let waiting = state.open.entry(segment_id.to_owned()).or_default();
        waiting.push(place);
        if waiting.len() == 1 {
            Claim::New
        } else {
            Claim::Duplicate
        }
    }

    /// A draft is made: its records are done with once it leaves with the next batch.
    pub fn finished(&self, segment_id: &str) {
        let mut state = self.lock();
        let places = state.open.remove(segment_id).unwrap_or_default();
        // none when the partition went
        if let Some((partition, _)) = places.first() {
            state.finished.insert(segment_id.to_owned(), partition.clone());
        }
        for place in places {
            state.settle(&place);
        }
    }

    /// The broker has a draft.
    pub fn acknowledged(&self, segment_id: &str) {
        let mut state = self.lock();
        state.finished.remove(segment_id);
        state.drafted.insert(segment_id);
    }

    /// Partitions went: nothing of theirs is committed any more, and nothing of theirs is under way.
    pub fn release(&self, partitions: &[Partition]) {
        let mut state = self.lock();
        for partition in partitions {
            state.parts.remove(partition);
        }
        state.finished.retain(|_, partition| !partitions.contains(partition));
        // a segment's records share a partition, so a draft goes or stays as a whole
        state.open.retain(|_, waiting| {
            waiting.retain(|(partition, _)| !partitions.contains(partition));
            !waiting.is_empty()
        });
    }

    /// First record of each partition that is not done.
    pub fn floors(&self) -> Vec<Floor> {
        let state = self.lock();
        let floor = |part: &Part| {
            Some(Floor {
                owner: part.owner.clone(),
                next_offset: part.floor.floor()?,
                metadata: String::new(),
            })
        };
        state.parts.values().filter_map(floor).collect()
    }

    /// Those floors that are not the last ones asked for here; they are about to be committed.
    pub fn moved(&self, floors: &[Floor]) -> Vec<Floor> {
        let mut state = self.lock();
        let mut moved = |floor: &&Floor| {
            let part = state.parts.get_mut(&floor.owner.partition);
            part.is_some_and(|part| part.committed.replace(floor.next_offset) != Some(floor.next_offset))
        };
        floors.iter().filter(|floor| moved(floor)).cloned().collect()
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
        if let Some(part) = self.parts.get_mut(partition) {
            part.floor.done(*offset);
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

    /// A ledger that holds partitions 0 and 1.
    fn ledger(drafts: usize) -> Ledger {
        let ledger = Ledger::new(drafts);
        (0..2).for_each(|partition| assign(&ledger, partition, 1));
        ledger
    }

    fn assign(ledger: &Ledger, partition: i32, epoch: u64) {
        ledger.assign(Assignment {
            owner: Owner {
                partition: ("t".into(), partition),
                epoch,
            },
            committed: None,
            metadata: String::new(),
        });
    }

    fn floors(ledger: &Ledger) -> Vec<(i32, i64)> {
        let floors = ledger.floors().into_iter();
        floors
            .map(|floor| (floor.owner.partition.1, floor.next_offset))
            .collect()
    }

    fn claim(ledger: &Ledger, id: &str, record: &Record) -> Claim {
        ledger.begin(record).unwrap();
        ledger.claim(id, record)
    }

    #[test]
    fn a_duplicate_of_a_draft_under_way_holds_its_own_record_back() {
        let ledger = ledger(8);
        assert_eq!(claim(&ledger, "a", &record(0, 5)), Claim::New);
        assert_eq!(claim(&ledger, "a", &record(0, 7)), Claim::Duplicate);
        assert_eq!((floors(&ledger), ledger.open()), (vec![(0, 5)], 1));
        ledger.finished("a");
        assert_eq!((floors(&ledger), ledger.open()), (vec![(0, 8)], 0));
        assert_eq!(claim(&ledger, "a", &record(0, 8)), Claim::Duplicate);
        ledger.acknowledged("a");
        assert_eq!(claim(&ledger, "a", &record(1, 4)), Claim::Duplicate);
        assert_eq!(floors(&ledger), [(0, 9), (1, 5)]);
    }

    #[test]
    fn a_partition_that_comes_back_is_drafted_again_from_what_was_committed() {
        let ledger = ledger(8);
        for (id, offset) in [("made", 4), ("open", 5)] {
            claim(&ledger, id, &record(0, offset));
        }
        ledger.finished("made");
        ledger.release(&[("t".into(), 0)]);
        assert!(floors(&ledger).is_empty());
        assert!(ledger.begin(&record(0, 6)).is_none());
        // what comes of the old assignment now changes nothing
        ledger.finished("open");
        assign(&ledger, 0, 2);
        for (id, offset) in [("made", 4), ("open", 5)] {
            assert_eq!(claim(&ledger, id, &record(0, offset)), Claim::New, "{id}");
        }
        assert_eq!(floors(&ledger), [(0, 4)]);
    }

    #[test]
    fn a_floor_is_moved_once() {
        let ledger = ledger(8);
        claim(&ledger, "a", &record(0, 5));
        assert_eq!(ledger.moved(&ledger.floors()).len(), 1);
        assert!(ledger.moved(&ledger.floors()).is_empty());
        ledger.finished("a");
        assert_eq!(ledger.moved(&ledger.floors())[0].next_offset, 6);
    }

    #[test]
    fn the_oldest_draft_is_forgotten_first() {
        let ledger = ledger(2);
        for id in ["a", "b", "b", "c"] {
            ledger.acknowledged(id);
        }
        assert_eq!(claim(&ledger, "c", &record(0, 0)), Claim::Duplicate);
        assert_eq!(claim(&ledger, "b", &record(0, 1)), Claim::Duplicate);
        assert_eq!(claim(&ledger, "a", &record(0, 2)), Claim::New);
    }
}
