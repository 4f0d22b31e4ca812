//! Generations and the champion among them, in a directory.
//!
//! Place: last step of the job; nodes watch it (`model::registry`). Invariant: a generation is renamed into place whole;
//! a promotion is one file that is created or not, so of two jobs one wins; tokens in entries never fall, so a job that lost
//! its lease cannot overwrite a later one.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use ecg::topic;
use model::registry::{CHAMPION, Champion, Change, GENERATIONS, champion, generation_dir, history};
use service::kafka::KafkaSettings;
use service::kafka::cluster::create_topics;
use service::kafka::sink::Sink;

use crate::disk;
use crate::lease::Lease;
use crate::manifest::sha256;

const EVENTS: &str = "events.jsonl";
/// Where events say that they come from.
const EVENT_SOURCE: &str = "/meit/pipeline";

/// A registry in a directory.
#[derive(Clone, Debug)]
pub struct Registry {
    dir: PathBuf,
    /// Where events go beside the file.
    kafka: Option<KafkaSettings>,
}

impl Registry {
    /// Opens or makes a registry.
    ///
    /// # Errors
    /// A directory that cannot be made.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        for folder in [CHAMPION, GENERATIONS] {
            let path = dir.join(folder);
            std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            kafka: None,
        })
    }

    /// Sends events to Kafka too, on [`topic::PIPELINE_EVENTS`].
    #[must_use]
    pub fn announced_to(mut self, kafka: Option<KafkaSettings>) -> Self {
        self.kafka = kafka;
        self
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The entry that holds; none before the first promotion.
    ///
    /// # Errors
    /// An entry that cannot be read.
    pub fn champion(&self) -> anyhow::Result<Option<Champion>> {
        champion(&self.dir).context("read champion")
    }

    /// Every entry, oldest first.
    ///
    /// # Errors
    /// An entry that cannot be read.
    pub fn history(&self) -> anyhow::Result<Vec<Champion>> {
        history(&self.dir).context("read the champions' history")
    }

    /// Directory of a generation.
    pub fn generation(&self, id: &str) -> PathBuf {
        generation_dir(&self.dir, id)
    }

    /// Copies a generation into the registry, whole or not at all; one that is there stays as it is.
    ///
    /// # Errors
    /// Too little room, or a file that cannot be copied.
    pub fn publish(&self, id: &str, from: &Path, reserve_bytes: u64) -> anyhow::Result<()> {
        let to = self.generation(id);
        if to.exists() {
            return Ok(());
        }
        let partial = to.with_extension("partial");
        if partial.exists() {
            std::fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
        }
        std::fs::create_dir(&partial).with_context(|| format!("create {}", partial.display()))?;
        copy_whole(from, &partial, reserve_bytes)?;
        std::fs::rename(&partial, &to).with_context(|| format!("rename to {}", to.display()))
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
            ensure!(
                self.generation(id).is_dir(),
                "generation {id} is not in {}",
                self.dir.display()
            );
        }
        let entry = Champion {
            number: number + 1,
            generation: generation.map(str::to_owned),
            change,
            fencing_token: lease.token(),
            by: lease.run().to_owned(),
            at_us: now_us,
        };
        let path = self.dir.join(CHAMPION).join(format!("{:08}.json", entry.number));
        if !disk::create_new(&path, &serde_json::to_vec_pretty(&entry)?)? {
            bail!(
                "the champion changed: entry {} was written by another job",
                entry.number
            );
        }
        Ok(entry)
    }

    /// The generation that served before the champion's, to go back to; none for the base.
    ///
    /// # Errors
    /// Nothing to go back to; an entry that cannot be read.
    pub fn previous(&self) -> anyhow::Result<Option<String>> {
        let history = self.history()?;
        let Some(now) = history.last() else {
            bail!("nothing was promoted yet: there is nothing to roll back");
        };
        let earlier = history
            .iter()
            .rev()
            .map(|entry| &entry.generation)
            .find(|g| **g != now.generation);
        match earlier {
            Some(generation) => Ok(generation.clone()),
            None if now.generation.is_some() => Ok(None),
            None => bail!("the base serves: there is nothing to roll back"),
        }
    }

    /// Appends one line to the registry's events, and announces it. A run that fails here says it again when it goes on.
    ///
    /// # Errors
    /// A file that cannot be written; a broker that does not take the record.
    pub fn event(&self, event: &serde_json::Value) -> anyhow::Result<()> {
        let path = self.dir.join(EVENTS);
        let file = std::fs::OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&path);
        let mut file = file.with_context(|| format!("open {}", path.display()))?;
        let mut line = Vec::new();
        let mut last = [b'\n'];
        if file.seek(SeekFrom::End(-1)).is_ok() {
            file.read_exact(&mut last)
                .with_context(|| format!("read {}", path.display()))?;
        }
        if last != [b'\n'] {
            line.push(b'\n'); // after a line that a crash cut off
        }
        serde_json::to_writer(&mut line, event)?;
        line.push(b'\n');
        file.write_all(&line)
            .with_context(|| format!("write {}", path.display()))?;
        file.sync_all().with_context(|| format!("flush {}", path.display()))?;
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
    /// A file that cannot be read.
    pub fn events(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        let path = self.dir.join(EVENTS);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }
}

