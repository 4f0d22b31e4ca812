//! Logging in and out: by token, or by single sign-on.
//!
//! Place: the routes that somebody unknown may reach. Invariant: every login, refused login and logout is in the audit log; a
//! session begins only after its line is written.

use std::time::Instant;

use axum::extract::{ConnectInfo, Extension, Form, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::Deserialize;

use crate::App;
use crate::audit::{Entry as Note, Event};
use crate::auth::{Identity, Tokens};
use crate::guard::{Caller, Refused, cookie};
use crate::oidc::{Oidc, OidcError};
use crate::pages;
use crate::tls::Peer;

/// How somebody logged in, as the audit log has it.
const BY_TOKEN: &str = "token";
const BY_OIDC: &str = "oidc";

fn page(app: &App, status: StatusCode, error: Option<&str>) -> Response {
    let issuer = app.oidc.as_ref().map(Oidc::issuer);
    let page = pages::login(error, app.tokens.has_any(), issuer);
    (status, Html(page.into_string())).into_response()
}

pub(super) async fn form(State(app): State<App>) -> Response {
    if let Tokens::Open(_) = app.tokens {
        return Redirect::to("/").into_response();
    }
    page(&app, StatusCode::OK, None)
}

#[derive(Deserialize)]
pub(super) struct LoginForm {
    token: String,
}

pub(super) async fn by_token(
    State(app): State<App>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    Form(form): Form<LoginForm>,
) -> Response {
    let Some(identity) = app.tokens.identify(form.token.trim()) else {
        refuse(&app, &peer, BY_TOKEN).await;
        return page(&app, StatusCode::UNAUTHORIZED, Some("This token is not known."));
    };
    match enter(&app, identity, BY_TOKEN).await {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response(),
        Err(refused) => refused,
    }
}

/// Notes a refused login and takes it from the address's account.
async fn refuse(app: &App, peer: &std::net::SocketAddr, by: &str) {
    app.limit.charge_refused_login(peer.ip(), Instant::now());
    app.metrics.turned_away("login");
    let note = Note {
        action: by.to_owned(),
        ..Note::of(Event::LoginRefused, "")
    };
    if let Err(error) = app.audit.append(note).await {
        tracing::error!(%error, "audit log");
    }
}

/// Begins a session; the header that gives the browser its cookie.
async fn enter(app: &App, identity: Identity, by: &str) -> Result<String, Response> {
    let note = Note {
        action: by.to_owned(),
        ..Note::of(Event::Login, &identity.signer)
    };
    if let Err(error) = app.audit.append(note).await {
        tracing::error!(%error, "audit log");
        let text = "The audit log cannot be written, so nobody can log in.";
        return Err(page(app, StatusCode::SERVICE_UNAVAILABLE, Some(text)));
    }
    let (value, _) = app.sessions.begin(identity, Instant::now());
    Ok(app.session_cookie(&value))
}

/// To the provider's page, with a cookie that binds the way back to this browser.
pub(super) async fn begin(State(app): State<App>) -> Response {
    let Some(oidc) = &app.oidc else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match oidc.begin().await {
        Ok(start) => {
            let cookie = app.login_cookie(&start.cookie);
            ([(header::SET_COOKIE, cookie)], Redirect::to(&start.url)).into_response()
        }
        Err(error) => failed(&app, &error),
    }
}

#[derive(Deserialize)]
pub(super) struct CallbackQuery {
    #[serde(default)]
    state: String,
    #[serde(default)]
    code: String,
    error: Option<String>,
}

/// Back from the provider's page.
pub(super) async fn callback(
    State(app): State<App>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    headers: HeaderMap,
    Query(query): Query<CallbackQuery>,
) -> Response {
    let Some(oidc) = &app.oidc else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let value = cookie(&headers, app.login_cookie_name).unwrap_or_default();
    let finished = match query.error {
        // what a provider says is shown escaped and short
        Some(error) => Err(OidcError::Refused(error.chars().take(80).collect())),
        None => oidc.finish(value, &query.state, query.code).await,
    };
    let identity = match finished {
        Ok(identity) => identity,
        Err(error) => {
            refuse(&app, &peer, BY_OIDC).await;
            return failed(&app, &error);
        }
    };
    match enter(&app, identity, BY_OIDC).await {
        // a redirect would still be the provider's navigation, and browsers send no strict cookie with one
        Ok(session) => {
            let cookies = [
                (header::SET_COOKIE, session),
                (header::SET_COOKIE, app.login_cookie_end()),
            ];
            let mut answer = Html(pages::logged_in().into_string()).into_response();
            for (name, value) in cookies {
                if let Ok(value) = value.parse() {
                    answer.headers_mut().append(name, value);
                }
            }
            answer
        }
        Err(refused) => refused,
    }
}

fn failed(app: &App, error: &OidcError) -> Response {
    tracing::warn!(%error, "single sign-on");
    let status = match error {
        OidcError::Provider(_) => StatusCode::BAD_GATEWAY,
        OidcError::Unknown => StatusCode::BAD_REQUEST,
        OidcError::Token(_) => StatusCode::UNAUTHORIZED,
        OidcError::Refused(_) | OidcError::Claim(_) | OidcError::NoRole { .. } => StatusCode::FORBIDDEN,
    };
    page(app, status, Some(&error.to_string()))
}

#[derive(Deserialize)]
pub(super) struct LogoutForm {
    #[serde(default)]
    csrf: String,
}

pub(super) async fn logout(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Form(form): Form<LogoutForm>,
) -> Result<Redirect, Refused> {
    caller.check_csrf(&app, &headers, &form.csrf)?;
    if let Some(session) = &caller.session {
        app.sessions.end(session);
        if let Err(error) = app.audit.append(Note::of(Event::Logout, &caller.identity.signer)).await {
            tracing::error!(%error, "audit log");
        }
    }
    Ok(Redirect::to("/login"))
}
