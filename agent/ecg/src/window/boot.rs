//! One boot of one stream: which windows are final, and the contexts that its samples make.
//!
//! Place: behind `window::Windower`, over `store`; the only place where the device's grid meets the 500 Hz grid.
//! Invariant: every answer is a function of the stored samples, the watermark and the windows closed before.
//! Units: an instant is an index of the device's grid, a sample one of the 500 Hz grid.

use std::collections::VecDeque;
use std::ops::Range;

use super::clock::{self, DeviceClock};
use super::quarantine::{self, Quarantine};
use super::rebase::Restart;
use super::store::{self, Store};
use super::trial;
use super::{Context, WindowerConfig};
use crate::dsp::resample::{self, Grid, Resampler};
use crate::dsp::reversal;
use crate::lead::Lead;
use crate::packet::{Packet, PacketError};
use crate::segment::LeadOrigin;
use crate::stretch::{self, Stretches};
use crate::{CONTEXT_SAMPLES, LEADS, SAMPLE_RATE_HZ, SEGMENT_SAMPLES, limb};

const SEGMENT: i64 = SEGMENT_SAMPLES as i64;
const CONTEXT: i64 = CONTEXT_SAMPLES as i64;
/// Sequence numbers remembered: half a minute of packets of 250 ms.
const SEQUENCES: usize = 128;

/// State of one boot of the device; the sample index restarts with it.
pub(super) struct Boot {
    pub(super) boot_id: u64,
    pub(super) rate_hz: f64,
    grid: Grid,
    resampler: Resampler,
    pub(super) store: Store,
    /// One past the newest instant, of samples or heartbeats, on the device's grid.
    pub(super) watermark: i64,
    /// Windows that start before this are closed; `None` until the first is.
    pub(super) closed_until: Option<i64>,
    /// The device whose boot it is.
    pub(super) device_id: String,
    /// Gateway time of the newest packet, microseconds.
    pub(super) gateway_time_us: i64,
    /// Gateway time of the newest packet that was not wholly late, microseconds.
    live_gateway_us: i64,
    /// What is added to the device's own index.
    pub(super) shift: i64,
    /// Packets that brought something new.
    packets: usize,
    pub(super) clock: DeviceClock,
    /// Packets far ahead of the watermark.
    pub(super) ahead: Quarantine,
    /// Packets far behind the watermark, before any window closed.
    pub(super) behind: Quarantine,
    /// Packets too late for any window.
    restart: Restart,
    sequences: VecDeque<Sequence>,
}

/// Which samples a sequence number stood for.
struct Sequence {
    sequence: u64,
    first_sample: i64,
    samples: usize,
}

impl Boot {
    /// The boot that a stream's first packet of it starts; the packet's index is shifted already.
    pub(super) fn of(packet: &Packet, shift: i64) -> Self {
        Self {
            boot_id: packet.boot_id,
            rate_hz: packet.rate_hz,
            grid: Grid::new(packet.rate_hz),
            resampler: Resampler::new(packet.rate_hz),
            store: Store::default(),
            watermark: packet.first_sample,
            closed_until: None,
            device_id: packet.device_id.clone(),
            gateway_time_us: packet.gateway_time_us,
            live_gateway_us: packet.gateway_time_us,
            shift,
            packets: 0,
            clock: DeviceClock::default(),
            ahead: Quarantine::default(),
            behind: Quarantine::default(),
            restart: Restart::default(),
            sequences: VecDeque::new(),
        }
    }

    /// True for a packet of this boot of this device.
    pub(super) fn is_of(&self, packet: &Packet) -> bool {
        (packet.boot_id, &packet.device_id) == (self.boot_id, &self.device_id)
    }

    /// Refuses a sequence number that stood for other samples before; 0 is no number.
    pub(super) fn check_sequence(&mut self, packet: &Packet) -> Result<(), PacketError> {
        let (sequence, first_sample, samples) = (packet.sequence, packet.first_sample, packet.len());
        if sequence == 0 || packet.heartbeat {
            return Ok(());
        }
        if let Some(before) = self.sequences.iter().find(|before| before.sequence == sequence) {
            let same = (before.first_sample, before.samples) == (first_sample, samples);
            return if same {
                Ok(())
            } else {
                Err(PacketError::SequenceConflict {
                    sequence,
                    before: before.first_sample,
                    first_sample,
                })
            };
        }
        if self.sequences.len() == SEQUENCES {
            self.sequences.pop_front();
        }
        self.sequences.push_back(Sequence {
            sequence,
            first_sample,
            samples,
        });
        Ok(())
    }