/// Copies a directory with its folders; each file is on the disk before the next.
fn copy_whole(from: &Path, to: &Path, reserve_bytes: u64) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let path = entry?.path();
        let copy = to.join(path.file_name().context("an entry has a name")?);
        if path.is_dir() {
            std::fs::create_dir(&copy).with_context(|| format!("create {}", copy.display()))?;
            copy_whole(&path, &copy, reserve_bytes)?;
            continue;
        }
        disk::ensure_room(to, path.metadata()?.len(), reserve_bytes)?;
        std::fs::copy(&path, &copy).with_context(|| format!("copy {}", path.display()))?;
        std::fs::File::open(&copy)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Asked, Holder};

    const HOUR_US: i64 = 3_600_000_000;

    fn lease(registry: &Registry, run: &str, now_us: i64) -> Lease {
        let holder = Holder {
            host: run.to_owned(),
            process: 1,
            run: run.to_owned(),
        };
        match Lease::ask(registry.dir(), holder, now_us, HOUR_US).unwrap() {
            Asked::Granted(lease) => lease,
            Asked::Held { by, .. } => panic!("held by {by:?}"),
        }
    }

    fn registry(dir: &Path, generations: &[&str]) -> Registry {
        let registry = Registry::open(dir).unwrap();
        for id in generations {
            std::fs::create_dir(registry.generation(id)).unwrap();
        }
        registry
    }

    #[test]
    fn a_job_that_lost_its_lease_cannot_promote() {
        let dir = tempfile::tempdir().unwrap();
        let registry = registry(dir.path(), &["a1", "b2"]);
        let slow = lease(&registry, "slow", 0);
        let fast = lease(&registry, "fast", HOUR_US);
        registry.change(&fast, 0, Change::Promote, Some("b2"), HOUR_US).unwrap();
        for now in [1, HOUR_US] {
            let error = registry
                .change(&slow, 0, Change::Promote, Some("a1"), now)
                .unwrap_err()
                .to_string();
            assert!(error.contains("fenced"), "{error}");
        }
        assert_eq!(registry.champion().unwrap().unwrap().generation.as_deref(), Some("b2"));
    }

    #[test]
    fn a_decision_against_another_champion_is_void() {
        let dir = tempfile::tempdir().unwrap();
        let registry = registry(dir.path(), &["a1", "b2"]);
        let lease = lease(&registry, "run", 0);
        registry.change(&lease, 0, Change::Promote, Some("a1"), 1).unwrap();
        let error = registry
            .change(&lease, 0, Change::Promote, Some("b2"), 2)
            .unwrap_err()
            .to_string();
        assert!(error.contains("champion changed"), "{error}");
        assert!(
            registry.change(&lease, 1, Change::Promote, Some("c3"), 2).is_err(),
            "no such generation"
        );
    }

    #[test]
    fn a_rollback_goes_back_and_in_the_end_to_the_base() {
        let dir = tempfile::tempdir().unwrap();
        let registry = registry(dir.path(), &["a1", "b2"]);
        assert!(registry.previous().is_err());
        let lease = lease(&registry, "run", 0);
        registry.change(&lease, 0, Change::Promote, Some("a1"), 1).unwrap();
        assert_eq!(registry.previous().unwrap(), None);
        registry.change(&lease, 1, Change::Promote, Some("b2"), 2).unwrap();
        assert_eq!(registry.previous().unwrap().as_deref(), Some("a1"));
        assert_eq!(registry.history().unwrap().len(), 2);
    }

    #[test]
    fn events_survive_a_line_that_was_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let registry = registry(dir.path(), &[]);
        registry.event(&serde_json::json!({"kind": "one"})).unwrap();
        std::fs::OpenOptions::new()
            .append(true)
            .open(dir.path().join(EVENTS))
            .unwrap()
            .write_all(b"{\"kind\": \"tw")
            .unwrap();
        registry.event(&serde_json::json!({"kind": "three"})).unwrap();
        let kinds: Vec<_> = registry.events().unwrap().iter().map(|e| e["kind"].clone()).collect();
        assert_eq!(kinds, ["one", "three"]);
    }
}
