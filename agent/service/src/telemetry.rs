//! Logs to stderr, and a listener for /metrics and /healthz.
//!
//! Place: started first in every process, stopped last.
//! Invariant: what a process exports is what its registry holds, plus its build and its start time; /healthz turns 503 when
//! the process has begun to stop.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Gauge, IntGaugeVec, Opts, Registry, TextEncoder};
use tracing_subscriber::EnvFilter;

use crate::shutdown::Shutdown;

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The address cannot be bound.
    #[error("bind metrics address {address:?}")]
    Bind {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The registry already exports the process's own metrics.
    #[error("register process metrics")]
    Register(#[from] prometheus::Error),
}

/// Logs to stderr, in colour on a terminal; RUST_LOG is the filter, `default_filter` when it is unset
/// or unreadable. Later calls do nothing.
pub fn init_tracing(default_filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // a second subscriber in one process (tests, the demo) is refused; the first stays
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .try_init();
}

/// Serves `registry` at `address` until `shutdown`; returns the bound address, so that port 0 can be used.
///
/// Adds `meit_build_info{version}` and `meit_start_timestamp_seconds` to the registry.
///
/// # Errors
/// [`TelemetryError::Bind`]; [`TelemetryError::Register`] when the registry is already served.
pub async fn serve(registry: Registry, address: &str, shutdown: Shutdown) -> Result<SocketAddr, TelemetryError> {
    register_process(&registry)?;
    let refused = |source| TelemetryError::Bind {
        address: address.to_owned(),
        source,
    };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .with_state((registry, shutdown.clone()));
    tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.wait().await });
        if let Err(error) = served.await {
            tracing::error!(%error, "metrics listener failed");
        }
    });
    Ok(bound)
}

fn register_process(registry: &Registry) -> Result<(), prometheus::Error> {
    let build = IntGaugeVec::new(
        Opts::new("meit_build_info", "Build of this process; always 1."),
        &["version"],
    )?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(build))?;
    let started = Gauge::new(
        "meit_start_timestamp_seconds",
        "Start of this process, seconds since the Unix epoch.",
    )?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    started.set(now.map_or(0.0, |since| since.as_secs_f64()));
    registry.register(Box::new(started))
}

async fn metrics(State((registry, _)): State<(Registry, Shutdown)>) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn healthz(State((_, shutdown)): State<(Registry, Shutdown)>) -> Response {
    if shutdown.is_triggered() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response()
    } else {
        "ok\n".into_response()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_and_health_are_answered_at_the_bound_address() {
        let registry = Registry::new();
        let counter = prometheus::IntCounter::new("meit_test_things_total", "Things.").unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        counter.inc_by(3);
        let bound = serve(registry, "127.0.0.1:0", Shutdown::new()).await.unwrap();
        let text = get(bound, "/metrics").await;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        for line in [
            "meit_test_things_total 3",
            "meit_build_info{version=\"",
            "meit_start_timestamp_seconds 1",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(get(bound, "/healthz").await.ends_with("ok\n"));
        assert!(get(bound, "/else").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_bound_is_named() {
        let error = serve(Registry::new(), "256.0.0.1:1", Shutdown::new())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("256.0.0.1:1"), "{error}");
    }
}
