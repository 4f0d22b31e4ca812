//! The routes: what is answered at which path.
//!
//! Place: behind the guard, so every caller is known. Invariant: reading changes nothing but the audit log; whatever changes
//! something is a POST with the session's own CSRF token.

mod interop;
mod login;

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Extension, Form, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use axum::response::sse::{Event as ServerSent, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::App;
use crate::audit::{Entry as Note, Event};
use crate::guard::{Caller, Refused, guard};
use crate::pages::{self, Shown};
use crate::paper::{self, Samples};
use crate::signing::{Request, SignError, Verdict};
use crate::worklist::Entry;

/// Largest body of a request.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long a live connection lasts; the browser then connects again and shows that its session still holds.
const LIVE_MAX: Duration = Duration::from_secs(600);
/// A drawing may use its own style sheet, and nothing else.
const DRAWING_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// All routes behind the guard.
pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/", get(list))
        .route("/rows", get(rows))
        .route("/next", get(next))
        .route("/events", get(events))
        .route("/login", get(login::form).post(login::by_token))
        .route("/login/oidc", get(login::begin))
        .route("/login/callback", get(login::callback))
        .route("/logout", post(login::logout))
        .route("/drafts/{id}", get(open).post(sign))
        .route("/drafts/{id}/ecg.svg", get(drawing))
        .route("/api/drafts", get(api_list))
        .route("/api/drafts/{id}", get(api_draft))
        .route("/api/drafts/{id}/fhir", get(interop::fhir))
        .route("/api/drafts/{id}/hl7", get(interop::hl7))
        .route("/api/hl7", post(interop::receive_hl7))
        .route("/static/review.css", get(style))
        .route("/static/review.js", get(script))
        .route("/static/icon.svg", get(icon))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

async fn style() -> impl IntoResponse {
    let css = include_str!("../assets/review.css");
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], css)
}

async fn script() -> impl IntoResponse {
    let js = include_str!("../assets/review.js");
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], js)
}

async fn icon() -> impl IntoResponse {
    let svg = include_str!("../assets/icon.svg");
    ([(header::CONTENT_TYPE, "image/svg+xml")], svg)
}

fn html(page: maud::Markup) -> Html<String> {
    Html(page.into_string())
}

#[derive(Deserialize)]
struct ListQuery {
    done: Option<String>,
}

async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ListQuery>,
) -> Response {
    let notice = query.done.as_deref().and_then(|done| match done {
        "accepted" => Some("Signed as drafted."),
        "edited" => Some("Signed with changes."),
        "rejected" => Some("Rejected."),
        "none" => Some("No other draft waits."),
        _ => None,
    });
    let page = pages::list(
        &caller,
        app.worklist.counts(),
        &app.worklist.waiting(),
        &app.worklist.recent(),
        notice,
    );
    html(page).into_response()
}

async fn rows(State(app): State<App>) -> Html<String> {
    html(pages::rows(&app.worklist.waiting()))
}

#[derive(Deserialize)]
struct NextQuery {
    after: Option<String>,
}

/// The draft after another one in the list, or the first.
async fn next(State(app): State<App>, Query(query): Query<NextQuery>) -> Redirect {
    let waiting = app.worklist.waiting();
    let is = |entry: &&Entry| Some(&entry.draft.draft_id) == query.after.as_ref();
    let after = waiting.iter().position(|entry| is(&entry)).map_or(0, |at| at + 1);
    let next = waiting.get(after).or(waiting.first()).filter(|entry| !is(entry));
    match next {
        Some(entry) => Redirect::to(&format!("/drafts/{}", entry.draft.draft_id)),
        None => Redirect::to("/?done=none"),
    }
}

