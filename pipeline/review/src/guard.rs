//! What stands before every page: limits, who asks, and the headers of every answer.
//!
//! Place: axum middleware around all routes. Invariant: nothing but the login and the static files is answered to somebody
//! unknown; without logins only requests that name a loopback host are answered, so no other site's name can point here.

use std::net::IpAddr;
use std::time::Instant;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

use crate::App;
use crate::auth::{Identity, Role, Session, Tokens};
use crate::tls::Peer;

/// Pages load only what this process serves, run no inline script, and are shown in no frame.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// Header in which scripts may send what forms have in a field.
const CSRF_HEADER: &str = "x-csrf-token";

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is.
    pub identity: Identity,
    /// The browser's session; none for a bearer token.
    pub session: Option<Session>,
    /// True for a browser that logged in, and so can log out.
    pub logged_in: bool,
}

impl Caller {
    /// What this caller's forms carry; empty for a bearer token, which no other site can make a browser send.
    pub fn csrf(&self) -> &str {
        self.session.as_ref().map_or("", |session| session.csrf.as_str())
    }

    /// Checks that a changing request comes from a page of this caller's own session.
    ///
    /// # Errors
    /// 403 when the form's field, or the header in its place, is another.
    pub fn check_csrf(&self, app: &App, headers: &HeaderMap, field: &str) -> Result<(), Refused> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        let sent = headers
            .get(CSRF_HEADER)
            .and_then(|value| value.to_str().ok())
            .unwrap_or(field);
        if same(sent.as_bytes(), session.csrf.as_bytes()) {
            return Ok(());
        }
        app.metrics.turned_away("csrf");
        Err(Refused(
            StatusCode::FORBIDDEN,
            "this form is too old; reload the page and try again",
        ))
    }

    /// Checks that this caller may sign.
    ///
    /// # Errors
    /// 403 for a viewer.
    pub fn check_signer(&self, app: &App) -> Result<(), Refused> {
        if self.identity.role == Role::Signer {
            return Ok(());
        }
        app.metrics.turned_away("role");
        Err(Refused(
            StatusCode::FORBIDDEN,
            "you may read drafts, but not sign or reject them",
        ))
    }
}

/// An answer that says no.
#[derive(Debug)]
pub struct Refused(pub StatusCode, pub &'static str);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, format!("{}\n", self.1)).into_response()
    }
}

/// Compares in a time that depends on the lengths alone.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}

/// The middleware.
pub(crate) async fn guard(
    State(app): State<App>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut new_cookie = None;
    let answer = match admit(&app, peer.ip(), &request) {
        Ok(Admitted::Known(caller)) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Ok(Admitted::New { caller, cookie }) => {
            new_cookie = Some(cookie);
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Ok(Admitted::Anyone) => next.run(request).await,
        Err(refusal) => *refusal,
    };
    finish(answer, new_cookie)
}

/// How a request comes in.
enum Admitted {
    /// From somebody known.
    Known(Caller),
    /// From a new browser where nobody logs in.
    New { caller: Caller, cookie: String },
    /// To what is for everybody.
    Anyone,
}

fn admit(app: &App, peer: IpAddr, request: &Request) -> Result<Admitted, Box<Response>> {
    let now = Instant::now();
    if !app.limit.admits(peer, now) {
        app.metrics.turned_away("rate");
        let text = "too many requests from this address; wait a few seconds\n";
        let answer = (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "5")], text);
        return Err(no(answer));
    }
    let headers = request.headers();
    if let Tokens::Open(_) = app.tokens
        && !names_loopback(headers)
    {
        app.metrics.turned_away("host");
        let refused = Refused(
            StatusCode::FORBIDDEN,
            "without logins this page answers only to a loopback host name",
        );
        return Err(no(refused));
    }
    if comes_from_another_site(request) {
        app.metrics.turned_away("csrf");
        return Err(no(Refused(
            StatusCode::FORBIDDEN,
            "this request comes from another site",
        )));
    }
    let path = request.uri().path();
    if path.starts_with("/static/") || path == "/healthz" {
        return Ok(Admitted::Anyone);
    }
    if let Some(token) = bearer(headers) {
        if let Some(identity) = app.tokens.identify(token) {
            return Ok(Admitted::Known(Caller {
                identity,
                session: None,
                logged_in: false,
            }));
        }
        app.limit.charge_refused_login(peer, now);
        app.metrics.turned_away("login");
        return Err(no(Refused(StatusCode::UNAUTHORIZED, "this token is not known")));
    }
    if let Some(session) = cookie(headers, app.cookie_name).and_then(|cookie| app.sessions.find(cookie, now)) {
        return Ok(Admitted::Known(Caller {
            identity: session.identity.clone(),
            session: Some(session),
            logged_in: matches!(app.tokens, Tokens::Listed(_)),
        }));
    }
    if let Tokens::Open(identity) = &app.tokens {
        let (value, session) = app.sessions.begin(identity.clone(), now);
        let caller = Caller {
            identity: identity.clone(),
            session: Some(session),
            logged_in: false,
        };
        let cookie = app.session_cookie(&value);
        return Ok(Admitted::New { caller, cookie });
    }
    if matches!(path, "/login" | "/login/oidc" | "/login/callback") {
        return Ok(Admitted::Anyone);
    }
    app.metrics.turned_away("login");
    if request.method() == Method::GET && accepts_html(headers) {
        return Err(no(Redirect::to("/login")));
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    Err(no((StatusCode::UNAUTHORIZED, challenge, "log in first\n")))
}

