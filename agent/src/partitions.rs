//! What the agent knows of each partition that it holds.
//!
//! Place: made when a partition comes, dropped when it goes; gives the floors of every batch.
//! Invariant: records below `fresh_from` were given their fate before this assignment, but for those that were held then: they
//! fill windows again, but are neither counted nor dead-lettered a second time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use service::kafka::commit::Floor;
use service::kafka::source::{Assignment, Owner};

use crate::marks::Marks;

/// First part of a floor's metadata: the offset after the last record that was given its fate.
const NEXT: &str = "next=";
/// Second part: how far before that offset each record lies that is held.
const HELD: &str = ",held=";
/// Held records that are told; a broker takes 4096 bytes of metadata. Of more, those above it have no fate if the agent
/// ends within the second in which they are held.
const HELD_MAX: usize = 400;

/// One partition.
pub(crate) struct Part {
    pub owner: Owner,
    /// First record that was not given its fate before this assignment.
    pub fresh_from: i64,
    /// The offset after the last record taken; `None` before the first.
    pub next: Option<i64>,
    pub marks: Marks,
    /// Records before `next`, or before `fresh_from`, that have no fate yet.
    pub held: BTreeSet<i64>,
    /// What was put into the last batch.
    committed: Option<(i64, String)>,
}

impl Part {
    /// True for a record that was not given its fate before.
    pub(crate) fn is_fresh(&self, offset: i64) -> bool {
        offset >= self.fresh_from || self.held.contains(&offset)
    }
}

/// The partitions of this agent.
#[derive(Default)]
pub(crate) struct Partitions {
    parts: BTreeMap<i32, Part>,
}

impl Partitions {
    /// A partition came.
    pub(crate) fn assign(&mut self, assignment: Assignment, marks: Marks) {
        let committed = assignment.committed.unwrap_or(0);
        let told = assignment.metadata.strip_prefix(NEXT);
        let (next, held) = told.map_or(("", ""), |told| told.split_once(HELD).unwrap_or((told, "")));
        let fresh_from = next.parse().unwrap_or(committed);
        let before = held.split('+').filter_map(|before| before.parse::<i64>().ok());
        let part = Part {
            owner: assignment.owner,
            fresh_from,
            next: None,
            marks,
            held: before.map(|before| fresh_from - before).collect(),
            committed: None,
        };
        self.parts.insert(part.owner.partition.1, part);
    }

    /// A partition went.
    pub(crate) fn revoke(&mut self, partition: i32) {
        self.parts.remove(&partition);
    }

    pub(crate) fn get(&mut self, partition: i32) -> Option<&mut Part> {
        self.parts.get_mut(&partition)
    }

    /// The part that an output belongs to, if the assignment lasts.
    pub(crate) fn of(&mut self, owner: &Owner) -> Option<&mut Part> {
        self.parts
            .get_mut(&owner.partition.1)
            .filter(|part| part.owner == *owner)
    }

    /// The floors that moved since the last call; `needed` says which record of a partition is still needed.
    pub(crate) fn floors(&mut self, needed: impl Fn(i32) -> Option<u64>) -> Vec<Floor> {
        let floor = |(&partition, part): (&i32, &mut Part)| {
            let next = part.next?;
            let floor = needed(partition).map_or(next, |needed| next.min(needed as i64));
            // until it has caught up, what was given its fate is still what the last commit says
            let fresh_from = next.max(part.fresh_from);
            let held = part
                .held
                .iter()
                .take(HELD_MAX)
                .map(|offset| (fresh_from - offset).to_string());
            let held = held.collect::<Vec<_>>().join("+");
            let metadata = match &*held {
                "" => format!("{NEXT}{fresh_from}"),
                _ => format!("{NEXT}{fresh_from}{HELD}{held}"),
            };
            if part.committed.replace((floor, metadata.clone())) == Some((floor, metadata.clone())) {
                return None;
            }
            Some(Floor {
                owner: part.owner.clone(),
                next_offset: floor,
                metadata,
            })
        };
        self.parts.iter_mut().filter_map(floor).collect()
    }

    /// Forgets marks that were not used for long.
    pub(crate) fn prune(&mut self, now: Instant) {
        self.parts.values_mut().for_each(|part| part.marks.prune(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(committed: Option<i64>, metadata: &str) -> Partitions {
        let mut partitions = Partitions::default();
        let owner = Owner {
            partition: ("ecg".into(), 2),
            epoch: 1,
        };
        let assignment = Assignment {
            owner,
            committed,
            metadata: metadata.to_owned(),
        };
        partitions.assign(assignment, Marks::default());
        partitions
    }

    #[test]
    fn a_floor_is_the_first_record_needed_and_is_given_when_it_moved() {
        let mut partitions = assigned(Some(4), "");
        assert!(partitions.floors(|_| None).is_empty(), "nothing was read");
        partitions.get(2).unwrap().next = Some(9);
        let floors = partitions.floors(|_| Some(6));
        assert_eq!((floors[0].next_offset, &*floors[0].metadata), (6, "next=9"));
        assert!(partitions.floors(|_| Some(6)).is_empty());
        assert_eq!(partitions.floors(|_| None)[0].next_offset, 9);
    }

    #[test]
    fn records_read_again_stay_known_as_such_over_any_number_of_restarts() {
        let mut partitions = assigned(Some(4), "next=9");
        assert_eq!(partitions.get(2).unwrap().fresh_from, 9);
        partitions.get(2).unwrap().next = Some(5);
        let floors = partitions.floors(|_| Some(4));
        assert_eq!((floors[0].next_offset, &*floors[0].metadata), (4, "next=9"));
        assert_eq!(assigned(Some(4), "garbage").get(2).unwrap().fresh_from, 4);
        assert_eq!(assigned(None, "").get(2).unwrap().fresh_from, 0);
    }

    #[test]
    fn a_record_that_was_held_at_the_end_has_its_fate_to_come() {
        let mut partitions = assigned(Some(4), "next=9");
        let part = partitions.get(2).unwrap();
        (part.next, part.held) = (Some(12), BTreeSet::from([5, 11]));
        let floors = partitions.floors(|_| Some(5));
        assert_eq!((floors[0].next_offset, &*floors[0].metadata), (5, "next=12,held=7+1"));
        let mut again = assigned(Some(5), &floors[0].metadata);
        let part = again.get(2).unwrap();
        let fresh: Vec<i64> = (4..14).filter(|offset| part.is_fresh(*offset)).collect();
        assert_eq!(fresh, [5, 11, 12, 13]);
        // until they are read again they stay known
        part.next = Some(5);
        assert_eq!(again.floors(|_| Some(5))[0].metadata, "next=12,held=7+1");
    }
}
