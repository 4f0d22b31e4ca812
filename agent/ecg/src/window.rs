//! Windows: an absolute ten-second grid over one stream's sample index, each window with its context.
//!
//! Place: packets come in from `agent::windows`, [`Context`]s go out to `dsp::analyse`.
//! Invariant: the same samples in any packetization, order (within lateness) and repetition give the same contexts,
//! bit for bit.

mod boot;
mod clock;
mod quarantine;
mod rebase;
mod store;
mod takeover;
mod trial;
#[cfg(test)]
mod wild;

use std::collections::VecDeque;

use crate::packet::{Packet, PacketError};
use crate::segment::{FilterClass, LeadOrigin};
use crate::stretch::Stretches;
use crate::{LEADS, SAMPLE_RATE_HZ, SEGMENT_SAMPLES};
use boot::Boot;
pub use clock::ClockJump;
use clock::{DeviceClock, Observed};
use quarantine::Quarantine;
pub use rebase::{EPOCH, Rebase};
use rebase::{Rebases, shifted};
use takeover::{is_old, retakes};
pub use trial::Settled;
use trial::Trial;

const SEGMENT: i64 = SEGMENT_SAMPLES as i64;
/// Greatest lateness, samples of the 500 Hz grid. With it, and packets of a second or less, a restart from the commit
/// floor never sees the whole of an earlier window, so it makes none again.
pub const LATENESS_SAMPLES_MAX: i64 = 1500;

/// One window and the samples around it: everything that `dsp::analyse` may look at.
///
/// The window itself is `samples_uv[lead][before..before + 5000]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    /// The stream, a pseudonym.
    pub stream_id: String,
    /// The device that sampled; boots of two devices may have one number, so ids need it.
    pub device_id: String,
    /// The device's boot; a new boot restarts the sample index, so ids need it.
    pub boot_id: u64,
    /// First sample of the window (not of its context) on the stream's 500 Hz grid: of the device's own index, shifted where
    /// that was restarted ([`Rebase`]).
    pub start_sample: i64,
    /// Device time of `start_sample`, microseconds since the Unix epoch.
    pub start_time_us: i64,
    /// Gateway time of the latest packet that contributed, microseconds since the Unix epoch.
    pub last_gateway_time_us: i64,
    /// Rate at which the device sampled by its packets' label, hertz.
    pub source_rate_hz: f64,
    /// True when the device's own clock tells another rate over the context; never without a clock, where it jumped, or
    /// where the first and the last packet begin less than 12 s apart.
    pub rate_doubted: bool,
    /// 12 x (before + 5000 + after) samples at 500 Hz, microvolts, standard lead order; NaN where missing.
    pub samples_uv: Vec<Vec<f32>>,
    /// Samples of context before the window, 0..=2500.
    pub before: usize,
    /// Samples of context after the window, 0..=2500.
    pub after: usize,
    /// Where each lead comes from.
    pub origin: [LeadOrigin; LEADS],
    /// Leads that the device reports off somewhere in the window.
    pub lead_off: [bool; LEADS],
    /// Leads that the device marks saturated somewhere in the window.
    pub saturated: [bool; LEADS],
    /// Stretches in which the device marks all independent leads saturated at once, before the window too: a shock.
    pub all_saturated: Stretches,
    /// Stretches of each lead's samples that were drawn in over gaps before they came here.
    pub bridged: [Stretches; LEADS],
    /// Stretches in which the device's own samples stay at the lead's largest or smallest value; resampling hides them.
    pub at_rail: [Stretches; LEADS],
    /// True when pacing pulses are marked in the window.
    pub paced: bool,
    /// True when the monitor asked for an urgent reading.
    pub stat: bool,
    /// The device's own filter; the narrowest that a packet of the window names.
    pub filter_class: FilterClass,
}

impl Context {
    /// Ten seconds of twelve measured leads at the start of a stream: 12 x 5000 microvolts, nothing marked, no context.
    pub fn of(stream_id: &str, samples_uv: Vec<Vec<f32>>) -> Self {
        Self {
            stream_id: stream_id.to_owned(),
            device_id: String::new(),
            boot_id: 0,
            start_sample: 0,
            start_time_us: 0,
            last_gateway_time_us: 0,
            source_rate_hz: SAMPLE_RATE_HZ,
            rate_doubted: false,
            samples_uv,
            before: 0,
            after: 0,
            origin: [LeadOrigin::Measured; LEADS],
            lead_off: [false; LEADS],
            saturated: [false; LEADS],
            all_saturated: Stretches::new(),
            bridged: Default::default(),
            at_rail: Default::default(),
            paced: false,
            stat: false,
            filter_class: FilterClass::Unspecified,
        }
    }
}

/// How a [`Windower`] cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowerConfig {
    /// How far behind the newest sample of its stream a sample may come, samples of the 500 Hz grid,
    /// 0..=[`LATENESS_SAMPLES_MAX`]; larger values are cut to it.
    pub lateness_samples: i64,
    /// Longest gap that is bridged by a straight line, samples of the 500 Hz grid.
    pub gap_repair_samples: usize,
    /// Distance of two windows' starts, samples of the 500 Hz grid, at least 1.
    pub stride: i64,
    /// How far ahead of the newest sample a packet may begin, samples of the 500 Hz grid, unless the gateway's clock
    /// agrees that so much time went by; what is further is refused until it goes on for two seconds.
    pub advance_samples: i64,
}

impl Default for WindowerConfig {
    /// 2 s of lateness, gaps up to 20 ms bridged, windows end to end, a minute ahead.
    fn default() -> Self {
        Self {
            lateness_samples: 1000,
            gap_repair_samples: 10,
            stride: SEGMENT,
            advance_samples: 30_000,
        }
    }
}

/// What became of a packet's instants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushOutcome {
    /// New instants.
    pub fresh: usize,
    /// Instants that were all there already, with the same samples.
    pub duplicate: usize,
    /// Instants that came too late, or from an earlier boot; dropped.
    pub late: usize,
    /// The device's clock jumped between the packet before and this one.
    pub jump: Option<ClockJump>,
    /// The packet began a new boot of a stream that had one.
    pub takeover: bool,
    /// The packet is of a boot on trial: nothing became of it yet, see [`Windower::take_settled`].
    pub held: bool,
    /// With this packet the stream goes on under a shift, because the device restarted its index.
    pub rebased: bool,
}

