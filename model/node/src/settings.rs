//! The node's settings.
//!
//! Place: read once at start from defaults, file and environment; passed down in parts.
//! Invariant: unknown keys are refused, and nothing starts before the bounds are checked. Defaults live in
//! config/default.toml, nowhere else.

use std::path::PathBuf;
use std::time::Duration;

use model::generate::DecodeOptions;
use model::served::ServedWeights;
use model::slots::SlotLimits;
use serde::Deserialize;
use service::kafka::KafkaSettings;
use service::settings::{Check, OutOfBounds, within};

use crate::watch::WatchSettings;

/// Everything that meit-node reads.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSettings {
    /// Section `kafka`.
    pub kafka: KafkaSettings,
    /// Section `node`.
    pub node: NodeSection,
}

/// Section `node`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// Directory of the bundle that drafts.
    pub bundle: PathBuf,
    /// Where the bundle runs: "cpu" or "cuda:N".
    pub device: String,
    /// Type of the language model's weights.
    pub weights: ServedWeights,
    /// Consumer group of the nodes, after the prefix of the kafka settings.
    pub group: String,
    /// Records between each poll thread and the batches; when full, polling of the partitions pauses.
    pub queue_records: usize,
    /// Segments that are drafted together, at most.
    pub batch_max: usize,
    /// Tokens of prompt and draft in each of that many slots; 0 for batches without slots.
    pub slot_tokens: usize,
    /// How long the first segment of a batch waits for others, milliseconds; with slots none waits.
    pub batch_wait_ms: u64,
    /// Longest time that the device may take for a batch, milliseconds.
    pub batch_timeout_ms: u64,
    /// Drafts that are remembered, so that a segment which is delivered twice is drafted once.
    pub remembered_drafts: usize,
    /// Time between two commits, milliseconds.
    pub commit_ms: u64,
    /// Address of /metrics and /healthz; empty for none.
    pub metrics_address: String,
    /// How tokens are chosen.
    pub decode: DecodeOptions,
    /// Which registry is followed, and how.
    pub watch: WatchSettings,
}

impl NodeSection {
    /// How long a segment waits for others: [`NodeSection::batch_wait_ms`], and not where others can still come later.
    pub fn batch_wait(&self) -> Duration {
        let waits = self.slot_tokens == 0;
        Duration::from_millis(if waits { self.batch_wait_ms } else { 0 })
    }

    /// What the device has room for.
    pub fn slots(&self) -> SlotLimits {
        SlotLimits {
            slots: self.batch_max,
            tokens: self.slot_tokens,
        }
    }

    /// [`NodeSection::batch_timeout_ms`].
    pub fn batch_timeout(&self) -> Duration {
        Duration::from_millis(self.batch_timeout_ms)
    }
}

impl Check for NodeSettings {
    fn check(&self) -> Result<(), OutOfBounds> {
        self.kafka.check()?;
        let node = &self.node;
        if node.group.trim().is_empty() {
            return Err(OutOfBounds {
                key: "node.group",
                value: format!("{:?}", node.group),
                bound: "must name a group".to_owned(),
            });
        }
        within("node.queue_records", node.queue_records, 1..=100_000)?;
        within("node.batch_max", node.batch_max, 1..=1024)?;
        within("node.slot_tokens", node.slot_tokens, 0..=65_536)?;
        within("node.batch_wait_ms", node.batch_wait_ms, 0..=60_000)?;
        within("node.batch_timeout_ms", node.batch_timeout_ms, 1000..=3_600_000)?;
        within("node.remembered_drafts", node.remembered_drafts, 1..=10_000_000)?;
        within("node.commit_ms", node.commit_ms, 10..=60_000)?;
        within("node.decode.tokens_max", node.decode.tokens_max, 1..=1024)?;
        within("node.decode.temperature", node.decode.temperature, 0.0..=10.0)?;
        within("node.decode.top_p", node.decode.top_p, f64::MIN_POSITIVE..=1.0)?;
        let (watch, canary) = (&node.watch, &node.watch.canary);
        within("node.watch.poll_ms", watch.poll_ms, 50..=600_000)?;
        within("node.watch.canary.drafts_min", canary.drafts_min, 1..=1_000_000)?;
        within("node.watch.canary.abstain_rise_max", canary.abstain_rise_max, 0.0..=1.0)?;
        within(
            "node.watch.canary.contradiction_rise_max",
            canary.contradiction_rise_max,
            0.0..=1.0,
        )
    }
}

/// The shipped settings.
#[cfg(test)]
pub(crate) fn shipped() -> NodeSettings {
    let mut all: serde_json::Map<String, serde_json::Value> = toml::from_str(service::settings::DEFAULTS).unwrap();
    all.retain(|section, _| ["kafka", "node"].contains(&section.as_str()));
    serde_json::from_value(all.into()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_bounds() {
        let settings = shipped();
        settings.check().unwrap();
        assert_eq!(settings.node.decode, DecodeOptions::default());
    }

    #[test]
    fn segments_wait_for_others_where_there_are_no_slots() {
        let mut node = shipped().node;
        (node.batch_wait_ms, node.slot_tokens) = (50, 0);
        assert_eq!(node.batch_wait(), Duration::from_millis(50));
        node.slot_tokens = 512;
        assert_eq!(node.batch_wait(), Duration::ZERO);
    }

    #[track_caller]
    fn check_refused(change: impl FnOnce(&mut NodeSection), words: &str) {
        let mut settings = shipped();
        change(&mut settings.node);
        let error = settings.check().unwrap_err().to_string();
        assert!(error.contains(words), "{words} is not in: {error}");
    }

    #[test]
    fn a_value_out_of_bounds_is_named_with_its_bound() {
        check_refused(
            |node| node.batch_max = 0,
            "node.batch_max = 0 is out of bounds: 1..=1024",
        );
        check_refused(
            |node| node.decode.temperature = f64::NAN,
            "node.decode.temperature = NaN",
        );
        check_refused(|node| node.group = " ".to_owned(), "node.group");
    }

    #[test]
    fn weights_are_one_of_five_types() {
        let section = |weights: &str| {
            let mut node = serde_json::to_value(toml::from_str::<toml::Value>(service::settings::DEFAULTS).unwrap())
                .unwrap()["node"]
                .take();
            node["weights"] = weights.into();
            serde_json::from_value::<NodeSection>(node)
        };
        for weights in ServedWeights::ALL {
            assert_eq!(section(weights.name()).unwrap().weights, weights);
        }
        let refused = section("int8").unwrap_err().to_string();
        assert!(
            refused.contains("unknown variant `int8`, expected one of `f32`, `f16`, `bf16`, `q8_0`, `q4_k`"),
            "{refused}"
        );
    }
}
