//! Settings of the Kafka clients, and what they mean to librdkafka.
//!
//! Place: section `kafka` of every process.
//! Invariant: every client is made here, so that the choices which keep records safe (no offset stored by itself, acks from
//! all replicas, idempotence) are made once.

use rdkafka::ClientConfig;
use serde::Deserialize;

use crate::settings::{OutOfBounds, Secret, within};

/// Kilobytes that a consumer prefetches; a pause throws them away, so they are few.
const PREFETCH_KBYTES: &str = "16384";
/// Pause before more is fetched once so much is prefetched. With librdkafka's own, 1 s, a process that has worked its 16 MB off stands
/// idle for the rest of it.
const PREFETCH_BACKOFF_MS: &str = "10";
/// A topic that is created after a consumer subscribed is seen within this time.
const METADATA_REFRESH_MS: &str = "10000";
/// Longest pause before a connection is tried again, give or take a half. librdkafka's own, 10 s, is how late a process would
/// be back after its broker.
const RECONNECT_MS_MAX: &str = "1000";
/// Time between two reports of the lag.
const STATISTICS_MS: &str = "1000";

/// Bytes of a record that a client sends at most: more than brokers take by default, so that they decide, and what they took once can
/// be sent again.
const RECORD_BYTES_MAX: &str = "10485760";

/// First pause before a request of a transaction is repeated. The broker asks for a repetition while it still ends the
/// transaction before: with librdkafka's 100 ms a transaction takes 92 ms (median of 40 in a row), with 5 ms 14 ms. The
/// pause grows from there.
const TRANSACTION_RETRY_MS: &str = "5";

/// Settings of which the section `kafka` alone is read.
#[derive(Clone, Debug, Deserialize)]
pub struct KafkaOnly {
    /// Section `kafka`.
    pub kafka: KafkaSettings,
}

/// Section `kafka`; comments and defaults are in config/default.toml.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSettings {
    /// Addresses of brokers, comma-separated.
    pub brokers: String,
    /// First part of every consumer group's name.
    pub group_prefix: String,
    /// Name of this process among its like, the same after a restart; empty for none.
    pub instance: String,
    /// Time after which the broker gives an open transaction of a dead process up.
    pub transaction_timeout_ms: u32,
    /// Partitions of a topic that is created because it was missing.
    pub partitions: i32,
    /// Copies of each partition of such a topic.
    pub replication: i32,
    /// Silence after which a dead consumer's partitions go to others.
    pub session_timeout_ms: u32,
    /// Time between two signs of life.
    pub heartbeat_ms: u32,
    /// How long a broker may hold back a fetch that finds too little.
    pub fetch_wait_ms: u32,
    /// Time between two commits of the stored floors.
    pub commit_ms: u32,
    /// How long a record may wait for others to travel with.
    pub linger_ms: u32,
    /// Compression of records.
    pub compression: Compression,
    /// Time within which a record must be delivered, retries included.
    pub delivery_timeout_ms: u32,
    /// How long a process that starts waits for a broker to answer.
    pub outage_max_ms: u32,
    /// How the brokers are spoken to.
    pub security_protocol: SecurityProtocol,
    /// Certificates (PEM) of the authorities that sign the brokers'; empty for the system's.
    pub ssl_ca_file: String,
    /// This client's certificate (PEM), where brokers ask for one; empty for none.
    pub ssl_certificate_file: String,
    /// Its private key (PEM).
    pub ssl_key_file: String,
    /// The key's password.
    pub ssl_key_password: Secret,
    /// How this client says who it is, under sasl_plaintext and sasl_ssl.
    pub sasl_mechanism: SaslMechanism,
    /// Name of this client at the brokers.
    pub sasl_username: String,
    /// Its password.
    pub sasl_password: Secret,
}

/// How brokers are spoken to, in Kafka's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityProtocol {
    /// In the clear, without a login.
    Plaintext,
    /// TLS; who the client is, its certificate may say.
    Ssl,
    /// In the clear, with a login.
    SaslPlaintext,
    /// TLS and a login.
    SaslSsl,
}

impl SecurityProtocol {
    fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }

    fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    fn has_login(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// Logins that librdkafka has built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum SaslMechanism {
    /// Name and password as they are.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Challenge and response over SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// Challenge and response over SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SaslMechanism {
    fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Codecs that librdkafka was built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// As it is.
    None,
    /// Deflate.
    Gzip,
    /// Fast, light.
    Snappy,
    /// Fast, light.
    Lz4,
    /// Best of these in size; saves about a third of 16-bit waveforms.
    Zstd,
}