fn no(answer: impl IntoResponse) -> Box<Response> {
    Box::new(answer.into_response())
}

fn finish(mut answer: Response, new_cookie: Option<String>) -> Response {
    let headers = answer.headers_mut();
    if let Some(cookie) = new_cookie.and_then(|cookie| HeaderValue::from_str(&cookie).ok()) {
        headers.append(header::SET_COOKIE, cookie);
    }
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    for name in ["cross-origin-opener-policy", "cross-origin-resource-policy"] {
        headers.insert(name, HeaderValue::from_static("same-origin"));
    }
    answer
}

/// True for a changing request that a browser sends on behalf of another site. Browsers say so; other programs say nothing.
fn comes_from_another_site(request: &Request) -> bool {
    if request.method().is_safe() {
        return false;
    }
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return site != "same-origin" && site != "none";
    }
    match (text("origin"), text("host")) {
        (Some(origin), Some(host)) => origin.split_once("://").is_none_or(|(_, from)| from != host),
        _ => false,
    }
}

fn names_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(|host| {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(str::trim)
}

/// Value of a cookie.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).into_iter();
    let cookies = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    let mut pairs = cookies.filter_map(|cookie| cookie.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn accepts_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (
                header::HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_loopback_names_are_loopback() {
        for (host, is) in [
            ("127.0.0.1:9470", true),
            ("localhost", true),
            ("LOCALHOST:1", true),
            ("[::1]:9470", true),
            ("127.8.8.8", true),
            ("evil.example:9470", false),
            ("localhost.evil.example", false),
            ("10.0.0.1:9470", false),
            ("", false),
        ] {
            assert_eq!(names_loopback(&headers(&[("host", host)])), is, "{host}");
        }
        assert!(!names_loopback(&HeaderMap::new()));
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let sent = headers(&[("cookie", "a=1; meit-review=abc; xmeit-review=d")]);
        assert_eq!(cookie(&sent, "meit-review"), Some("abc"));
        assert_eq!(cookie(&sent, "review"), None);
    }

    #[test]
    fn changing_requests_of_other_sites_are_known() {
        let request = |method: &str, pairs: &[(&'static str, &str)]| {
            let mut request = Request::builder()
                .method(method)
                .uri("/")
                .body(axum::body::Body::empty())
                .unwrap();
            *request.headers_mut() = headers(pairs);
            comes_from_another_site(&request)
        };
        assert!(request("POST", &[("sec-fetch-site", "cross-site")]));
        assert!(request("POST", &[("sec-fetch-site", "same-site")]));
        assert!(!request("POST", &[("sec-fetch-site", "same-origin")]));
        assert!(!request("GET", &[("sec-fetch-site", "cross-site")]));
        assert!(request("POST", &[("origin", "https://evil.example"), ("host", "a:1")]));
        assert!(request("POST", &[("origin", "null"), ("host", "a:1")]));
        assert!(!request("POST", &[("origin", "http://a:1"), ("host", "a:1")]));
        assert!(!request("POST", &[("host", "a:1")]));
    }

    #[test]
    fn secrets_are_compared_whole() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abc", b"abd") && !same(b"abc", b"ab") && !same(b"", b"a"));
    }
}
