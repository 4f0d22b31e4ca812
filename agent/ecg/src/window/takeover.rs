//! When another boot, or another run of the same boot's index, takes a stream over.
//!
//! Place: behind `window::Windower`, for packets that do not simply go on. Invariant: what takes over has proved itself: a boot
//! by a few packets (`trial`), an index that begins again by two unbroken seconds (`rebase`), an earlier boot by as much while
//! the stream's own is silent.

use super::boot::Boot;
use super::quarantine::Quarantine;
use super::rebase::{Rebase, shift_past};
use super::trial::{Settled, Verdict};
use super::{PushOutcome, Windower};
use crate::packet::{Packet, PacketError, SAMPLE_INDEX_MAX};

/// Silence of a stream's device, by the gateway's clock, after which another device may take over without a greater boot.
const TAKEOVER_US: i64 = 10_000_000;

/// Silence of a boot, by the gateway's clock, after which an earlier boot of its device that goes on is the stream's again.
const RETAKE_US: i64 = 2_000_000;

impl Windower {
    /// Takes a packet of a boot that is not the stream's own: holds it, or lets the boot take over.
    pub(super) fn try_boot(&mut self, packet: Packet, tag: u64, shift: i64) -> Result<PushOutcome, PacketError> {
        let Some(own) = &self.boot else {
            return Ok(PushOutcome::default());
        };
        if !self.trial.is_of(&packet) {
            self.settled.extend(self.trial.refuse(own.boot_id));
        }
        let samples = packet.len();
        let held = match self.trial.take(packet, tag, own.watermark) {
            Verdict::Held => {
                return Ok(PushOutcome {
                    held: true,
                    ..PushOutcome::default()
                });
            }
            Verdict::Repeated => {
                return Ok(PushOutcome {
                    duplicate: samples,
                    ..PushOutcome::default()
                });
            }
            Verdict::Proven(held) => held,
        };
        self.start_boot(&held[0].0, shift);
        let mut last = Ok(PushOutcome::default());
        for (at, (packet, held_tag)) in held.into_iter().enumerate() {
            // the first of a boot contradicts nothing, so it can tell of the takeover
            let taken = self.take(packet, held_tag);
            let fate = taken.map(|outcome| PushOutcome {
                takeover: at == 0,
                ..outcome
            });
            if held_tag == tag {
                last = fate;
            } else {
                self.settled.push(Settled { tag: held_tag, fate });
            }
        }
        last
    }

    /// Shifts a packet past all that was read when it says that the device restarted its index; true when it did.
    pub(super) fn rebase(&mut self, packet: &mut Packet, tag: u64) -> bool {
        let Some(boot) = &mut self.boot else { return false };
        if !boot.restarts(packet, &self.cfg) {
            return false;
        }
        let more = shift_past(boot.watermark, packet.first_sample);
        if packet.first_sample + more > SAMPLE_INDEX_MAX {
            return false;
        }
        packet.first_sample += more;
        let rebase = Rebase {
            device_id: packet.device_id.clone(),
            boot_id: packet.boot_id,
            from_tag: tag,
            shift: boot.shift + more,
        };
        self.start_boot(packet, rebase.shift);
        self.rebases.add(rebase.clone());
        self.rebased.push(rebase);
        true
    }
}

/// True for a packet of an earlier boot of the stream's device.
///
/// Boots of one device grow. Boots of two devices have no order, and may be equal: the other device takes over with a greater
/// boot, or once the stream's own has been silent for [`TAKEOVER_US`] by the gateway's clock.
///
/// # Errors
/// [`PacketError::DeviceConflict`] while both send.
pub(super) fn is_old(boot: &Boot, packet: &Packet) -> Result<bool, PacketError> {
    if packet.device_id == boot.device_id {
        return Ok(packet.boot_id < boot.boot_id);
    }
    let silent_us = packet.gateway_time_us.saturating_sub(boot.gateway_time_us);
    if packet.boot_id <= boot.boot_id && silent_us < TAKEOVER_US {
        return Err(PacketError::DeviceConflict {
            boot_id: packet.boot_id,
        });
    }
    Ok(false)
}

/// True when a packet of an earlier boot of the stream's device is the last of enough that go on while the stream's own boot is
/// silent: then what took over was no boot.
pub(super) fn retakes(boot: &Boot, packet: &Packet, (boot_id, run): &mut (u64, Quarantine)) -> bool {
    if packet.gateway_time_us.saturating_sub(boot.gateway_time_us) < RETAKE_US {
        return false;
    }
    if *boot_id != packet.boot_id {
        *boot_id = packet.boot_id;
        run.clear();
    }
    run.confirms(packet)
}
