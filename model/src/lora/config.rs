//! adapter_config.json as peft writes it, and which modules it means.
//!
//! Place: beside an adapter's tensors. Invariant: a setting that changes the result and that this crate does not do is an
//! error, never ignored, and so is one that this crate does not know. Source: peft 0.21's LoraConfig, check_target_module_exists and
//! get_pattern_key.

use std::fmt;

use fancy_regex::Regex;
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Means every linear layer but the output head.
const ALL_LINEAR: &str = "all-linear";
/// Settings of other methods than plain LoRA; each must be absent, null, false or empty.
const FOREIGN: [&str; 16] = [
    // of peft's first versions
    "enable_lora",
    "merge_weights",
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "ensure_weight_tying",
];

/// How the factors started. Where it changed the base's weights, the adapter says nothing without them.
const INIT: &str = "init_lora_weights";
/// Starts that left the base as it was.
const INITS: [&str; 3] = ["gaussian", "eva", "orthogonal"];
/// Settings that change no result of a trained adapter: where it came from, and how a start that [`INIT`] names was made.
const HARMLESS: [&str; 12] = [
    INIT,
    "auto_mapping",
    "peft_version",
    "revision",
    "megatron_config",
    "megatron_core",
    "runtime_config",
    "qalora_group_size",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
];

/// What an adapter changes, and how strongly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterConfig {
    #[serde(default = "lora")]
    pub peft_type: String,
    #[serde(default)]
    pub task_type: Option<String>,
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
    /// Rank, R.
    pub r: usize,
    #[serde(serialize_with = "whole_where_possible")]
    pub lora_alpha: f64,
    /// Probability that an input of the adapter is zeroed in training.
    #[serde(default)]
    pub lora_dropout: f32,
    pub target_modules: Targets,
    #[serde(default)]
    pub exclude_modules: Option<Targets>,
    /// Layers that `target_modules` (a list) is limited to.
    #[serde(default)]
    pub layers_to_transform: Option<Layers>,
    #[serde(default)]
    pub layers_pattern: Option<Targets>,
    /// The base keeps its weights (I, O); peft needs to know, the adapter's own tensors are the same.
    #[serde(default)]
    pub fan_in_fan_out: bool,
    #[serde(default = "none")]
    pub bias: String,
    /// Scales by alpha over the root of r.
    #[serde(default)]
    pub use_rslora: bool,
    /// Other ranks of modules whose name ends in a pattern; the first that matches counts.
    #[serde(default)]
    pub rank_pattern: Patterns<usize>,
    #[serde(default)]
    pub alpha_pattern: Patterns<f64>,
    #[serde(default)]
    pub inference_mode: bool,
    #[serde(flatten)]
    other: Map<String, Value>,
}

fn lora() -> String {
    "LORA".to_owned()
}

fn none() -> String {
    "none".to_owned()
}

