//! Logs to stderr, and a listener for /metrics and /healthz.
//!
//! Place: started first in every process, stopped last.
//! Invariant: what a process exports is what its registry holds, plus what the operating system says of it (`process_...`);
//! /healthz turns 503 when the process has begun to stop.

mod kafka;
mod meter;

use std::fmt::Debug;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::process_collector::ProcessCollector;
use prometheus::{Registry, TextEncoder};
use sha2::{Digest as _, Sha256};
use tracing_subscriber::EnvFilter;

pub use self::kafka::KafkaMetrics;
pub use self::meter::{Label, Meter};
use crate::shutdown::Shutdown;
use crate::time::now_seconds;

/// Upper bounds of histograms of times in seconds: 5 ms to 5 minutes, with an edge at the objective of 60 s.
pub const SECONDS: [f64; 18] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0,
];
/// Hexadecimal digits of a configuration's hash: enough to tell settings apart, too few to search a secret by.
const CONFIG_DIGITS: usize = 8;

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
/// or unreadable. Of the client of S3, which tells every retry, warnings alone. Later calls do nothing.
pub fn init_tracing(default_filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    let quiet = "object_store=warn".parse().expect("it is a directive");
    let filter = filter.add_directive(quiet);
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
/// Adds the process's memory, CPU time, open files and start time to the registry, under their common names `process_...`.
///
/// # Errors
/// [`TelemetryError::Bind`]; [`TelemetryError::Register`] when the registry is already served.
pub async fn serve(registry: Registry, address: &str, shutdown: Shutdown) -> Result<SocketAddr, TelemetryError> {
    registry.register(Box::new(ProcessCollector::for_self()))?;
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

/// Exports what runs: `meit_<process>_build_info{version}`, `meit_<process>_config_info{hash}` and
/// `meit_<process>_config_load_timestamp_seconds`.
///
/// # Errors
/// When the registry describes that process already.
pub fn describe(meter: Meter<'_>, settings: &dyn Debug) -> Result<(), prometheus::Error> {
    let version = env!("CARGO_PKG_VERSION");
    meter.info("build_info", "Version of this process; always 1.", "version", version)?;
    let hash = config_hash(settings);
    meter.info("config_info", "Hash of the settings in force; always 1.", "hash", &hash)?;
    meter
        .time(
            "config_load_timestamp_seconds",
            "When the settings were read, seconds since the Unix epoch.",
        )?
        .set(now_seconds());
    Ok(())
}

/// First digits of the SHA-256 of all settings, the command line's included.
fn config_hash(settings: &dyn Debug) -> String {
    let digest = Sha256::digest(format!("{settings:?}"));
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    digits[..CONFIG_DIGITS].to_owned()
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
        let meter = Meter::new(&registry, "test");
        meter.counter("things_total", "Things.").unwrap().inc_by(3);
        describe(meter, &("setting", 1)).unwrap();
        let bound = serve(registry, "127.0.0.1:0", Shutdown::new()).await.unwrap();
        let text = get(bound, "/metrics").await;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        for line in [
            "meit_test_things_total 3",
            "meit_test_build_info{version=\"",
            "meit_test_config_info{hash=\"",
            "meit_test_config_load_timestamp_seconds 1",
            "process_start_time_seconds 1",
            "process_open_fds ",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(get(bound, "/healthz").await.ends_with("ok\n"));
        assert!(get(bound, "/else").await.starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn settings_that_differ_have_different_hashes() {
        let hashes = [config_hash(&("brokers", "a:1")), config_hash(&("brokers", "b:1"))];
        assert_ne!(hashes[0], hashes[1]);
        assert_eq!(hashes.map(|hash| hash.len()), [CONFIG_DIGITS; 2]);
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_bound_is_named() {
        let error = serve(Registry::new(), "256.0.0.1:1", Shutdown::new())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("256.0.0.1:1"), "{error}");
    }
}
