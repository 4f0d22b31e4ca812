//! A waveform packet: what a monitor sends, typed and validated.
//!
//! Place: `agent::ingest` decodes the records of `ecg.waveforms.v1` here; `bedside` encodes them.
//! Invariant: a [`Packet`] that left [`Packet::decode`] is sound: known leads, each once, equally long, finite scales,
//! masks inside the packet, bounded size. Any bytes at all give a packet or a [`PacketError`], never a panic.

mod error;

use std::ops::Range;

use prost::Message;

pub use self::error::{PacketError, RejectReason};
use crate::lead::Lead;
use crate::segment::{FilterClass, LeadOrigin};
use crate::wire;

/// Largest encoded packet that is decoded, bytes: Kafka's default message limit.
pub const PACKET_BYTES_MAX: usize = 1024 * 1024;
/// Most samples a lead in one packet: 10 s at 2 kHz.
pub const PACKET_SAMPLES_MAX: usize = 20_000;
/// Most ranges in one mask.
pub const MASK_RANGES_MAX: usize = 1024;
/// Longest stream or device id, bytes.
pub const ID_BYTES_MAX: usize = 128;
/// Largest sample index either side of zero; 2^44 samples at 2 kHz are 280 years, so index arithmetic cannot overflow.
pub const SAMPLE_INDEX_MAX: i64 = 1 << 44;
/// Sampling rates that are read, hertz: 100 Hz is the lowest of public 12-lead sets, 2 kHz the highest of carts.
pub const RATE_RANGE_HZ: std::ops::RangeInclusive<f64> = 100.0..=2000.0;

/// Some samples of some leads of one stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Packet {
    /// The stream, a pseudonym; never a patient.
    pub stream_id: String,
    /// The device.
    pub device_id: String,
    /// Grows with every boot of the device; the sample index restarts with it.
    pub boot_id: u64,
    /// Counts packets within a boot.
    pub sequence: u64,
    /// Index of the first sample on the device's own grid.
    pub first_sample: i64,
    /// Device clock at the first sample, microseconds since the Unix epoch.
    pub device_time_us: i64,
    /// Gateway clock at receipt, microseconds since the Unix epoch.
    pub gateway_time_us: i64,
    /// Nominal sampling rate, hertz.
    pub rate_hz: f64,
    /// The leads, each once, all equally long, in any order.
    pub leads: Vec<PacketLead>,
    /// True when the monitor asks for an urgent reading.
    pub stat: bool,
    /// Pass band that the device applied.
    pub filter_class: FilterClass,
    /// True when the packet only says that the stream is alive and stands at `first_sample`; it carries no leads.
    pub heartbeat: bool,
}

/// One lead's samples in a packet. Microvolts = `samples * uv_per_unit + offset_uv`.
#[derive(Clone, Debug, PartialEq)]
pub struct PacketLead {
    /// Which lead.
    pub lead: Lead,
    /// The samples, in device units.
    pub samples: Vec<i16>,
    /// Microvolts a unit; finite and not 0.
    pub uv_per_unit: f32,
    /// Microvolts at unit 0; finite.
    pub offset_uv: f32,
    /// Positions that hold no valid sample.
    pub invalid: Vec<Range<u32>>,
    /// Positions with pacing pulses.
    pub pace: Vec<Range<u32>>,
    /// Positions at the converter's rail.
    pub saturated: Vec<Range<u32>>,
    /// True when the device reports an electrode of this lead off.
    pub lead_off: bool,
    /// Where the samples come from; never [`LeadOrigin::Missing`].
    pub origin: LeadOrigin,
}

impl PacketLead {
    /// Samples of a lead's own electrodes, nothing marked, 0 microvolts at unit 0.
    pub fn of(lead: Lead, samples: Vec<i16>, uv_per_unit: f32) -> Self {
        Self {
            lead,
            samples,
            uv_per_unit,
            offset_uv: 0.0,
            invalid: vec![],
            pace: vec![],
            saturated: vec![],
            lead_off: false,
            origin: LeadOrigin::Measured,
        }
    }
}

impl Packet {
    /// Samples a lead; 0 for a heartbeat.
    pub fn len(&self) -> usize {
        self.leads.first().map_or(0, |lead| lead.samples.len())
    }

