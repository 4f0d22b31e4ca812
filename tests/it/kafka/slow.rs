//! A node that is slow, and one whose device hangs: row 42 of docs/faults.md.
//!
//! Place: under `kafka`. Invariant: the slow node is slow because a gate is shut, not because of a clock.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ecg::dsp::DspConfig;
use ecg::report::{BundleLineage, DecodeParameters, DraftReport};
use ecg::segment::{Decision, Segment};
use ecg::topic;
use model::meit::EcgInput;
use node::drafter::{DraftText, Drafter};
use node::metrics::NodeSummary;
use node::settings::NodeSettings;
use prometheus::Registry;
use service::kafka::table::Row;

use super::{Bench, STREAMS, WAIT_MAX};
use crate::rig::{Running, SumDrafter, node_with, root};

/// Bundle of the node that is slow.
const SLOW: &str = "slow";

/// Drafts as [`SumDrafter`] does while the gate is open, and hangs while it is shut.
struct Gated {
    open: Arc<AtomicBool>,
}

impl Drafter for Gated {
    fn draft(&self, ecgs: &[EcgInput]) -> anyhow::Result<Vec<DraftText>> {
        while !self.open.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        SumDrafter.draft(ecgs)
    }

    fn lineage(&self) -> BundleLineage {
        BundleLineage {
            bundle_id: SLOW.to_owned(),
            ..BundleLineage::default()
        }
    }

    fn decode_parameters(&self) -> DecodeParameters {
        SumDrafter.decode_parameters()
    }
}

/// What is sent to two nodes that share the streams, one of which hangs while its gate is shut.
struct Load {
    gate: Arc<AtomicBool>,
    /// Streams whose partitions the slow node holds.
    held: BTreeSet<String>,
    /// A good segment.
    segment: Segment,
    /// Segments sent so far, of each stream.
    sent: usize,
}

impl Load {
    /// Starts the slow node and the quick one; both draft, and each has streams of its own.
    async fn start(bench: &Bench, batch_timeout_ms: u64) -> (Self, [Running<NodeSummary>; 2]) {
        let settings = |instance: &str| {
            let mut settings: NodeSettings = service::settings::load("node", None).unwrap();
            settings.kafka = bench.named(instance);
            settings.node.batch_timeout_ms = batch_timeout_ms;
            settings
        };
        let gate = Arc::new(AtomicBool::new(true));
        let gated = Arc::new(Gated { open: gate.clone() });
        let header = root().join("tests/data/ptbxl/records500/00000/00020_hr.hea");
        let context = ecg::wfdb::read(&header).unwrap().context().unwrap();
        let slow = node_with(settings("slow"), gated, &Registry::new());
        let quick = node_with(settings("quick"), Arc::new(SumDrafter), &Registry::new());
        let mut load = Self {
            gate,
            held: BTreeSet::new(),
            segment: ecg::dsp::analyse(&context, &DspConfig::default()),
            sent: 0,
        };
        assert_ne!(load.segment.decision, Decision::Reject);
        let shared = async {
            while load.held.is_empty() || load.held.len() == STREAMS {
                load.send(bench, 1).await;
                let drafts = drafts(&bench.committed(topic::REPORTS, load.sent * STREAMS).await);
                let last = drafts
                    .iter()
                    .filter(|draft| is_slow(draft) && number(draft) == load.sent);
                load.held = last.map(|draft| draft.stream_id.clone()).collect();
            }
        };
        tokio::time::timeout(WAIT_MAX, shared)
            .await
            .expect("each node gets partitions");
        (load, [slow, quick])
    }

    /// Sends so many more segments of each stream.
    async fn send(&mut self, bench: &Bench, segments: usize) {
        for _ in 0..segments {
            self.sent += 1;
            for stream in 0..STREAMS {
                let stream_id = format!("bed-{stream:02}");
                let segment = Segment {
                    id: format!("{stream_id}-{}", self.sent),
                    stream_id: stream_id.clone(),
                    ..self.segment.clone()
                };
                let (key, payload) = (stream_id.as_bytes(), segment.encode());
                bench
                    .sink
                    .send(topic::SEGMENTS, Some(key), &payload, &[])
                    .await
                    .unwrap();
            }
        }
    }
}

fn drafts(rows: &[Row]) -> Vec<DraftReport> {
    let draft = |row: &Row| serde_json::from_slice(&row.value).unwrap();
    rows.iter().map(draft).collect()
}

/// Which of its stream's segments a draft is of, from 1.
fn number(draft: &DraftReport) -> usize {
    let (_, number) = draft.segment_id.rsplit_once('-').unwrap();
    number.parse().unwrap()
}

fn is_slow(draft: &DraftReport) -> bool {
    draft.bundle.bundle_id == SLOW
}

/// Every segment has one draft.
fn once(drafts: &[DraftReport]) {
    let segments: BTreeSet<&String> = drafts.iter().map(|draft| &draft.segment_id).collect();
    assert_eq!(segments.len(), drafts.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_42_a_slow_node_holds_up_its_own_partitions_alone() {
    let Some(bench) = Bench::start().await else { return };
    let (mut load, [slow, quick]) = Load::start(&bench, 300_000).await;
    let before = load.sent;
    load.gate.store(false, Ordering::Relaxed);
    load.send(&bench, 5).await;
    // all of the quick node's, and of the slow one's not one
    let of_quick = (STREAMS - load.held.len()) * (load.sent - before);
    let drafted = drafts(&bench.committed(topic::REPORTS, before * STREAMS + of_quick).await);
    let mut later = drafted.iter().filter(|draft| number(draft) > before);
    assert!(later.all(|draft| !is_slow(draft) && !load.held.contains(&draft.stream_id)));
    load.gate.store(true, Ordering::Relaxed);
    let all = drafts(&bench.committed(topic::REPORTS, load.sent * STREAMS).await);
    once(&all);
    let mut later = all.iter().filter(|draft| number(draft) > before);
    assert!(later.all(|draft| is_slow(draft) == load.held.contains(&draft.stream_id)));
    slow.stop().await;
    quick.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_42_a_node_whose_device_hangs_ends_and_another_drafts_its_segments() {
    let Some(bench) = Bench::start().await else { return };
    let (mut load, [slow, quick]) = Load::start(&bench, 2000).await;
    load.gate.store(false, Ordering::Relaxed);
    load.send(&bench, 2).await;
    let ended = tokio::time::timeout(WAIT_MAX, slow.ended()).await;
    let error = format!("{:#}", ended.expect("a node whose device hangs ends").unwrap_err());
    assert!(error.contains("the device is at a step for longer than"), "{error}");
    let all = drafts(&bench.committed(topic::REPORTS, load.sent * STREAMS).await);
    once(&all);
    // what the device says in the end is nobody's
    load.gate.store(true, Ordering::Relaxed);
    load.send(&bench, 1).await;
    once(&drafts(&bench.committed(topic::REPORTS, load.sent * STREAMS).await));
    quick.stop().await;
}
