//! Why a packet is refused, in full and as a bounded reason.
//!
//! Place: `packet` and `window` make these; the agent dead-letters the record and counts the reason.
//! Invariant: every error has exactly one [`RejectReason`], so refused packets add up.

use super::{ID_BYTES_MAX, PACKET_BYTES_MAX, PACKET_SAMPLES_MAX, RATE_RANGE_HZ};
use crate::lead::Lead;

/// Why bytes are no acceptable packet.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// Longer than [`PACKET_BYTES_MAX`].
    #[error("packet of {bytes} bytes exceeds {PACKET_BYTES_MAX}")]
    TooLarge {
        /// Length of the value.
        bytes: usize,
    },
    /// Not Protobuf.
    #[error("packet is not valid protobuf")]
    Decode(#[from] prost::DecodeError),
    /// Written by another schema.
    #[error("packet schema version {version} is not supported")]
    Schema {
        /// The version it names.
        version: u32,
    },
    /// Stream or device id empty, too long or with control characters.
    #[error("packet field {field} is not 1 to {ID_BYTES_MAX} printable ascii characters")]
    Identity {
        /// Which id.
        field: &'static str,
    },
    /// A lead that is none of the twelve; its name is not kept, since free text may name a person.
    #[error("packet names an unknown lead")]
    LeadUnknown,
    /// The same lead twice.
    #[error("packet carries lead {lead} twice")]
    LeadDuplicate {
        /// Which lead.
        lead: Lead,
    },
    /// More leads than there are.
    #[error("packet carries {leads} leads")]
    LeadCount {
        /// How many.
        leads: usize,
    },
    /// No samples and no heartbeat, or a heartbeat with samples.
    #[error("packet has {leads} leads of {samples} samples, heartbeat {heartbeat}")]
    Empty {
        /// Leads carried.
        leads: usize,
        /// Samples a lead.
        samples: usize,
        /// The heartbeat flag.
        heartbeat: bool,
    },
    /// Leads of different length, or half a sample.
    #[error("lead {lead} has {got} bytes of samples instead of {want}")]
    UnequalLength {
        /// Which lead.
        lead: Lead,
        /// Its bytes.
        got: usize,
        /// The bytes of the first lead.
        want: usize,
    },
    /// Longer than [`PACKET_SAMPLES_MAX`].
    #[error("packet of {samples} samples a lead exceeds {PACKET_SAMPLES_MAX}")]
    TooLong {
        /// Samples a lead.
        samples: usize,
    },
    /// Rate outside of [`RATE_RANGE_HZ`].
    #[error("sampling rate {rate_hz} hz is outside of {RATE_RANGE_HZ:?}")]
    RateRange {
        /// The rate.
        rate_hz: f64,
    },
    /// Rate differs from the stream's rate within one boot.
    #[error("sampling rate {rate_hz} hz differs from {expected_hz} hz of the same boot")]
    RateMismatch {
        /// The packet's rate.
        rate_hz: f64,
        /// The rate of the boot.
        expected_hz: f64,
    },
    /// Gain or offset not finite, or gain 0.
    #[error("lead {lead} has gain {uv_per_unit} and offset {offset_uv} microvolts")]
    NonFinite {
        /// Which lead.
        lead: Lead,
        /// Its gain.
        uv_per_unit: f32,
        /// Its offset.
        offset_uv: f32,
    },
    /// Sample index beyond [`super::SAMPLE_INDEX_MAX`].
    #[error("first sample {first_sample} is out of range")]
    SampleIndex {
        /// The index.
        first_sample: i64,
    },
    /// A mask that reaches out of the packet, or of more than [`super::MASK_RANGES_MAX`] ranges, or an unknown lead origin.
    #[error("lead {lead} has an invalid {field}")]
    Mask {
        /// Which lead.
        lead: Lead,
        /// Which mask.
        field: &'static str,
    },
    /// The record's key is not the packet's stream.
    #[error("record key is not the packet's stream id")]
    Key,
    /// A filter class that the schema does not have.
    #[error("packet has the unknown filter class {value}")]
    FilterClass {
        /// Its number.
        value: i32,
    },
    /// The samples come at another rate than their label says, by the device's own clock.
    #[error("samples come at {measured_hz:.2} hz, their label says {rate_hz} hz")]
    RateLabel {
        /// The rate by the device's clock.
        measured_hz: f64,
        /// The label.
        rate_hz: f64,
    },
    /// The sample index is ahead of where the stream can be.
    #[error("first sample {first_sample} is too far ahead of {watermark}")]
    ClockForward {
        /// The packet's first sample.
        first_sample: i64,
        /// One past the newest sample of the stream.
        watermark: i64,
    },
    /// A sequence number came before on other samples.
    #[error("sequence {sequence} came before at sample {before}, now at {first_sample}")]
    SequenceConflict {
        /// The number.
        sequence: u64,
        /// First sample of the packet that had it first.
        before: i64,
        /// First sample of this packet.
        first_sample: i64,
    },
    /// Another device sends on a stream whose own device still does.
    #[error("another device sends on the stream under boot {boot_id}")]
    DeviceConflict {
        /// The packet's boot.
        boot_id: u64,
    },
    /// A few packets of another boot came while the stream's own went on: a damaged boot id, not a device that booted.
    #[error("boot {boot_id} came in {packets} packets and no more while boot {own_boot_id} went on")]
    BootUnproven {
        /// The packet's boot.
        boot_id: u64,
        /// Packets of it in a row.
        packets: usize,
        /// The stream's own boot.
        own_boot_id: u64,
    },
    /// A new stream, and no room for it: as many others as may be, or as many bytes, and none of them silent.
    #[error(
        "no room for another stream: {streams} of at most {streams_max} and {bytes} of at most {bytes_max} bytes are held, \
         and none is silent"
    )]
    NoRoom {
        /// Streams with state.
        streams: usize,
        /// The setting `agent.streams_max`.
        streams_max: usize,
        /// Bytes of samples held.
        bytes: usize,
        /// The setting `agent.state_mib_max`, in bytes.
        bytes_max: usize,
    },
    /// Taking the packet in panicked; its stream starts anew.
    #[error("the packet could not be processed")]
    Poison,
    /// A sample came before with another value: two producers on one stream, or a device that rewrites the past.
    #[error("sample {sample} came before with another value")]
    Conflict {
        /// The first such sample.
        sample: i64,
    },
}

