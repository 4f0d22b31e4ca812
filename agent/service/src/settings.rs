//! Settings: built-in defaults < file < environment.
//!
//! Place: read once at start, before anything else; each process deserializes its own struct with `deny_unknown_fields`.
//! Invariant: a key that nobody knows, a value of the wrong type and a value out of its bounds are errors that name the key,
//! the value and where it was set. Defaults are config/default.toml, compiled in.

mod nearest;
mod secret;
pub mod show;

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;

use config::{Config, ConfigError, Environment, File, FileFormat, Map, Value, ValueKind};
use serde::de::DeserializeOwned;

pub use self::secret::Secret;

/// Every setting with its default and a comment.
pub const DEFAULTS: &str = include_str!("../../../config/default.toml");
/// Where a default says it comes from.
const DEFAULTS_ORIGIN: &str = "the built-in defaults";
/// First part of the environment variables that are settings, as in MEIT__KAFKA__BROKERS.
const PREFIX: &str = "MEIT";
const SEPARATOR: &str = "__";
/// The section that all processes share.
const SHARED: &str = "kafka";

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A source is missing or is not TOML.
    #[error("read settings from {origin}: {source}")]
    Read {
        /// The file, or the defaults.
        origin: String,
        /// Why.
        source: Box<ConfigError>,
    },
    /// A section that no process has.
    #[error("unknown settings section {key} in {origin}{hint}")]
    Section {
        /// The section.
        key: String,
        /// Where it was found.
        origin: String,
        /// The section that was meant, perhaps.
        hint: String,
    },
    /// A key that its section does not have, a value of the wrong type, or a missing key.
    #[error("settings of {process} from {sources}: {source}{hint}")]
    Value {
        /// The process.
        process: String,
        /// The sources that were merged, in rising order.
        sources: String,
        /// Which key, and what is wrong.
        source: Box<ConfigError>,
        /// The key that was meant, perhaps.
        hint: String,
    },
    /// A value out of its bounds.
    #[error("{source} (set by {origin})")]
    Bounds {
        /// Key, value and bound.
        source: OutOfBounds,
        /// Where the value was set.
        origin: String,
    },
}

/// A value out of its bounds.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("setting {key} = {value} is out of bounds: {bound}")]
pub struct OutOfBounds {
    /// The key, with its section.
    pub key: &'static str,
    /// The value.
    pub value: String,
    /// What is allowed.
    pub bound: String,
}

/// Settings that know their bounds.
pub trait Check {
    /// # Errors
    /// [`OutOfBounds`] names the first key that is out of bounds.
    fn check(&self) -> Result<(), OutOfBounds>;
}

/// Checks that a value lies in a range; a NaN lies in none.
///
/// # Errors
/// [`OutOfBounds`] when it does not.
pub fn within<T: PartialOrd + Display>(
    key: &'static str,
    value: T,
    bounds: RangeInclusive<T>,
) -> Result<(), OutOfBounds> {
    if bounds.contains(&value) {
        return Ok(());
    }
    let (low, high) = bounds.into_inner();
    Err(OutOfBounds {
        key,
        value: value.to_string(),
        bound: format!("{low}..={high}"),
    })
}

/// Settings of `process`: its section and `[kafka]`, from the defaults, `file` and the environment.
///
/// # Errors
/// [`SettingsError`], except for its bounds.
pub fn load<T: DeserializeOwned>(process: &str, file: Option<&Path>) -> Result<T, SettingsError> {
    parse(process, file, &merged(file, environment())?)
}

/// As [`load`], with the bounds checked and the offending value's source named.
///
/// # Errors
/// [`SettingsError`].
pub fn load_checked<T: DeserializeOwned + Check>(process: &str, file: Option<&Path>) -> Result<T, SettingsError> {
    check_parsed(process, file, &merged(file, environment())?)
}