impl Compression {
    fn as_str(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

impl KafkaSettings {
    /// Checks bounds.
    ///
    /// # Errors
    /// [`OutOfBounds`] names the first key that is out of bounds.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        if self.brokers.trim().is_empty() {
            return Err(OutOfBounds {
                key: "kafka.brokers",
                value: format!("{:?}", self.brokers),
                bound: "must name a broker".to_owned(),
            });
        }
        self.check_security()?;
        within("kafka.partitions", self.partitions, 1..=10_000)?;
        within("kafka.replication", self.replication, 1..=9)?;
        within("kafka.session_timeout_ms", self.session_timeout_ms, 500..=300_000)?;
        within(
            "kafka.heartbeat_ms",
            self.heartbeat_ms,
            50..=self.session_timeout_ms / 3,
        )?;
        within("kafka.fetch_wait_ms", self.fetch_wait_ms, 1..=5000)?;
        within("kafka.commit_ms", self.commit_ms, 50..=60_000)?;
        within("kafka.linger_ms", self.linger_ms, 0..=1000)?;
        within("kafka.delivery_timeout_ms", self.delivery_timeout_ms, 1000..=600_000)?;
        within("kafka.outage_max_ms", self.outage_max_ms, 0..=86_400_000)?;
        within(
            "kafka.transaction_timeout_ms",
            self.transaction_timeout_ms,
            1000..=600_000,
        )
    }

    fn check_security(&self) -> Result<(), OutOfBounds> {
        let refused = |key, value: String, bound: &str| {
            let bound = bound.to_owned();
            Err(OutOfBounds { key, value, bound })
        };
        let protocol = self.security_protocol;
        let needs_openssl = protocol.has_tls() || (protocol.has_login() && self.sasl_mechanism != SaslMechanism::Plain);
        if needs_openssl && !cfg!(feature = "tls") {
            let value = format!(
                "{:?} with sasl_mechanism {:?}",
                protocol.as_str(),
                self.sasl_mechanism.as_str()
            );
            let bound = "TLS and SCRAM need a build with `cargo build --release --features service/tls`";
            return refused("kafka.security_protocol", value, bound);
        }
        if protocol.has_login() && self.sasl_username.is_empty() {
            let bound = "a login needs a name; the password is best given by MEIT__KAFKA__SASL_PASSWORD";
            return refused("kafka.sasl_username", "\"\"".to_owned(), bound);
        }
        if self.ssl_certificate_file.is_empty() != self.ssl_key_file.is_empty() {
            let value = format!("{:?}", self.ssl_key_file);
            return refused("kafka.ssl_key_file", value, "certificate and key are named together");
        }
        Ok(())
    }

    /// What every client has.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "meit")
            .set("reconnect.backoff.max.ms", RECONNECT_MS_MAX);
        let protocol = self.security_protocol;
        if protocol != SecurityProtocol::Plaintext {
            config.set("security.protocol", protocol.as_str());
        }
        if protocol.has_login() {
            config
                .set("sasl.mechanism", self.sasl_mechanism.as_str())
                .set("sasl.username", &self.sasl_username)
                .set("sasl.password", self.sasl_password.expose());
        }
        let of_tls = [
            ("ssl.ca.location", self.ssl_ca_file.as_str()),
            ("ssl.certificate.location", &self.ssl_certificate_file),
            ("ssl.key.location", &self.ssl_key_file),
            ("ssl.key.password", self.ssl_key_password.expose()),
        ];
        for (key, value) in of_tls
            .iter()
            .filter(|(_, value)| protocol.has_tls() && !value.is_empty())
        {
            config.set(*key, *value);
        }
        config
    }

    /// A consumer of `group` that stores no offset by itself and starts at the oldest record.
    pub(crate) fn consumer(&self, group: &str) -> ClientConfig {
        let mut config = self.client();
        config
            .set("group.id", format!("{}-{group}", self.group_prefix))
            .set("enable.auto.offset.store", "false")
            .set("enable.auto.commit", "true")
            .set("auto.commit.interval.ms", self.commit_ms.to_string())
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", self.session_timeout_ms.to_string())
            .set("heartbeat.interval.ms", self.heartbeat_ms.to_string())
            .set("fetch.wait.max.ms", self.fetch_wait_ms.to_string())
            .set("queued.max.messages.kbytes", PREFETCH_KBYTES)
            .set("fetch.queue.backoff.ms", PREFETCH_BACKOFF_MS)
            .set("topic.metadata.refresh.interval.ms", METADATA_REFRESH_MS)
            .set("statistics.interval.ms", STATISTICS_MS);
        if !self.instance.is_empty() {
            // a static member: back within the session timeout, it finds its partitions as it left them
            config.set("group.instance.id", &self.instance);
        }
        config
    }

    /// A producer that retries until the record is on all replicas, once, in order.
    pub(crate) fn producer(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", self.linger_ms.to_string())
            .set("compression.type", self.compression.as_str())
            .set("message.max.bytes", RECORD_BYTES_MAX)
            .set("delivery.timeout.ms", self.delivery_timeout_ms.to_string());
        config
    }

    /// A producer whose records belong to transactions; a second one with the same id ends the first.
    pub(crate) fn transactional_producer(&self, id: &str) -> ClientConfig {
        let mut config = self.producer();
        // a record may not be retried for longer than its transaction lives
        let delivery_ms = self.delivery_timeout_ms.min(self.transaction_timeout_ms);
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", self.transaction_timeout_ms.to_string())
            .set("retry.backoff.ms", TRANSACTION_RETRY_MS)
            .set("delivery.timeout.ms", delivery_ms.to_string());
        config
    }
}