    /// True when `packet` begins so far ahead that it must not move the watermark as it is.
    pub(super) fn is_far(&self, packet: &Packet, cfg: &WindowerConfig) -> bool {
        quarantine::is_far(packet, self.watermark, self.gateway_time_us, cfg.advance_samples)
    }

    /// True once enough packets came to believe in the boot.
    pub(super) fn is_proven(&self) -> bool {
        let extent = self.store.extent().unwrap_or_default();
        trial::is_proof(self.packets, (extent.end - extent.start) as f64 / self.rate_hz)
    }

    /// Takes note of a packet that was written.
    pub(super) fn wrote(&mut self, packet: &Packet, written: store::Written) {
        self.watermark = self.watermark.max(packet.first_sample + packet.len() as i64);
        self.gateway_time_us = self.gateway_time_us.max(packet.gateway_time_us);
        self.packets += usize::from(written.fresh > 0);
        if written.fresh + written.duplicate > 0 {
            self.restart.clear();
            self.live_gateway_us = self.live_gateway_us.max(packet.gateway_time_us);
        }
    }

    /// True when `packet` is the last of enough that say that the device restarted its index: wholly late, unbroken, and no
    /// resent past.
    pub(super) fn restarts(&mut self, packet: &Packet, cfg: &WindowerConfig) -> bool {
        self.is_late(packet, cfg)
            && packet.rate_hz == self.rate_hz
            && !self.may_have_begun_on_a_slip(packet, cfg)
            && self.restart.confirms(packet, &self.clock, self.live_gateway_us)
    }

    /// True when every sample of `packet` lies further behind the stream than lateness; what lies in a window given up does not.
    pub(super) fn is_late(&self, packet: &Packet, cfg: &WindowerConfig) -> bool {
        !packet.is_empty() && packet.first_sample + packet.len() as i64 <= self.watermark - self.lateness(cfg)
    }

    /// True for a packet far behind while nothing has closed yet, be it under another shift.
    fn may_have_begun_on_a_slip(&self, packet: &Packet, cfg: &WindowerConfig) -> bool {
        let behind = self.watermark - packet.first_sample;
        self.closed_until.is_none() && self.shift == 0 && behind as f64 > cfg.advance_samples as f64 * self.ratio()
    }

    /// True when the boot began on a slip: nothing closed yet, and an unbroken run comes from far behind.
    pub(super) fn began_on_a_slip(&mut self, packet: &Packet, cfg: &WindowerConfig) -> bool {
        if !self.may_have_begun_on_a_slip(packet, cfg) {
            self.behind.clear();
            return false;
        }
        self.behind.confirms(packet)
    }

    /// Device instants a 500 Hz sample.
    fn ratio(&self) -> f64 {
        self.rate_hz / SAMPLE_RATE_HZ
    }

    /// Last device instant that the window at `start` needs to be whole.
    pub(super) fn last_of(&self, start: i64) -> i64 {
        self.grid.source_at_or_before(start + SEGMENT - 1)
    }

    /// Device instants that 500 Hz samples `range` are made of, with the resampler's and the gap repair's reach.
    fn instants(&self, range: Range<i64>, cfg: &WindowerConfig) -> Range<i64> {
        let reach = resample::reach(self.rate_hz) as i64 + self.gap_repair(cfg) as i64 + 1;
        self.grid.source_at_or_before(range.start) - reach..self.grid.source_at_or_after(range.end) + reach
    }

    /// Longest gap that is bridged, device instants.
    fn gap_repair(&self, cfg: &WindowerConfig) -> usize {
        (cfg.gap_repair_samples as f64 * self.ratio()).floor() as usize
    }

    /// Lateness in device instants.
    fn lateness(&self, cfg: &WindowerConfig) -> i64 {
        (cfg.lateness_samples as f64 * self.ratio()).round() as i64
    }

    /// The 500 Hz sample at or before an instant.
    pub(super) fn grid_sample(&self, instant: i64) -> i64 {
        self.grid.sample_at_or_before(instant)
    }

