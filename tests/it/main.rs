//! One integration binary: the laws that hold between packages.
//!
//! Place: joins the packages as `deploy/standalone` does; nothing imports it. Invariant: no network beyond the loopback
//! of the brokers that the tests start, and the same result each time.

#![allow(clippy::unwrap_used)] // every function here is part of a test

mod adapters;
mod api;
mod assemble;
mod broker;
mod checkpoint;
mod dashboards;
mod deploy;
mod differences;
mod encoders;
mod faults;
mod fusion;
mod golden;
mod gradient;
mod kafka;
mod nightly;
mod node;
mod quantised;
mod review;
mod rig;
mod slots;
mod stream;
mod tidy;
mod training;
