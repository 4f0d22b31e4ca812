//! The drafter in use, which may be another one for the next segment.
//!
//! Place: between the registry's watcher, which swaps, and the device thread, which takes one and keeps it until what it has
//! begun is ended. Invariant: a text is written by one drafter from its first token to its last, and its draft names that one.

use std::sync::{Arc, RwLock};

use crate::draft::Author;
use crate::drafter::Drafter;

/// A place for one drafter; clones share it.
#[derive(Clone)]
pub struct Slot {
    current: Arc<RwLock<Arc<dyn Drafter>>>,
}

impl Slot {
    pub fn new(drafter: Arc<dyn Drafter>) -> Self {
        Self {
            current: Arc::new(RwLock::new(drafter)),
        }
    }

    /// The drafter in use.
    pub fn get(&self) -> Arc<dyn Drafter> {
        Arc::clone(&self.current.read().expect("no code panics while it holds this lock"))
    }

    /// Puts another drafter in use for what is not begun yet, and returns the one before.
    pub fn swap(&self, drafter: Arc<dyn Drafter>) -> Arc<dyn Drafter> {
        let mut current = self.current.write().expect("no code panics while it holds this lock");
        std::mem::replace(&mut *current, drafter)
    }
}

/// What drafts say about who wrote them.
pub fn author(drafter: &dyn Drafter) -> Author {
    Author {
        bundle: drafter.lineage(),
        decode: drafter.decode_parameters(),
    }
}