/// The settings of config/default.toml.
#[cfg(test)]
pub(crate) fn shipped() -> KafkaSettings {
    #[derive(Deserialize)]
    struct Only {
        kafka: KafkaSettings,
    }
    let only: Only = crate::settings::load("kafka", None).expect("the shipped settings are valid");
    only.kafka
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(protocol: SecurityProtocol, mechanism: SaslMechanism) -> KafkaSettings {
        KafkaSettings {
            security_protocol: protocol,
            sasl_mechanism: mechanism,
            sasl_username: "agent".to_owned(),
            sasl_password: "hunter2".into(),
            ssl_ca_file: "/etc/meit/ca.pem".to_owned(),
            ..shipped()
        }
    }

    #[test]
    fn a_login_goes_to_every_client_and_is_printed_nowhere() {
        let settings = of(SecurityProtocol::SaslPlaintext, SaslMechanism::Plain);
        settings.check().unwrap();
        for config in [
            settings.consumer("g"),
            settings.producer(),
            settings.transactional_producer("t"),
        ] {
            assert_eq!(config.get("security.protocol"), Some("sasl_plaintext"));
            assert_eq!(config.get("sasl.mechanism"), Some("PLAIN"));
            assert_eq!(config.get("sasl.password"), Some("hunter2"));
            assert_eq!(config.get("ssl.ca.location"), None, "no TLS, no certificates");
        }
        let printed = format!("{settings:?}");
        assert!(printed.contains("agent") && !printed.contains("hunter2"), "{printed}");
        assert_eq!(shipped().client().get("security.protocol"), None);
    }

    #[test]
    fn certificates_are_set_where_there_is_tls() {
        let config = of(SecurityProtocol::Ssl, SaslMechanism::Plain).client();
        assert_eq!(config.get("ssl.ca.location"), Some("/etc/meit/ca.pem"));
        assert_eq!(
            (config.get("ssl.key.location"), config.get("sasl.username")),
            (None, None)
        );
    }

    #[test]
    fn half_a_login_half_a_certificate_and_tls_without_openssl_are_refused() {
        let mut nameless = of(SecurityProtocol::SaslPlaintext, SaslMechanism::Plain);
        nameless.sasl_username.clear();
        assert_eq!(nameless.check().unwrap_err().key, "kafka.sasl_username");
        let mut keyless = of(SecurityProtocol::Plaintext, SaslMechanism::Plain);
        keyless.ssl_certificate_file = "c.pem".to_owned();
        assert_eq!(keyless.check().unwrap_err().key, "kafka.ssl_key_file");
        for settings in [
            of(SecurityProtocol::Ssl, SaslMechanism::Plain),
            of(SecurityProtocol::SaslPlaintext, SaslMechanism::ScramSha256),
        ] {
            let checked = settings.check().map_err(|error| error.to_string());
            assert_eq!(checked.is_ok(), cfg!(feature = "tls"), "{checked:?}");
        }
    }
}
