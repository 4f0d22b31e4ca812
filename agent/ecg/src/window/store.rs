//! The samples that a windower still needs: sparse blocks of lead values and the clock of every instant.
//!
//! Place: behind `window::Windower`; packets are written here and windows are read from here.
//! Invariant: the content is a function of the set of samples written, not of how they were cut into packets, ordered or
//! repeated: each instant keeps the smallest clock and tag that any packet gave it, each lead sample is written once.
//! Indices are the device's own sample grid.

use std::collections::BTreeMap;
use std::ops::Range;

use super::clock::Point;
use crate::LEADS;
use crate::packet::{Packet, PacketError, PacketLead};
use crate::segment::{FilterClass, LeadOrigin};
use crate::stretch::{self, Stretches};

/// Instants in one block; a block is the unit of allocation and of release.
const BLOCK: i64 = 1000;

/// A sample was written, be it valid or masked invalid.
pub(super) const PRESENT: u8 = 1;
/// The device reports the lead off.
pub(super) const LEAD_OFF: u8 = 2;
/// The device marks the sample saturated.
pub(super) const SATURATED: u8 = 4;
/// The device marks a pacing pulse.
pub(super) const PACE: u8 = 8;
/// The device derived the sample from other leads.
pub(super) const DERIVED: u8 = 16;
/// The device reconstructed the sample by a lead transform.
pub(super) const RECONSTRUCTED: u8 = 32;

/// When an instant was sampled and received, as the packet that carried it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Clock {
    /// Gateway time of the packet, microseconds.
    pub gateway_time_us: i64,
    /// Device time of the packet's first sample, microseconds.
    device_time_us: i64,
    /// The packet's first sample.
    first_sample: i64,
}

impl Clock {
    /// Device time of instant `at`, microseconds.
    pub(super) fn device_time_us(&self, at: i64, rate_hz: f64) -> i64 {
        self.device_time_us
            .saturating_add(((at - self.first_sample) as f64 * 1e6 / rate_hz).round() as i64)
    }

    /// The packet's first sample and its device time.
    pub(super) fn point(&self) -> Point {
        Point {
            sample: self.first_sample,
            time_us: self.device_time_us,
        }
    }
}

/// Instants that share clock, tag and urgency.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// One past the last instant; the first is the key in the map.
    pub end: i64,
    pub clock: Clock,
    /// Smallest tag of the packets that wrote these instants.
    pub tag: u64,
    pub stat: bool,
    pub filter_class: FilterClass,
}

/// What became of a packet's instants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Instants at which at least one lead is new.
    pub fresh: usize,
    /// Instants that were all there already, equal.
    pub duplicate: usize,
}

struct LeadBlock {
    uv: Vec<f32>,
    flags: Vec<u8>,
}

type Block = [Option<LeadBlock>; LEADS];

impl LeadBlock {
    /// Holds new values and flags against those at `inner`, and marks in `fresh` which of them are not there yet; the first that is
    /// there and differs.
    fn conflict(&self, inner: Range<usize>, (uv, flags): (&[f32], &[u8]), fresh: &mut [bool]) -> Option<usize> {
        let (old_uv, old_flags) = (&self.uv[inner.clone()], &self.flags[inner]);
        if any_of(old_flags) & PRESENT == 0 {
            fresh.fill(true);
            return None;
        }
        (0..fresh.len()).find(|&at| {
            let is_there = old_flags[at] & PRESENT != 0;
            fresh[at] |= !is_there;
            is_there && (old_flags[at] != flags[at] || old_uv[at].to_bits() != uv[at].to_bits())
        })
    }
}

/// Flags that any sample has; without a way out early, so it is done 16 at a time.
fn any_of(flags: &[u8]) -> u8 {
    flags.iter().fold(0, |all, flags| all | flags)
}

/// What a block and a range have in common.
struct Piece {
    /// The block's number.
    number: i64,
    /// Places in the block.
    inner: Range<usize>,
    /// Places in the range.
    outer: Range<usize>,
}

impl Piece {
    /// `None` where they have nothing in common.
    fn of(number: i64, range: &Range<i64>) -> Option<Self> {
        let first = number * BLOCK;
        let (from, to) = (first.max(range.start), (first + BLOCK).min(range.end));
        let within = |of: i64| (from - of) as usize..(to - of) as usize;
        (from < to).then(|| Self {
            number,
            inner: within(first),
            outer: within(range.start),
        })
    }
}

/// A range by blocks.
fn pieces(range: Range<i64>) -> impl Iterator<Item = Piece> {
    let numbers = range.start.div_euclid(BLOCK)..range.end.div_euclid(BLOCK) + 1;
    numbers.filter_map(move |number| Piece::of(number, &range))
}

