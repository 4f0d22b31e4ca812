//! Made-up segments, drafts and signatures for the tests of this package.
//!
//! Place: tests only. Invariant: a function of its arguments; a draft belongs to its segment.

use ecg::report::{
    BundleLineage, DISCLAIMER, DecodeParameters, DraftReport, Latencies, SignAction, SignedReport, TokenLogprobs,
};
use ecg::segment::{Decision, LeadOrigin, LeadQuality, Measurements, Segment};
use ecg::{LEADS, SEGMENT_SAMPLES, topic};

use crate::metrics::Metrics;
use crate::worklist::{Entry, Limits, Place, Worklist};

/// A flat segment, 1 microvolt a unit.
pub fn segment(stream_id: &str, start_sample: i64) -> Segment {
    let samples = vec![0; LEADS * SEGMENT_SAMPLES];
    let quality = |_| LeadQuality {
        snr_db: Some(20.0),
        baseline_uv: 10.0,
        mains_uv: 1.0,
        origin: LeadOrigin::Measured,
        usable: true,
        ..LeadQuality::default()
    };
    Segment {
        id: ecg::id::segment_id(stream_id, ("monitor", 1), start_sample, "meit-dsp", 1),
        stream_id: stream_id.to_owned(),
        device_id: "monitor".to_owned(),
        boot_id: 1,
        start_sample,
        start_time_us: 1_700_000_000_000_000,
        last_gateway_time_us: 1_700_000_010_000_000,
        source_rate_hz: 500.0,
        uv_per_unit: 1.0,
        raw: samples.clone(),
        filtered: samples.clone(),
        quality: std::array::from_fn(quality),
        measurements: Measurements {
            heart_rate_bpm: Some(75.0),
            qrs_ms: Some(92.0),
            beats: 12,
            ..Measurements::default()
        },
        decision: Decision::Accept,
        reasons: vec![],
        chain: "meit-dsp".to_owned(),
        chain_version: 1,
        filter_class: ecg::segment::FilterClass::Unspecified,
        stat: false,
        context_before: true,
        context_after: true,
        samples_sha256: format!("sha-{stream_id}-{start_sample}"),
    }
}

/// A draft on a segment; without a text the node abstained.
pub fn draft(segment: &Segment, text: Option<&str>) -> DraftReport {
    DraftReport {
        draft_id: ecg::id::draft_id(&segment.id, "bundle-1"),
        segment_id: segment.id.clone(),
        segment_sha256: segment.samples_sha256.clone(),
        stream_id: segment.stream_id.clone(),
        start_sample: segment.start_sample,
        start_time_us: segment.start_time_us,
        decision: segment.decision,
        reasons: segment.reasons.clone(),
        snr_db: std::array::from_fn(|lead| segment.quality[lead].snr_db),
        measurements: segment.measurements.clone(),
        bundle: BundleLineage {
            bundle_id: "bundle-1".to_owned(),
            ..BundleLineage::default()
        },
        text: text.map(str::to_owned),
        abstain: text.is_none().then(|| "paced".to_owned()),
        token_logprobs: TokenLogprobs::default(),
        finish_reason: "stop".to_owned(),
        contradictions: vec![],
        decode: DecodeParameters::default(),
        latencies_ms: Latencies::default(),
        software_version: "0.1.0".to_owned(),
        disclaimer: DISCLAIMER.to_owned(),
    }
}

/// A draft that waits with its tracing.
pub fn entry(stream_id: &str, text: Option<&str>) -> Entry {
    let list = list(2);
    let segment = segment(stream_id, 0);
    list.add_draft(draft(&segment, text), place(topic::REPORTS, 0));
    list.add_segment(segment, place(topic::SEGMENTS, 0));
    list.waiting().remove(0)
}

/// An empty list for so many drafts.
pub fn list(waiting: usize) -> Worklist {
    let limits = Limits {
        waiting,
        segments: 2,
        recent: 2,
        remembered: 3,
    };
    Worklist::new(limits, Metrics::new(&prometheus::Registry::new()).unwrap())
}

/// A place on a topic's first partition.
pub fn place(topic: &str, offset: i64) -> Place {
    Place {
        topic: topic.into(),
        partition: 0,
        offset,
    }
}

/// An unchanged signature of a draft.
pub fn signed(draft: &DraftReport, version: u32) -> SignedReport {
    SignedReport {
        draft_id: draft.draft_id.clone(),
        segment_id: draft.segment_id.clone(),
        text: draft.text.clone().unwrap_or_default(),
        action: SignAction::Accepted,
        signer: "dr-1".to_owned(),
        role: "cardiologist".to_owned(),
        signed_at_us: 1_700_000_100_000_000,
        training_consent: false,
        version,
        reason: None,
        meaning: "read and confirmed".to_owned(),
        draft_text: draft.text.clone(),
        segment_sha256: draft.segment_sha256.clone(),
        bundle_id: draft.bundle.bundle_id.clone(),
        patient: None,
    }
}
