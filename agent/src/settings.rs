//! The agent's settings.
//!
//! Place: read once at start from defaults, file and environment; passed down in parts.
//! Invariant: unknown keys are refused, and nothing starts before [`Check::check`] has passed. Defaults live in
//! config/default.toml, nowhere else.

use std::time::Duration;

use ecg::SAMPLE_RATE_HZ;
use ecg::dsp::DspConfig;
use ecg::window::{LATENESS_SAMPLES_MAX, WindowerConfig};
use serde::Deserialize;
use service::kafka::KafkaSettings;
use service::settings::{Check, OutOfBounds, within};

use crate::monitors::MonitorsConfig;
use crate::policy::{Choice, Policy};
use crate::windows::WindowsConfig;

/// Everything that meit-agent reads.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSettings {
    /// Section `kafka`.
    pub kafka: KafkaSettings,
    /// Section `agent`.
    pub agent: AgentSection,
}

/// Section `agent`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSection {
    /// Analyses at once, and closed windows that wait for one.
    pub workers: usize,
    /// Records between the poll thread and the windows; when full, polling of the partitions pauses.
    pub queue_records: usize,
    /// How far behind the newest sample of its stream a sample may come, milliseconds of stream time.
    pub lateness_ms: u32,
    /// Longest gap that is bridged by a straight line, milliseconds.
    pub gap_repair_ms: u32,
    /// Distance of two windows' starts, milliseconds.
    pub stride_ms: u32,
    /// Silence after which a stream's whole windows are emitted without their full after-context, milliseconds.
    pub idle_flush_ms: u64,
    /// Silence after which a stream's samples are given up, milliseconds.
    pub idle_evict_ms: u64,
    /// Streams at most.
    pub streams_max: usize,
    /// Memory of all streams' samples at most, MiB.
    pub state_mib_max: usize,
    /// How far ahead of its stream's newest sample a packet may begin, milliseconds.
    pub advance_ms: u32,
    /// Which windows become segments.
    pub policy: Choice,
    /// k of policy "kth".
    pub policy_kth: u32,
    /// Change of the heart rate that policy "change" reports, beats a minute.
    pub policy_rate_bpm: f32,
    /// Change of RR deviation or QRS duration that policy "change" reports, milliseconds.
    pub policy_rhythm_ms: f32,
    /// Longest time without a segment under policy "change", milliseconds of stream time.
    pub policy_refresh_ms: u32,
    /// Age at which a window is shed, milliseconds; 0 for never.
    pub freshness_ms: u64,
    /// Time between two commits, milliseconds.
    pub commit_ms: u64,
    /// Address of /metrics and /healthz; empty for none.
    pub metrics_address: String,
    /// Thresholds of filters and gate.
    #[serde(default)]
    pub dsp: DspConfig,
}

impl Check for AgentSettings {
    fn check(&self) -> Result<(), OutOfBounds> {
        self.kafka.check()?;
        self.agent.check()
    }
}

impl AgentSection {
    fn check(&self) -> Result<(), OutOfBounds> {
        within("agent.workers", self.workers, 1..=1024)?;
        within("agent.queue_records", self.queue_records, 1..=1_000_000)?;
        within(
            "agent.lateness_ms",
            self.lateness_ms,
            0..=samples_to_ms(LATENESS_SAMPLES_MAX),
        )?;
        within("agent.gap_repair_ms", self.gap_repair_ms, 0..=100)?;
        within("agent.stride_ms", self.stride_ms, 1000..=600_000)?;
        within("agent.idle_flush_ms", self.idle_flush_ms, 100..=3_600_000)?;
        within(
            "agent.idle_evict_ms",
            self.idle_evict_ms,
            self.idle_flush_ms..=86_400_000,
        )?;
        within("agent.streams_max", self.streams_max, 1..=100_000)?;
        within("agent.state_mib_max", self.state_mib_max, 16..=1_048_576)?;
        within("agent.advance_ms", self.advance_ms, 10_000..=86_400_000)?;
        within("agent.policy_kth", self.policy_kth, 1..=100_000)?;
        within("agent.policy_rate_bpm", self.policy_rate_bpm, 1.0..=300.0)?;
        within("agent.policy_rhythm_ms", self.policy_rhythm_ms, 1.0..=1000.0)?;
        within("agent.policy_refresh_ms", self.policy_refresh_ms, 10_000..=86_400_000)?;
        within("agent.freshness_ms", self.freshness_ms, 0..=604_800_000)?;
        within("agent.commit_ms", self.commit_ms, 10..=60_000)
    }

    /// The bounds of the windows.
    pub fn windows(&self) -> WindowsConfig {
        WindowsConfig {
            windower: WindowerConfig {
                lateness_samples: ms_to_samples(self.lateness_ms),
                gap_repair_samples: ms_to_samples(self.gap_repair_ms) as usize,
                stride: ms_to_samples(self.stride_ms),
                advance_samples: ms_to_samples(self.advance_ms),
            },
            streams_max: self.streams_max,
            bytes_max: self.state_mib_max << 20,
            idle_flush: Duration::from_millis(self.idle_flush_ms),
            idle_evict: Duration::from_millis(self.idle_evict_ms),
        }
    }

    /// The bounds of what is known of monitors.
    pub(crate) fn monitors(&self) -> MonitorsConfig {
        MonitorsConfig {
            stalled_after: Duration::from_millis(self.idle_flush_ms),
            forget_after: Duration::from_millis(self.idle_evict_ms),
            monitors_max: self.streams_max,
        }
    }

    /// Which windows become segments.
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            choice: self.policy,
            kth: self.policy_kth,
            stride: ms_to_samples(self.stride_ms),
            rate_bpm: self.policy_rate_bpm,
            rhythm_ms: self.policy_rhythm_ms,
            refresh_samples: ms_to_samples(self.policy_refresh_ms),
            freshness_us: self.freshness_ms as i64 * 1000,
            streams_max: self.streams_max,
        }
    }
}

fn ms_to_samples(ms: u32) -> i64 {
    (f64::from(ms) * SAMPLE_RATE_HZ / 1000.0).round() as i64
}

fn samples_to_ms(samples: i64) -> u32 {
    (samples as f64 * 1000.0 / SAMPLE_RATE_HZ) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section() -> AgentSection {
        let text = include_str!("../../config/default.toml");
        let all: serde_json::Map<String, serde_json::Value> = toml::from_str(text).unwrap();
        serde_json::from_value(all["agent"].clone()).unwrap()
    }

    #[test]
    fn the_defaults_are_within_their_bounds() {
        let section = section();
        section.check().unwrap();
        let windower = WindowerConfig {
            lateness_samples: 1000,
            gap_repair_samples: 10,
            stride: 5000,
            advance_samples: 30_000,
        };
        assert_eq!(section.windows().windower, windower);
    }

    #[test]
    fn a_value_out_of_bounds_is_named_with_its_bound() {
        let error = AgentSection {
            lateness_ms: 5000,
            ..section()
        }
        .check()
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "setting agent.lateness_ms = 5000 is out of bounds: 0..=3000"
        );
        let error = AgentSection {
            idle_evict_ms: 1,
            ..section()
        }
        .check()
        .unwrap_err();
        assert_eq!(error.key, "agent.idle_evict_ms");
    }
}
