//! The settings in force, one a line, each with where it was set.
//!
//! Place: behind `check-config` of every process. Invariant: what a process would refuse is refused here with the same error,
//! and a secret is never shown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{Map, Value, ValueKind};
use serde::de::DeserializeOwned;

use super::{Check, SHARED, SettingsError, check_parsed, environment, merged, of_value};

/// Last parts of the names of keys whose values are secrets.
const SECRETS: [&str; 6] = ["password", "passphrase", "secret", "token", "tokens", "credentials"];
const REDACTED: &str = "\"***\"";

/// What every process can be asked besides running.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Prints the settings in force, one a line with where each was set, secrets hidden; fails as the start would.
    ///
    /// Example: meit-agent check-config config/agent.toml
    CheckConfig {
        /// Settings file (TOML); without it, the built-in defaults and the environment.
        file: Option<PathBuf>,
    },
}

impl Command {
    /// Does what was asked; `T` are the settings of `process`.
    ///
    /// # Errors
    /// [`SettingsError`], as the start of the process would give.
    pub fn run<T: DeserializeOwned + Check>(&self, process: &str) -> Result<(), SettingsError> {
        let Command::CheckConfig { file } = self;
        print!("{}", show::<T>(process, file.as_deref())?);
        Ok(())
    }
}

/// The settings of `process` that are in force: `key = value  # where it was set`, sorted by key.
///
/// # Errors
/// [`SettingsError`], as [`super::load_checked`].
pub fn show<T: DeserializeOwned + Check>(process: &str, file: Option<&Path>) -> Result<String, SettingsError> {
    let tree = merged(file, environment())?;
    check_parsed::<T>(process, file, &tree)?;
    Ok(render(process, &tree))
}

fn render(process: &str, tree: &Map<String, Value>) -> String {
    let mut lines = BTreeMap::new();
    for section in [SHARED, process] {
        if let Some(value) = tree.get(section) {
            flatten(section, value, &mut lines);
        }
    }
    let width = lines
        .values()
        .map(|(setting, _)| setting.chars().count())
        .max()
        .unwrap_or(0);
    let line = |(setting, origin): &(String, String)| format!("{setting:width$}  # {origin}\n");
    lines.values().map(line).collect()
}

/// Adds `value`, or what is in it when it is a table, to the lines by dotted key.
fn flatten(key: &str, value: &Value, lines: &mut BTreeMap<String, (String, String)>) {
    if let ValueKind::Table(table) = &value.kind {
        for (name, value) in table {
            flatten(&format!("{key}.{name}"), value, lines);
        }
        return;
    }
    let shown = if is_secret(key) && !is_empty(value) {
        REDACTED.to_owned()
    } else {
        literal(value)
    };
    lines.insert(key.to_owned(), (format!("{key} = {shown}"), of_value(value)));
}

fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    let last = name.rsplit('_').next().unwrap_or(name);
    SECRETS.contains(&last)
}

fn is_empty(value: &Value) -> bool {
    match &value.kind {
        ValueKind::Nil => true,
        ValueKind::String(text) => text.is_empty(),
        ValueKind::Array(values) => values.is_empty(),
        _ => false,
    }
}

/// As TOML would have it.
fn literal(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(values) => {
            let values: Vec<String> = values.iter().map(literal).collect();
            format!("[{}]", values.join(", "))
        }
        ValueKind::Float(number) => format!("{number:?}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_shown_with_its_source_and_secrets_are_not() {
        let variables = [
            ("MEIT__KAFKA__BROKERS", "b:2"),
            ("MEIT__KAFKA__SASL_PASSWORD", "hunter2"),
        ];
        let pairs = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let text = render("node", &merged(None, pairs.collect()).unwrap());
        let line = |key: &str| {
            let found = text.lines().find(|line| line.starts_with(&format!("{key} = ")));
            found.unwrap_or_else(|| panic!("{key} is not in {text}"))
        };
        assert!(line("kafka.brokers").starts_with("kafka.brokers = \"b:2\""), "{text}");
        assert!(line("kafka.brokers").ends_with("# the environment"), "{text}");
        assert!(line("node.batch_max").ends_with("# the built-in defaults"), "{text}");
        assert!(line("node.decode.temperature").contains("= 0.0 "), "{text}");
        assert!(
            line("kafka.sasl_password").contains(REDACTED) && !text.contains("hunter2"),
            "{text}"
        );
        assert!(!text.contains("agent."), "other processes' settings are not shown");
    }

    #[test]
    fn a_key_is_secret_by_the_last_word_of_its_name() {
        let secret = ["kafka.sasl_password", "review.tokens", "review.oidc.client_secret"];
        let open = ["node.decode.tokens_max", "node.remembered_drafts", "kafka.heartbeat_ms"];
        assert!(secret.iter().all(|key| is_secret(key)));
        assert!(!open.iter().any(|key| is_secret(key)));
    }
}