/// Sparse samples of one boot of one stream.
#[derive(Default)]
pub(super) struct Store {
    blocks: BTreeMap<i64, Block>,
    spans: BTreeMap<i64, Span>,
    /// From the first instant ever written to one past the last.
    extent: Option<Range<i64>>,
}

impl Store {
    /// First instant and one past the last instant ever written, released or not.
    pub(super) fn extent(&self) -> Option<Range<i64>> {
        self.extent.clone()
    }

    /// Writes the packet's instants from `from` on.
    ///
    /// # Errors
    /// [`PacketError::Conflict`] when a sample is there already with another value; then nothing is written.
    pub(super) fn write(&mut self, packet: &Packet, from: i64, tag: u64) -> Result<Written, PacketError> {
        let end = packet.first_sample + packet.len() as i64;
        let from = from.max(packet.first_sample);
        if from >= end {
            return Ok(Written::default());
        }
        let skip = (from - packet.first_sample) as usize;
        let leads: Vec<_> = packet
            .leads
            .iter()
            .map(|lead| (lead.lead.index(), microvolts(lead)))
            .collect();
        let mut fresh = vec![false; (end - from) as usize];
        for (lead, (uv, flags)) in &leads {
            for Piece { number, inner, outer } in pieces(from..end) {
                let old = self.blocks.get(&number).and_then(|block| block[*lead].as_ref());
                let fresh = &mut fresh[outer.clone()];
                let new = (&uv[skip..][outer.clone()], &flags[skip..][outer.clone()]);
                if let Some(at) = old.and_then(|old| old.conflict(inner, new, fresh)) {
                    return Err(PacketError::Conflict {
                        sample: from + (outer.start + at) as i64,
                    });
                }
                if old.is_none() {
                    fresh.fill(true);
                }
            }
        }
        for (lead, (uv, flags)) in &leads {
            self.write_lead(*lead, from, &uv[skip..], &flags[skip..]);
        }
        let clock = Clock {
            gateway_time_us: packet.gateway_time_us,
            device_time_us: packet.device_time_us,
            first_sample: packet.first_sample,
        };
        self.write_span(
            from,
            Span {
                end,
                clock,
                tag,
                stat: packet.stat,
                filter_class: packet.filter_class,
            },
        );
        let old = self.extent.clone().unwrap_or(from..end);
        self.extent = Some(old.start.min(from)..old.end.max(end));
        let count = fresh.iter().filter(|&&fresh| fresh).count();
        Ok(Written {
            fresh: count,
            duplicate: fresh.len() - count,
        })
    }

    /// The blocks that hold a lead's samples of a range.
    fn held(&self, lead: usize, range: Range<i64>) -> impl Iterator<Item = (&LeadBlock, Piece)> {
        let numbers = range.start.div_euclid(BLOCK)..range.end.max(range.start).div_euclid(BLOCK) + 1;
        self.blocks.range(numbers).filter_map(move |(&number, block)| {
            let piece = Piece::of(number, &range)?;
            Some((block[lead].as_ref()?, piece))
        })
    }

    /// Values of one lead, NaN where absent.
    pub(super) fn values(&self, lead: usize, range: Range<i64>) -> Vec<f32> {
        let mut uv = vec![f32::NAN; (range.end - range.start).max(0) as usize];
        for (block, Piece { inner, outer, .. }) in self.held(lead, range) {
            uv[outer].copy_from_slice(&block.uv[inner]);
        }
        uv
    }

    /// Flags that any sample of one lead has.
    pub(super) fn flags(&self, lead: usize, range: Range<i64>) -> u8 {
        let of_block = |(block, piece): (&LeadBlock, Piece)| any_of(&block.flags[piece.inner]);
        self.held(lead, range).map(of_block).fold(0, |all, flags| all | flags)
    }

    /// Where all of `leads` that are there and on have this flag at once, as places in the range.
    pub(super) fn at_once(&self, leads: &[usize], range: Range<i64>, flag: u8) -> Stretches {
        let flags = leads.iter().map(|&lead| (lead, self.flags(lead, range.clone())));
        let on: Vec<_> = flags
            .filter(|(_, flags)| flags & (PRESENT | LEAD_OFF) == PRESENT)
            .collect();
        if on.iter().any(|(_, flags)| flags & flag == 0) {
            return Stretches::new();
        }
        let of_lead = |lead: usize| {
            let mut flagged = vec![false; (range.end - range.start).max(0) as usize];
            for (block, Piece { inner, outer, .. }) in self.held(lead, range.clone()) {
                let flags = block.flags[inner].iter();
                flagged[outer]
                    .iter_mut()
                    .zip(flags)
                    .for_each(|(v, f)| *v = f & flag != 0);
            }
            stretch::of(&flagged)
        };
        on.into_iter()
            .map(|(lead, _)| of_lead(lead))
            .reduce(|a, b| stretch::both(&a, &b))
            .unwrap_or_default()
    }

