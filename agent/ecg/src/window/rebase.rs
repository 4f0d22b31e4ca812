//! A sample index that the device restarted under the same boot, and the shift with which it is read from then on.
//!
//! Place: behind `window::Windower`; the first thing that a packet meets. Invariant: a shift is a whole number of
//! [`EPOCH`]s and puts the index past all that was read before, so within a boot windows are still made in the order of their
//! starts and ids stay unique. Which packets are shifted depends on their tags alone, so a restart that is given the
//! rebases reads every packet as it was read before.

use super::clock::DeviceClock;
use super::quarantine::{CONFIRM_S, Quarantine};
use crate::packet::{Packet, PacketError, SAMPLE_INDEX_MAX};

/// Device samples in an epoch: 23 days at 500 Hz. Coarse, so that a shift does not depend on how samples are cut into packets,
/// and round, so that windows lie in every epoch as in the first.
pub const EPOCH: i64 = 1_000_000_000;
/// Rebases of one stream that are remembered.
const REBASES: usize = 16;

/// From a record on, the sample index of a boot is read with a shift.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebase {
    /// The device.
    pub device_id: String,
    /// Its boot.
    pub boot_id: u64,
    /// Tag of the first packet that is shifted.
    pub from_tag: u64,
    /// What is added to the sample index, a multiple of [`EPOCH`].
    pub shift: i64,
}

/// The rebases of one stream, oldest first.
#[derive(Debug, Default)]
pub(super) struct Rebases {
    known: Vec<Rebase>,
}

impl Rebases {
    pub(super) fn of(known: Vec<Rebase>) -> Self {
        Self { known }
    }

    pub(super) fn add(&mut self, rebase: Rebase) {
        self.known.push(rebase);
        let surplus = self.known.len().saturating_sub(REBASES);
        self.known.drain(..surplus);
    }

    /// What is added to a packet's sample index.
    pub(super) fn shift(&self, packet: &Packet, tag: u64) -> i64 {
        let mine = |rebase: &&Rebase| {
            rebase.from_tag <= tag && (rebase.boot_id, &rebase.device_id) == (packet.boot_id, &packet.device_id)
        };
        self.known.iter().rev().find(mine).map_or(0, |rebase| rebase.shift)
    }
}

/// The packet with its index shifted.
///
/// # Errors
/// [`PacketError::SampleIndex`] when that is out of range.
pub(super) fn shifted(mut packet: Packet, shift: i64) -> Result<Packet, PacketError> {
    packet.first_sample += shift;
    if shift != 0 && packet.first_sample > SAMPLE_INDEX_MAX {
        return Err(PacketError::SampleIndex {
            first_sample: packet.first_sample,
        });
    }
    Ok(packet)
}

/// The least shift that puts `first_sample` at `watermark` or past it.
pub(super) fn shift_past(watermark: i64, first_sample: i64) -> i64 {
    let behind = (watermark - first_sample).max(1);
    (behind + EPOCH - 1).div_euclid(EPOCH) * EPOCH
}

/// Packets behind the stream, each wholly late, that follow one another.
#[derive(Debug, Default)]
pub(super) struct Restart {
    run: Quarantine,
    /// Whether the first one's device time says that it was sampled at another time than its index does.
    is_elsewhere: Option<bool>,
}

impl Restart {
    /// A packet came where the stream is.
    pub(super) fn clear(&mut self) {
        self.run.clear();
    }

    /// Takes a late packet; true when it and those before are unbroken for [`CONFIRM_S`] and are no resent past.
    ///
    /// What is sent again has the time of its index, and comes in a burst beside the live packets. So a device's time that
    /// contradicts the index tells, or half as much time at the gateway without one live packet; a stream without any
    /// clock is believed.
    pub(super) fn confirms(&mut self, packet: &Packet, clock: &DeviceClock, live_gateway_us: i64) -> bool {
        if !self.run.is_continued_by(packet) {
            self.is_elsewhere = clock.is_elsewhere(packet.first_sample, packet.device_time_us, packet.rate_hz);
        }
        if !self.run.confirms(packet) {
            return false;
        }
        let alone_s = (packet.gateway_time_us as f64 - live_gateway_us as f64) * 1e-6;
        let is_timeless = packet.device_time_us == 0 && packet.gateway_time_us == 0;
        self.is_elsewhere == Some(true) || alone_s >= CONFIRM_S / 2.0 || is_timeless
    }
}
