//! A boot that is not the stream's own, on trial: its packets are held until it proves itself or is refuted.
//!
//! Place: behind `window::Windower`, before a boot may take a stream over. One bad boot id would else end the stream's own
//! boot for good. Invariant: bounded, at most [`PACKETS`] - 1 packets are held; each leaves once, as one of the boot that
//! proved itself or refused.

use super::PushOutcome;
use super::quarantine::CONFIRM_S;
use crate::packet::{Packet, PacketError};

/// Packets in a row that prove a boot.
pub(super) const PACKETS: usize = 3;
/// Time that two packets must span to prove it alone, seconds: long packets shall not be held for long.
pub(super) const PROOF_S: f64 = 1.0;

/// A packet that was held, and what became of it.
#[derive(Debug)]
pub struct Settled {
    /// The tag under which it came.
    pub tag: u64,
    /// Its fate, as [`super::Windower::push`] would have told it.
    pub fate: Result<PushOutcome, PacketError>,
}

/// What a packet of a boot on trial comes to.
pub(super) enum Verdict {
    /// It waits for more.
    Held,
    /// It, or another of its first sample, waits already.
    Repeated,
    /// The boot is real: its packets with their tags, by first sample.
    Proven(Vec<(Packet, u64)>),
}

/// The boot on trial; none while nothing is held.
#[derive(Debug, Default)]
pub(super) struct Trial {
    held: Vec<(Packet, u64)>,
    /// The watermark of the stream's own boot when the last one came.
    own_watermark: i64,
}

impl Trial {
    /// True when `packet` is of the boot on trial and lies beside what is held.
    pub(super) fn is_of(&self, packet: &Packet) -> bool {
        let reach = (CONFIRM_S * packet.rate_hz) as i64;
        self.held.iter().any(|(held, _)| {
            let end = held.first_sample + held.len() as i64;
            (held.boot_id, &held.device_id, held.rate_hz) == (packet.boot_id, &packet.device_id, packet.rate_hz)
                && (held.first_sample - reach..=end + reach).contains(&packet.first_sample)
        })
    }

    /// Takes a packet of the boot on trial, or the first of one.
    pub(super) fn take(&mut self, packet: Packet, tag: u64, own_watermark: i64) -> Verdict {
        if self
            .held
            .iter()
            .any(|(held, _)| held.first_sample == packet.first_sample)
        {
            return Verdict::Repeated;
        }
        let rate_hz = packet.rate_hz;
        self.own_watermark = own_watermark;
        self.held.push((packet, tag));
        let first = self.held.iter().map(|(held, _)| held.first_sample).min();
        let end = self
            .held
            .iter()
            .map(|(held, _)| held.first_sample + held.len() as i64)
            .max();
        let span_s = (end.unwrap_or(0) - first.unwrap_or(0)) as f64 / rate_hz;
        if !is_proof(self.held.len(), span_s) {
            return Verdict::Held;
        }
        self.held.sort_by_key(|(held, tag)| (held.first_sample, *tag));
        Verdict::Proven(std::mem::take(&mut self.held))
    }

    /// True once the stream's own boot has gone on for [`CONFIRM_S`] without another packet of the one on trial.
    pub(super) fn is_refuted(&self, own_watermark: i64, rate_hz: f64) -> bool {
        !self.held.is_empty() && (own_watermark - self.own_watermark) as f64 > CONFIRM_S * rate_hz
    }

    /// Refuses what is held: it was none of the stream's boots.
    pub(super) fn refuse(&mut self, own_boot_id: u64) -> impl Iterator<Item = Settled> {
        let held = std::mem::take(&mut self.held);
        let packets = held.len();
        held.into_iter().map(move |(packet, tag)| Settled {
            tag,
            fate: Err(PacketError::BootUnproven {
                boot_id: packet.boot_id,
                packets,
                own_boot_id,
            }),
        })
    }

    /// Tags of what is held.
    pub(super) fn tags(&self) -> impl Iterator<Item = u64> {
        self.held.iter().map(|&(_, tag)| tag)
    }

    /// Bytes of the samples that are held.
    pub(super) fn bytes(&self) -> usize {
        let samples = self.held.iter().map(|(held, _)| held.leads.len() * held.len());
        samples.sum::<usize>() * size_of::<i16>()
    }
}

/// True when so many packets over so long prove a boot.
pub(super) fn is_proof(packets: usize, span_s: f64) -> bool {
    packets >= PACKETS || (packets > 1 && span_s >= PROOF_S)
}