fn check_parsed<T: DeserializeOwned + Check>(
    process: &str,
    file: Option<&Path>,
    tree: &Map<String, Value>,
) -> Result<T, SettingsError> {
    let settings: T = parse(process, file, tree)?;
    settings.check().map_err(|source| SettingsError::Bounds {
        origin: origin(tree, source.key),
        source,
    })?;
    Ok(settings)
}

fn environment() -> HashMap<String, String> {
    // lossy: a variable that is not Unicode cannot be one of ours
    let all =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    all.collect()
}

/// The three sources merged, every section checked against the defaults.
fn merged(file: Option<&Path>, environment: HashMap<String, String>) -> Result<Map<String, Value>, SettingsError> {
    let defaults = read(
        Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml)),
        DEFAULTS_ORIGIN,
    )?;
    let mut builder = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
    if let Some(file) = file {
        builder = builder.add_source(File::from(file).format(FileFormat::Toml));
    }
    let mut variables = Environment::with_prefix(PREFIX)
        .prefix_separator(SEPARATOR)
        .separator(SEPARATOR)
        .try_parsing(true)
        .list_separator(",")
        .source(Some(environment));
    for key in lists(&defaults) {
        variables = variables.with_list_parse_key(&key);
    }
    let origin = file.map_or_else(|| "the environment".to_owned(), |file| file.display().to_string());
    let tree = read(builder.add_source(variables), &origin)?;
    match tree.iter().find(|(key, _)| !defaults.contains_key(*key)) {
        Some((key, value)) => Err(SettingsError::Section {
            key: key.clone(),
            origin: of_value(value),
            hint: nearest::hint(key, defaults.keys().map(String::as_str)),
        }),
        None => Ok(tree),
    }
}

fn read(
    builder: config::ConfigBuilder<config::builder::DefaultState>,
    origin: &str,
) -> Result<Map<String, Value>, SettingsError> {
    let tree = builder.build().and_then(|config| config.cache.into_table());
    tree.map_err(|source| SettingsError::Read {
        origin: origin.to_owned(),
        source: Box::new(source),
    })
}

/// Keys whose default is a list, so that their variables are split at commas.
fn lists(defaults: &Map<String, Value>) -> Vec<String> {
    let of_section = |(section, value): (&String, &Value)| -> Vec<String> {
        let ValueKind::Table(table) = &value.kind else {
            return Vec::new();
        };
        let lists = table
            .iter()
            .filter(|(_, value)| matches!(value.kind, ValueKind::Array(_)));
        lists.map(|(key, _)| format!("{section}.{key}")).collect()
    };
    defaults.iter().flat_map(of_section).collect()
}

fn parse<T: DeserializeOwned>(
    process: &str,
    file: Option<&Path>,
    tree: &Map<String, Value>,
) -> Result<T, SettingsError> {
    let own = tree.iter().filter(|(key, _)| [SHARED, process].contains(&key.as_str()));
    let own: Map<String, Value> = own.map(|(key, value)| (key.clone(), value.clone())).collect();
    let file = file.map(|file| format!("{}, ", file.display())).unwrap_or_default();
    Value::new(None, own)
        .try_deserialize()
        .map_err(|source| SettingsError::Value {
            process: process.to_owned(),
            sources: format!("{DEFAULTS_ORIGIN}, {file}the environment"),
            hint: nearest::hint_of_message(&source.to_string()),
            source: Box::new(source),
        })
}

/// Where the value of a dotted key was set.
fn origin(tree: &Map<String, Value>, key: &str) -> String {
    let mut parts = key.split('.');
    let mut value = parts.next().and_then(|part| tree.get(part));
    for part in parts {
        value = match value.map(|value| &value.kind) {
            Some(ValueKind::Table(table)) => table.get(part),
            _ => None,
        };
    }
    value.map_or_else(|| DEFAULTS_ORIGIN.to_owned(), of_value)
}

