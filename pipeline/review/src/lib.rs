//! The review page: a clinician reads a draft beside its tracing, edits it, and signs or rejects it.
//!
//! Place: between `ecg.reports.v1` and `ecg.signed-reports.v1`. The feed reads drafts, segments and signatures into the
//! [`worklist`]; the routes show them; [`signing`] publishes. Invariant: nothing is final without a signature, and no
//! draft leaves the list before Kafka has its signature.

pub mod audit;
pub mod auth;
mod edits;
mod feed;
pub mod fhir;
mod guard;
pub mod hl7;
mod limit;
pub mod metrics;
pub mod oidc;
mod pages;
pub mod paper;
mod routes;
pub mod settings;
pub mod signing;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod words;
pub mod worklist;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use service::kafka::KafkaSettings;
use service::kafka::sink::Sink;
use service::kafka::source::{Event, Source};
use service::settings::Check as _;
use service::shutdown::Shutdown;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

use crate::audit::Audit;
use crate::auth::{Sessions, Tokens};
use crate::feed::Feed;
use crate::limit::RateLimit;
use crate::metrics::Metrics;
use crate::oidc::Oidc;
use crate::settings::{ReviewSection, ReviewSettings};
use crate::signing::Signing;
use crate::tls::{Peer, TlsListener};
use crate::worklist::Worklist;

/// Source of this process's events.
pub(crate) const EVENT_SOURCE: &str = "/meit/review";
/// How long open requests may take after the shutdown.
const GRACE: Duration = Duration::from_secs(5);
/// Name of the session's cookie, without and with TLS; browsers take the second only over TLS and only from this very host.
const COOKIE: &str = "meit-review";
const TLS_COOKIE: &str = "__Host-meit-review";
/// Name of the cookie that a browser keeps while it is at the provider of single sign-on, without and with TLS.
const LOGIN_COOKIE: &str = "meit-review-login";
const TLS_LOGIN_COOKIE: &str = "__Host-meit-review-login";

/// What every request can reach; clones share it.
#[derive(Clone)]
pub(crate) struct App {
    pub worklist: Worklist,
    pub signing: Signing,
    pub audit: Audit,
    pub tokens: Tokens,
    pub oidc: Option<Oidc>,
    pub sessions: Sessions,
    pub limit: Arc<RateLimit>,
    pub metrics: Metrics,
    /// One permit for each live connection.
    pub listeners: Arc<Semaphore>,
    pub shutdown: Shutdown,
    pub cookie_name: &'static str,
    pub login_cookie_name: &'static str,
}

impl App {
    /// The header that gives a browser its session: no script reads it, and no other site sends it.
    pub(crate) fn session_cookie(&self, value: &str) -> String {
        let secure = if self.cookie_name == TLS_COOKIE { "; Secure" } else { "" };
        format!(
            "{}={value}; Path=/; HttpOnly; SameSite=Strict{secure}",
            self.cookie_name
        )
    }

    /// The header that binds a login at the provider to this browser. It is lax, because the provider sends the browser back.
    pub(crate) fn login_cookie(&self, value: &str) -> String {
        let secure = if self.cookie_name == TLS_COOKIE { "; Secure" } else { "" };
        format!(
            "{}={value}; Path=/; Max-Age=600; HttpOnly; SameSite=Lax{secure}",
            self.login_cookie_name
        )
    }

    /// The header that ends that cookie.
    pub(crate) fn login_cookie_end(&self) -> String {
        self.login_cookie("").replace("Max-Age=600", "Max-Age=0")
    }
}

/// Ways in: tokens, single sign-on, both, or none where nobody logs in.
fn doors(section: &ReviewSection) -> anyhow::Result<(Tokens, Option<Oidc>)> {
    let tokens = if section.is_open() {
        Tokens::open()
    } else if section.tokens_file.as_os_str().is_empty() {
        Tokens::none()
    } else {
        Tokens::read(&section.tokens_file)?
    };
    let oidc = section.oidc.is_on().then(|| Oidc::new(&section.oidc)).transpose()?;
    Ok((tokens, oidc))
}

/// A review page that is bound to its address and reads its topics.
pub struct Server {
    app: App,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    address: SocketAddr,
    feed: Feed,
    events: mpsc::Receiver<Event>,
    commit_ms: u64,
}