/// Module names, or one regular expression for the whole path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    Pattern(String),
    Names(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Layers {
    One(usize),
    Many(Vec<usize>),
}

/// Values by pattern, in the file's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Patterns<T>(pub Vec<(String, T)>);

impl AdapterConfig {
    /// A plain LoRA of rank `r` on `target_modules`.
    pub fn new(r: usize, lora_alpha: f64, target_modules: Targets) -> Self {
        Self {
            peft_type: lora(),
            task_type: Some("CAUSAL_LM".to_owned()),
            base_model_name_or_path: None,
            r,
            lora_alpha,
            lora_dropout: 0.0,
            target_modules,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            fan_in_fan_out: false,
            bias: none(),
            use_rslora: false,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
            inference_mode: false,
            other: Map::new(),
        }
    }

    /// # Errors
    /// [`Error::Config`] with the setting, its value and what is done instead.
    pub fn validate(&self) -> Result<()> {
        let fail = |key, value: String, bound: &str| {
            Err(Error::Config {
                key,
                value,
                bound: bound.to_owned(),
            })
        };
        if self.peft_type != "LORA" {
            return fail("peft_type", self.peft_type.clone(), "must be LORA");
        }
        if self.bias != "none" {
            return fail("bias", self.bias.clone(), "must be none: biases are not trained");
        }
        if self.r == 0 || self.rank_pattern.0.iter().any(|(_, r)| *r == 0) {
            return fail("r", "0".to_owned(), "every rank must be at least 1");
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return fail("lora_dropout", self.lora_dropout.to_string(), "must be in 0..1");
        }
        if matches!(self.target_modules, Targets::Pattern(_)) {
            // as peft refuses them, all-linear included
            let bound = "must be null where target_modules is no list";
            if let Some(layers) = &self.layers_to_transform {
                return fail("layers_to_transform", format!("{layers:?}"), bound);
            }
            if let Some(pattern) = &self.layers_pattern {
                return fail("layers_pattern", format!("{pattern:?}"), bound);
            }
        }
        let limits = |pattern: &Targets| match pattern {
            Targets::Pattern(pattern) => !pattern.is_empty(),
            Targets::Names(patterns) => !patterns.is_empty(),
        };
        if self.layers_to_transform.is_none() && self.layers_pattern.as_ref().is_some_and(limits) {
            return fail(
                "layers_to_transform",
                "null".to_owned(),
                "must be given beside layers_pattern",
            );
        }
        self.validate_other()
    }

    /// What peft knows beside the fields.
    fn validate_other(&self) -> Result<()> {
        for (key, value) in &self.other {
            let fail = |key, bound: String| {
                let value = value.to_string();
                Err(Error::Config { key, value, bound })
            };
            if let Some(&key) = FOREIGN.iter().find(|known| *known == key) {
                let unset = match value {
                    Value::Null | Value::Bool(false) => true,
                    Value::Array(items) => items.is_empty(),
                    Value::Object(items) => items.is_empty(),
                    _ => false,
                };
                if !unset {
                    return fail(key, "must be unset: only plain LoRA is done here".to_owned());
                }
            } else if key == INIT {
                let known = match value {
                    Value::Null | Value::Bool(_) => true,
                    Value::String(kind) => INITS.contains(&kind.to_lowercase().as_str()),
                    _ => false,
                };
                if !known {
                    let bound = "must be true, false, gaussian, eva or orthogonal: others belong to a base that they changed, or train in \
                                 another way; peft converts some (path_initial_model_for_weight_conversion)";
                    return fail(INIT, bound.to_owned());
                }
            } else if !HARMLESS.contains(&key.as_str()) {
                return Err(Error::UnknownKey {
                    key: key.clone(),
                    value: value.to_string(),
                });
            }
        }
        Ok(())
    }

    /// Whether the module at `path` has an adapter; `is_head` tells the output head, which `all-linear` leaves out.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn targets(&self, path: &str, is_head: bool) -> Result<bool> {
        if let Some(exclude) = &self.exclude_modules
            && exclude.matches(path)?
        {
            return Ok(false);
        }
        match &self.target_modules {
            Targets::Pattern(pattern) if pattern.eq_ignore_ascii_case(ALL_LINEAR) => Ok(!is_head),
            Targets::Pattern(_) => self.target_modules.matches(path),
            Targets::Names(_) => Ok(self.target_modules.matches(path)? && self.transforms(path)?),
        }
    }

    /// Whether `layers_to_transform` has the module's layer.
    fn transforms(&self, path: &str) -> Result<bool> {
        let layers = match &self.layers_to_transform {
            None => return Ok(true),
            Some(Layers::One(layer)) => vec![*layer],
            Some(Layers::Many(layers)) if layers.is_empty() => return Ok(true),
            Some(Layers::Many(layers)) => layers.clone(),
        };
        let patterns = match &self.layers_pattern {
            None => Vec::new(),
            Some(Targets::Pattern(pattern)) => vec![pattern.clone()],
            Some(Targets::Names(patterns)) => patterns.clone(),
        };
        let mut regexes: Vec<String> = patterns
            .iter()
            .filter(|pattern| !pattern.is_empty())
            .map(|pattern| format!(r"^(?:|.*?\.){pattern}\.(\d+)\."))
            .collect();
        if regexes.is_empty() {
            regexes.push(r"^.*?\.[^.]*\.(\d+)\.".to_owned());
        }
        for pattern in &regexes {
            let captured = regex(pattern)?.captures(path).map_err(|e| broken(pattern, &e))?;
            if let Some(layer) = captured.and_then(|c| c.get(1)) {
                return Ok(layer.as_str().parse().is_ok_and(|layer: usize| layers.contains(&layer)));
            }
        }
        Ok(false)
    }

    /// Rank of the module at `path`.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn rank(&self, path: &str) -> Result<usize> {
        Ok(self.rank_pattern.find(path)?.unwrap_or(self.r))
    }

    /// Factor of `B A x` in the module at `path`.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn scale(&self, path: &str) -> Result<f64> {
        let (rank, alpha) = (self.rank(path)? as f64, self.alpha_pattern.find(path)?);
        let over = if self.use_rslora { rank.sqrt() } else { rank };
        Ok(alpha.unwrap_or(self.lora_alpha) / over)
    }
}