    /// True for a heartbeat.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads and validates a packet.
    ///
    /// # Errors
    /// [`PacketError`] names the first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Packet, PacketError> {
        if bytes.len() > PACKET_BYTES_MAX {
            return Err(PacketError::TooLarge { bytes: bytes.len() });
        }
        let wire = wire::WaveformPacket::decode(bytes)?;
        check_frame(&wire)?;
        let want = wire.leads.first().map_or(0, |lead| lead.samples.len());
        if want / 2 > PACKET_SAMPLES_MAX {
            return Err(PacketError::TooLong { samples: want / 2 });
        }
        if wire.heartbeat != wire.leads.is_empty() || (!wire.heartbeat && want < 2) {
            return Err(PacketError::Empty {
                leads: wire.leads.len(),
                samples: want / 2,
                heartbeat: wire.heartbeat,
            });
        }
        let mut leads: Vec<PacketLead> = Vec::with_capacity(wire.leads.len());
        for lead in &wire.leads {
            let lead = lead_of_wire(lead, want)?;
            if leads.iter().any(|other| other.lead == lead.lead) {
                return Err(PacketError::LeadDuplicate { lead: lead.lead });
            }
            leads.push(lead);
        }
        Ok(Packet {
            stream_id: wire.stream_id,
            device_id: wire.device_id,
            boot_id: wire.boot_id,
            sequence: wire.sequence,
            first_sample: wire.first_sample,
            device_time_us: wire.device_time_us,
            gateway_time_us: wire.gateway_time_us,
            rate_hz: wire.rate_hz,
            leads,
            stat: wire.stat,
            filter_class: wire::FilterClass::try_from(wire.filter_class)
                .map_err(|_| PacketError::FilterClass {
                    value: wire.filter_class,
                })?
                .into(),
            heartbeat: wire.heartbeat,
        })
    }

    /// Protobuf bytes of the packet.
    pub fn encode(&self) -> Vec<u8> {
        wire::WaveformPacket {
            schema_version: wire::SCHEMA_VERSION,
            stream_id: self.stream_id.clone(),
            device_id: self.device_id.clone(),
            boot_id: self.boot_id,
            sequence: self.sequence,
            first_sample: self.first_sample,
            device_time_us: self.device_time_us,
            gateway_time_us: self.gateway_time_us,
            rate_hz: self.rate_hz,
            leads: self.leads.iter().map(lead_to_wire).collect(),
            stat: self.stat,
            heartbeat: self.heartbeat,
            filter_class: wire::FilterClass::from(self.filter_class) as i32,
        }
        .encode_to_vec()
    }
}

/// Checks everything of a packet that is not a lead.
fn check_frame(wire: &wire::WaveformPacket) -> Result<(), PacketError> {
    if wire.schema_version != wire::SCHEMA_VERSION {
        return Err(PacketError::Schema {
            version: wire.schema_version,
        });
    }
    for (field, id) in [("stream_id", &wire.stream_id), ("device_id", &wire.device_id)] {
        if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return Err(PacketError::Identity { field });
        }
    }
    if !RATE_RANGE_HZ.contains(&wire.rate_hz) {
        return Err(PacketError::RateRange { rate_hz: wire.rate_hz });
    }
    if !(-SAMPLE_INDEX_MAX..=SAMPLE_INDEX_MAX).contains(&wire.first_sample) {
        return Err(PacketError::SampleIndex {
            first_sample: wire.first_sample,
        });
    }
    if wire.leads.len() > crate::LEADS {
        return Err(PacketError::LeadCount {
            leads: wire.leads.len(),
        });
    }
    Ok(())
}

fn lead_of_wire(wire: &wire::LeadSamples, want: usize) -> Result<PacketLead, PacketError> {
    let lead = Lead::parse(&wire.name).map_err(|_| PacketError::LeadUnknown)?;
    let unequal = || PacketError::UnequalLength {
        lead,
        got: wire.samples.len(),
        want,
    };
    if wire.samples.len() != want {
        return Err(unequal());
    }
    let samples = wire::samples_of_bytes(&wire.samples).ok_or_else(unequal)?;
    let (uv_per_unit, offset_uv) = (wire.uv_per_unit, wire.offset_uv);
    if !uv_per_unit.is_finite() || !offset_uv.is_finite() || uv_per_unit == 0.0 {
        return Err(PacketError::NonFinite {
            lead,
            uv_per_unit,
            offset_uv,
        });
    }
    let origin = wire::LeadOrigin::try_from(wire.origin).map_err(|_| PacketError::Mask { lead, field: "origin" })?;
    if origin == wire::LeadOrigin::Missing {
        return Err(PacketError::Mask { lead, field: "origin" });
    }
    let mask = |field, ranges: &[wire::SampleRange]| {
        mask_of_wire(ranges, samples.len()).ok_or(PacketError::Mask { lead, field })
    };
    Ok(PacketLead {
        lead,
        uv_per_unit,
        offset_uv,
        invalid: mask("invalid mask", &wire.invalid)?,
        pace: mask("pace mask", &wire.pace)?,
        saturated: mask("saturated mask", &wire.saturated)?,
        lead_off: wire.lead_off,
        origin: origin.into(),
        samples,
    })
}

fn mask_of_wire(ranges: &[wire::SampleRange], samples: usize) -> Option<Vec<Range<u32>>> {
    if ranges.len() > MASK_RANGES_MAX {
        return None;
    }
    let range = |range: &wire::SampleRange| {
        let end = range.start.checked_add(range.length)?;
        (range.length > 0 && end as usize <= samples).then_some(range.start..end)
    };
    ranges.iter().map(range).collect()
}

