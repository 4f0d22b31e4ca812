//! From a clinician's verdict to a record on `ecg.signed-reports.v1`.
//!
//! Place: behind the sign and reject buttons. Invariant: a draft leaves the list only after Kafka acknowledged its signature;
//! what is about to be published is in the audit log before it is published. When anything fails, the draft is kept and the
//! reason is said.

use std::sync::Arc;

use ecg::report::{SignAction, SignedReport};
use ecg::topic;
use service::kafka::sink::{Sink, SinkError};
use sha2::{Digest as _, Sha256};

use crate::audit::{self, Audit, AuditError, Event};
use crate::auth::Identity;
use crate::metrics::Metrics;
use crate::worklist::{Entry, Refusal, Worklist};

/// Longest report and longest reason that are taken, characters.
pub const TEXT_MAX: usize = 4000;
/// What a signature says of the text.
pub const MEANING_SIGNED: &str = "I have read this tracing and confirm this report.";
/// What a rejection says of the draft.
pub const MEANING_REJECTED: &str = "I have read this tracing and reject this draft.";

/// What a clinician decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The report as it should read.
    Sign {
        /// The text.
        text: String,
    },
    /// There will be no report from this draft.
    Reject {
        /// Why.
        reason: String,
    },
}

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The verdict itself cannot be signed.
    #[error("{0}")]
    Invalid(&'static str),
    /// The draft cannot be signed now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The audit log does not take the line.
    #[error("the audit log cannot be written, so nothing was signed; the draft is kept")]
    Audit(#[from] AuditError),
    /// Kafka did not acknowledge in time.
    #[error(
        "Kafka does not answer, so the signature could not be published; the draft and your text are kept. Please try again."
    )]
    Kafka(#[from] SinkError),
}

/// What signing needs; clones share it.
#[derive(Clone)]
pub struct Signing {
    /// Where signatures go; its delivery time is the longest that a signer waits.
    pub sink: Sink,
    /// Where they are noted.
    pub audit: Audit,
    /// Where drafts wait.
    pub worklist: Worklist,
    /// What counts them.
    pub metrics: Metrics,
}

/// A verdict on one draft, as the page sent it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The draft.
    pub draft_id: String,
    /// The version that the page showed the making of: 1, or more for an amendment.
    pub version: u32,
    /// What was decided.
    pub verdict: Verdict,
    /// True when the report may be trained on.
    pub training_consent: bool,
    /// Where it was signed, when that was not on this page; it then stands for the meaning.
    pub source: Option<String>,
}

impl Signing {
    /// Signs: audit, publish, audit, and off the list. It goes on to its end even when the caller goes away.
    ///
    /// # Errors
    /// [`SignError`]; the draft then still waits.
    pub async fn sign(&self, who: Identity, request: Request) -> Result<Arc<SignedReport>, SignError> {
        let this = self.clone();
        let timer = self.metrics.sign_seconds.start_timer();
        let signed = tokio::spawn(async move { this.sign_to_the_end(&who, request).await }).await;
        let signed = signed.expect("signing does not panic");
        match &signed {
            Ok(_) => timer.observe_duration(),
            Err(error) => {
                timer.stop_and_discard();
                self.metrics.sign_failed(reason(error));
            }
        }
        signed
    }

    async fn sign_to_the_end(&self, who: &Identity, request: Request) -> Result<Arc<SignedReport>, SignError> {
        let entry = self.worklist.claim(&request.draft_id, request.version)?;
        let signed = self.publish(who, &entry, request).await;
        match &signed {
            Ok(report) => {
                self.metrics.signed(report, entry.open_for());
                self.worklist.finish((**report).clone());
            }
            Err(_) => self.worklist.release(&entry.draft.draft_id),
        }
        signed
    }

    async fn publish(&self, who: &Identity, entry: &Entry, request: Request) -> Result<Arc<SignedReport>, SignError> {
        let report = report(who, entry, request, service::time::now_us())?;
        let payload = serde_json::to_vec(&report).expect("a report has only strings, numbers and flags");
        let note = |event| audit::Entry {
            event,
            signer: report.signer.clone(),
            draft_id: report.draft_id.clone(),
            version: report.version,
            action: report.action.as_str().to_owned(),
            meaning: report.meaning.clone(),
            record_sha256: audit::hex(&Sha256::digest(&payload)),
        };
        self.audit.append(note(Event::SignRequested)).await?;
        let key = Some(report.segment_id.as_bytes());
        let event_id = format!("{}-{}", report.draft_id, report.version);
        let headers = ecg::event::headers(topic::SIGNED_REPORTS, crate::EVENT_SOURCE, &event_id);
        if let Err(error) = self.sink.send(topic::SIGNED_REPORTS, key, &payload, &headers).await {
            tracing::error!(%error, "signature not published");
            if let Err(error) = self.audit.append(note(Event::SignFailed)).await {
                tracing::error!(%error, "audit log");
            }
            return Err(error.into());
        }
        // it is published, so it is signed, whatever becomes of this line; the requested line is there
        if let Err(error) = self.audit.append(note(Event::Signed)).await {
            tracing::error!(%error, "audit log");
        }
        Ok(Arc::new(report))
    }
}

/// Label value of an error.
fn reason(error: &SignError) -> &'static str {
    match error {
        SignError::Invalid(_) => "invalid",
        SignError::Refused(_) => "conflict",
        SignError::Audit(_) => "audit",
        SignError::Kafka(_) => "kafka",
    }
}

