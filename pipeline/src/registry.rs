//! Generations and the champion among them, in a directory or on S3.
//!
//! Place: last step of the job; nodes watch it (`model::registry`). Invariant: a generation is whole before an entry names it;
//! a promotion is one object that is created or not, so of two jobs one wins; tokens in entries never fall, so a job that lost
//! its lease cannot overwrite a later one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use ecg::topic;
use model::registry::{CHAMPION, Champion, Change, GENERATION, Generation, generation_key};
use service::kafka::KafkaSettings;
use service::kafka::cluster::create_topics;
use service::kafka::sink::Sink;
use store::{Location, Store};

use crate::lease::Lease;
use crate::manifest::sha256;

const EVENTS: &str = "events.jsonl";
/// Where events say that they come from.
const EVENT_SOURCE: &str = "/meit/pipeline";

/// The rules of a registry, over the store that keeps it.
#[derive(Clone, Debug)]
pub struct Registry {
    store: Arc<dyn Store>,
    /// Where events go beside the store.
    kafka: Option<KafkaSettings>,
}

impl Registry {
    /// Opens a registry; it is made with its first entry.
    ///
    /// # Errors
    /// As [`store::open`].
    pub fn open(location: &Location) -> anyhow::Result<Self> {
        Ok(Self::over(store::open(location).context("open registry")?))
    }

    /// A registry over an open store.
    pub fn over(store: Arc<dyn Store>) -> Self {
        Self { store, kafka: None }
    }

    /// Sends events to Kafka too, on [`topic::PIPELINE_EVENTS`]; a broker that does not answer is an error at once, not after an outage.
    #[must_use]
    pub fn announced_to(mut self, kafka: Option<KafkaSettings>) -> Self {
        self.kafka = kafka.map(|kafka| KafkaSettings {
            outage_max_ms: 0,
            ..kafka
        });
        self
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The entry that holds; none before the first promotion.
    ///
    /// # Errors
    /// An entry that cannot be read.
    pub fn champion(&self) -> anyhow::Result<Option<Champion>> {
        store::registry::champion(&*self.store).context("read champion")
    }

    /// Every entry, oldest first.
    ///
    /// # Errors
    /// An entry that cannot be read.
    pub fn history(&self) -> anyhow::Result<Vec<Champion>> {
        store::registry::history(&*self.store).context("read the champions' history")
    }

    /// What a generation is made of.
    ///
    /// # Errors
    /// A generation that is not there, or cannot be read.
    pub fn generation(&self, id: &str) -> anyhow::Result<Generation> {
        let generation = store::registry::generation(&*self.store, id)?;
        generation.with_context(|| format!("generation {id} is not in the registry"))
    }

    /// A directory with a generation's files: the registry's own, or a copy in `cache`.
    ///
    /// # Errors
    /// As [`Store::mirror`].
    pub fn mirror(&self, id: &str, cache: &Path) -> anyhow::Result<PathBuf> {
        let mirrored = self.store.mirror(&generation_key(id), cache, &|| false);
        mirrored.with_context(|| format!("fetch generation {id}"))
    }

    /// Copies a generation into the registry, whole or not at all; one that is there stays as it is.
    ///
    /// # Errors
    /// As [`Store::publish`].
    pub fn publish(&self, id: &str, from: &Path, reserve_bytes: u64) -> anyhow::Result<()> {
        let key = generation_key(id);
        self.store.publish(&key, from, GENERATION, reserve_bytes)
    }

    /// Writes the next entry under a lease. `expected` is the number of the entry that the decision was made against, 0 for
    /// none.
    ///
    /// # Errors
    /// A lease that was lost; a champion that changed since; a generation that is not there.
    pub fn change(
        &self,
        lease: &Lease,
        expected: u64,
        change: Change,
        generation: Option<&str>,
        now_us: i64,
    ) -> anyhow::Result<Champion> {
        lease.check(now_us)?;
        let held = self.champion()?;
        let number = held.as_ref().map_or(0, |entry| entry.number);
        ensure!(
            number == expected,
            "the champion changed: entry {number} holds, the decision was made against {expected}"
        );
        let token = held.map_or(0, |entry| entry.fencing_token);
        ensure!(
            token <= lease.token(),
            "fenced: entry {number} has token {token}, this lease {}",
            lease.token()
        );
        if let Some(id) = generation {
            self.generation(id)?;
        }
        let entry = Champion {
            number: number + 1,
            generation: generation.map(str::to_owned),
            change,
            fencing_token: lease.token(),
            by: lease.run().to_owned(),
            at_us: now_us,
        };
        let key = format!("{CHAMPION}/{:08}.json", entry.number);
        if !self.store.create_new(&key, &serde_json::to_vec_pretty(&entry)?)? {
            bail!(
                "the champion changed: entry {} was written by another job",
                entry.number
            );
        }
        Ok(entry)
    }

    /// The generation that the champion was promoted over, to go back to; none for the base. Rollbacks one after another go back step by
    /// step, never forward.
    ///
    /// # Errors
    /// Nothing to go back to; an entry that cannot be read.
    pub fn previous(&self) -> anyhow::Result<Option<String>> {
        // the base, then what was promoted on top of it and not taken back
        let mut serving = vec![None];
        for entry in self.history()? {
            match entry.change {
                Change::Promote => serving.push(entry.generation),
                Change::Rollback => {
                    while serving.len() > 1 && serving.last() != Some(&entry.generation) {
                        serving.pop();
                    }
                }
            }
        }
        let now = serving.pop().flatten();
        if now.is_none() {
            bail!("the base serves: there is nothing to roll back");
        }
        let earlier = serving.into_iter().rfind(|generation| *generation != now);
        Ok(earlier.flatten())
    }

    /// Appends one line to the registry's events, and announces it. A run that fails here says it again when it goes on.
    ///
    /// # Errors
    /// A store that cannot be written; a broker that does not take the record.
    pub fn event(&self, event: &serde_json::Value) -> anyhow::Result<()> {
        self.store.append(EVENTS, &serde_json::to_string(event)?)?;
        self.announce(event)
    }

    fn announce(&self, event: &serde_json::Value) -> anyhow::Result<()> {
        let Some(kafka) = &self.kafka else {
            return Ok(());
        };
        let (key, payload) = (event["run"].as_str().map(str::as_bytes), serde_json::to_vec(event)?);
        let id = sha256(&payload);
        let headers = ecg::event::headers(topic::PIPELINE_EVENTS, EVENT_SOURCE, &id);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("start runtime")?.block_on(async {
            create_topics(kafka, topic::KEPT).await.context("create topics")?;
            let sink = Sink::new(kafka).context("open kafka sink")?;
            let sent = sink.send(topic::PIPELINE_EVENTS, key, &payload, &headers).await;
            sent.context("announce event")
        })
    }

    /// The registry's events, oldest first; a line that was cut off by a crash is left out.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn events(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        let lines = self.store.lines(EVENTS).context("read events")?;
        Ok(lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }
}

#[cfg(test)]
mod tests;
