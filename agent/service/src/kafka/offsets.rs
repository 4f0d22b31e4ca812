//! The commit floor of one partition: the first record that is not done.
//!
//! Place: between records that finish in any order and [`super::source::Source::commit`].
//! Invariant: the floor never passes a record that was begun and is not done, and never goes back within an assignment.

use std::collections::BTreeSet;

/// Records under way in one partition.
#[derive(Clone, Debug, Default)]
pub struct CommitFloor {
    open: BTreeSet<i64>,
    next: Option<i64>,
}

impl CommitFloor {
    /// A record was read. Offsets rise; one that was read before, because the broker sent it again, is open again.
    pub fn begin(&mut self, offset: i64) {
        self.open.insert(offset);
        self.next = self.next.max(Some(offset + 1));
    }

    /// All that followed from a record was acknowledged. A record that is not open is ignored.
    pub fn done(&mut self, offset: i64) {
        self.open.remove(&offset);
    }

    /// The offset to commit: the first open record, or the one after the last read; `None` before the first record.
    pub fn floor(&self) -> Option<i64> {
        self.open.first().copied().or(self.next)
    }

    /// Records under way.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// True when no record is under way.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_floor_passes_no_open_record_goes_never_back_and_ends_behind_the_last(
            steps in prop::collection::vec((1i64..4, any::<prop::sample::Index>(), 0usize..4), 1..60),
        ) {
            let mut floor = CommitFloor::default();
            let (mut open, mut offset, mut before) = (Vec::new(), 0, None);
            for (gap, which, count) in steps {
                offset += gap;
                floor.begin(offset);
                open.push(offset);
                for _ in 0..count.min(open.len()) {
                    floor.done(open.remove(which.index(open.len())));
                }
                let expected = open.iter().copied().min().unwrap_or(offset + 1);
                prop_assert_eq!(floor.floor(), Some(expected));
                prop_assert!(floor.floor() >= before);
                before = floor.floor();
            }
            open.drain(..).for_each(|offset| floor.done(offset));
            prop_assert_eq!((floor.floor(), floor.is_empty()), (Some(offset + 1), true));
        }
    }

    #[test]
    fn the_floor_waits_for_the_oldest_open_record() {
        let mut floor = CommitFloor::default();
        assert_eq!(floor.floor(), None);
        for offset in [5, 6, 9] {
            floor.begin(offset);
        }
        assert_eq!(floor.floor(), Some(5));
        floor.done(6);
        assert_eq!((floor.floor(), floor.len()), (Some(5), 2));
        floor.done(5);
        assert_eq!(floor.floor(), Some(9));
        floor.done(9);
        assert_eq!((floor.floor(), floor.is_empty()), (Some(10), true));
    }

    #[test]
    fn a_record_that_is_read_again_holds_the_floor_again() {
        let mut floor = CommitFloor::default();
        floor.begin(1);
        floor.done(1);
        floor.begin(1);
        assert_eq!(floor.floor(), Some(1));
        floor.done(1);
        floor.done(1);
        assert_eq!(floor.floor(), Some(2));
    }
}
