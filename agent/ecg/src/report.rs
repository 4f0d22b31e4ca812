//! What people read: draft reports, signed reports and reject records, all JSON.
//!
//! Place: the agent writes [`RejectRecord`], the node [`DraftReport`]; a clinician's system writes [`SignedReport`],
//! which the nightly pipeline reads.
//! Invariant: a draft names the samples (hash), the bundle (hashes) and the decode parameters that made it, and always
//! carries [`DISCLAIMER`]. No patient identifier in any field.

use serde::{Deserialize, Serialize};

use crate::LEADS;
use crate::segment::{Decision, LeadQuality, Measurements, Reason, Segment};

/// What every draft says about itself.
pub const DISCLAIMER: &str = "draft, not reviewed by a clinician";

/// A model's draft of a report on one segment, or its reason to abstain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DraftReport {
    /// [`crate::id::draft_id`] of segment and bundle.
    pub draft_id: String,
    /// The segment.
    pub segment_id: String,
    /// SHA-256 of the segment's raw and filtered samples.
    pub segment_sha256: String,
    /// The stream, a pseudonym.
    pub stream_id: String,
    /// First sample of the segment on the stream's 500 Hz grid.
    pub start_sample: i64,
    /// Device time of the first sample, microseconds since the Unix epoch.
    pub start_time_us: i64,
    /// The gate's verdict.
    pub decision: Decision,
    /// The gate's reasons.
    pub reasons: Vec<Reason>,
    /// Signal-to-noise ratio of each lead, decibels, window-power definition; `None` = unknown.
    pub snr_db: [Option<f32>; LEADS],
    /// What was measured.
    pub measurements: Measurements,
    /// What wrote the text.
    pub bundle: BundleLineage,
    /// The draft, unless abstained.
    pub text: Option<String>,
    /// Why there is no text, when there is none.
    pub abstain: Option<String>,
    /// Summary of the tokens' log-probabilities.
    pub token_logprobs: TokenLogprobs,
    /// Why the text ended: "stop", "length".
    pub finish_reason: String,
    /// Statements of the text that disagree with what was measured.
    pub contradictions: Vec<String>,
    /// How the text was decoded.
    pub decode: DecodeParameters,
    /// Where the time went.
    pub latencies_ms: Latencies,
    /// Version of the node.
    pub software_version: String,
    /// [`DISCLAIMER`].
    pub disclaimer: String,
}

/// The parts of the bundle that wrote a draft, by hash.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BundleLineage {
    /// Id of the whole bundle.
    pub bundle_id: String,
    /// SHA-256 of the base decoder's weights.
    pub base_sha256: String,
    /// SHA-256 of the encoder's weights.
    pub encoder_sha256: String,
    /// SHA-256 of the tokenizer.
    pub tokenizer_sha256: String,
    /// SHA-256 of the adapter's weights, when there is one.
    pub adapter_sha256: Option<String>,
}

/// Summary of the log-probabilities of a draft's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct TokenLogprobs {
    /// Mean natural log-probability.
    pub mean: f32,
    /// Smallest natural log-probability.
    pub min: f32,
    /// Tokens counted.
    pub tokens: u32,
}

/// How a text was decoded.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct DecodeParameters {
    /// "greedy" or "sample".
    pub strategy: String,
    /// Tokens at most.
    pub max_tokens: u32,
    /// Softmax temperature; 0 when greedy.
    pub temperature: f64,
    /// Seed of the sampler.
    pub seed: u64,
}

/// Where a draft's time went, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Latencies {
    /// From the node's receipt of the segment to the start of its batch.
    pub queue: f64,
    /// Encoder, prefix and decoder of its batch.
    pub infer: f64,
    /// From the gateway time of the last packet of the segment to the draft.
    pub last_sample_to_draft: f64,
}

/// What a clinician made of a draft.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignedReport {
    /// The draft.
    pub draft_id: String,
    /// The segment.
    pub segment_id: String,
    /// The text as signed.
    pub text: String,
    /// What was done with the draft.
    pub action: SignAction,
    /// Pseudonym of the signer.
    pub signer: String,
    /// Role of the signer, such as "cardiologist".
    pub role: String,
    /// When it was signed, microseconds since the Unix epoch.
    pub signed_at_us: i64,
    /// True when the report may be trained on.
    pub training_consent: bool,
    /// 1 for the first signature, one more with every amendment; the highest of a draft holds, of equal ones the last.
    #[serde(default = "first_version")]
    pub version: u32,
    /// Why, where the draft was rejected.
    #[serde(default)]
    pub reason: Option<String>,
    /// What the signature says of the text.
    #[serde(default)]
    pub meaning: String,
    /// The text as drafted, so that the change is known after the draft's record is gone; none where the node abstained.
    #[serde(default)]
    pub draft_text: Option<String>,
    /// SHA-256 of the samples that the signer saw.
    #[serde(default)]
    pub segment_sha256: String,
    /// Id of the bundle that drafted.
    #[serde(default)]
    pub bundle_id: String,
    /// Pseudonym of the patient, where the signing system knows one, so that training keeps a patient in one split.
    #[serde(default)]
    pub patient: Option<String>,
}

