//! Protobuf types as they lie on the topics, generated from proto/ecg.proto.
//!
//! Place: between bytes and the typed `packet::Packet` and `segment::Segment`; nothing else reads these.
//! Invariant: nothing here is validated; whatever leaves this module for the rest of the code goes through a `decode`.

include!(concat!(env!("OUT_DIR"), "/meit.ecg.v1.rs"));

/// Schema version of packets.
pub const SCHEMA_VERSION: u32 = 1;

/// Little-endian bytes of 16-bit samples.
pub fn bytes_of_samples(samples: &[i16]) -> Vec<u8> {
    let mut bytes = vec![0; 2 * samples.len()];
    for (two, sample) in bytes.chunks_exact_mut(2).zip(samples) {
        two.copy_from_slice(&sample.to_le_bytes());
    }
    bytes
}

/// 16-bit samples of little-endian bytes; a trailing odd byte makes it `None`.
pub fn samples_of_bytes(bytes: &[u8]) -> Option<Vec<i16>> {
    let pairs = bytes.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    Some(pairs.map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect())
}

impl From<FilterClass> for crate::segment::FilterClass {
    fn from(class: FilterClass) -> Self {
        match class {
            FilterClass::Unspecified => Self::Unspecified,
            FilterClass::Diagnostic => Self::Diagnostic,
            FilterClass::Monitor => Self::Monitor,
            FilterClass::Strong => Self::Strong,
        }
    }
}

impl From<crate::segment::FilterClass> for FilterClass {
    fn from(class: crate::segment::FilterClass) -> Self {
        match class {
            crate::segment::FilterClass::Unspecified => Self::Unspecified,
            crate::segment::FilterClass::Diagnostic => Self::Diagnostic,
            crate::segment::FilterClass::Monitor => Self::Monitor,
            crate::segment::FilterClass::Strong => Self::Strong,
        }
    }
}

impl From<LeadOrigin> for crate::segment::LeadOrigin {
    fn from(origin: LeadOrigin) -> Self {
        match origin {
            LeadOrigin::Unspecified | LeadOrigin::Measured => Self::Measured,
            LeadOrigin::Derived => Self::Derived,
            LeadOrigin::Reconstructed => Self::Reconstructed,
            LeadOrigin::Missing => Self::Missing,
        }
    }
}

impl From<crate::segment::LeadOrigin> for LeadOrigin {
    fn from(origin: crate::segment::LeadOrigin) -> Self {
        match origin {
            crate::segment::LeadOrigin::Measured => Self::Measured,
            crate::segment::LeadOrigin::Derived => Self::Derived,
            crate::segment::LeadOrigin::Reconstructed => Self::Reconstructed,
            crate::segment::LeadOrigin::Missing => Self::Missing,
        }
    }
}