fn lead_to_wire(lead: &PacketLead) -> wire::LeadSamples {
    let mask = |ranges: &[Range<u32>]| {
        ranges
            .iter()
            .map(|range| wire::SampleRange {
                start: range.start,
                length: range.end - range.start,
            })
            .collect()
    };
    wire::LeadSamples {
        name: lead.lead.name().to_owned(),
        samples: wire::bytes_of_samples(&lead.samples),
        uv_per_unit: lead.uv_per_unit,
        offset_uv: lead.offset_uv,
        invalid: mask(&lead.invalid),
        pace: mask(&lead.pace),
        saturated: mask(&lead.saturated),
        lead_off: lead.lead_off,
        origin: wire::LeadOrigin::from(lead.origin) as i32,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet() -> Packet {
        let lead = |lead, first: i16| PacketLead {
            lead,
            samples: vec![first, -1, i16::MIN, i16::MAX],
            uv_per_unit: 2.5,
            offset_uv: -3.0,
            invalid: vec![0..1, 3..4],
            pace: vec![],
            saturated: vec![1..2, 2..4],
            lead_off: first == 2,
            origin: LeadOrigin::Measured,
        };
        Packet {
            stream_id: "bed-01".into(),
            device_id: "monitor-01".into(),
            boot_id: 3,
            sequence: 9,
            first_sample: -4,
            device_time_us: 10,
            gateway_time_us: 20,
            rate_hz: 500.0,
            leads: vec![lead(Lead::V6, 1), lead(Lead::II, 2)],
            stat: true,
            filter_class: FilterClass::Monitor,
            heartbeat: false,
        }
    }

    /// The reason for which the packet is refused after `change`.
    #[track_caller]
    fn check(change: impl FnOnce(&mut wire::WaveformPacket), reason: RejectReason) {
        let mut wire = wire::WaveformPacket::decode(packet().encode().as_slice()).unwrap();
        change(&mut wire);
        let error = Packet::decode(&wire.encode_to_vec()).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    }

    #[test]
    fn a_packet_reads_back_from_its_bytes() {
        assert_eq!(Packet::decode(&packet().encode()).unwrap(), packet());
        let heartbeat = Packet {
            leads: vec![],
            heartbeat: true,
            ..packet()
        };
        assert_eq!(Packet::decode(&heartbeat.encode()).unwrap(), heartbeat);
    }

    #[test]
    fn every_fault_is_refused_with_its_reason() {
        check(|wire| wire.schema_version = 2, RejectReason::Schema);
        check(|wire| wire.schema_version = 0, RejectReason::Schema);
        check(|wire| wire.stream_id = String::new(), RejectReason::Identity);
        check(|wire| wire.device_id = "a\nb".into(), RejectReason::Identity);
        check(|wire| wire.stream_id = "x".repeat(129), RejectReason::Identity);
        check(|wire| wire.rate_hz = f64::NAN, RejectReason::RateMismatch);
        check(|wire| wire.rate_hz = 0.0, RejectReason::RateMismatch);
        check(|wire| wire.first_sample = i64::MIN, RejectReason::SampleIndex);
        check(|wire| wire.leads[0].name = "V9".into(), RejectReason::LeadUnknown);
        check(|wire| wire.leads[0].name = "mlii".into(), RejectReason::LeadDuplicate);
        check(
            |wire| wire.leads = vec![wire.leads[0].clone(); 13],
            RejectReason::LeadCount,
        );
        check(|wire| wire.leads.clear(), RejectReason::Empty);
        check(|wire| wire.heartbeat = true, RejectReason::Empty);
        check(
            |wire| wire.leads.iter_mut().for_each(|lead| lead.samples.clear()),
            RejectReason::Empty,
        );
        check(|wire| wire.leads[1].samples.truncate(7), RejectReason::UnequalLength);
        check(
            |wire| wire.leads.iter_mut().for_each(|lead| lead.samples.truncate(7)),
            RejectReason::UnequalLength,
        );
        check(
            |wire| wire.leads[0].uv_per_unit = f32::INFINITY,
            RejectReason::NonFinite,
        );
        check(|wire| wire.leads[0].uv_per_unit = 0.0, RejectReason::NonFinite);
        check(|wire| wire.leads[0].offset_uv = f32::NAN, RejectReason::NonFinite);
        check(|wire| wire.leads[0].invalid[0].length = 5, RejectReason::Mask);
        check(|wire| wire.leads[0].invalid[0].start = u32::MAX, RejectReason::Mask);
        check(|wire| wire.leads[0].origin = 99, RejectReason::Mask);
        check(|wire| wire.filter_class = 99, RejectReason::Schema);
        check(|wire| wire.leads[0].samples = vec![0; 40_002], RejectReason::TooLarge);
    }

    #[test]
    fn a_value_over_the_limit_is_refused_before_it_is_parsed() {
        let error = Packet::decode(&vec![0xff; PACKET_BYTES_MAX + 1]).unwrap_err();
        assert_eq!(error.reason(), RejectReason::TooLarge);
    }

    proptest! {
        #[test]
        fn decode_never_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Packet::decode(&bytes);
        }

        #[test]
        fn decode_never_panics_on_a_damaged_packet(at in 0usize..200, value in any::<u8>(), cut in 0usize..200) {
            let mut bytes = packet().encode();
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(bytes.len() - cut % bytes.len());
            if let Ok(packet) = Packet::decode(&bytes) {
                prop_assert_eq!(Packet::decode(&packet.encode()).unwrap(), packet);
            }
        }
    }
}