    /// Which leads (bit `index`) are present at each instant.
    pub(super) fn presence(&self, range: Range<i64>) -> Vec<u16> {
        let mut leads = vec![0u16; (range.end - range.start).max(0) as usize];
        for lead in 0..LEADS {
            for (block, Piece { inner, outer, .. }) in self.held(lead, range.clone()) {
                for (bits, flags) in leads[outer].iter_mut().zip(&block.flags[inner]) {
                    *bits |= u16::from(flags & PRESENT) << lead;
                }
            }
        }
        leads
    }

    /// Spans that touch `range`, cut to it: (first instant, span).
    pub(super) fn spans(&self, range: Range<i64>) -> impl Iterator<Item = (i64, Span)> + '_ {
        let before = self
            .spans
            .range(..range.start)
            .next_back()
            .filter(move |(_, span)| span.end > range.start);
        before
            .into_iter()
            .chain(self.spans.range(range.start..range.end.max(range.start)))
            .map(move |(&first, &span)| {
                (
                    first.max(range.start),
                    Span {
                        end: span.end.min(range.end),
                        ..span
                    },
                )
            })
    }

    /// Bytes that the samples take.
    pub(super) fn bytes(&self) -> usize {
        let leads = self.blocks.values().flatten().flatten().count();
        leads * BLOCK as usize * (size_of::<f32>() + size_of::<u8>())
            + self.blocks.len() * size_of::<Block>()
            + self.spans.len() * size_of::<(i64, Span)>()
    }

    /// Releases everything before `low`, a block at a time.
    pub(super) fn release(&mut self, low: i64) {
        while let Some(entry) = self
            .blocks
            .first_entry()
            .filter(|entry| (*entry.key() + 1) * BLOCK <= low)
        {
            entry.remove();
        }
        while let Some(entry) = self.spans.first_entry().filter(|entry| entry.get().end <= low) {
            entry.remove();
        }
    }

    fn write_lead(&mut self, lead: usize, from: i64, uv: &[f32], flags: &[u8]) {
        for Piece { number, inner, outer } in pieces(from..from + uv.len() as i64) {
            let block = self.blocks.entry(number);
            let block = block.or_insert_with(|| std::array::from_fn(|_| None));
            let block = block[lead].get_or_insert_with(|| LeadBlock {
                uv: vec![f32::NAN; BLOCK as usize],
                flags: vec![0; BLOCK as usize],
            });
            block.uv[inner.clone()].copy_from_slice(&uv[outer.clone()]);
            block.flags[inner].copy_from_slice(&flags[outer]);
        }
    }

    /// Lays a span over the others: instants already there keep the smaller clock and tag.
    fn write_span(&mut self, first: i64, new: Span) {
        self.split_span(first);
        self.split_span(new.end);
        let mut at = first;
        let covered: Vec<i64> = self.spans.range(first..new.end).map(|(&start, _)| start).collect();
        for start in covered {
            if at < start {
                self.spans.insert(at, Span { end: start, ..new });
            }
            let span = self
                .spans
                .get_mut(&start)
                .expect("the key was read from the map just now");
            span.clock = span.clock.min(new.clock);
            span.tag = span.tag.min(new.tag);
            span.stat |= new.stat;
            span.filter_class = span.filter_class.max(new.filter_class);
            at = span.end;
        }
        if at < new.end {
            self.spans.insert(at, new);
        }
    }

    /// Cuts the span that covers `at - 1` and `at` in two.
    fn split_span(&mut self, at: i64) {
        if let Some((_, span)) = self.spans.range_mut(..at).next_back()
            && span.end > at
        {
            let tail = *span;
            span.end = at;
            self.spans.insert(at, tail);
        }
    }
}

/// A packet lead's samples in microvolts (NaN where masked invalid) and their flags.
fn microvolts(lead: &PacketLead) -> (Vec<f32>, Vec<u8>) {
    let mut uv: Vec<f32> = lead
        .samples
        .iter()
        .map(|&s| f32::from(s) * lead.uv_per_unit + lead.offset_uv)
        .collect();
    let origin = match lead.origin {
        LeadOrigin::Derived => DERIVED,
        LeadOrigin::Reconstructed => RECONSTRUCTED,
        LeadOrigin::Measured | LeadOrigin::Missing => 0,
    };
    let base = PRESENT | origin | if lead.lead_off { LEAD_OFF } else { 0 };
    let mut flags = vec![base; uv.len()];
    for range in &lead.invalid {
        uv[range.start as usize..range.end as usize].fill(f32::NAN);
    }
    for (ranges, flag) in [(&lead.saturated, SATURATED), (&lead.pace, PACE)] {
        for range in ranges {
            flags[range.start as usize..range.end as usize]
                .iter_mut()
                .for_each(|flags| *flags |= flag);
        }
    }
    (uv, flags)
}