/// The record of a verdict.
///
/// # Errors
/// [`SignError::Invalid`] when the text or the reason is empty, too long, or has control characters, or when the tracing was
/// not there to be read.
fn report(who: &Identity, entry: &Entry, request: Request, now_us: i64) -> Result<SignedReport, SignError> {
    let draft = &entry.draft;
    let drafted = draft.text.as_deref().map(tidy);
    let (text, action, reason, meaning) = match request.verdict {
        Verdict::Sign { text } => {
            if entry.segment.is_none() {
                return Err(SignError::Invalid(
                    "the tracing of this draft is not here, so a report on it cannot be signed; it can be rejected",
                ));
            }
            let text = checked(
                &text,
                "the report is empty",
                "the report is too long or has control characters",
            )?;
            let unchanged = drafted.as_deref() == Some(text.as_str());
            let action = if unchanged {
                SignAction::Accepted
            } else {
                SignAction::Edited
            };
            (text, action, None, MEANING_SIGNED)
        }
        Verdict::Reject { reason } => {
            let reason = checked(
                &reason,
                "say why the draft is rejected",
                "the reason is too long or has control characters",
            )?;
            let text = drafted.clone().unwrap_or_default();
            (text, SignAction::Rejected, Some(reason), MEANING_REJECTED)
        }
    };
    Ok(SignedReport {
        draft_id: draft.draft_id.clone(),
        segment_id: draft.segment_id.clone(),
        text,
        action,
        signer: who.signer.clone(),
        role: who.title.clone(),
        signed_at_us: now_us,
        // a rejected draft has no report to learn from
        training_consent: request.training_consent && action != SignAction::Rejected,
        version: request.version,
        reason,
        meaning: request.source.unwrap_or_else(|| meaning.to_owned()),
        draft_text: drafted,
        segment_sha256: draft.segment_sha256.clone(),
        bundle_id: draft.bundle.bundle_id.clone(),
        patient: None,
    })
}

/// Browsers send line ends as CR LF; they and blanks at the end are no edit.
pub fn tidy(text: &str) -> String {
    text.replace("\r\n", "\n").trim().to_owned()
}

fn checked(text: &str, empty: &'static str, unfit: &'static str) -> Result<String, SignError> {
    let text = tidy(text);
    if text.is_empty() {
        return Err(SignError::Invalid(empty));
    }
    let control = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.chars().count() > TEXT_MAX || text.chars().any(control) {
        return Err(SignError::Invalid(unfit));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::testing;

    fn entry(text: Option<&str>, with_tracing: bool) -> Entry {
        let mut entry = testing::entry("bed-01", text);
        entry.segment = entry.segment.filter(|_| with_tracing);
        entry
    }

    fn signed(entry: &Entry, verdict: Verdict) -> Result<SignedReport, SignError> {
        let who = Identity {
            signer: "dr-1".to_owned(),
            title: "cardiologist".to_owned(),
            role: Role::Signer,
        };
        let request = Request {
            draft_id: entry.draft.draft_id.clone(),
            version: 1,
            verdict,
            training_consent: true,
            source: None,
        };
        report(&who, entry, request, 5)
    }

    fn sign(text: &str) -> Verdict {
        Verdict::Sign { text: text.to_owned() }
    }

    #[test]
    fn an_unchanged_text_is_accepted_and_a_changed_one_edited() {
        let entry = entry(Some("sinus rhythm.\nnormal ecg."), true);
        for (text, action) in [
            ("sinus rhythm.\r\nnormal ecg. ", SignAction::Accepted),
            ("sinus rhythm. normal ecg.", SignAction::Edited),
        ] {
            let report = signed(&entry, sign(text)).unwrap();
            assert_eq!((report.action, report.signed_at_us), (action, 5));
            assert_eq!(report.draft_text.as_deref(), Some("sinus rhythm.\nnormal ecg."));
            assert!(report.training_consent);
        }
    }

    #[test]
    fn a_text_where_the_node_abstained_is_edited() {
        let report = signed(&entry(None, true), sign("ventricular paced rhythm")).unwrap();
        assert_eq!((report.action, report.draft_text), (SignAction::Edited, None));
    }

    #[test]
    fn a_rejection_needs_a_reason_and_is_not_for_training() {
        let entry = entry(Some("sinus rhythm"), false);
        let reject = |reason: &str| Verdict::Reject {
            reason: reason.to_owned(),
        };
        assert!(matches!(signed(&entry, reject(" ")), Err(SignError::Invalid(_))));
        let report = signed(&entry, reject("wrong rhythm")).unwrap();
        assert_eq!(
            (report.action, report.reason.as_deref()),
            (SignAction::Rejected, Some("wrong rhythm"))
        );
        assert!(!report.training_consent);
    }

    #[test]
    fn nothing_empty_too_long_or_unseen_is_signed() {
        let seen = entry(Some("sinus rhythm"), true);
        for text in ["", " \r\n", "a\u{7}b", &"x".repeat(TEXT_MAX + 1)] {
            assert!(
                matches!(signed(&seen, sign(text)), Err(SignError::Invalid(_))),
                "{text:?}"
            );
        }
        let unseen = entry(Some("sinus rhythm"), false);
        assert!(matches!(
            signed(&unseen, sign("sinus rhythm")),
            Err(SignError::Invalid(_))
        ));
    }
}
