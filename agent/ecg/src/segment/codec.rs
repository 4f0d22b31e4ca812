//! Segments to Protobuf bytes and back.
//!
//! Place: the agent encodes, the node and the pipeline decode.
//! Invariant: a segment that left [`Segment::decode`] has 12 x 5000 samples twice, 12 qualities and known enum values; any
//! bytes give a segment or a [`SegmentError`], never a panic.

use prost::Message;

use super::{Decision, LeadAmplitudes, LeadQuality, Measurements, Reason, Segment, steps};
use crate::{LEADS, SEGMENT_SAMPLES, wire};

/// Largest encoded segment that is decoded: two sample arrays of 180 kB each at most, and room for the rest.
pub const SEGMENT_BYTES_MAX: usize = 512 * 1024;

/// Schema version that is written and the newest that is read; 1 had samples of two bytes.
const SCHEMA_VERSION: u32 = 2;
/// Numbers of the samples' fields in proto/ecg.proto.
const RAW_STEPS: u32 = 24;
const FILTERED_STEPS: u32 = 25;

/// Bytes that are no segment.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// Longer than [`SEGMENT_BYTES_MAX`].
    #[error("segment of {bytes} bytes exceeds {SEGMENT_BYTES_MAX}")]
    TooLarge {
        /// Length of the value.
        bytes: usize,
    },
    /// Not Protobuf.
    #[error("segment is not valid protobuf")]
    Decode(#[from] prost::DecodeError),
    /// Written by a newer schema.
    #[error("segment schema version {version} is not supported")]
    Schema {
        /// The version it names.
        version: u32,
    },
    /// A field has the wrong length.
    #[error("segment field {field} has {got} elements instead of {want}")]
    Length {
        /// Name of the field.
        field: &'static str,
        /// Elements found.
        got: usize,
        /// Elements required.
        want: usize,
    },
    /// A field has a value outside of its set or range.
    #[error("segment field {field} has the invalid value {value}")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// The value.
        value: f64,
    },
}

impl Segment {
    /// Protobuf bytes of the segment. The samples, nearly all of it, are written where they are sent from, after the other fields.
    pub fn encode(&self) -> Vec<u8> {
        let rest = wire::Segment {
            schema_version: SCHEMA_VERSION,
            id: self.id.clone(),
            stream_id: self.stream_id.clone(),
            device_id: self.device_id.clone(),
            boot_id: self.boot_id,
            start_sample: self.start_sample,
            start_time_us: self.start_time_us,
            last_gateway_time_us: self.last_gateway_time_us,
            source_rate_hz: self.source_rate_hz,
            uv_per_unit: self.uv_per_unit,
            raw: Vec::new(),
            filtered: Vec::new(),
            raw_steps: Vec::new(),
            filtered_steps: Vec::new(),
            quality: self.quality.iter().map(quality_to_wire).collect(),
            measurements: Some(measurements_to_wire(&self.measurements)),
            decision: self.decision as i32 + 1,
            reasons: reasons_to_wire(&self.reasons),
            chain: self.chain.clone(),
            chain_version: self.chain_version,
            stat: self.stat,
            filter_class: wire::FilterClass::from(self.filter_class) as i32,
            context_before: self.context_before,
            context_after: self.context_after,
            samples_sha256: self.samples_sha256.clone(),
        };
        let mut bytes = Vec::with_capacity(rest.encoded_len() + 2 * steps::FIELD_MAX);
        rest.encode(&mut bytes).expect("a vector has room for any message");
        steps::append(&mut bytes, RAW_STEPS, &self.raw);
        steps::append(&mut bytes, FILTERED_STEPS, &self.filtered);
        bytes.shrink_to_fit();
        bytes
    }