/// Windows of which no context was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Windows that reach out of the stream's first or last sample.
    pub partial: u64,
    /// Windows between two others in which no sample came.
    pub missing: u64,
}

/// Cuts one stream into windows.
///
/// A window is final when nothing acceptable can change it any more: the newest sample (or heartbeat) is `lateness`
/// past its after-context, or its after-context is there and nothing is missing within `lateness` of the newest sample.
/// Final windows become [`Context`]s in order. A window becomes a context when samples reach both of its ends; gaps
/// inside are NaN. Memory is bounded by one window with its context, lateness and one packet, as long as the caller
/// drains [`Windower::ready`] after every push.
pub struct Windower {
    stream_id: String,
    cfg: WindowerConfig,
    boot: Option<Boot>,
    closed: VecDeque<Context>,
    /// Smallest tag that a context in `closed` needs.
    closed_tag: Option<u64>,
    skipped: Skipped,
    /// A boot that may take over.
    trial: Trial,
    /// An earlier boot of the stream's device that goes on while the stream's own is silent.
    earlier: (u64, Quarantine),
    settled: Vec<Settled>,
    rebases: Rebases,
    /// Those that the caller was not told of.
    rebased: Vec<Rebase>,
}

impl Windower {
    /// A windower for one stream, nothing seen yet.
    pub fn new(stream_id: impl Into<String>, cfg: WindowerConfig) -> Self {
        Self::rebased(stream_id, cfg, Vec::new())
    }

    /// A windower that is told how the stream's index was rebased before, as [`Windower::take_rebased`] told it, oldest first.
    pub fn rebased(stream_id: impl Into<String>, cfg: WindowerConfig, rebases: Vec<Rebase>) -> Self {
        let lateness_samples = cfg.lateness_samples.clamp(0, LATENESS_SAMPLES_MAX);
        let cfg = WindowerConfig {
            lateness_samples,
            stride: cfg.stride.max(1),
            ..cfg
        };
        let stream_id = stream_id.into();
        Self {
            stream_id,
            cfg,
            boot: None,
            closed: VecDeque::new(),
            closed_tag: None,
            skipped: Skipped::default(),
            trial: Trial::default(),
            earlier: (0, Quarantine::default()),
            settled: Vec::new(),
            rebases: Rebases::of(rebases),
            rebased: Vec::new(),
        }
    }

    /// Takes a packet; `tag` (a record's offset) comes back in [`Windower::floor`]. Drain [`Windower::ready`] after it.
    ///
    /// A packet of another boot is held until that boot has proved itself; [`Windower::take_settled`] tells its fate.
    ///
    /// # Errors
    /// [`PacketError`] when rate label, sample index, sequence number, device or samples contradict what came before. The
    /// packet's samples are then dropped; a rate label that turns out wrong also gives up the unfinished windows.
    pub fn push(&mut self, packet: Packet, tag: u64) -> Result<PushOutcome, PacketError> {
        let shift = self.rebases.shift(&packet, tag);
        let packet = shifted(packet, shift)?;
        match &self.boot {
            Some(boot) if boot.is_of(&packet) && boot.shift == shift => {}
            // a restart reads what was rebased before
            Some(boot) if boot.is_of(&packet) => self.start_boot(&packet, shift),
            None => self.start_boot(&packet, shift),
            Some(boot) if !is_old(boot, &packet)? || !boot.is_proven() => return self.try_boot(packet, tag, shift),
            Some(boot) if retakes(boot, &packet, &mut self.earlier) => {
                self.start_boot(&packet, shift);
                let outcome = self.take(packet, tag)?;
                return Ok(PushOutcome {
                    takeover: true,
                    ..outcome
                });
            }
            Some(_) => {
                return Ok(PushOutcome {
                    late: packet.len(),
                    ..PushOutcome::default()
                });
            }
        }
        self.take(packet, tag)
    }

    /// Takes a packet of the current boot.
    fn take(&mut self, mut packet: Packet, tag: u64) -> Result<PushOutcome, PacketError> {
        let rebased = self.rebase(&mut packet, tag);
        let Some(boot) = &mut self.boot else {
            return Ok(PushOutcome::default());
        };
        boot.check_sequence(&packet)?;
        let jump = self.check_time(&packet)?;
        let Some(boot) = &mut self.boot else {
            return Ok(PushOutcome::default());
        };
        let from = boot.accepted_from(&self.cfg);
        let late = (from - packet.first_sample).clamp(0, packet.len() as i64) as usize;
        let written = boot.store.write(&packet, from, tag)?;
        boot.wrote(&packet, written);
        if written.fresh > 0 {
            self.earlier.1.clear();
        }
        if self.trial.is_refuted(boot.watermark, boot.rate_hz) {
            self.settled.extend(self.trial.refuse(boot.boot_id));
        }
        self.close_final();
        Ok(PushOutcome {
            fresh: written.fresh,
            duplicate: written.duplicate,
            late,
            jump,
            rebased,
            ..PushOutcome::default()
        })
    }

