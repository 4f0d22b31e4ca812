//! The nightly job: curate, train, evaluate, promote.
//!
//! Place: `meit-pipeline run`. Layout of a run, WORK/RUN/: plan.json, dataset/, training/, candidate/, scores.json,
//! decision.json, outcome.json. Invariant: each step is skipped when its file is there, so a run that was killed anywhere goes
//! on to the result of an uninterrupted one; what is not promoted leaves the champion as it was.

pub mod card;
pub mod evaluate;
pub mod export;
pub mod files;
pub mod learner;
pub mod settings;
pub mod status;
#[cfg(test)]
mod tests;
pub mod undo;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use candle_core::Device;
use model::bundle::Bundle;
use model::registry::{Champion, Change, GENERATION, Generation};
use serde::Serialize;
use serde::de::DeserializeOwned;
use service::kafka::KafkaSettings;
use service::time::now_us;
use store::disk;

use self::evaluate::Exam;
use self::export::Places;
use self::files::{Outcome, PLAN, Plan, Scores, Status, read_json};
use self::learner::{Ended, Learner, NotFinite, Recipe};
use self::settings::PipelineSection;
use crate::curate::{self, CurateSettings};
use crate::erasure::Erasures;
use crate::gate::{Decision, decide};
use crate::lease::{Asked, Holder, Lease};
use crate::manifest::{Dataset, MANIFEST, Manifest, read_manifest};
use crate::registry::Registry;
use crate::sources::{Origin, Split};

const MEGABYTE: u64 = 1 << 20;
/// Folder of a run with the champion's copy, where the registry is not a directory; removed when the run ends.
const COPIES: &str = "champion";

/// The steps, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Curate,
    Train,
    Evaluate,
    Promote,
}

/// What came of going on with a run.
#[derive(Debug)]
pub enum Progress {
    Ended(Outcome),
    /// The steps that were asked for are complete.
    Complete(Step),
    /// `stop` said so.
    Stopped,
    /// Another job has the lease.
    Held {
        by: Holder,
        until_us: i64,
    },
}

/// A run in its directory.
pub struct Night<'a> {
    settings: &'a PipelineSection,
    run: &'a str,
    dir: PathBuf,
    registry: Registry,
    kafka: Option<KafkaSettings>,
}