    /// Reads and validates a segment: 12 x 5000 samples twice, 12 qualities, known enum values, a finite scale.
    ///
    /// # Errors
    /// [`SegmentError`] names the first field that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentError> {
        if bytes.len() > SEGMENT_BYTES_MAX {
            return Err(SegmentError::TooLarge { bytes: bytes.len() });
        }
        let wire = wire::Segment::decode(bytes)?;
        if wire.schema_version == 0 || wire.schema_version > SCHEMA_VERSION {
            return Err(SegmentError::Schema {
                version: wire.schema_version,
            });
        }
        if !(wire.uv_per_unit.is_finite() && wire.uv_per_unit > 0.0) {
            return Err(SegmentError::Value {
                field: "uv_per_unit",
                value: f64::from(wire.uv_per_unit),
            });
        }
        let quality = wire
            .quality
            .iter()
            .map(quality_of_wire)
            .collect::<Result<Vec<_>, _>>()?;
        let quality: [LeadQuality; LEADS] =
            quality
                .try_into()
                .map_err(|rest: Vec<LeadQuality>| SegmentError::Length {
                    field: "quality",
                    got: rest.len(),
                    want: LEADS,
                })?;
        let decision = Decision::ALL
            .into_iter()
            .find(|decision| *decision as i32 + 1 == wire.decision)
            .ok_or(SegmentError::Value {
                field: "decision",
                value: f64::from(wire.decision),
            })?;
        let samples = |field, whole: &[u8], steps: &[u8]| match wire.schema_version {
            1 => samples_of_wire(field, whole),
            _ => steps::decode(field, steps),
        };
        Ok(Self {
            id: wire.id,
            stream_id: wire.stream_id,
            device_id: wire.device_id,
            boot_id: wire.boot_id,
            start_sample: wire.start_sample,
            start_time_us: wire.start_time_us,
            last_gateway_time_us: wire.last_gateway_time_us,
            source_rate_hz: wire.source_rate_hz,
            uv_per_unit: wire.uv_per_unit,
            raw: samples("raw", &wire.raw, &wire.raw_steps)?,
            filtered: samples("filtered", &wire.filtered, &wire.filtered_steps)?,
            quality,
            measurements: measurements_of_wire(wire.measurements.unwrap_or_default()),
            decision,
            reasons: reasons_of_wire(&wire.reasons)?,
            chain: wire.chain,
            chain_version: wire.chain_version,
            stat: wire.stat,
            filter_class: wire::FilterClass::try_from(wire.filter_class)
                .map_err(|_| SegmentError::Value {
                    field: "filter_class",
                    value: f64::from(wire.filter_class),
                })?
                .into(),
            context_before: wire.context_before,
            context_after: wire.context_after,
            samples_sha256: wire.samples_sha256,
        })
    }
}

fn samples_of_wire(field: &'static str, bytes: &[u8]) -> Result<Vec<i16>, SegmentError> {
    let want = LEADS * SEGMENT_SAMPLES;
    let samples = wire::samples_of_bytes(bytes).filter(|samples| samples.len() == want);
    samples.ok_or(SegmentError::Length {
        field,
        got: bytes.len() / 2,
        want,
    })
}

fn reasons_to_wire(reasons: &[Reason]) -> Vec<i32> {
    reasons.iter().map(|reason| *reason as i32 + 1).collect()
}

fn reasons_of_wire(values: &[i32]) -> Result<Vec<Reason>, SegmentError> {
    let reason = |value: &i32| {
        let found = Reason::ALL.into_iter().find(|reason| *reason as i32 + 1 == *value);
        found.ok_or(SegmentError::Value {
            field: "reason",
            value: f64::from(*value),
        })
    };
    values.iter().map(reason).collect()
}

fn quality_to_wire(quality: &LeadQuality) -> wire::LeadQuality {
    wire::LeadQuality {
        snr_db: quality.snr_db,
        baseline_uv: quality.baseline_uv,
        mains_uv: quality.mains_uv,
        mains_residual_uv: quality.mains_residual_uv,
        drawn_samples: quality.drawn_samples,
        flags: reasons_to_wire(&quality.flags),
        origin: wire::LeadOrigin::from(quality.origin) as i32,
        usable: quality.usable,
    }
}

fn quality_of_wire(quality: &wire::LeadQuality) -> Result<LeadQuality, SegmentError> {
    let origin = wire::LeadOrigin::try_from(quality.origin).map_err(|_| SegmentError::Value {
        field: "origin",
        value: f64::from(quality.origin),
    })?;
    Ok(LeadQuality {
        snr_db: quality.snr_db,
        baseline_uv: quality.baseline_uv,
        mains_uv: quality.mains_uv,
        mains_residual_uv: quality.mains_residual_uv,
        drawn_samples: quality.drawn_samples,
        flags: reasons_of_wire(&quality.flags)?,
        origin: origin.into(),
        usable: quality.usable,
    })
}

fn measurements_to_wire(measurements: &Measurements) -> wire::Measurements {
    wire::Measurements {
        heart_rate_bpm: measurements.heart_rate_bpm,
        rr_sd_ms: measurements.rr_sd_ms,
        rmssd_ms: measurements.rmssd_ms,
        pr_ms: measurements.pr_ms,
        qrs_ms: measurements.qrs_ms,
        qt_ms: measurements.qt_ms,
        qtc_ms: measurements.qtc_ms,
        axis_degrees: measurements.axis_degrees,
        beats: measurements.beats,
        beat_agreement: measurements.beat_agreement,
        mains_hz: measurements.mains_hz,
        leads: measurements.leads.iter().map(amplitudes_to_wire).collect(),
    }
}

fn amplitudes_to_wire(lead: &LeadAmplitudes) -> wire::LeadAmplitudes {
    wire::LeadAmplitudes {
        r_mv: lead.r_mv,
        s_mv: lead.s_mv,
        st_mv: lead.st_mv,
    }
}

