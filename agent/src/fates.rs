//! What becomes of each record: into a window, late, held for a while, or to the dead letters.
//!
//! Place: the main loop's step between the source and the windows' closings. Invariant: a record gets one fate, once, also over
//! restarts: one that had it before only fills windows, and one that was held at the end gets it from the next agent.

use std::time::Instant;

use anyhow::Context as _;
use ecg::event::owned_headers;
use ecg::packet::{PacketError, RejectReason};
use ecg::topic;
use ecg::window::{PushOutcome, Rebase, Settled};
use service::kafka::commit::Output;
use service::kafka::source::Record;

use crate::dispatch::{self, EVENT_SOURCE};
use crate::windows::Closings;
use crate::{Agent, ingest};

impl Agent {
    /// Gives one record its fate: into a window, or to the dead letters. One that had its fate before only fills windows.
    pub(crate) async fn take_record(&mut self, record: Record) -> anyhow::Result<()> {
        let Some(part) = self.partitions.get(record.partition) else {
            tracing::error!(
                partition = record.partition,
                "a record of a partition that is not held is left alone"
            );
            return Ok(());
        };
        part.next = Some(record.offset + 1);
        let is_fresh = part.is_fresh(record.offset);
        let mut closings = Closings::default();
        let fate = self.push(&record, &mut closings);
        let crowded = closings.crowded;
        for (partition, settled) in std::mem::take(&mut closings.settled) {
            self.settle(partition, settled);
        }
        self.note_rebases(record.partition, std::mem::take(&mut closings.rebased))?;
        self.start_analyses(closings).await?;
        match fate {
            _ if !is_fresh => self.metrics.packet_replayed(),
            Ok(outcome) if outcome.held => self.hold(record),
            fate => {
                if crowded {
                    tracing::warn!("no room for every stream: those that come are refused until one falls silent");
                }
                self.metrics.packet_received(record.partition);
                self.give_fate(record, fate);
            }
        }
        Ok(())
    }

    /// Keeps a record until its boot has proved itself.
    fn hold(&mut self, record: Record) {
        if let Some(part) = self.partitions.get(record.partition) {
            part.held.insert(record.offset);
        }
        self.held.insert((record.partition, record.offset), record);
        self.metrics.packets_held(self.held.len());
    }

    /// Gives a record that was held its fate; one that had it before a restart is not held here.
    pub(crate) fn settle(&mut self, partition: i32, settled: Settled) {
        let offset = settled.tag as i64;
        if let Some(record) = self.held.remove(&(partition, offset)) {
            self.metrics.packets_held(self.held.len());
            self.metrics.packet_received(partition);
            self.give_fate(record, settled.fate);
        }
    }

    /// Counts a record, once, and puts a refused one's bytes into the next batch.
    fn give_fate(&mut self, record: Record, fate: Result<PushOutcome, PacketError>) {
        let (partition, offset) = (record.partition, record.offset);
        let Some(part) = self.partitions.get(partition) else {
            return;
        };
        part.held.remove(&offset);
        let owner = part.owner.clone();
        match fate {
            Ok(outcome) => self.metrics.packet_accepted(partition, outcome),
            Err(error) => {
                let reason = error.reason();
                // said once, not for every packet of a stream that lasts
                if reason != RejectReason::NoRoom {
                    tracing::warn!(%error, reason = reason.as_str(), partition, offset, "packet refused");
                }
                let letters = dispatch::dead_letters(record, &error, &owner);
                letters.for_each(|letter| self.waiting.add(letter));
                self.metrics.packet_rejected(partition, reason);
            }
        }
    }

    /// Keeps how streams' indices were rebased where a restart finds it, before the floor can move past it.
    fn note_rebases(&mut self, partition: i32, rebased: Vec<(String, Rebase)>) -> anyhow::Result<()> {
        for (stream_id, rebase) in rebased {
            let Some(part) = self.partitions.get(partition) else {
                continue;
            };
            let (offset, shift) = (rebase.from_tag, rebase.shift);
            tracing::warn!(
                partition,
                offset,
                shift,
                "a device restarted its sample index under the same boot: its stream goes on in a new epoch"
            );
            let event = format!("{stream_id}-{}-{}-rebase-{shift}", rebase.device_id, rebase.boot_id);
            let mark = part.marks.rebase(&stream_id, rebase, Instant::now());
            let mark = Output {
                owner: part.owner.clone(),
                topic: topic::AGENT_MARKS,
                partition: Some(partition),
                payload: serde_json::to_vec(mark).context("encode mark")?,
                key: Some(stream_id.into_bytes()),
                headers: owned_headers(topic::AGENT_MARKS, EVENT_SOURCE, &event),
            };
            self.waiting.add(mark);
        }
        Ok(())
    }

    fn push(&mut self, record: &Record, closings: &mut Closings) -> Result<PushOutcome, PacketError> {
        let packet = ingest::decode(record.key.as_deref(), &record.payload)?;
        let now = self.hearing.clock(record.partition, Instant::now());
        let drift_ppm = self.monitors.seen(&packet, record.partition, now);
        self.metrics.packet_seen(&packet, drift_ppm);
        let place = (record.partition, record.offset.max(0) as u64);
        if !self.windows.holds(&packet.stream_id)
            && let Some(part) = self.partitions.get(record.partition)
        {
            let rebases = part.marks.rebases(&packet.stream_id).to_vec();
            self.windows.remember(&packet.stream_id, rebases);
        }
        self.windows.push(packet, place, now, closings)
    }
}