    /// First instant that is not too late.
    pub(super) fn accepted_from(&self, cfg: &WindowerConfig) -> i64 {
        let late = self.watermark - self.lateness(cfg);
        if self.closed_until.is_some() {
            late.max(self.needed_from(cfg))
        } else {
            late
        }
    }

    /// First instant that an open window needs.
    pub(super) fn needed_from(&self, cfg: &WindowerConfig) -> i64 {
        let open = self.closed_until.or_else(|| self.next_start(cfg));
        open.map_or(i64::MIN, |start| self.instants(start - CONTEXT..start, cfg).start)
    }

    /// Start of the first open window that has a sample.
    pub(super) fn next_start(&self, cfg: &WindowerConfig) -> Option<i64> {
        let from = self
            .closed_until
            .map_or(i64::MIN, |start| self.grid.source_at_or_after(start));
        let (first, _) = self.store.spans(from..i64::MAX).next()?;
        // the 500 Hz sample at or before the instant lies in the window; with a stride over 10 s it may lie in none
        let sample = self.grid.sample_at_or_before(first);
        let newest = sample.div_euclid(cfg.stride) * cfg.stride;
        // with a stride under 10 s several windows hold the sample; the oldest open one is next
        let oldest = newest - (SEGMENT - 1) / cfg.stride * cfg.stride;
        Some(self.closed_until.map_or(oldest, |until| until.max(oldest)))
    }

    /// True when no acceptable sample can change the window's context.
    pub(super) fn is_final(&self, start: i64, cfg: &WindowerConfig) -> bool {
        let needed = self.instants(start - CONTEXT..start + SEGMENT + CONTEXT, cfg);
        let lateness = self.lateness(cfg);
        if self.watermark - lateness >= needed.end {
            return true;
        }
        if self.watermark < needed.end {
            return false;
        }
        let is_present = |lead: usize| self.store.flags(lead, needed.clone()) & store::PRESENT != 0;
        let present = (0..LEADS).fold(0, |leads, lead| leads | u16::from(is_present(lead)) << lead);
        let open = (self.watermark - lateness).max(needed.start);
        is_complete(present)
            && self
                .store
                .presence(open..needed.end)
                .iter()
                .all(|&leads| leads == present)
    }

    /// Smallest tag of the instants in `range`.
    pub(super) fn tag(&self, range: Range<i64>) -> Option<u64> {
        self.store.spans(range).map(|(_, span)| span.tag).min()
    }

    /// The context of the window at `start`, unless the window reaches out of the stream's extent.
    pub(super) fn context(&self, stream_id: &str, start: i64, cfg: &WindowerConfig) -> Option<Context> {
        let extent = self.store.extent()?;
        let window = self.grid.source_at_or_after(start)..self.last_of(start) + 1;
        if extent.start > window.start || extent.end < window.end {
            return None;
        }
        let first = self.grid.sample_at_or_after(extent.start);
        let last = self.grid.sample_at_or_before(extent.end - 1);
        let before = (start - first).clamp(0, CONTEXT);
        let after = (last + 1 - start - SEGMENT).clamp(0, CONTEXT);
        let range = start - before..start + SEGMENT + after;
        let mut samples_uv = Vec::with_capacity(LEADS);
        let (mut origin, mut lead_off, mut saturated) = ([LeadOrigin::Missing; LEADS], [false; LEADS], [false; LEADS]);
        let mut marks = Marks::default();
        let mut paced = false;
        for lead in Lead::ALL.map(Lead::index) {
            let flags = self.store.flags(lead, window.clone());
            let any = |flag: u8| flags & flag != 0;
            origin[lead] = origin_of(&any);
            lead_off[lead] = any(store::LEAD_OFF);
            saturated[lead] = any(store::SATURATED);
            paced |= any(store::PACE);
            samples_uv.push(match origin[lead] {
                LeadOrigin::Missing => vec![f32::NAN; (range.end - range.start) as usize],
                _ => self.lead_uv(lead, &range, &extent, cfg, &mut marks),
            });
        }
        if let Some(made) = limb::derive(&mut samples_uv, &mut origin) {
            let [first, second] = made.sources.map(|source| &marks.bridged[source]);
            let both = stretch::union(first, second);
            for lead in made.leads {
                marks.bridged[lead].clone_from(&both);
            }
        }
        let around = self.grid.source_at_or_after(range.start)..self.grid.source_at_or_before(range.end - 1) + 1;
        let mut packets: Vec<_> = self
            .store
            .spans(around.clone())
            .map(|(_, span)| span.clock.point())
            .collect();
        packets.dedup();
        let all_saturated = self.store.at_once(&reversal::LEADS, around.clone(), store::SATURATED);
        let spans: Vec<_> = self.store.spans(window.clone()).collect();
        let (first, span) = *spans.first()?;
        Some(Context {
            stream_id: stream_id.to_owned(),
            device_id: self.device_id.clone(),
            boot_id: self.boot_id,
            start_sample: start,
            start_time_us: span.clock.device_time_us(first, self.rate_hz)
                - ((first as f64 / self.ratio() - start as f64) * 1e6 / SAMPLE_RATE_HZ).round() as i64,
            last_gateway_time_us: spans.iter().map(|(_, span)| span.clock.gateway_time_us).max()?,
            source_rate_hz: self.rate_hz,
            rate_doubted: clock::is_another_rate(&packets, self.rate_hz),
            samples_uv,
            before: before as usize,
            after: after as usize,
            origin,
            lead_off,
            saturated,
            all_saturated: stretch::at_500_hz(&all_saturated, around.start, &self.grid, &range),
            bridged: marks.bridged,
            at_rail: marks.at_rail,
            paced,
            stat: spans.iter().any(|(_, span)| span.stat),
            filter_class: spans.iter().map(|(_, span)| span.filter_class).max()?,
        })
    }

