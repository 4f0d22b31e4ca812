//! What both sides read of a registry.
//!
//! Place: between a store and `model::registry`, which has the formats. Invariant: reads only; an object that is there and
//! cannot be read is an error, never taken for a missing one.

use anyhow::Context;
use model::registry::{CHAMPION, Champion, GENERATION, Generation, generation_key};
use serde::de::DeserializeOwned;

use crate::Store;

/// The highest entry; none in a registry without one.
///
/// # Errors
/// A store that cannot be reached; an entry that cannot be read.
pub fn champion(store: &dyn Store) -> anyhow::Result<Option<Champion>> {
    champion_after(store, 0)
}

/// The highest entry, when its number is above `seen`: a look that finds nothing new reads no entry.
///
/// # Errors
/// As [`champion`].
pub fn champion_after(store: &dyn Store, seen: u64) -> anyhow::Result<Option<Champion>> {
    match numbered(store, CHAMPION)?.pop() {
        Some((number, key)) if number > seen => parse(store, &key),
        _ => Ok(None),
    }
}

/// Every entry, oldest first.
///
/// # Errors
/// As [`champion`].
pub fn history(store: &dyn Store) -> anyhow::Result<Vec<Champion>> {
    let mut entries = Vec::new();
    for (_, key) in numbered(store, CHAMPION)? {
        entries.extend(parse::<Champion>(store, &key)?);
    }
    Ok(entries)
}

/// generation.json of a generation; none where it was not published.
///
/// # Errors
/// A store that cannot be reached; a file of another format.
pub fn generation(store: &dyn Store, id: &str) -> anyhow::Result<Option<Generation>> {
    let key = format!("{}/{GENERATION}", generation_key(id));
    let generation: Option<Generation> = parse(store, &key)?;
    generation.map(Generation::checked).transpose().context(key)
}

/// Objects NNNNNNNN.json of a folder by number, rising, with their keys.
///
/// # Errors
/// A store that cannot be reached.
pub fn numbered(store: &dyn Store, folder: &str) -> anyhow::Result<Vec<(u64, String)>> {
    let mut found: Vec<(u64, String)> = Vec::new();
    for name in store.list(folder)? {
        if let Some(number) = name.strip_suffix(".json").and_then(|stem| stem.parse().ok()) {
            found.push((number, format!("{folder}/{name}")));
        }
    }
    found.sort();
    Ok(found)
}

/// A JSON object; none where it is missing.
///
/// # Errors
/// A store that cannot be reached; an object that is something else.
pub fn parse<T: DeserializeOwned>(store: &dyn Store, key: &str) -> anyhow::Result<Option<T>> {
    let bytes = store.get(key)?;
    let value = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
    value.with_context(|| format!("parse {key}"))
}