    /// Holds rate label, device clock and sample index of the current boot against each other.
    fn check_time(&mut self, packet: &Packet) -> Result<Option<ClockJump>, PacketError> {
        let Some(boot) = &mut self.boot else { return Ok(None) };
        if packet.rate_hz != boot.rate_hz {
            return Err(PacketError::RateMismatch {
                rate_hz: packet.rate_hz,
                expected_hz: boot.rate_hz,
            });
        }
        let far = boot.is_far(packet, &self.cfg);
        if far && !boot.ahead.confirms(packet) {
            return Err(PacketError::ClockForward {
                first_sample: packet.first_sample,
                watermark: boot.watermark,
            });
        }
        boot.ahead.clear();
        if far {
            boot.clock = DeviceClock::default();
        }
        // what is too late says nothing of the clock: it may be of another run of the index
        let observed = if boot.is_late(packet, &self.cfg) {
            Observed::Steady
        } else {
            let clock = &mut boot.clock;
            clock.observe(packet.first_sample, packet.device_time_us, packet.rate_hz)
        };
        let jump = match observed {
            Observed::Steady => None,
            Observed::Jump(jump) => Some(jump),
            Observed::Rate(measured_hz) => {
                self.give_up();
                return Err(PacketError::RateLabel {
                    measured_hz,
                    rate_hz: packet.rate_hz,
                });
            }
        };
        if boot.began_on_a_slip(packet, &self.cfg) {
            // a window of the slip would lie after those of the stream, and they would pass for made before
            let shift = boot.shift;
            self.give_up();
            self.start_boot(packet, shift);
            return Ok(Some(ClockJump::Back));
        }
        Ok(if far { Some(ClockJump::Forward) } else { jump })
    }

    /// The stream.
    pub fn stream_id(&self) -> &str {
        &self.stream_id
    }

    /// Parts per million by which the device's clock runs ahead of its sample index; `None` before half a minute.
    pub fn drift_ppm(&self) -> Option<f64> {
        let boot = self.boot.as_ref()?;
        boot.clock.drift_ppm(boot.rate_hz)
    }

    /// Bytes of samples that are held.
    pub fn bytes(&self) -> usize {
        let context = |context: &Context| {
            context
                .samples_uv
                .iter()
                .map(|lead| lead.len() * size_of::<f32>())
                .sum::<usize>()
        };
        let open = self.boot.as_ref().map_or(0, |boot| boot.store.bytes());
        open + self.trial.bytes() + self.closed.iter().map(context).sum::<usize>()
    }

    /// The next closed window, in order.
    pub fn ready(&mut self) -> Option<Context> {
        let context = self.closed.pop_front();
        if self.closed.is_empty() {
            self.closed_tag = None;
        }
        context
    }

    /// Closes every window whose last sample is there, with as much after-context as there is; for a stream gone idle.
    ///
    /// Samples of an unfinished window stay.
    pub fn flush(&mut self) {
        let Some(end) = self.boot.as_ref().and_then(|boot| Some(boot.store.extent()?.end)) else {
            return;
        };
        while let Some(boot) = &self.boot
            && let Some(start) = boot.next_start(&self.cfg)
            && boot.last_of(start) < end
        {
            self.close(start);
        }
    }

    /// Flushes, gives up the unfinished windows, and forgets the samples: the end of the stream.
    pub fn finish(&mut self) -> Vec<Context> {
        let own_boot_id = self.boot.as_ref().map_or(0, |boot| boot.boot_id);
        self.settled.extend(self.trial.refuse(own_boot_id));
        self.end_boot();
        self.closed_tag = None;
        self.closed.drain(..).collect()
    }

    /// Smallest tag that an unfinished window, or a closed one not yet taken, still needs; `None` when none does.
    pub fn floor(&self) -> Option<u64> {
        let kept = self
            .boot
            .as_ref()
            .and_then(|boot| boot.tag(boot.needed_from(&self.cfg)..i64::MAX));
        let needed = [kept, self.closed_tag].into_iter().flatten();
        needed.chain(self.trial.tags()).min()
    }

    /// Tags of the packets that are held.
    pub fn held(&self) -> Vec<u64> {
        self.trial.tags().collect()
    }

    /// What became of packets that were held, since the last call.
    pub fn take_settled(&mut self) -> Vec<Settled> {
        std::mem::take(&mut self.settled)
    }

    /// Rebases since the last call; a windower that goes on with the stream must be given them.
    pub fn take_rebased(&mut self) -> Vec<Rebase> {
        std::mem::take(&mut self.rebased)
    }

    /// Windows skipped since the last call.
    pub fn take_skipped(&mut self) -> Skipped {
        std::mem::take(&mut self.skipped)
    }

    /// Drops the samples of the unfinished windows, which cannot be trusted, and makes none of them.
    fn give_up(&mut self) {
        let Some(boot) = &mut self.boot else { return };
        let Some(start) = boot.next_start(&self.cfg) else {
            return;
        };
        let newest = boot.grid_sample(boot.watermark);
        let until = (newest.div_euclid(self.cfg.stride) + 1) * self.cfg.stride;
        self.skipped.partial += ((until - start) / self.cfg.stride).max(0) as u64;
        boot.closed_until = boot.closed_until.max(Some(until));
        boot.store = store::Store::default();
    }

    fn start_boot(&mut self, packet: &Packet, shift: i64) {
        self.end_boot();
        self.boot = Some(Boot::of(packet, shift));
    }

    fn end_boot(&mut self) {
        self.flush();
        while let Some(start) = self.boot.as_ref().and_then(|boot| boot.next_start(&self.cfg)) {
            self.close(start);
        }
        self.boot = None;
    }

    fn close_final(&mut self) {
        while let Some(boot) = &self.boot
            && let Some(start) = boot.next_start(&self.cfg)
            && boot.is_final(start, &self.cfg)
        {
            self.close(start);
        }
    }