fn of_value(value: &Value) -> String {
    match (value.origin(), &value.kind) {
        (Some(origin), _) => origin.to_owned(),
        // a table has no origin of its own, its values have
        (None, ValueKind::Table(table)) => table.values().map(of_value).next().unwrap_or_default(),
        (None, _) => DEFAULTS_ORIGIN.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde::Deserialize;

    use super::*;
    use crate::kafka::KafkaSettings;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        kafka: KafkaSettings,
        bedside: Map<String, serde_json::Value>,
    }

    impl Check for Settings {
        fn check(&self) -> Result<(), OutOfBounds> {
            self.kafka.check()
        }
    }

    fn file(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("meit-settings-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    fn loaded(text: Option<(&str, &str)>, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let path = text.map(|(name, text)| file(name, text));
        let pairs = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings =
            merged(path.as_deref(), pairs.collect()).and_then(|tree| check_parsed("bedside", path.as_deref(), &tree));
        path.map(std::fs::remove_file).transpose().unwrap();
        settings
    }

    #[track_caller]
    fn check_error(text: Option<(&str, &str)>, variables: &[(&str, &str)], words: &[&str]) {
        let error = loaded(text, variables).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{word} is not in: {error}");
        }
    }

    #[test]
    fn the_environment_overrides_the_file_which_overrides_the_defaults() {
        let text = "[kafka]\nbrokers = \"a:1\"\ngroup_prefix = \"file\"\n[agent]\nworkers = 3\n";
        let settings = loaded(Some(("order", text)), &[("MEIT__KAFKA__BROKERS", "b:2")]).unwrap();
        assert_eq!(settings.kafka.brokers, "b:2");
        assert_eq!(settings.kafka.group_prefix, "file");
        assert_eq!(settings.kafka.linger_ms, 5);
        assert_eq!(settings.bedside["beds"], 8);
    }

    #[test]
    fn a_list_in_the_environment_is_split_at_commas_and_other_values_are_not() {
        let variables = [
            ("MEIT__BEDSIDE__RECORDINGS", "a.hea,b.hea"),
            ("MEIT__KAFKA__BROKERS", "a:1,b:2"),
        ];
        let settings = loaded(None, &variables).unwrap();
        assert_eq!(settings.bedside["recordings"], serde_json::json!(["a.hea", "b.hea"]));
        assert_eq!(settings.kafka.brokers, "a:1,b:2");
    }

    #[test]
    fn an_unknown_key_or_section_is_named_with_its_file() {
        let text = "[kafka]\nbrokerz = \"a:1\"\n";
        check_error(
            Some(("key", text)),
            &[],
            &["brokerz", "meit-settings", "did you mean `brokers`?"],
        );
        let text = "[kafkaa]\nbrokers = \"a:1\"\n";
        check_error(
            Some(("section", text)),
            &[],
            &["kafkaa", "meit-settings", "did you mean `kafka`?"],
        );
        check_error(None, &[("MEIT__KAFKAA__BROKERS", "a:1")], &["kafkaa", "environment"]);
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_with_its_key_and_file() {
        let text = "[kafka]\nlinger_ms = \"soon\"\n";
        check_error(Some(("type", text)), &[], &["kafka.linger_ms", "soon", "meit-settings"]);
    }

    #[test]
    fn a_value_out_of_bounds_is_named_with_its_key_bound_and_source() {
        let text = "[kafka]\npartitions = 0\n";
        let words = ["kafka.partitions", "= 0", "1..=10000", "meit-settings"];
        check_error(Some(("bounds", text)), &[], &words);
        let words = ["kafka.heartbeat_ms", "9000", "environment"];
        check_error(None, &[("MEIT__KAFKA__HEARTBEAT_MS", "9000")], &words);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = merged(Some(Path::new("/nonexistent.toml")), HashMap::new()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent.toml"), "{error}");
    }

    #[test]
    fn every_default_has_a_comment() {
        let mut previous = "";
        for line in DEFAULTS.lines() {
            if line.contains(" = ") && !line.starts_with('#') {
                assert!(previous.starts_with('#'), "{line} has no comment");
            }
            previous = line;
        }
    }
}