/// Server-sent events: the counts, now and at every change.
async fn events(State(app): State<App>) -> Result<impl IntoResponse, Refused> {
    let permit = app.listeners.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Refused(StatusCode::SERVICE_UNAVAILABLE, "too many live connections"))?;
    let (sender, receiver) = mpsc::channel::<Result<ServerSent, Infallible>>(1);
    tokio::spawn(async move {
        let _permit = permit;
        let mut counts = app.worklist.subscribe();
        let end = tokio::time::sleep(LIVE_MAX);
        tokio::pin!(end);
        loop {
            let now = *counts.borrow_and_update();
            let data = serde_json::json!({
                "revision": now.revision, "waiting": now.waiting, "stat": now.stat,
                "line": pages::counts_line(now).into_string(),
            });
            let event = ServerSent::default().event("counts").data(data.to_string());
            if sender.send(Ok(event)).await.is_err() {
                return;
            }
            tokio::select! {
                changed = counts.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
                () = app.shutdown.wait() => return,
                () = &mut end => return,
            }
            // drafts come in batches; one update tells of all of them
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    Ok(Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

fn gone(app: &App, caller: &Caller) -> Response {
    let text = "It was signed elsewhere, or newer drafts pushed it out of this list.";
    let page = pages::message(caller, app.worklist.counts(), "This draft is no longer here", text);
    (StatusCode::NOT_FOUND, html(page)).into_response()
}

async fn open(State(app): State<App>, Extension(caller): Extension<Caller>, Path(id): Path<String>) -> Response {
    let Some(entry) = app.worklist.find(&id) else {
        return gone(&app, &caller);
    };
    let note = Note::about(Event::Opened, &caller.identity.signer, &id);
    if let Err(error) = app.audit.append(note).await {
        tracing::error!(%error, "audit log");
        let text = "The audit log cannot be written, so no draft is shown.";
        let page = pages::message(&caller, app.worklist.counts(), "Out of order", text);
        return (StatusCode::SERVICE_UNAVAILABLE, html(page)).into_response();
    }
    app.worklist.open(&id);
    html(pages::draft(&caller, app.worklist.counts(), &entry, Shown::default())).into_response()
}

#[derive(Deserialize)]
struct SamplesQuery {
    samples: Option<String>,
}

impl SamplesQuery {
    /// The samples that are asked for; filtered ones when nothing is said.
    fn samples(&self) -> Result<Samples, Refused> {
        match self.samples.as_deref() {
            Some("raw") => Ok(Samples::Raw),
            Some("filtered") | None => Ok(Samples::Filtered),
            Some(_) => Err(Refused(StatusCode::BAD_REQUEST, "samples are raw or filtered")),
        }
    }
}

async fn drawing(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<SamplesQuery>,
) -> Result<Response, Refused> {
    let samples = query.samples()?;
    let segment = app.worklist.find(&id).and_then(|entry| entry.segment);
    let segment = segment.ok_or(Refused(StatusCode::NOT_FOUND, "no tracing"))?;
    let headers = [
        (header::CONTENT_TYPE, "image/svg+xml"),
        (header::CONTENT_SECURITY_POLICY, DRAWING_POLICY),
    ];
    let drawn = tokio::task::spawn_blocking(move || paper::document(&segment, samples)).await;
    Ok(match drawn {
        Ok(svg) => (headers, svg).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    })
}

#[derive(Deserialize)]
struct SignForm {
    #[serde(default)]
    csrf: String,
    version: u32,
    action: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    reason: String,
    consent: Option<String>,
}

async fn sign(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Form(form): Form<SignForm>,
) -> Result<Response, Refused> {
    caller.check_csrf(&app, &headers, &form.csrf)?;
    caller.check_signer(&app)?;
    let verdict = match form.action.as_str() {
        "sign" => Verdict::Sign {
            text: form.text.clone(),
        },
        "reject" => Verdict::Reject {
            reason: form.reason.clone(),
        },
        _ => return Err(Refused(StatusCode::BAD_REQUEST, "an action is sign or reject")),
    };
    let request = Request {
        draft_id: id.clone(),
        version: form.version,
        verdict,
        training_consent: form.consent.is_some(),
        source: None,
    };
    let error = match app.signing.sign(caller.identity.clone(), request).await {
        Ok(report) => return Ok(Redirect::to(&format!("/?done={}", report.action.as_str())).into_response()),
        Err(error) => error,
    };
    let status = match &error {
        SignError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
        SignError::Refused(_) => StatusCode::CONFLICT,
        SignError::Audit(_) | SignError::Kafka(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let Some(entry) = app.worklist.find(&id) else {
        return Ok(gone(&app, &caller));
    };
    let message = error.to_string();
    let shown = Shown {
        error: Some(&message),
        text: Some(&form.text),
        reason: Some(&form.reason),
    };
    let page = html(pages::draft(&caller, app.worklist.counts(), &entry, shown));
    Ok((status, page).into_response())
}

/// What waits, for programs: the drafts as they lie on the topic.
async fn api_list(State(app): State<App>) -> impl IntoResponse {
    let drafts: Vec<serde_json::Value> = app.worklist.waiting().iter().map(api_entry).collect();
    Json(drafts)
}

async fn api_draft(State(app): State<App>, Path(id): Path<String>) -> Response {
    match app.worklist.find(&id) {
        Some(entry) => Json(api_entry(&entry)).into_response(),
        None => (StatusCode::NOT_FOUND, "no such draft\n").into_response(),
    }
}

fn api_entry(entry: &Entry) -> serde_json::Value {
    serde_json::json!({
        "stat": entry.is_stat(),
        "has_tracing": entry.segment.is_some(),
        "draft": *entry.draft,
        "signed": entry.signed.as_deref(),
    })
}
