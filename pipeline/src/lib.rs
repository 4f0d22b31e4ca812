//! The learning half: from recordings and reports to a bundle, and the ruler that says what it is worth.
//!
//! Place: beside the stream; reads data sets, writes bundles. Invariant: a command's output is a pure function of its
//! inputs, its settings and its seed, and a resumed run equals an uninterrupted one.

pub mod augment;
pub mod batch;
pub mod benchmark;
pub mod bertscore;
pub mod checkpoint;
pub mod cli;
pub mod dataset;
pub mod evaluate;
pub mod export;
pub mod metrics;
pub mod objective;
pub mod optimizer;
pub mod params;
pub mod settings;
pub mod tokenizer;
pub mod train;
mod train_data;
