//! The replay's settings.
//!
//! Place: read once at start from defaults, file, environment and command line.
//! Invariant: unknown keys are refused, and nothing starts before [`Check::check`] has passed. Defaults live in
//! config/default.toml, nowhere else.

use std::path::PathBuf;

use serde::Deserialize;
use service::kafka::KafkaSettings;
use service::settings::{Check, OutOfBounds, within};

use crate::fault::Fault;
use crate::noise::Noise;

/// Everything that meit-bedside reads.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BedsideSettings {
    /// Section `kafka`.
    pub kafka: KafkaSettings,
    /// Section `bedside`.
    pub bedside: BedsideSection,
}

/// Section `bedside`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BedsideSection {
    /// WFDB headers, or directories of them, to replay.
    pub recordings: Vec<PathBuf>,
    /// Monitors at once; 0 only with a heartbeat, which then plays until it is stopped.
    pub beds: usize,
    /// Stream time that each bed plays, minutes, rounded up to whole recordings of 10 s.
    pub minutes: f64,
    /// Stream seconds a second.
    pub speed: f64,
    /// Length of a packet, milliseconds of stream time.
    pub packet_ms: u32,
    /// Noise to add.
    pub noise: Noise,
    /// Window-power signal-to-noise ratio of the added noise, decibels.
    pub snr_db: f64,
    /// Directory of the noise records bw, em and ma; read only with noise.
    pub noise_directory: PathBuf,
    /// Decides order and noise.
    pub seed: u64,
    /// Boot of the monitors; 0 takes the clock's seconds, so that a second replay is a new boot of the same monitors.
    pub boot_id: u64,
    /// Faults to inject, such as "clock-back@30s"; none, usually.
    pub faults: Vec<Fault>,
    /// Packets that readers may lag behind before the beds wait; only with a lag probe.
    pub lag_packets_max: u64,
    /// Header of the recording that the heartbeat plays; empty for no heartbeat.
    pub heartbeat: PathBuf,
    /// Address of /metrics and /healthz; empty for none.
    pub metrics_address: String,
}

impl Check for BedsideSettings {
    fn check(&self) -> Result<(), OutOfBounds> {
        self.kafka.check()?;
        self.bedside.check()
    }
}

impl BedsideSection {
    fn check(&self) -> Result<(), OutOfBounds> {
        let beds_min = usize::from(self.heartbeat.as_os_str().is_empty());
        within("bedside.beds", self.beds, beds_min..=10_000)?;
        within("bedside.minutes", self.minutes, 0.01..=1e6)?;
        within("bedside.speed", self.speed, 0.01..=1e4)?;
        within("bedside.packet_ms", self.packet_ms, 2..=10_000)?;
        within("bedside.snr_db", self.snr_db, -40.0..=60.0)?;
        within("bedside.lag_packets_max", self.lag_packets_max, 1..=1_000_000_000)
    }

    /// Recordings that each bed plays.
    pub(crate) fn plays(&self) -> usize {
        (self.minutes * 6.0 - 1e-9).ceil().max(1.0) as usize
    }

    /// Samples in a packet.
    pub(crate) fn packet_samples(&self) -> usize {
        (f64::from(self.packet_ms) * ecg::SAMPLE_RATE_HZ / 1000.0)
            .round()
            .max(1.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section() -> BedsideSection {
        let text = include_str!("../../../config/default.toml");
        let all: serde_json::Map<String, serde_json::Value> = toml::from_str(text).unwrap();
        serde_json::from_value(all["bedside"].clone()).unwrap()
    }

    #[test]
    fn the_defaults_are_within_their_bounds() {
        section().check().unwrap();
        assert_eq!(section().packet_samples(), 125);
    }

    #[test]
    fn minutes_are_rounded_up_to_whole_recordings() {
        for (minutes, plays) in [(1.0, 6), (0.01, 1), (0.5, 3), (1.01, 7)] {
            assert_eq!(BedsideSection { minutes, ..section() }.plays(), plays, "{minutes}");
        }
    }

    #[test]
    fn no_beds_are_enough_only_with_a_heartbeat() {
        let bare = BedsideSection { beds: 0, ..section() };
        assert!(bare.check().is_err());
        let heartbeat = "r.hea".into();
        BedsideSection { heartbeat, ..bare }.check().unwrap();
    }

    #[test]
    fn a_value_out_of_bounds_is_named_with_its_bound() {
        let error = BedsideSection {
            speed: f64::NAN,
            ..section()
        }
        .check()
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "setting bedside.speed = NaN is out of bounds: 0.01..=10000"
        );
    }
}
