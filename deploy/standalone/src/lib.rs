//! The command `meit`: the whole system in one process, and tools for single recordings.
//!
//! Place: the only package that joins the processes. Invariant: holds no logic of the stream; what it does with a
//! recording, the processes do with a segment.

pub mod assets;
pub mod bench;
pub mod demo;
pub mod draft_line;
mod import;
mod night;
mod page;
mod readers;
pub mod report;
pub mod summary;
pub mod svg;