/// Why a packet was refused; a closed set, so it is safe as a metric label and a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// Not Protobuf.
    Decode,
    /// Too many bytes or samples.
    TooLarge,
    /// Another schema version, or a value that this one does not have.
    Schema,
    /// Unusable stream or device id, or a key that is not the stream.
    Identity,
    /// A lead that is none of the twelve.
    LeadUnknown,
    /// A lead twice.
    LeadDuplicate,
    /// More leads than there are.
    LeadCount,
    /// Nothing in it.
    Empty,
    /// Leads of different length.
    UnequalLength,
    /// Sampling rate out of range or changed within a boot.
    RateMismatch,
    /// Scale not finite.
    NonFinite,
    /// Sample index out of range.
    SampleIndex,
    /// A mask out of range.
    Mask,
    /// Samples, sequence number or device that contradict earlier ones.
    SeqConflict,
    /// Sample index ahead of where the stream can be.
    ClockFwd,
    /// A boot that did not go on.
    BootUnproven,
    /// A stream too many.
    NoRoom,
    /// The packet made its processing panic.
    Poison,
}

impl RejectReason {
    /// Every reason.
    pub const ALL: [RejectReason; 18] = [
        RejectReason::Decode,
        RejectReason::TooLarge,
        RejectReason::Schema,
        RejectReason::Identity,
        RejectReason::LeadUnknown,
        RejectReason::LeadDuplicate,
        RejectReason::LeadCount,
        RejectReason::Empty,
        RejectReason::UnequalLength,
        RejectReason::RateMismatch,
        RejectReason::NonFinite,
        RejectReason::SampleIndex,
        RejectReason::Mask,
        RejectReason::SeqConflict,
        RejectReason::ClockFwd,
        RejectReason::BootUnproven,
        RejectReason::NoRoom,
        RejectReason::Poison,
    ];

    /// Label value.
    pub fn as_str(self) -> &'static str {
        match self {
            RejectReason::Decode => "decode",
            RejectReason::TooLarge => "too_large",
            RejectReason::Schema => "schema",
            RejectReason::Identity => "identity",
            RejectReason::LeadUnknown => "lead_unknown",
            RejectReason::LeadDuplicate => "lead_duplicate",
            RejectReason::LeadCount => "lead_count",
            RejectReason::Empty => "empty",
            RejectReason::UnequalLength => "unequal_length",
            RejectReason::RateMismatch => "rate_mismatch",
            RejectReason::NonFinite => "non_finite",
            RejectReason::SampleIndex => "sample_index",
            RejectReason::Mask => "mask",
            RejectReason::SeqConflict => "seq_conflict",
            RejectReason::ClockFwd => "clock_fwd",
            RejectReason::BootUnproven => "boot_unproven",
            RejectReason::NoRoom => "no_room",
            RejectReason::Poison => "poison",
        }
    }
}

impl PacketError {
    /// The bounded reason of the error.
    pub fn reason(&self) -> RejectReason {
        match self {
            PacketError::TooLarge { .. } | PacketError::TooLong { .. } => RejectReason::TooLarge,
            PacketError::Decode(_) => RejectReason::Decode,
            PacketError::Schema { .. } | PacketError::FilterClass { .. } => RejectReason::Schema,
            PacketError::Identity { .. } | PacketError::Key => RejectReason::Identity,
            PacketError::LeadUnknown => RejectReason::LeadUnknown,
            PacketError::LeadDuplicate { .. } => RejectReason::LeadDuplicate,
            PacketError::LeadCount { .. } => RejectReason::LeadCount,
            PacketError::Empty { .. } => RejectReason::Empty,
            PacketError::UnequalLength { .. } => RejectReason::UnequalLength,
            PacketError::RateRange { .. } | PacketError::RateMismatch { .. } | PacketError::RateLabel { .. } => {
                RejectReason::RateMismatch
            }
            PacketError::NonFinite { .. } => RejectReason::NonFinite,
            PacketError::SampleIndex { .. } => RejectReason::SampleIndex,
            PacketError::Mask { .. } => RejectReason::Mask,
            PacketError::Conflict { .. }
            | PacketError::SequenceConflict { .. }
            | PacketError::DeviceConflict { .. } => RejectReason::SeqConflict,
            PacketError::ClockForward { .. } => RejectReason::ClockFwd,
            PacketError::BootUnproven { .. } => RejectReason::BootUnproven,
            PacketError::NoRoom { .. } => RejectReason::NoRoom,
            PacketError::Poison => RejectReason::Poison,
        }
    }
}