impl Targets {
    fn matches(&self, path: &str) -> Result<bool> {
        match self {
            Self::Pattern(pattern) => is_match(&format!("^(?:{pattern})$"), path),
            Self::Names(names) => Ok(names.iter().any(|name| {
                path.strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })),
        }
    }
}

impl<T: Copy> Patterns<T> {
    fn find(&self, path: &str) -> Result<Option<T>> {
        for (pattern, value) in &self.0 {
            if is_match(&format!(r"^(.*\.)?({pattern})$"), path)? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }
}

fn regex(pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|e| broken(pattern, &e))
}

fn is_match(pattern: &str, path: &str) -> Result<bool> {
    regex(pattern)?.is_match(path).map_err(|e| broken(pattern, &e))
}

fn broken(pattern: &str, error: &fancy_regex::Error) -> Error {
    Error::Config {
        key: "target_modules, rank_pattern or alpha_pattern",
        value: pattern.to_owned(),
        bound: error.to_string(),
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes fields by reference
fn whole_where_possible<S: Serializer>(value: &f64, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        serializer.serialize_i64(*value as i64)
    } else {
        serializer.serialize_f64(*value)
    }
}

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for Patterns<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (pattern, value) in &self.0 {
            map.serialize_entry(pattern, value)?;
        }
        map.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patterns<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct InOrder<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Patterns<T>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of patterns")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Patterns(entries))
            }
        }
        deserializer.deserialize_map(InOrder(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: serde_json::Value) -> AdapterConfig {
        let mut whole = serde_json::json!({"r": 4, "lora_alpha": 8, "target_modules": "all-linear"});
        for (key, value) in json.as_object().expect("an object") {
            whole[key] = value.clone();
        }
        // through text, as a file is read: patterns keep its order
        serde_json::from_str(&whole.to_string()).expect("a config")
    }

    #[track_caller]
    fn check(json: serde_json::Value, expected: &[&str]) {
        let modules = [
            "model.layers.0.self_attn.q_proj",
            "model.layers.1.self_attn.q_proj",
            "model.layers.10.mlp.q_proj",
            "model.layers.1.mlp.up_proj",
            "lm_head",
        ];
        let config = config(json);
        let targeted = modules
            .into_iter()
            .filter(|m| config.targets(m, *m == "lm_head").expect("a pattern"));
        assert_eq!(targeted.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn all_linear_is_every_module_but_the_head() {
        let all = [
            "model.layers.0.self_attn.q_proj",
            "model.layers.1.self_attn.q_proj",
            "model.layers.10.mlp.q_proj",
            "model.layers.1.mlp.up_proj",
        ];
        check(serde_json::json!({}), &all);
        check(
            serde_json::json!({"target_modules": "All-Linear", "exclude_modules": ["q_proj"]}),
            &all[3..],
        );
    }

    #[test]
    fn a_name_ends_a_path_at_a_dot() {
        check(
            serde_json::json!({"target_modules": ["up_proj", "proj"]}),
            &["model.layers.1.mlp.up_proj"],
        );
        check(serde_json::json!({"target_modules": ["lm_head"]}), &["lm_head"]);
    }

    #[test]
    fn a_pattern_matches_the_whole_path() {
        let pattern = r".*\.1\.(self_attn|mlp)\.\w+";
        let of_layer_1 = ["model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"];
        check(serde_json::json!({"target_modules": pattern}), &of_layer_1);
        check(serde_json::json!({"target_modules": "q_proj"}), &[]);
        check(
            serde_json::json!({"target_modules": r"(?!lm_head).*up_proj"}),
            &of_layer_1[1..],
        );
    }

    #[test]
    fn names_can_be_limited_to_layers() {
        let names = ["q_proj"];
        let one = ["model.layers.1.self_attn.q_proj"];
        check(
            serde_json::json!({"target_modules": names, "layers_to_transform": 1}),
            &one,
        );
        let with_pattern =
            serde_json::json!({"target_modules": names, "layers_to_transform": [1], "layers_pattern": "layers"});
        check(with_pattern, &one);
        let other =
            serde_json::json!({"target_modules": names, "layers_to_transform": [1], "layers_pattern": ["blocks"]});
        check(other, &[]);
    }

    #[test]
    fn the_first_pattern_that_ends_the_path_sets_rank_and_alpha() -> Result<()> {
        let text = r#"{"r": 4, "lora_alpha": 8, "target_modules": "all-linear",
            "rank_pattern": {"q_proj": 2, "layers.0.self_attn.q_proj": 9}, "alpha_pattern": {".*mlp.*": 5.5}}"#;
        let mut config: AdapterConfig = serde_json::from_str(text).expect("a config");
        let (q, up) = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj");
        assert_eq!((config.rank(q)?, config.rank(up)?), (2, 4));
        assert_eq!((config.scale(q)?, config.scale(up)?), (4.0, 5.5 / 4.0));
        config.use_rslora = true;
        assert_eq!(config.scale(up)?, 5.5 / 2.0);
        Ok(())
    }

    #[track_caller]
    fn refused(json: serde_json::Value, expected: &str) {
        let error = config(json).validate().expect_err("an error").to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn starts_that_changed_the_base_are_refused_and_those_that_left_it_are_not() -> Result<()> {
        for kind in ["pissa", "pissa_niter_16", "olora", "loftq", "corda", "lora_ga", "mica"] {
            refused(
                serde_json::json!({"init_lora_weights": kind}),
                &format!("init_lora_weights is \"{kind}\""),
            );
        }
        for start in [
            serde_json::json!(true),
            serde_json::json!(false),
            serde_json::json!("gaussian"),
            serde_json::json!("eva"),
            serde_json::json!("orthogonal"),
            Value::Null,
        ] {
            config(serde_json::json!({"init_lora_weights": start})).validate()?;
        }
        Ok(())
    }

    #[test]
    fn a_key_that_nobody_knows_is_refused_and_the_harmless_ones_of_peft_are_not() -> Result<()> {
        refused(
            serde_json::json!({"use_sparse": true}),
            "adapter_config.json has use_sparse, true",
        );
        refused(
            serde_json::json!({"merge_weights": true}),
            "merge_weights is true: must be unset",
        );
        let harmless = serde_json::json!({"peft_version": "0.21.2", "auto_mapping": null, "revision": "main", "loftq_config": {},
            "eva_config": {"rho": 2.0}, "qalora_group_size": 16, "megatron_core": "megatron.core", "merge_weights": false});
        config(harmless).validate()
    }

    #[test]
    fn layers_of_a_pattern_are_refused_as_in_peft() {
        for pattern in ["all-linear", ".*q_proj"] {
            for layers in [serde_json::json!([1]), serde_json::json!(1), serde_json::json!([])] {
                refused(
                    serde_json::json!({"target_modules": pattern, "layers_to_transform": layers}),
                    "layers_to_transform is",
                );
            }
            refused(
                serde_json::json!({"target_modules": pattern, "layers_pattern": "h"}),
                "layers_pattern is",
            );
        }
        refused(
            serde_json::json!({"target_modules": ["q_proj"], "layers_pattern": ["h"]}),
            "layers_to_transform is null",
        );
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let patterns = serde_json::json!({"lora_alpha": 2.5, "rank_pattern": {"b": 1, "a": 2}, "megatron_core": "x"});
        let config = config(patterns);
        let text = serde_json::to_string(&config).expect("json");
        assert_eq!(serde_json::from_str::<AdapterConfig>(&text).expect("a config"), config);
        let whole = serde_json::to_value(self::config(serde_json::json!({}))).expect("json");
        assert!(whole["lora_alpha"].is_i64(), "peft writes whole numbers as such");
    }
}
