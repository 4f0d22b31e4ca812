//! Packets whose sample index lies where the stream cannot be: refused until the device insists.
//!
//! Place: behind `window::Windower`, before a packet may move the watermark. One bad index would else close every open
//! window and make all that follows late. Invariant: bounded; a run of refused samples is remembered by its ends alone.

use std::ops::Range;

use crate::SAMPLE_RATE_HZ;
use crate::packet::Packet;

/// Unbroken samples after which a far index is believed, seconds.
pub(super) const CONFIRM_S: f64 = 2.0;
/// Part by which the sample index may outrun the gateway's clock over a pause.
const PAUSE_SLACK: f64 = 1.1;

/// The run of far samples.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    run: Option<Range<i64>>,
}

impl Quarantine {
    /// The stream is where it should be; what was far was a slip.
    pub(super) fn clear(&mut self) {
        self.run = None;
    }

    /// True when `packet` goes on where the run ends, or overlaps it.
    pub(super) fn is_continued_by(&self, packet: &Packet) -> bool {
        let run = self.run.as_ref();
        run.is_some_and(|run| (run.start..=run.end).contains(&packet.first_sample))
    }

    /// Takes a far packet; true when it and those before are an unbroken run of [`CONFIRM_S`].
    pub(super) fn confirms(&mut self, packet: &Packet) -> bool {
        let end = packet.first_sample + packet.len() as i64;
        let continued = self.is_continued_by(packet);
        let run = match self.run.take() {
            Some(run) if continued => run.start..end.max(run.end),
            _ => packet.first_sample..end,
        };
        let confirmed = (run.end - run.start) as f64 >= CONFIRM_S * packet.rate_hz;
        self.run = (!confirmed).then_some(run);
        confirmed
    }
}

/// True when `packet` begins further past `watermark` than `advance_samples` (500 Hz) and than the time that went by at
/// the gateway since `gateway_time_us`: a pause of an hour moves the index by an hour, a slip moves it alone.
pub(super) fn is_far(packet: &Packet, watermark: i64, gateway_time_us: i64, advance_samples: i64) -> bool {
    let ahead_s = (packet.first_sample - watermark) as f64 / packet.rate_hz;
    let paused_s = (packet.gateway_time_us as f64 - gateway_time_us as f64) * 1e-6;
    ahead_s > (advance_samples as f64 / SAMPLE_RATE_HZ).max(paused_s * PAUSE_SLACK)
}