/// [`SignedReport::version`] of records that were written before it was there.
fn first_version() -> u32 {
    1
}

/// What a clinician did with a draft.
///
/// [`SignAction::Rejected`] leaves no report; a reader must not show its text as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignAction {
    /// Signed as drafted.
    Accepted,
    /// Signed with changes.
    Edited,
    /// Thrown away.
    Rejected,
}

impl SignAction {
    /// Every action.
    pub const ALL: [SignAction; 3] = [SignAction::Accepted, SignAction::Edited, SignAction::Rejected];

    /// Label value, as in JSON: "accepted", "edited", "rejected".
    pub fn as_str(self) -> &'static str {
        match self {
            SignAction::Accepted => "accepted",
            SignAction::Edited => "edited",
            SignAction::Rejected => "rejected",
        }
    }
}

/// A segment that the gate refused, and why; the samples stay on `ecg.waveforms.v1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RejectRecord {
    /// The segment.
    pub segment_id: String,
    /// SHA-256 of the segment's raw and filtered samples.
    pub segment_sha256: String,
    /// The stream, a pseudonym.
    pub stream_id: String,
    /// First sample of the segment on the stream's 500 Hz grid.
    pub start_sample: i64,
    /// Device time of the first sample, microseconds since the Unix epoch.
    pub start_time_us: i64,
    /// Why.
    pub reasons: Vec<Reason>,
    /// Quality of each lead, standard order.
    pub quality: Vec<LeadQuality>,
    /// What was measured all the same.
    pub measurements: Measurements,
    /// Name of the filter chain.
    pub chain: String,
    /// Version of the filter chain.
    pub chain_version: u32,
}

impl RejectRecord {
    /// The record of a refused segment.
    pub fn of(segment: &Segment) -> Self {
        Self {
            segment_id: segment.id.clone(),
            segment_sha256: segment.samples_sha256.clone(),
            stream_id: segment.stream_id.clone(),
            start_sample: segment.start_sample,
            start_time_us: segment.start_time_us,
            reasons: segment.reasons.clone(),
            quality: segment.quality.to_vec(),
            measurements: segment.measurements.clone(),
            chain: segment.chain.clone(),
            chain_version: segment.chain_version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_reads_back_from_its_json() {
        let draft = DraftReport {
            draft_id: "d".into(),
            segment_id: "s".into(),
            segment_sha256: "h".into(),
            stream_id: "bed-01".into(),
            start_sample: 5000,
            start_time_us: 10_000_000,
            decision: Decision::Marginal,
            reasons: vec![Reason::SnrLow],
            snr_db: [
                Some(12.5),
                None,
                None,
                None,
                None,
                None,
                None,
                None,
                None,
                None,
                None,
                Some(3.0),
            ],
            measurements: Measurements {
                heart_rate_bpm: Some(61.5),
                beats: 10,
                ..Measurements::default()
            },
            bundle: BundleLineage {
                bundle_id: "b".into(),
                ..BundleLineage::default()
            },
            text: Some("sinus rhythm".into()),
            abstain: None,
            token_logprobs: TokenLogprobs {
                mean: -0.5,
                min: -2.0,
                tokens: 7,
            },
            finish_reason: "stop".into(),
            contradictions: vec![],
            decode: DecodeParameters {
                strategy: "greedy".into(),
                max_tokens: 64,
                temperature: 0.0,
                seed: 1,
            },
            latencies_ms: Latencies {
                queue: 1.0,
                infer: 2.0,
                last_sample_to_draft: 3.0,
            },
            software_version: "0.1.0".into(),
            disclaimer: DISCLAIMER.into(),
        };
        let json = serde_json::to_string(&draft).unwrap();
        assert!(
            json.contains(r#""decision":"marginal","reasons":["snr_low"]"#),
            "{json}"
        );
        assert!(json.contains("draft, not reviewed by a clinician"));
        assert_eq!(serde_json::from_str::<DraftReport>(&json).unwrap(), draft);
    }

    #[test]
    fn a_signed_report_without_the_later_fields_is_the_first_version() {
        let json = r#"{"draft_id":"d","segment_id":"s","text":"sinus rhythm","action":"edited","signer":"dr-1",
            "role":"cardiologist","signed_at_us":1,"training_consent":true}"#;
        let report: SignedReport = serde_json::from_str(json).unwrap();
        assert_eq!((report.version, report.reason, report.draft_text), (1, None, None));
        for action in SignAction::ALL {
            let json = serde_json::to_string(&action).unwrap();
            assert_eq!(json, format!("\"{}\"", action.as_str()));
        }
    }
}
