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
pub mod corpus;
pub mod curate;
pub mod dataset;
pub mod erasure;
pub mod evaluate;
pub mod export;
pub mod gate;
pub mod lease;
pub mod manifest;
pub mod metrics;
pub mod night;
pub mod night_cli;
pub mod objective;
pub mod optimizer;
pub mod params;
pub mod prompts;
mod rates;
pub mod record;
pub mod registry;
pub mod schedule;
pub mod settings;
pub mod sources;
pub mod statements;
pub mod strata;
pub mod text_rules;
pub mod tokenizer;
pub mod train;
mod train_data;