fn measurements_of_wire(measurements: wire::Measurements) -> Measurements {
    Measurements {
        heart_rate_bpm: measurements.heart_rate_bpm,
        rr_sd_ms: measurements.rr_sd_ms,
        rmssd_ms: measurements.rmssd_ms,
        pr_ms: measurements.pr_ms,
        qrs_ms: measurements.qrs_ms,
        qt_ms: measurements.qt_ms,
        qtc_ms: measurements.qtc_ms,
        axis_degrees: measurements.axis_degrees,
        beats: measurements.beats,
        beat_agreement: measurements.beat_agreement,
        mains_hz: measurements.mains_hz,
        leads: measurements.leads.iter().take(LEADS).map(amplitudes_of_wire).collect(),
    }
}

fn amplitudes_of_wire(lead: &wire::LeadAmplitudes) -> LeadAmplitudes {
    LeadAmplitudes {
        r_mv: lead.r_mv,
        s_mv: lead.s_mv,
        st_mv: lead.st_mv,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::segment::{FilterClass, LeadOrigin};

    fn segment() -> Segment {
        let quality = |lead: usize| LeadQuality {
            snr_db: (lead != 3).then_some(lead as f32),
            baseline_uv: 12.0,
            mains_uv: 0.5,
            mains_residual_uv: 0.25,
            drawn_samples: 4,
            flags: if lead == 3 {
                vec![Reason::Flat, Reason::LeadOff]
            } else {
                vec![]
            },
            origin: if (2..6).contains(&lead) {
                LeadOrigin::Derived
            } else {
                LeadOrigin::Measured
            },
            usable: lead != 3,
        };
        let samples: Vec<i16> = (0..LEADS * SEGMENT_SAMPLES)
            .map(|i| (i % 65_536) as u16 as i16)
            .collect();
        Segment {
            id: "00ff".into(),
            stream_id: "bed-01".into(),
            device_id: "monitor".into(),
            boot_id: 7,
            start_sample: 5000,
            start_time_us: 1,
            last_gateway_time_us: 2,
            source_rate_hz: 250.0,
            uv_per_unit: 1.0,
            raw: samples.clone(),
            filtered: samples.into_iter().rev().collect(),
            quality: std::array::from_fn(quality),
            measurements: Measurements {
                heart_rate_bpm: Some(60.0),
                beats: 10,
                leads: vec![
                    LeadAmplitudes {
                        r_mv: Some(1.0),
                        s_mv: None,
                        st_mv: Some(-0.1),
                    };
                    LEADS
                ],
                ..Measurements::default()
            },
            decision: Decision::Marginal,
            reasons: vec![Reason::LeadOff, Reason::AmplitudeLow],
            chain: "meit-dsp".into(),
            chain_version: 1,
            stat: true,
            filter_class: FilterClass::Monitor,
            context_before: true,
            context_after: false,
            samples_sha256: "ab".into(),
        }
    }

    #[test]
    fn a_segment_reads_back_from_its_bytes() {
        let segment = segment();
        assert_eq!(Segment::decode(&segment.encode()).unwrap(), segment);
    }

    #[test]
    fn reasons_and_decisions_have_the_numbers_of_the_protobuf_and_the_names_of_the_json() {
        for reason in Reason::ALL {
            let wire = wire::Reason::try_from(reason as i32 + 1).unwrap();
            let name = wire.as_str_name().strip_prefix("REASON_").unwrap().to_lowercase();
            assert_eq!(name, reason.as_str());
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{name}\""));
        }
        for decision in Decision::ALL {
            let wire = wire::Decision::try_from(decision as i32 + 1).unwrap();
            assert_eq!(
                wire.as_str_name(),
                format!("DECISION_{}", decision.as_str().to_uppercase())
            );
        }
    }

    #[test]
    fn a_segment_of_schema_1_is_read_too() {
        let segment = segment();
        let now = wire::Segment::decode(&*segment.encode()).unwrap();
        let earlier = wire::Segment {
            schema_version: 1,
            raw: wire::bytes_of_samples(&segment.raw),
            filtered: wire::bytes_of_samples(&segment.filtered),
            raw_steps: vec![],
            filtered_steps: vec![],
            ..now
        };
        let bytes = earlier.encode_to_vec();
        assert_eq!(Segment::decode(&bytes).unwrap(), segment);
        assert!(segment.encode().len() < bytes.len());
        let later = wire::Segment {
            schema_version: SCHEMA_VERSION + 1,
            ..earlier
        };
        assert!(matches!(
            Segment::decode(&later.encode_to_vec()),
            Err(SegmentError::Schema { version: 3 })
        ));
    }

    #[test]
    fn a_segment_with_a_sample_too_few_is_refused() {
        let mut short = segment();
        short.raw.pop();
        assert!(matches!(
            Segment::decode(&short.encode()),
            Err(SegmentError::Length { field: "raw", .. })
        ));
    }

    proptest! {
        #[test]
        fn decode_never_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Segment::decode(&bytes);
        }
    }
}