impl Server {
    /// Checks the settings and the audit log, binds the address, and starts to read.
    ///
    /// # Errors
    /// When a setting is out of bounds, the tokens or the audit log cannot be used, the address cannot be bound, or the
    /// broker refuses the clients.
    pub async fn bind(settings: ReviewSettings, metrics: Metrics, shutdown: Shutdown) -> anyhow::Result<Self> {
        settings.check()?;
        let section = &settings.review;
        let (tokens, oidc) = doors(section)?;
        let tls = match section.tls() {
            Some((certificate, key)) => Some(tls::acceptor(certificate, key)?),
            None => None,
        };
        let (audit, known) = Audit::open(&section.audit_file)?;
        let worklist = Worklist::new(section.limits(), metrics.clone());
        for draft_id in &known.signed {
            worklist.remember_signed(draft_id);
        }
        audit.append(audit::Entry::of(audit::Event::Started, "")).await?;
        // a signer waits for the acknowledgement, so this producer gives up sooner than the others
        let patience = KafkaSettings {
            delivery_timeout_ms: section.sign_timeout_ms,
            ..settings.kafka.clone()
        };
        let sink = Sink::new(&patience).context("open kafka sink")?;
        let address = section.socket_address()?;
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("bind review address {address}"))?;
        let address = listener.local_addr().context("ask for the bound address")?;
        let (source, events) = Source::start(&settings.kafka, &section.group, &metrics::TOPICS, section.queue_records)
            .context("open kafka source")?;
        let feed = Feed {
            source,
            worklist: worklist.clone(),
            sink: sink.clone(),
            metrics: metrics.clone(),
            floors: HashMap::new(),
        };
        let signing = Signing {
            sink,
            audit: audit.clone(),
            worklist: worklist.clone(),
            metrics: metrics.clone(),
        };
        let app = App {
            worklist,
            signing,
            audit,
            tokens,
            oidc,
            sessions: Sessions::new(section.session_idle(), section.session_age(), section.sessions_max),
            limit: Arc::new(RateLimit::new(section.requests_per_second)),
            metrics,
            listeners: Arc::new(Semaphore::new(section.listeners_max)),
            shutdown,
            cookie_name: if tls.is_some() { TLS_COOKIE } else { COOKIE },
            login_cookie_name: if tls.is_some() { TLS_LOGIN_COOKIE } else { LOGIN_COOKIE },
        };
        if tls.is_none() && !address.ip().is_loopback() {
            tracing::warn!(%address, "served without TLS: tokens and drafts cross the network as plain text");
        }
        Ok(Self {
            app,
            listener,
            tls,
            address,
            feed,
            events,
            commit_ms: section.commit_ms,
        })
    }

    /// Where the page is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// True where the page is served over TLS.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Serves until the shutdown: then open requests are answered, the floors are committed and the clients closed.
    ///
    /// # Errors
    /// When the source ends early or the listener fails.
    pub async fn run(self) -> anyhow::Result<()> {
        let shutdown = self.app.shutdown.clone();
        let sink = self.app.signing.sink.clone();
        let router = routes::router(self.app);
        let feed = self.feed.run(self.events, self.commit_ms, shutdown.clone());
        let (listener, address) = (self.listener, self.address);
        let stop = shutdown.clone();
        let serve = async move {
            let grace = async {
                stop.wait().await;
                tokio::time::sleep(GRACE).await;
            };
            let closing = stop.clone();
            let closing = async move { closing.wait().await };
            let router = router.into_make_service_with_connect_info::<Peer>();
            let serve = async move {
                match self.tls {
                    Some(acceptor) => {
                        let listener = TlsListener::new(listener, address, acceptor);
                        axum::serve(listener, router).with_graceful_shutdown(closing).await
                    }
                    None => axum::serve(listener, router).with_graceful_shutdown(closing).await,
                }
            };
            tokio::select! {
                served = serve => served.context("serve the review page"),
                () = grace => Ok(()),
            }
        };
        // the first that fails stops the other
        let stopping = |result: anyhow::Result<()>| {
            shutdown.trigger();
            result
        };
        let (fed, served) = tokio::join!(async { stopping(feed.await) }, async { stopping(serve.await) });
        fed?;
        served?;
        sink.flush().await.context("flush kafka sink")
    }
}
