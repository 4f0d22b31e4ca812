//! The allocator of every program that carries signals or tensors, settled once.
//!
//! Place: the first lines of `main`. A window makes and frees a megabyte, a training step gigabytes; mimalloc gives freed memory back
//! to the system within a tenth of a second, and the system clears every page before it lends it again, which took a third of a step
//! and an eighth of a packet. Invariant: memory stays bounded by what was once in use together, what is free for minutes goes back,
//! and what the environment says stays.

use std::ffi::{c_int, c_long};

pub use mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h, versions 2 and 3.
const PURGE_DELAY: c_int = 15;
/// Milliseconds that freed memory is kept; mimalloc takes ten times as many for its large areas.
const KEPT_MS: c_long = 10_000;

unsafe extern "C" {
    /// Sets an option that the environment does not set. Source: mimalloc.h.
    safe fn mi_option_set_default(option: c_int, value: c_long);
}

/// Keeps freed memory for what comes next, where `MIMALLOC_PURGE_DELAY` says nothing else.
pub fn settle() {
    mi_option_set_default(PURGE_DELAY, KEPT_MS);
}
