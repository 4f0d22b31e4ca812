//! The bundle that a node serves now, replaced while it drafts.
//!
//! Place: between a node's device thread and whoever promotes an adapter. Invariant: a batch drafts with one generation from
//! its first token to its last, and names that generation's adapter; nobody waits for a swap.

use std::sync::{Arc, PoisonError, RwLock};

use crate::bundle::Bundle;

/// One bundle with its place in the order of swaps.
pub struct Generation {
    /// 0 for the bundle of the start, then one more each swap.
    pub number: u64,
    pub bundle: Bundle,
}

/// A slot that holds the current generation.
pub struct Served {
    current: RwLock<Arc<Generation>>,
}

impl Served {
    pub fn new(bundle: Bundle) -> Self {
        Self {
            current: RwLock::new(Arc::new(Generation { number: 0, bundle })),
        }
    }

    /// The generation for the next batch; it stays whole for as long as the batch holds it.
    pub fn current(&self) -> Arc<Generation> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes `bundle` current and returns its number. Make it first, with [`Bundle::with_adapter`]: that is the slow part.
    pub fn swap(&self, bundle: Bundle) -> u64 {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let number = current.number + 1;
        *current = Arc::new(Generation { number, bundle });
        number
    }
}
