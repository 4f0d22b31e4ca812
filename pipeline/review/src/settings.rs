//! The review page's settings.
//!
//! Place: read once at start from defaults, file and environment; passed down in parts.
//! Invariant: unknown keys are refused, and nothing starts before the bounds are checked: without tokens the page is served
//! on loopback only. Defaults live in config/default.toml, nowhere else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use service::kafka::KafkaSettings;
use service::settings::{Check, OutOfBounds, within};

use crate::oidc::OidcSection;
use crate::worklist::Limits;

/// Everything that meit-review reads.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewSettings {
    /// Section `kafka`.
    pub kafka: KafkaSettings,
    /// Section `review`.
    pub review: ReviewSection,
}

/// Section `review`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewSection {
    /// Address of the page, host:port of an interface.
    pub address: String,
    /// File of bearer tokens; empty for none, which loopback and single sign-on alone allow.
    pub tokens_file: PathBuf,
    /// Certificate chain (PEM) of TLS; empty for none.
    pub tls_certificate: PathBuf,
    /// Its private key (PEM).
    pub tls_key: PathBuf,
    /// The audit log.
    pub audit_file: PathBuf,
    /// Consumer group, after the prefix of the kafka settings; every instance needs its own to see every draft.
    pub group: String,
    /// Records between the poll thread and the list; when full, polling of the partitions pauses.
    pub queue_records: usize,
    /// Drafts that wait at most; one more drops the oldest that is not urgent.
    pub waiting_max: usize,
    /// Segments whose draft has not come, at most; one more drops the oldest.
    pub segments_max: usize,
    /// Signed reports that can still be opened and amended, at most.
    pub recent_max: usize,
    /// Ids of signed drafts that are remembered, so that a draft which is read again does not wait again.
    pub remembered_signed: usize,
    /// How long a signature may take to reach Kafka.
    pub sign_timeout_ms: u32,
    /// How long a session lasts without a request, minutes.
    pub session_minutes: u32,
    /// How long a session lasts in any case, hours.
    pub session_hours: u32,
    /// Sessions at most; one more ends the one that is idle longest.
    pub sessions_max: usize,
    /// Requests a second that one address may make, averaged over ten seconds.
    pub requests_per_second: u32,
    /// Live connections for updates at most.
    pub listeners_max: usize,
    /// Time between two commits.
    pub commit_ms: u64,
    /// Address of /metrics and /healthz; empty for none.
    pub metrics_address: String,
    /// Single sign-on.
    pub oidc: OidcSection,
}

impl ReviewSection {
    /// The address of the page.
    ///
    /// # Errors
    /// [`OutOfBounds`] when it is not an IP address and a port.
    pub fn socket_address(&self) -> Result<SocketAddr, OutOfBounds> {
        self.address.parse().map_err(|_| OutOfBounds {
            key: "review.address",
            value: format!("{:?}", self.address),
            bound: "must be an IP address and a port, as in 127.0.0.1:9470".to_owned(),
        })
    }

    /// True when nobody needs to log in.
    pub fn is_open(&self) -> bool {
        self.tokens_file.as_os_str().is_empty() && !self.oidc.is_on()
    }

    /// How much the list holds.
    pub fn limits(&self) -> Limits {
        Limits {
            waiting: self.waiting_max,
            segments: self.segments_max,
            recent: self.recent_max,
            remembered: self.remembered_signed,
        }
    }

    /// Certificate and key, where TLS is served.
    pub fn tls(&self) -> Option<(&Path, &Path)> {
        let named = !self.tls_certificate.as_os_str().is_empty();
        named.then_some((self.tls_certificate.as_path(), self.tls_key.as_path()))
    }

    /// How long a session lasts without a request.
    pub fn session_idle(&self) -> Duration {
        Duration::from_secs(u64::from(self.session_minutes) * 60)
    }

    /// How long a session lasts in any case.
    pub fn session_age(&self) -> Duration {
        Duration::from_secs(u64::from(self.session_hours) * 3600)
    }
}

impl Check for ReviewSettings {
    fn check(&self) -> Result<(), OutOfBounds> {
        self.kafka.check()?;
        let section = &self.review;
        let address = section.socket_address()?;
        if section.is_open() && !address.ip().is_loopback() {
            return Err(OutOfBounds {
                key: "review.address",
                value: section.address.clone(),
                bound:
                    "without review.tokens_file or review.oidc anyone could sign, so only a loopback address is served"
                        .to_owned(),
            });
        }
        if section.tls_certificate.as_os_str().is_empty() != section.tls_key.as_os_str().is_empty() {
            return Err(OutOfBounds {
                key: "review.tls_key",
                value: format!("{:?}", section.tls_key),
                bound: "certificate and key are named together".to_owned(),
            });
        }
        if section.audit_file.as_os_str().is_empty() {
            return Err(OutOfBounds {
                key: "review.audit_file",
                value: "\"\"".to_owned(),
                bound: "must name a file: no signature without an audit log".to_owned(),
            });
        }
        within("review.queue_records", section.queue_records, 1..=10_000)?;
        within("review.waiting_max", section.waiting_max, 1..=10_000)?;
        within("review.segments_max", section.segments_max, 1..=10_000)?;
        within("review.recent_max", section.recent_max, 1..=10_000)?;
        within("review.remembered_signed", section.remembered_signed, 1..=10_000_000)?;
        within("review.sign_timeout_ms", section.sign_timeout_ms, 1000..=60_000)?;
        within("review.session_minutes", section.session_minutes, 1..=1440)?;
        within("review.session_hours", section.session_hours, 1..=168)?;
        section.oidc.check()?;
        within("review.sessions_max", section.sessions_max, 1..=100_000)?;
        within("review.requests_per_second", section.requests_per_second, 1..=10_000)?;
        within("review.listeners_max", section.listeners_max, 1..=10_000)?;
        within("review.commit_ms", section.commit_ms, 10..=60_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ReviewSettings {
        service::settings::load("review", None).unwrap()
    }

    #[test]
    fn the_defaults_are_within_their_bounds() {
        settings().check().unwrap();
    }

    #[test]
    fn without_tokens_only_loopback_is_served() {
        for address in ["0.0.0.0:9470", "10.0.0.1:9470", "[::]:9470"] {
            let mut open = settings();
            open.review.address = address.to_owned();
            let error = open.check().unwrap_err().to_string();
            assert!(error.contains(address) && error.contains("tokens_file"), "{error}");
            let mut listed = open.clone();
            listed.review.tokens_file = "tokens.toml".into();
            listed.check().unwrap();
            open.review.oidc.issuer = "https://sso.example".to_owned();
            open.review.oidc.client_id = "meit".to_owned();
            open.review.oidc.redirect_url = "https://review.example/login/callback".to_owned();
            open.check().unwrap();
        }
        let mut named = settings();
        named.review.address = "localhost:9470".to_owned();
        assert_eq!(named.check().unwrap_err().key, "review.address");
    }
}
