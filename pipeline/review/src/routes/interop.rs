//! The routes for other systems: FHIR out, HL7 v2 out and in.
//!
//! Place: beside the pages, behind the same guard. Invariant: whatever leaves is in the audit log; whatever comes in is a
//! signature like any other: role, audit, Kafka, in this order, and the same message twice is one signature.

use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ecg::report::SignAction;

use super::SamplesQuery;
use crate::App;
use crate::audit::{Entry as Note, Event};
use crate::guard::{Caller, Refused};
use crate::signing::{Request, SignError, Verdict};
use crate::worklist::{Entry, Refusal};
use crate::{fhir, hl7};
use service::time::now_us;

const FHIR_JSON: &str = "application/fhir+json; fhirVersion=4.0; charset=utf-8";
const HL7_ER7: &str = "application/hl7-v2+er7; charset=utf-8";

/// The draft, after its leaving is in the audit log.
async fn exported(app: &App, caller: &Caller, id: &str) -> Result<Entry, Refused> {
    let found = app.worklist.find(id);
    let entry = found.ok_or(Refused(StatusCode::NOT_FOUND, "no such draft"))?;
    let note = Note::about(Event::Exported, &caller.identity.signer, id);
    app.audit.append(note).await.map_err(|error| {
        tracing::error!(%error, "audit log");
        Refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "the audit log cannot be written, so nothing is given out",
        )
    })?;
    Ok(entry)
}

pub(super) async fn fhir(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(query): Query<SamplesQuery>,
) -> Result<Response, Refused> {
    let samples = query.samples()?;
    let entry = exported(&app, &caller, &id).await?;
    let json = serde_json::to_vec(&fhir::bundle(&entry, samples, now_us()));
    Ok(match json {
        Ok(json) => ([(header::CONTENT_TYPE, FHIR_JSON)], json).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    })
}

pub(super) async fn hl7(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let entry = exported(&app, &caller, &id).await?;
    Ok(([(header::CONTENT_TYPE, HL7_ER7)], hl7::message(&entry, now_us())).into_response())
}

pub(super) async fn receive_hl7(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    message: String,
) -> Result<Response, Refused> {
    caller.check_csrf(&app, &headers, "")?;
    caller.check_signer(&app)?;
    let taken = take(&app, &caller, &message).await;
    let (status, result) = match &taken {
        Ok(()) => (StatusCode::OK, Ok(())),
        Err((status, text)) => (*status, Err(text.as_str())),
    };
    let answer = hl7::acknowledgement(&message, result, now_us());
    Ok((status, [(header::CONTENT_TYPE, HL7_ER7)], answer).into_response())
}

/// Signs what a message says.
async fn take(app: &App, caller: &Caller, message: &str) -> Result<(), (StatusCode, String)> {
    let unfit = |error: hl7::Hl7Error| (StatusCode::UNPROCESSABLE_ENTITY, error.to_string());
    let received = hl7::read(message).map_err(unfit)?;
    let held = app.worklist.find(&received.draft_id).and_then(|entry| entry.signed);
    if held.as_ref().is_some_and(|held| says_the_same(&received.verdict, held)) {
        return Ok(());
    }
    let version = match (&held, received.corrects) {
        (Some(held), true) => held.version + 1,
        _ => 1,
    };
    let note = Note::about(Event::Imported, &caller.identity.signer, &received.draft_id);
    let failed = |error: SignError| {
        let status = match &error {
            SignError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            SignError::Refused(Refusal::Gone) => StatusCode::NOT_FOUND,
            SignError::Refused(_) => StatusCode::CONFLICT,
            SignError::Audit(_) | SignError::Kafka(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, error.to_string())
    };
    app.audit.append(note).await.map_err(|error| failed(error.into()))?;
    let request = Request {
        draft_id: received.draft_id,
        version,
        verdict: received.verdict,
        training_consent: false,
        source: Some(format!(
            "signed in {}, message {}",
            received.sender, received.control_id
        )),
    };
    app.signing
        .sign(caller.identity.clone(), request)
        .await
        .map(drop)
        .map_err(failed)
}

/// True when a signature that is there says what a message says, so the message came twice.
fn says_the_same(verdict: &Verdict, held: &ecg::report::SignedReport) -> bool {
    match verdict {
        Verdict::Sign { text } => held.action != SignAction::Rejected && held.text == crate::signing::tidy(text),
        Verdict::Reject { .. } => held.action == SignAction::Rejected,
    }
}
