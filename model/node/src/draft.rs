//! A segment and a text to a draft.
//!
//! Place: after the device, before the delivery. Invariant: pure; a draft has a text or a reason to abstain, never both, and
//! always names its samples, its bundle and its decode parameters.

use std::time::Duration;

use ecg::report::{BundleLineage, DISCLAIMER, DecodeParameters, DraftReport, Latencies, TokenLogprobs};
use ecg::segment::{Decision, Reason, Segment};

use crate::drafter::{DraftText, finish_name};
use model::checks::contradictions;
use model::validate::{TextFault, validate};

/// [`DraftReport::finish_reason`] of a segment that the model never saw.
pub(crate) const NOT_RUN: &str = "not_run";

/// Why a draft has no text; a closed set, so it is safe as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Abstain {
    /// The gate refused the segment.
    Rejected,
    /// The patient is paced; the model was not made for it.
    Paced,
    /// The text is unfit to be read.
    Text(TextFault),
}

impl Abstain {
    /// Label and JSON value of every reason.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let texts = TextFault::ALL.into_iter().map(Abstain::Text);
        [Abstain::Rejected, Abstain::Paced]
            .into_iter()
            .chain(texts)
            .map(Abstain::as_str)
    }

    /// Label and JSON value.
    pub fn as_str(self) -> &'static str {
        match self {
            Abstain::Rejected => "segment_rejected",
            Abstain::Paced => "paced",
            Abstain::Text(TextFault::Empty) => "text_empty",
            Abstain::Text(TextFault::TooLong) => "text_too_long",
            Abstain::Text(TextFault::NonAscii) => "text_non_ascii",
            Abstain::Text(TextFault::Looping) => "text_looping",
        }
    }
}

/// Who drafts, and how; the same for every draft of one drafter.
#[derive(Clone, Debug)]
pub struct Author {
    /// The bundle.
    pub bundle: BundleLineage,
    /// How texts are decoded.
    pub decode: DecodeParameters,
}

/// Where a draft's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// From the node's receipt of the segment to its start on the device.
    pub queue: Duration,
    /// From then to its end.
    pub infer: Duration,
    /// Now, microseconds since the Unix epoch.
    pub now_us: i64,
}

/// Why the model need not see a segment.
pub fn abstains(segment: &Segment) -> Option<Abstain> {
    if segment.decision == Decision::Reject {
        return Some(Abstain::Rejected);
    }
    segment.reasons.contains(&Reason::Paced).then_some(Abstain::Paced)
}

/// The draft of a segment that the model has written about.
pub fn drafted(segment: &Segment, written: &DraftText, author: &Author, times: &Times) -> DraftReport {
    let mut draft = bare(segment, author, times);
    draft.token_logprobs = TokenLogprobs {
        mean: written.logprob_mean,
        min: written.logprob_min,
        tokens: written.tokens,
    };
    draft.finish_reason = finish_name(written.finish).to_owned();
    match validate(&written.text) {
        Ok(()) => {
            draft.contradictions = contradictions(&written.text, &segment.measurements);
            draft.text = Some(written.text.clone());
        }
        Err(fault) => draft.abstain = Some(Abstain::Text(fault).as_str().to_owned()),
    }
    draft
}

/// The draft of a segment that the model has not seen.
pub fn abstained(segment: &Segment, why: Abstain, author: &Author, times: &Times) -> DraftReport {
    DraftReport {
        abstain: Some(why.as_str().to_owned()),
        ..bare(segment, author, times)
    }
}

/// All but the text and what goes with it.
fn bare(segment: &Segment, author: &Author, times: &Times) -> DraftReport {
    DraftReport {
        draft_id: ecg::id::draft_id(&segment.id, &author.bundle.bundle_id),
        segment_id: segment.id.clone(),
        segment_sha256: segment.samples_sha256.clone(),
        stream_id: segment.stream_id.clone(),
        start_sample: segment.start_sample,
        start_time_us: segment.start_time_us,
        decision: segment.decision,
        reasons: segment.reasons.clone(),
        snr_db: std::array::from_fn(|lead| segment.quality[lead].snr_db),
        measurements: segment.measurements.clone(),
        bundle: author.bundle.clone(),
        text: None,
        abstain: None,
        token_logprobs: TokenLogprobs::default(),
        finish_reason: NOT_RUN.to_owned(),
        contradictions: Vec::new(),
        decode: author.decode.clone(),
        latencies_ms: Latencies {
            queue: times.queue.as_secs_f64() * 1000.0,
            infer: times.infer.as_secs_f64() * 1000.0,
            last_sample_to_draft: times.now_us.saturating_sub(segment.last_gateway_time_us) as f64 / 1000.0,
        },
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        disclaimer: DISCLAIMER.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeDrafter, author, segment, text};

    fn times() -> Times {
        Times {
            queue: Duration::from_millis(20),
            infer: Duration::from_millis(300),
            now_us: 20_500_000,
        }
    }

    #[test]
    fn a_draft_names_what_it_was_made_from() {
        let mut segment = segment(7);
        segment.measurements.heart_rate_bpm = Some(80.0);
        segment.quality[3].snr_db = Some(12.5);
        let draft = drafted(&segment, &text("sinus bradycardia"), &author(), &times());
        assert_eq!(draft.draft_id, ecg::id::draft_id(&segment.id, FakeDrafter::BUNDLE_ID));
        assert_eq!(
            (draft.segment_id, draft.segment_sha256),
            (segment.id, segment.samples_sha256)
        );
        assert_eq!(draft.bundle, author().bundle);
        assert_eq!(draft.decode, author().decode);
        assert_eq!(draft.snr_db[3], Some(12.5));
        assert_eq!(
            (draft.text.as_deref(), draft.abstain),
            (Some("sinus bradycardia"), None)
        );
        assert_eq!(draft.contradictions.len(), 1);
        assert_eq!((draft.finish_reason.as_str(), draft.token_logprobs.tokens), ("stop", 2));
        let latencies = draft.latencies_ms;
        assert_eq!(
            (latencies.queue, latencies.infer, latencies.last_sample_to_draft),
            (20.0, 300.0, 500.0)
        );
        assert_eq!(draft.disclaimer, DISCLAIMER);
    }

    #[test]
    fn an_unfit_text_is_left_out_with_the_reason() {
        let draft = drafted(&segment(7), &text("st st st st st"), &author(), &times());
        assert_eq!((draft.text, draft.abstain.as_deref()), (None, Some("text_looping")));
        assert_eq!(draft.token_logprobs.tokens, 5);
    }

    #[test]
    fn a_refused_or_paced_segment_is_abstained_from() {
        let mut segment = segment(7);
        assert_eq!(abstains(&segment), None);
        segment.reasons = vec![Reason::Paced];
        assert_eq!(abstains(&segment), Some(Abstain::Paced));
        segment.decision = Decision::Reject;
        assert_eq!(abstains(&segment), Some(Abstain::Rejected));
        let draft = abstained(&segment, Abstain::Rejected, &author(), &times());
        assert_eq!((draft.text, draft.abstain.as_deref()), (None, Some("segment_rejected")));
        assert_eq!(draft.finish_reason, "not_run");
    }

    #[test]
    fn units_become_millivolts() {
        let mut segment = segment(7);
        segment.uv_per_unit = 2.5;
        segment.filtered[5001] = -400;
        let input = model::meit::EcgInput::from(&segment);
        assert_eq!(
            (input.millivolts.len(), input.millivolts[5001], input.millivolts[0]),
            (60_000, -1.0, 0.0)
        );
    }
}
