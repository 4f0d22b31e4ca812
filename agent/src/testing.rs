//! Sample values for the tests of this package.
//!
//! Place: tests only.
//! Invariant: valid; every field is plain and the same each time.

use ecg::LEADS;
use ecg::packet::Packet;
use ecg::segment::{Decision, FilterClass, LeadOrigin, LeadQuality, Measurements, Reason, Segment};
use ecg::window::Context;

/// A silent segment with a given verdict.
pub(crate) fn segment(decision: Decision, stat: bool) -> Segment {
    let quality = LeadQuality {
        origin: LeadOrigin::Measured,
        usable: true,
        ..LeadQuality::default()
    };
    Segment {
        id: "00".into(),
        stream_id: "bed-01".into(),
        device_id: "monitor".into(),
        boot_id: 1,
        start_sample: 5000,
        start_time_us: 10_000_000,
        last_gateway_time_us: 20_000_000,
        source_rate_hz: 500.0,
        uv_per_unit: 1.0,
        raw: vec![0; LEADS * ecg::SEGMENT_SAMPLES],
        filtered: vec![0; LEADS * ecg::SEGMENT_SAMPLES],
        quality: std::array::from_fn(|_| quality.clone()),
        measurements: Measurements::default(),
        decision,
        reasons: if decision == Decision::Reject {
            vec![Reason::Flat]
        } else {
            vec![]
        },
        chain: "meit-dsp".into(),
        chain_version: 1,
        stat,
        filter_class: FilterClass::Unspecified,
        context_before: true,
        context_after: true,
        samples_sha256: "ab".into(),
    }
}

/// A packet without leads at the start of bed-01's stream.
pub(crate) fn heartbeat() -> Packet {
    Packet {
        stream_id: "bed-01".into(),
        device_id: "monitor".into(),
        boot_id: 0,
        sequence: 0,
        first_sample: 0,
        device_time_us: 0,
        gateway_time_us: 0,
        rate_hz: 500.0,
        leads: vec![],
        stat: false,
        filter_class: FilterClass::Unspecified,
        heartbeat: true,
    }
}

/// A window of silence without context.
pub(crate) fn context(start_sample: i64, last_gateway_time_us: i64, stat: bool) -> Context {
    Context {
        device_id: "monitor".into(),
        boot_id: 1,
        start_sample,
        last_gateway_time_us,
        stat,
        ..Context::of("bed-01", vec![vec![0.0; ecg::SEGMENT_SAMPLES]; LEADS])
    }
}