impl<'a> Night<'a> {
    /// # Errors
    /// A directory that cannot be made; a name that is no file name.
    pub fn open(settings: &'a PipelineSection, run: &'a str) -> anyhow::Result<Self> {
        let plain = !run.is_empty() && run.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        ensure!(
            plain && !run.starts_with('.'),
            "run is {run:?}: expected letters, digits, - and _"
        );
        let dir = settings.work.join(run);
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self {
            settings,
            run,
            dir,
            registry: Registry::open(&settings.registry)?,
            kafka: None,
        })
    }

    /// Reads topics with these settings, and sends the run's events to the same broker where the job announces them.
    #[must_use]
    pub fn with_kafka(mut self, kafka: &KafkaSettings) -> Self {
        self.registry = self
            .registry
            .announced_to(self.settings.announce.then(|| kafka.clone()));
        self.kafka = Some(kafka.clone());
        self
    }

    /// Goes on with the run up to and with `until`. `stop` is asked after every training step; when it says so, the run ends
    /// there as if it had been killed.
    ///
    /// # Errors
    /// Whatever a step met; the champion is as it was.
    pub fn go(&self, until: Step, stop: &dyn Fn(u64) -> bool) -> anyhow::Result<Progress> {
        if let Some(outcome) = self.read::<Outcome>("outcome.json")? {
            return Ok(Progress::Ended(outcome));
        }
        let length_us = i64::from(self.settings.lease_minutes) * 60_000_000;
        let lease = match Lease::ask(self.registry.store(), Holder::this(self.run), now_us(), length_us)? {
            Asked::Granted(lease) => RefCell::new(lease),
            Asked::Held { by, until_us } => return Ok(Progress::Held { by, until_us }),
        };
        let done = self.steps(until, stop, &lease);
        // after an error too: whoever comes next need not wait
        lease.into_inner().release()?;
        match done {
            Err(error) if error.is::<NotFinite>() => {
                self.end(Status::Aborted, vec![error.to_string()], None)?;
                Err(error)
            }
            done => done,
        }
    }

    fn steps(&self, until: Step, stop: &dyn Fn(u64) -> bool, lease: &RefCell<Lease>) -> anyhow::Result<Progress> {
        let plan = self.plan()?;
        if let Some(reason) = self.overtaken(&plan)? {
            return Ok(Progress::Ended(self.end(Status::Kept, vec![reason], None)?));
        }
        let manifest = self.curate(&plan)?;
        let data = Dataset::open(&self.dir.join("dataset"))?;
        let signed = data
            .indices(|s| s.split == Split::Train && s.origin != Origin::Base)
            .len();
        if signed < plan.settings.samples_min {
            let reason = format!(
                "{signed} signed training samples, at least {} are needed",
                plan.settings.samples_min
            );
            return Ok(Progress::Ended(self.end(Status::Skipped, vec![reason], None)?));
        }
        if until == Step::Curate {
            return Ok(Progress::Complete(until));
        }
        let Some(generation) = self.train(&plan, &data, stop, lease)? else {
            return Ok(Progress::Stopped);
        };
        if until == Step::Train {
            return Ok(Progress::Complete(until));
        }
        lease.borrow_mut().renew(now_us())?;
        let decision = self.evaluate(&plan, &data)?;
        if until == Step::Evaluate {
            return Ok(Progress::Complete(until));
        }
        lease.borrow_mut().renew(now_us())?;
        let outcome = if decision.promote {
            self.promote(&plan, &generation, &manifest, &decision, &lease.borrow())?;
            self.end(Status::Promoted, vec![], Some(&generation))?
        } else {
            self.end(Status::Kept, decision.reasons, Some(&generation))?
        };
        Ok(Progress::Ended(outcome))
    }

    fn plan(&self) -> anyhow::Result<Plan> {
        if let Some(plan) = self.read::<Plan>(PLAN)? {
            ensure!(
                plan.settings == *self.settings,
                "run {} was started with other settings: go on with those, or name another run",
                self.run
            );
            return Ok(plan);
        }
        let bundle = Bundle::load(&self.settings.bundle, &Device::Cpu).context("load base bundle")?;
        evaluate::tools(self.settings)?; // rather than after hours of training
        let mut ends = BTreeMap::new();
        for source in &self.settings.sources {
            let end = source.ends(self.kafka.as_ref());
            ends.extend(end.with_context(|| format!("find the end of {source}"))?);
        }
        let plan = Plan {
            run: self.run.to_owned(),
            settings: self.settings.clone(),
            ends,
            base: export::base_of(&bundle),
            champion: self.registry.champion()?,
        };
        self.write(PLAN, &plan)?;
        Ok(plan)
    }

    /// Why a run that was stopped cannot go on: another champion came meanwhile. While it runs none can, it has the lease.
    fn overtaken(&self, plan: &Plan) -> anyhow::Result<Option<String>> {
        let number = |champion: &Option<Champion>| champion.as_ref().map_or(0, |champion| champion.number);
        let held = self.registry.champion()?;
        let is_own = held.as_ref().is_some_and(|held| held.by == self.run);
        if is_own || number(&held) == number(&plan.champion) {
            return Ok(None);
        }
        Ok(Some(format!(
            "entry {} is the champion, the run began with entry {}: its candidate would be compared with a champion that is none",
            number(&held),
            number(&plan.champion)
        )))
    }

    fn curate(&self, plan: &Plan) -> anyhow::Result<Manifest> {
        let settings = &plan.settings;
        let curate = CurateSettings {
            sources: settings.sources.iter().chain(&settings.base_sources).cloned().collect(),
            limit: settings.limit,
            prompts: settings.prompts,
            seed: settings.seed,
            ends: plan.ends.clone(),
            kafka: self.kafka.clone(),
            base: plan.base.bundle_id.clone(),
            reserve_bytes: self.reserve(),
        };
        let (erasures, dataset) = (Erasures::open(self.registry.store())?, self.dir.join("dataset"));
        // patients who were erased after this was curated
        let is_stale = || anyhow::Ok(read_manifest(&dataset)?.query.erasures_sha256 != erasures.sha256());
        let is_whole = dataset.join(MANIFEST).is_file();
        if is_whole && is_stale()? && curate::erase(&dataset, &erasures).context("erase")? > 0 {
            undo::forget(&self.dir)?;
        }
        curate::run(&curate, &erasures, &dataset).context("curate")
    }

    fn reserve(&self) -> u64 {
        self.settings.reserve_mb * MEGABYTE
    }

    fn parent(plan: &Plan) -> Option<&str> {
        plan.champion
            .as_ref()
            .and_then(|champion| champion.generation.as_deref())
    }

    /// Directory of the champion that the candidate starts from and is compared with; none for the base.
    fn champion(&self, plan: &Plan) -> anyhow::Result<Option<PathBuf>> {
        let mirror = |id| self.registry.mirror(id, &self.dir.join(COPIES));
        Self::parent(plan).map(mirror).transpose()
    }

    fn recipe(plan: &Plan) -> Recipe {
        Recipe {
            train: plan.settings.train.clone(),
            seed: plan.settings.seed,
            base: plan.base.bundle_id.clone(),
            parent: Self::parent(plan).map(str::to_owned),
        }
    }

    fn train(
        &self,
        plan: &Plan,
        data: &Dataset,
        stop: &dyn Fn(u64) -> bool,
        lease: &RefCell<Lease>,
    ) -> anyhow::Result<Option<Generation>> {
        let out = self.dir.join("candidate");
        if out.join(GENERATION).is_file() {
            return Ok(Some(model::registry::generation(&out)?));
        }
        // a checkpoint and the one before it, with moments, and the candidate itself
        let base_bytes = directory_bytes(&plan.settings.bundle)?;
        disk::ensure_room(&self.dir, base_bytes.saturating_mul(8), self.reserve())?;
        let recipe = Self::recipe(plan);
        let parent = self.champion(plan)?;
        let base = &plan.settings.bundle;
        let learner = Learner::open(&recipe, base, parent.as_deref(), data, &self.dir.join("training"))?;
        let lost = RefCell::new(None);
        let each = |step: u64| {
            let renewed = lease.borrow_mut().keep(now_us());
            let failed = renewed.is_err();
            *lost.borrow_mut() = renewed.err();
            failed || stop(step)
        };
        let ended = learner.train(&each)?;
        if let Some(error) = lost.into_inner() {
            return Err(error.context("renew the lease"));
        }
        if ended == Ended::Stopped {
            return Ok(None);
        }
        let places = Places {
            base,
            parent: parent.as_deref(),
            out: &out,
        };
        export::export(&learner, &recipe, &places, self.run, &data.manifest().sha256()?).map(Some)
    }

    fn evaluate(&self, plan: &Plan, data: &Dataset) -> anyhow::Result<Decision> {
        if let Some(decision) = self.read::<Decision>("decision.json")? {
            return Ok(decision);
        }
        let exam = Exam::new(data, &plan.settings)?;
        let champion = self.champion(plan)?;
        let load = |dir: &Path| Bundle::load(dir, &Device::Cpu);
        let champion = load(champion.as_deref().unwrap_or(&plan.settings.bundle))?;
        let (old, baselines) = (exam.answers(&champion)?, exam.baselines(&champion)?);
        drop(champion); // one bundle at a time in memory
        let new = exam.answers(&load(&self.dir.join("candidate"))?)?;
        let margins = &plan.settings.gate;
        let differences = exam.differences(&old, &new, margins.names());
        let scores = Scores {
            baselines,
            champion: old.scored,
            candidate: new.scored,
            samples: exam.len(),
        };
        self.write("scores.json", &scores)?;
        let (old, new) = (&scores.champion.metrics, &scores.candidate.metrics);
        let decision = decide(margins, old, new, &differences, scores.samples);
        self.registry.event(&serde_json::json!({
            "kind": "gate", "run": self.run, "at_us": now_us(), "candidate": scores.candidate.bundle_id,
            "champion": scores.champion.bundle_id, "decision": &decision,
        }))?;
        self.write("decision.json", &decision)?;
        Ok(decision)
    }

    fn promote(
        &self,
        plan: &Plan,
        generation: &Generation,
        manifest: &Manifest,
        decision: &Decision,
        lease: &Lease,
    ) -> anyhow::Result<()> {
        let held = self.registry.champion()?;
        let is_done = held
            .as_ref()
            .is_some_and(|h| h.by == self.run && h.generation.as_deref() == Some(&generation.id));
        if is_done {
            return Ok(()); // killed between the entry and the outcome
        }
        let candidate = self.dir.join("candidate");
        let card = card::card(generation, &Self::recipe(plan), manifest, decision);
        disk::replace(&candidate.join("README.md"), card.as_bytes())?;
        self.registry.publish(&generation.id, &candidate, self.reserve())?;
        let expected = plan.champion.as_ref().map_or(0, |champion| champion.number);
        let entry = self
            .registry
            .change(lease, expected, Change::Promote, Some(&generation.id), now_us())?;
        self.registry
            .event(&serde_json::json!({"kind": "promote", "run": self.run, "at_us": entry.at_us, "entry": entry}))
    }

    fn end(&self, status: Status, reasons: Vec<String>, generation: Option<&Generation>) -> anyhow::Result<Outcome> {
        let outcome = Outcome {
            run: self.run.to_owned(),
            status,
            reasons,
            generation: generation.map(|g| g.id.clone()),
            at_us: now_us(),
        };
        self.registry
            .event(&serde_json::json!({"kind": "run", "run": self.run, "at_us": outcome.at_us, "outcome": &outcome}))?;
        self.write("outcome.json", &outcome)?;
        let copies = self.dir.join(COPIES);
        if copies.exists() {
            std::fs::remove_dir_all(&copies).with_context(|| format!("remove {}", copies.display()))?;
        }
        Ok(outcome)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<Option<T>> {
        read_json(&self.dir.join(name))
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> anyhow::Result<()> {
        disk::ensure_room(&self.dir, MEGABYTE, self.reserve())?;
        disk::replace(&self.dir.join(name), &serde_json::to_vec_pretty(value)?)
    }
}

fn directory_bytes(dir: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}