    /// One lead on the 500 Hz grid: short gaps bridged; beyond the stream's extent its first and last value hold.
    fn lead_uv(
        &self,
        lead: usize,
        range: &Range<i64>,
        extent: &Range<i64>,
        cfg: &WindowerConfig,
        marks: &mut Marks,
    ) -> Vec<f32> {
        let source = self.instants(range.clone(), cfg);
        let inside = source.start.max(extent.start)..source.end.min(extent.end);
        let mut uv = self.store.values(lead, inside.clone());
        let on_grid = |stretches: &[Range<usize>]| stretch::at_500_hz(stretches, inside.start, &self.grid, range);
        if self.rate_hz != SAMPLE_RATE_HZ {
            marks.at_rail[lead] = on_grid(&stretch::at_rail(&uv));
        }
        marks.bridged[lead] = on_grid(&bridge_gaps(&mut uv, self.gap_repair(cfg)));
        self.resampler.at_grid(&uv, inside.start, range.clone())
    }
}

/// What the device's own samples show and the resampled ones hide.
#[derive(Default)]
struct Marks {
    bridged: [Stretches; LEADS],
    at_rail: [Stretches; LEADS],
}

/// True when all twelve leads are there or follow: the precordials and two limb leads.
fn is_complete(leads: u16) -> bool {
    let limb = leads & 0b0000_0011_1111;
    leads >> 6 == 0b11_1111 && limb.count_ones() >= 2
}

fn origin_of(any: &impl Fn(u8) -> bool) -> LeadOrigin {
    if !any(store::PRESENT) {
        LeadOrigin::Missing
    } else if any(store::RECONSTRUCTED) {
        LeadOrigin::Reconstructed
    } else if any(store::DERIVED) {
        LeadOrigin::Derived
    } else {
        LeadOrigin::Measured
    }
}

/// Draws a straight line over each inner run of at most `longest` NaNs; where it drew.
fn bridge_gaps(uv: &mut [f32], longest: usize) -> Stretches {
    let mut drawn = Stretches::new();
    // most have none, and without a way out early that is seen quickly
    if !uv.iter().fold(false, |missing, sample| missing | sample.is_nan()) {
        return drawn;
    }
    let mut at = 0;
    while at < uv.len() {
        if !uv[at].is_nan() {
            at += 1;
            continue;
        }
        let end = uv[at..]
            .iter()
            .position(|sample| !sample.is_nan())
            .map_or(uv.len(), |run| at + run);
        if at > 0 && end < uv.len() && end - at <= longest {
            let (left, right) = (uv[at - 1], uv[end]);
            let steps = (end - at + 1) as f32;
            for (step, sample) in uv[at..end].iter_mut().enumerate() {
                *sample = left + (right - left) * (step + 1) as f32 / steps;
            }
            drawn.push(at..end);
        }
        at = end;
    }
    drawn
}