    /// Closes the window at `start`, and with it all windows before.
    fn close(&mut self, start: i64) {
        let Some(boot) = &mut self.boot else { return };
        match boot.context(&self.stream_id, start, &self.cfg) {
            Some(context) => {
                let tag = boot.tag(boot.needed_from(&self.cfg)..i64::MAX);
                self.closed_tag = [self.closed_tag, tag].into_iter().flatten().min();
                self.closed.push_back(context);
            }
            None => self.skipped.partial += 1,
        }
        if let Some(until) = boot.closed_until {
            self.skipped.missing += ((start - until) / self.cfg.stride) as u64;
        }
        boot.closed_until = Some(start + self.cfg.stride);
        boot.store.release(boot.needed_from(&self.cfg));
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use proptest::prelude::*;

    use super::*;
    use crate::dsp::{self, DspConfig};
    use crate::lead::Lead;
    use crate::packet::PacketLead;
    use crate::segment::Reason;

    const EIGHT: [Lead; 8] = [
        Lead::I,
        Lead::II,
        Lead::V1,
        Lead::V2,
        Lead::V3,
        Lead::V4,
        Lead::V5,
        Lead::V6,
    ];

    /// A packet of `range` of an endless recording; every sample is a function of its index.
    fn packet(rate_hz: f64, leads: &[Lead], range: Range<i64>) -> Packet {
        let lead = |&lead: &Lead| PacketLead {
            lead,
            samples: range.clone().map(|at| sample(lead, at)).collect(),
            uv_per_unit: 2.5,
            offset_uv: 10.0,
            invalid: range
                .clone()
                .filter(|at| at.rem_euclid(6007) == 0)
                .map(|at| mask_of(at, &range))
                .collect(),
            pace: vec![],
            saturated: range
                .clone()
                .filter(|at| at.rem_euclid(9001) == 0)
                .map(|at| mask_of(at, &range))
                .collect(),
            lead_off: false,
            origin: LeadOrigin::Measured,
        };
        Packet {
            stream_id: "bed-01".into(),
            device_id: "monitor-01".into(),
            boot_id: 1,
            sequence: range.start as u64,
            first_sample: range.start,
            device_time_us: time_us(range.start, rate_hz),
            gateway_time_us: time_us(range.start.div_euclid(125) * 125, rate_hz) + 40_000,
            rate_hz,
            leads: leads.iter().map(lead).collect(),
            stat: false,
            filter_class: crate::segment::FilterClass::Unspecified,
            heartbeat: false,
        }
    }

    fn mask_of(at: i64, range: &Range<i64>) -> Range<u32> {
        let at = (at - range.start) as u32;
        at..at + 1
    }

    fn sample(lead: Lead, at: i64) -> i16 {
        ((at * 37 + lead.index() as i64 * 1009).rem_euclid(2000) - 1000) as i16
    }

    fn time_us(at: i64, rate_hz: f64) -> i64 {
        1_700_000_000_000_000 + (at as f64 * 1e6 / rate_hz).round() as i64
    }

    fn heartbeat(at: i64) -> Packet {
        Packet {
            heartbeat: true,
            leads: vec![],
            ..packet(500.0, &EIGHT, at..at)
        }
    }

    /// The packet as one of another boot.
    fn booted(boot_id: u64, packet: Packet) -> Packet {
        Packet { boot_id, ..packet }
    }

    fn drain(windower: &mut Windower) -> Vec<Context> {
        std::iter::from_fn(|| windower.ready()).collect()
    }

    /// All contexts of packets pushed in order, then finished.
    fn run(packets: impl IntoIterator<Item = Packet>) -> Vec<Context> {
        let mut windower = Windower::new("bed-01", WindowerConfig::default());
        let mut contexts = Vec::new();
        for (tag, packet) in packets.into_iter().enumerate() {
            windower.push(packet, tag as u64).unwrap();
            contexts.extend(drain(&mut windower));
        }
        contexts.extend(windower.finish());
        contexts
    }

    fn in_order(rate_hz: f64, leads: &[Lead], range: Range<i64>, step: i64) -> Vec<Packet> {
        let starts = (0..)
            .map(|k| range.start + k * step)
            .take_while(|&start| start < range.end);
        starts
            .map(|start| packet(rate_hz, leads, start..(start + step).min(range.end)))
            .collect()
    }

    /// Bitwise equality, NaNs included, of all but the gateway time: that is a packet's, and the packets differ.
    fn assert_same(left: &[Context], right: &[Context]) {
        assert_eq!(left.len(), right.len());
        for (left, right) in left.iter().zip(right) {
            let bits = |context: &Context| -> Vec<Vec<u32>> {
                context
                    .samples_uv
                    .iter()
                    .map(|lead| lead.iter().map(|uv| uv.to_bits()).collect())
                    .collect()
            };
            assert!(
                bits(left) == bits(right),
                "samples of the window at {} differ",
                left.start_sample
            );
            let plain = |context: &Context| Context {
                samples_uv: vec![],
                last_gateway_time_us: 0,
                ..context.clone()
            };
            assert_eq!(plain(left), plain(right));
        }
    }

    #[test]
    fn a_stream_is_cut_on_the_absolute_grid_with_its_context() {
        let contexts = run(in_order(500.0, &EIGHT, 100..16_000, 125));
        let shape: Vec<_> = contexts.iter().map(|c| (c.start_sample, c.before, c.after)).collect();
        assert_eq!(shape, [(5000, 2500, 2500), (10_000, 2500, 1000)]);
        let context = &contexts[0];
        assert_eq!(context.start_time_us, time_us(5000, 500.0));
        assert_eq!(context.last_gateway_time_us, time_us(9875, 500.0) + 40_000);
        for lead in EIGHT {
            assert_eq!(context.origin[lead.index()], LeadOrigin::Measured);
            assert_eq!(context.samples_uv[lead.index()].len(), 10_000);
            assert_eq!(
                context.samples_uv[lead.index()][2500],
                f32::from(sample(lead, 5000)) * 2.5 + 10.0
            );
        }
        assert_eq!(context.origin[Lead::III.index()], LeadOrigin::Derived);
        let iii = context.samples_uv[Lead::II.index()][2600] - context.samples_uv[Lead::I.index()][2600];
        assert_eq!(context.samples_uv[Lead::III.index()][2600], iii);
        assert!(context.saturated[0]);
        assert!(!contexts[1].saturated[0]);
    }

    /// Twenty seconds of eight leads in packets of half a second, changed by `fault`, which is told each packet's first sample.
    fn faulty(rate_hz: f64, fault: impl Fn(i64, &mut PacketLead)) -> Vec<Context> {
        let (end, step) = ((20.0 * rate_hz) as i64, (rate_hz / 2.0) as i64);
        let mut packets = in_order(rate_hz, &EIGHT, 0..end, step);
        for packet in &mut packets {
            for lead in &mut packet.leads {
                (lead.invalid, lead.saturated) = (vec![], vec![]);
                fault(packet.first_sample, lead);
            }
        }
        run(packets)
    }

    #[test]
    fn bridged_gaps_are_marked_at_every_rate_and_counted_as_those_of_a_file_are() {
        for rate_hz in [250.0, 500.0, 1000.0] {
            let masked = (0.016 * rate_hz) as u32;
            let contexts = faulty(rate_hz, |first, lead| {
                // 16 ms in I at 4 s, 8 ms in II right behind it
                match lead.lead {
                    Lead::I if first == (4.0 * rate_hz) as i64 => lead.invalid.push(10..10 + masked),
                    Lead::II if first == (4.0 * rate_hz) as i64 => {
                        lead.invalid.push(10 + masked..10 + masked + masked / 2);
                    }
                    _ => {}
                }
            });
            let segment = dsp::analyse(&contexts[0], &DspConfig::default());
            let drawn: Vec<u32> = segment.quality[..7].iter().map(|q| q.drawn_samples).collect();
            assert_eq!(drawn, [8, 4, 12, 12, 12, 12, 0], "{rate_hz} Hz");
            if rate_hz != 500.0 {
                continue;
            }
            let mut file = contexts[0].clone();
            for (samples, bridged) in file.samples_uv.iter_mut().zip(std::mem::take(&mut file.bridged)) {
                bridged.into_iter().for_each(|gap| samples[gap].fill(f32::NAN));
            }
            let of_file = dsp::analyse(&file, &DspConfig::default());
            let counts = of_file.quality.iter().map(|q| q.drawn_samples);
            assert!(counts.eq(segment.quality.iter().map(|q| q.drawn_samples)));
        }
    }

    #[test]
    fn a_shock_that_the_device_marks_is_seen_at_every_rate_before_the_window_too() {
        for rate_hz in [250.0, 360.0, 500.0, 1000.0] {
            let shocked = |chest: bool| {
                faulty(rate_hz, |first, lead| {
                    // 60 ms at 7 s
                    if first == (7.0 * rate_hz) as i64 && (chest || lead.lead != Lead::V6) {
                        lead.saturated.push(0..(0.06 * rate_hz) as u32);
                    }
                })
            };
            let contexts = shocked(true);
            for (context, at) in contexts.iter().zip([3500, 1000]) {
                let [stretch] = &context.all_saturated[..] else {
                    panic!("{rate_hz} Hz: {:?}", context.all_saturated)
                };
                assert!(
                    stretch.start == at && stretch.len().abs_diff(30) <= 2,
                    "{rate_hz} Hz: {stretch:?}"
                );
            }
            let seen = |context: &Context| {
                let segment = dsp::analyse(context, &DspConfig::default());
                segment.reasons.contains(&Reason::Saturated) && segment.decision == crate::segment::Decision::Reject
            };
            assert_eq!(
                contexts.iter().map(seen).collect::<Vec<_>>(),
                [true, true],
                "{rate_hz} Hz"
            );
            assert!(shocked(false).iter().all(|context| context.all_saturated.is_empty()));
        }
    }

    #[test]
    fn a_context_whose_packets_come_at_another_rate_than_their_label_is_doubted_in_any_packets() {
        for (ppm, doubted) in [(0, false), (5000, false), (15_000, true)] {
            for step in [50, 125, 500] {
                let mut packets = in_order(500.0, &EIGHT, 0..25_000, step);
                for packet in &mut packets {
                    packet.device_time_us = time_us(0, 500.0) + packet.first_sample * (2000 + ppm / 500);
                }
                let mut windower = Windower::new("bed-01", WindowerConfig::default());
                let mut contexts = Vec::new();
                for (tag, packet) in packets.into_iter().enumerate() {
                    // the label of 1.5 % is refused in the end
                    let _ = windower.push(packet, tag as u64);
                    contexts.extend(drain(&mut windower));
                }
                let told: Vec<bool> = contexts.iter().map(|context| context.rate_doubted).collect();
                assert!(
                    !told.is_empty() && told.iter().all(|&told| told == doubted),
                    "{ppm} ppm by {step}: {told:?}"
                );
                let segment = dsp::analyse(&contexts[0], &DspConfig::default());
                assert_eq!(segment.reasons.contains(&Reason::RateMismatch), doubted);
            }
        }
    }

    #[test]
    fn a_lead_at_the_rail_is_seen_on_the_devices_own_samples_at_every_rate() {
        for rate_hz in [250.0, 360.0, 500.0, 1000.0] {
            let contexts = faulty(rate_hz, |first, lead| {
                // 5 mV for half a second in V2, and 2 mV, which is no rail, in V3
                if first == (4.0 * rate_hz) as i64 {
                    match lead.lead {
                        Lead::V2 => lead.samples.fill(2000),
                        Lead::V3 => lead.samples.fill(800),
                        _ => {}
                    }
                }
            });
            let segment = dsp::analyse(&contexts[0], &DspConfig::default());
            let flagged: Vec<usize> = (0..LEADS)
                .filter(|&lead| segment.quality[lead].flags.contains(&Reason::Saturated))
                .collect();
            assert_eq!(flagged, [Lead::V2.index()], "{rate_hz} Hz");
        }
    }

    #[test]
    fn a_window_closes_as_soon_as_its_after_context_is_there() {
        let mut windower = Windower::new("bed-01", WindowerConfig::default());
        windower.push(packet(500.0, &EIGHT, 0..7500), 0).unwrap();
        assert!(windower.ready().is_none());
        windower.push(packet(500.0, &EIGHT, 7500..7625), 1).unwrap();
        assert_eq!(windower.ready().map(|context| context.after), Some(2500));
    }

    #[test]
    fn with_few_leads_a_window_waits_for_lateness() {
        let mut windower = Windower::new("bed-01", WindowerConfig::default());
        windower.push(packet(500.0, &EIGHT[..2], 0..8400), 0).unwrap();
        assert!(windower.ready().is_none());
        windower.push(packet(500.0, &EIGHT[..2], 8400..8600), 1).unwrap();
        let context = windower.ready().unwrap();
        assert_eq!(context.origin[Lead::AVF.index()], LeadOrigin::Derived);
        assert_eq!(context.origin[Lead::V1.index()], LeadOrigin::Missing);
        assert!(context.samples_uv[Lead::V1.index()].iter().all(|uv| uv.is_nan()));
    }

    #[test]
    fn short_gaps_are_bridged_and_long_ones_are_nan() {
        let contexts = run([
            packet(500.0, &EIGHT, 0..1000),
            packet(500.0, &EIGHT, 1010..3000),
            packet(500.0, &EIGHT, 3011..9000),
        ]);
        let lead = &contexts[0].samples_uv[0];
        assert!(lead[1000..1010].iter().all(|uv| uv.is_finite()));
        assert!(lead[3000..3011].iter().all(|uv| uv.is_nan()));
        assert_eq!(contexts.len(), 1);
    }

    #[test]
    fn masked_samples_are_bridged_like_missing_ones() {
        let contexts = run([packet(500.0, &EIGHT, 5000..10_000)]);
        let lead = &contexts[0].samples_uv[1];
        let around = (lead[1006] + lead[1008]) / 2.0;
        assert!((lead[1007] - around).abs() < 0.01, "{} {around}", lead[1007]);
    }

    #[test]
    fn duplicates_conflicts_and_late_packets_are_told_apart() {
        let mut windower = Windower::new("bed-01", WindowerConfig::default());
        let first = packet(500.0, &EIGHT, 0..125);
        let fresh = windower.push(first.clone(), 0).unwrap();
        assert_eq!(
            fresh,
            PushOutcome {
                fresh: 125,
                ..PushOutcome::default()
            }
        );
        let overlap = windower.push(packet(500.0, &EIGHT, 100..225), 1).unwrap();
        assert_eq!(
            overlap,
            PushOutcome {
                fresh: 100,
                duplicate: 25,
                ..PushOutcome::default()
            }
        );
        let mut other = first.clone();
        other.leads[3].samples[7] += 1;
        assert!(matches!(
            windower.push(other, 2),
            Err(PacketError::Conflict { sample: 7 })
        ));
        windower.push(packet(500.0, &EIGHT, 1100..1225), 3).unwrap();
        assert_eq!(
            windower.push(first, 4).unwrap(),
            PushOutcome {
                late: 125,
                ..PushOutcome::default()
            }
        );
    }

    #[test]
    fn a_new_boot_closes_what_is_whole_and_starts_anew_and_an_old_boot_is_late() {
        let mut windower = Windower::new("bed-01", WindowerConfig::default());
        windower.push(packet(500.0, &EIGHT, 0..6000), 0).unwrap();
        assert!(windower.ready().is_none());
        for (tag, first) in [(1, 0), (2, 100), (3, 200)] {
            let outcome = windower.push(booted(2, packet(250.0, &EIGHT, first..first + 100)), tag);
            let outcome = outcome.unwrap();
            assert_eq!((outcome.held, outcome.fresh), (tag < 3, 100 * usize::from(tag == 3)));
        }
        let settled = windower.take_settled().into_iter();
        let fates: Vec<_> = settled
            .map(|Settled { tag, fate }| (tag, fate.map(|outcome| (outcome.fresh, outcome.takeover)).ok()))
            .collect();
        assert_eq!(fates, [(1, Some((100, true))), (2, Some((100, false)))]);
        let closed = windower.ready().unwrap();
        assert_eq!((closed.boot_id, closed.start_sample, closed.after), (1, 0, 1000));
        assert_eq!(windower.take_skipped(), Skipped { partial: 1, missing: 0 });
        let old = windower.push(packet(500.0, &EIGHT, 6000..6100), 4).unwrap();
        assert_eq!(
            old,
            PushOutcome {
                late: 100,
                ..PushOutcome::default()
            }
        );
        assert_eq!(windower.floor(), Some(1));
    }

    #[test]
    fn a_rate_change_within_a_boot_is_refused() {
        let mut windower = Windower::new("bed-01", WindowerConfig::default());
        windower.push(packet(500.0, &EIGHT, 0..100), 0).unwrap();
        let error = windower.push(packet(250.0, &EIGHT, 100..200), 1).unwrap_err();
        assert!(matches!(error, PacketError::RateMismatch { .. }));
    }

    #[test]
    fn the_floor_is_the_first_record_that_an_open_window_or_its_context_needs() {
        let mut windower = Windower::new("bed-01", WindowerConfig::default());
        for (tag, packet) in in_order(500.0, &EIGHT, 0..7750, 125).into_iter().enumerate() {
            windower.push(packet, 1000 + tag as u64).unwrap();
        }
        assert_eq!(windower.floor(), Some(1000), "the closed window is not taken yet");
        windower.ready().unwrap();
        // 11 instants of reach before 2500 lie in the packet 2375..2500
        assert_eq!(windower.floor(), Some(1019));
        windower.finish();
        assert_eq!(windower.floor(), None);
    }

    #[test]
    fn a_restart_from_the_floor_makes_the_remaining_windows_again_and_no_other() {
        let packets = in_order(500.0, &EIGHT, 0..40_000, 125);
        let whole = run(packets.clone());
        let mut windower = Windower::new("bed-01", WindowerConfig::default());
        for (tag, packet) in packets.iter().enumerate() {
            windower.push(packet.clone(), tag as u64).unwrap();
            let closed = drain(&mut windower);
            let floor = windower.floor().unwrap();
            if let Some(last) = closed.last() {
                let again = run(packets[floor as usize..].to_vec());
                let rest: Vec<_> = whole
                    .iter()
                    .filter(|c| c.start_sample > last.start_sample)
                    .cloned()
                    .collect();
                assert_same(&again, &rest);
            }
        }
    }

    #[test]
    fn a_heartbeat_far_ahead_closes_the_last_window_and_windows_without_samples_are_counted() {
        let mut windower = Windower::new("bed-01", WindowerConfig::default());
        windower.push(packet(500.0, &EIGHT, 0..5000), 0).unwrap();
        windower.push(heartbeat(10_000), 1).unwrap();
        assert_eq!(
            windower.ready().map(|context| (context.start_sample, context.after)),
            Some((0, 0))
        );
        windower
            .push(packet(500.0, &EIGHT, 1_000_000_000..1_000_005_000), 2)
            .unwrap();
        assert_eq!(windower.finish().len(), 1);
        assert_eq!(
            windower.take_skipped(),
            Skipped {
                partial: 0,
                missing: 199_999
            }
        );
    }

    #[test]
    fn another_device_takes_over_with_a_greater_boot_at_once_and_with_another_after_a_silence() {
        let other = |boot_id, gateway_time_us, first: i64| Packet {
            device_id: "monitor-02".into(),
            boot_id,
            gateway_time_us,
            ..packet(500.0, &EIGHT, first..first + 100)
        };
        let own = Packet {
            boot_id: 5,
            gateway_time_us: 1_000_000,
            ..packet(500.0, &EIGHT, 0..100)
        };
        for (boot_id, gateway_time_us, takes_over) in [
            (6, 1_000_000, true),
            (5, 10_999_999, false),
            (5, 11_000_000, true),
            (4, 10_999_999, false),
            (4, 11_000_000, true),
        ] {
            let mut windower = Windower::new("bed-01", WindowerConfig::default());
            assert!(!windower.push(own.clone(), 0).unwrap().takeover);
            let held =
                |windower: &mut Windower, first| windower.push(other(boot_id, gateway_time_us, first), first as u64);
            match held(&mut windower, 100).and_then(|_| held(&mut windower, 200)) {
                Ok(outcome) => {
                    assert!(takes_over && outcome.held, "boot {boot_id}");
                    assert_eq!(held(&mut windower, 300).unwrap().fresh, 100, "boot {boot_id}");
                }
                Err(PacketError::DeviceConflict { .. }) => assert!(!takes_over, "boot {boot_id}"),
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn a_boot_that_began_far_ahead_goes_back_to_where_its_samples_are() {
        let mut windower = Windower::new("bed-01", WindowerConfig::default());
        windower.push(packet(500.0, &EIGHT, 10_000_000..10_000_125), 0).unwrap();
        let mut outcomes = Vec::new();
        for (tag, packet) in in_order(500.0, &EIGHT, 0..9000, 125).into_iter().enumerate() {
            outcomes.push(windower.push(packet, tag as u64 + 1).unwrap());
        }
        // eight packets are two seconds
        assert!(outcomes[..7].iter().all(|outcome| outcome.late == 125));
        assert_eq!(outcomes[7].jump, Some(ClockJump::Back));
        assert!(outcomes[7..].iter().all(|outcome| outcome.fresh == 125));
    }

    #[test]
    fn a_wild_boot_is_held_and_refused_when_the_own_one_goes_on_and_nothing_else_is_lost() {
        let packets = in_order(500.0, &EIGHT, 0..20_000, 125);
        let whole = run(packets.clone());
        // at the start, where nothing else is known yet, too
        for at in [0, 1, 60] {
            let mut windower = Windower::new("bed-01", WindowerConfig::default());
            let (mut contexts, mut settled) = (Vec::new(), Vec::new());
            for (tag, packet) in packets.iter().enumerate() {
                if tag == at {
                    let wild = booted(1 << 40, packet.clone());
                    let held = windower.push(wild, 1000).unwrap().held;
                    assert_eq!(held, at > 0, "the first packet of all begins its boot");
                }
                let outcome = windower.push(packet.clone(), tag as u64).unwrap();
                assert_eq!(outcome.late, 0, "packet {tag}");
                settled.extend(windower.take_settled());
                contexts.extend(drain(&mut windower));
            }
            contexts.extend(windower.finish());
            assert_same(&contexts, &whole);
            let refused: Vec<_> = settled
                .iter()
                .filter_map(|settled| settled.fate.as_ref().err())
                .collect();
            match at {
                0 => assert!(refused.is_empty()),
                _ => assert_eq!(
                    refused[0].to_string(),
                    "boot 1099511627776 came in 1 packets and no more while boot 1 went on"
                ),
            }
        }
    }

    #[test]
    fn a_boot_that_took_over_and_is_silent_gives_the_stream_back_to_the_one_that_goes_on() {
        let packets = in_order(500.0, &EIGHT, 0..20_000, 125);
        let mut windower = Windower::new("bed-01", WindowerConfig::default());
        let mut late = 0;
        for (tag, packet) in packets.into_iter().enumerate() {
            // a boot id that is wrong in three packets in a row is believed
            let wild = (40..43).contains(&tag);
            let packet = if wild { booted(1 << 40, packet) } else { packet };
            late += windower.push(packet, tag as u64).unwrap().late;
        }
        // 2 s without the other, and 2 s unbroken
        assert_eq!(late, 14 * 125);
        assert_eq!(
            windower
                .finish()
                .last()
                .map(|context| (context.boot_id, context.start_sample)),
            Some((1, 15_000))
        );
    }

    /// Packets whose index is `shift` less than that of their samples and times, from sample `turn` on.
    fn restarted(turn: i64, shift: i64) -> Vec<Packet> {
        let mut packets = in_order(500.0, &EIGHT, 0..40_000, 125);
        let turned = packets.iter_mut().filter(|packet| packet.first_sample >= turn);
        turned.for_each(|packet| packet.first_sample -= shift);
        packets
    }

    #[test]
    fn an_index_that_restarts_is_read_on_in_an_epoch_of_its_own_after_two_seconds() {
        for (turn, shift) in [(15_000, 15_000), (15_000, 3000), (20_000, 1 << 32)] {
            let mut windower = Windower::new("bed-01", WindowerConfig::default());
            let (mut late, mut contexts, mut rebased) = (0, Vec::new(), 0);
            for (tag, packet) in restarted(turn, shift).into_iter().enumerate() {
                let outcome = windower.push(packet, tag as u64).unwrap();
                late += outcome.late;
                rebased += usize::from(outcome.rebased);
                contexts.extend(drain(&mut windower));
            }
            contexts.extend(windower.finish());
            // seven of 250 ms are late, the eighth makes two seconds
            assert_eq!((late, rebased), (7 * 125, 1), "{shift}");
            let rebases = windower.take_rebased();
            let epochs = (shift as f64 / EPOCH as f64).ceil() as i64;
            assert_eq!(
                (rebases.len(), rebases[0].shift, rebases[0].boot_id),
                (1, epochs * EPOCH, 1)
            );
            let starts: Vec<i64> = contexts.iter().map(|context| context.start_sample).collect();
            assert!(
                starts.is_sorted() && starts.last() > Some(&(rebases[0].shift - shift)),
                "{starts:?}"
            );
            let times: Vec<i64> = contexts.iter().map(|context| context.start_time_us).collect();
            assert!(times.is_sorted(), "{times:?}");
        }
    }

    #[test]
    fn a_past_that_is_sent_again_beside_the_live_packets_is_late_and_no_restart() {
        let packets = in_order(500.0, &EIGHT, 0..40_000, 125);
        let mut windower = Windower::new("bed-01", WindowerConfig::default());
        for (tag, packet) in packets.iter().enumerate() {
            windower.push(packet.clone(), tag as u64).unwrap();
            if tag == 200 {
                for again in &packets[100..160] {
                    let outcome = windower.push(
                        Packet {
                            gateway_time_us: packet.gateway_time_us,
                            ..again.clone()
                        },
                        200,
                    );
                    assert_eq!(outcome.unwrap().late, 125);
                }
            }
        }
        assert!(windower.take_rebased().is_empty());
    }

    #[test]
    fn a_restart_from_the_floor_that_is_told_of_the_rebases_makes_the_remaining_windows_again_and_no_other() {
        let packets = restarted(15_000, 14_900);
        let whole = run(packets.clone());
        assert!(whole.iter().any(|context| context.start_sample > EPOCH));
        let mut windower = Windower::new("bed-01", WindowerConfig::default());
        let (mut rebases, mut last) = (Vec::new(), None);
        for (tag, packet) in packets.iter().enumerate() {
            windower.push(packet.clone(), tag as u64).unwrap();
            rebases.extend(windower.take_rebased());
            last = drain(&mut windower).last().map(|context| context.start_sample).or(last);
            let floor = windower.floor().unwrap() as usize;
            let mut again = Windower::rebased("bed-01", WindowerConfig::default(), rebases.clone());
            let mut contexts = Vec::new();
            for (tag, packet) in packets.iter().enumerate().skip(floor) {
                again.push(packet.clone(), tag as u64).unwrap();
                contexts.extend(drain(&mut again));
            }
            contexts.extend(again.finish());
            let rest: Vec<_> = whole
                .iter()
                .filter(|context| last.is_none_or(|last| context.start_sample > last))
                .cloned()
                .collect();
            assert_same(&contexts, &rest);
        }
    }

    #[test]
    fn a_flush_keeps_the_unfinished_window_for_the_samples_to_come() {
        let mut windower = Windower::new("bed-01", WindowerConfig::default());
        windower.push(packet(500.0, &EIGHT, 0..6000), 0).unwrap();
        windower.flush();
        assert_eq!(
            windower.ready().map(|context| (context.start_sample, context.after)),
            Some((0, 1000))
        );
        windower.flush();
        assert!(windower.ready().is_none());
        windower.push(packet(500.0, &EIGHT, 6000..13_000), 1).unwrap();
        assert_eq!(
            windower.ready().map(|context| (context.start_sample, context.before)),
            Some((5000, 2500))
        );
    }

    #[test]
    fn overlapping_windows_come_every_stride() {
        let mut windower = Windower::new(
            "bed-01",
            WindowerConfig {
                stride: 2500,
                ..WindowerConfig::default()
            },
        );
        windower.push(packet(500.0, &EIGHT, 0..12_500), 0).unwrap();
        let starts: Vec<_> = windower.finish().iter().map(|context| context.start_sample).collect();
        assert_eq!(starts, [0, 2500, 5000, 7500]);
        // one reaches out of the first sample, one out of the last
        assert_eq!(windower.take_skipped().partial, 2);
    }

    /// Cuts `range` into packets at `cuts`, repeats some, and moves packets back by less than lateness.
    fn shuffled(rate_hz: f64, range: Range<i64>, cuts: &[u16], moves: &[u8]) -> Vec<Packet> {
        let mut packets = Vec::new();
        let (mut at, mut cut) = (range.start, 0);
        while at < range.end {
            let step = i64::from(cuts[cut % cuts.len()] % 400) + 1;
            packets.push(packet(rate_hz, &EIGHT, at..(at + step).min(range.end)));
            (at, cut) = (at + step, cut + 1);
        }
        // sorted by end + delay with length + delay <= lateness, no packet comes later than lateness
        let lateness = (1000.0 * rate_hz / 500.0) as i64;
        let key = |packet: &Packet, delay: u8| {
            let length = packet.len() as i64;
            packet.first_sample + length + i64::from(delay) * (lateness - length) / 256
        };
        let mut keyed: Vec<(i64, Packet)> = Vec::new();
        for (index, packet) in packets.into_iter().enumerate() {
            let delay = moves[index % moves.len()];
            if delay.is_multiple_of(5) {
                keyed.push((key(&packet, 255 - delay), packet.clone()));
            }
            keyed.push((key(&packet, delay), packet));
        }
        keyed.sort_by_key(|(key, _)| *key);
        keyed.into_iter().map(|(_, packet)| packet).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_packetization_order_and_repetition_gives_the_same_contexts(
            rate in prop::sample::select(vec![250.0, 500.0, 1000.0]),
            start in -3000i64..3000,
            cuts in prop::collection::vec(any::<u16>(), 1..40),
            moves in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            let range = start..start + (17_000.0 * rate / 500.0) as i64;
            let reference = run(in_order(rate, &EIGHT, range.clone(), 125));
            prop_assert!(!reference.is_empty());
            assert_same(&run(shuffled(rate, range, &cuts, &moves)), &reference);
        }
    }
}
