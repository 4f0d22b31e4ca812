//! `meit demo --night`: drafts are signed, the nightly job learns from them, and the next drafts are by the new generation.
//!
//! Place: joins demo, pipeline and the node's watcher in one process. Invariant: the job reads the signed reports and segments
//! from the broker as it does every night, and the node finds the new generation in the registry by itself; the clinician's
//! text is the recording's own report.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bedside::plan::Plan;
use ecg::report::{DraftReport, SignAction, SignedReport};
use ecg::segment::Decision;
use ecg::topic;
use model::bundle::Bundle;
use model::served::ServedWeights;
use node::canary::Canary;
use node::drafter::BundleDrafter;
use node::slot::Slot;
use node::watch::Watcher;
use pipeline::gate::slice_of;
use pipeline::manifest::Dataset;
use pipeline::night::files::{Outcome, Scores, Status};
use pipeline::night::settings::{EncoderMode, PipelineSection, PipelineSettings};
use pipeline::night::{Night, Progress, Step};
use pipeline::sources::{Source, Split};
use service::kafka::KafkaSettings;
use service::kafka::sink::Sink;
use service::shutdown::Shutdown;
use service::time::now_us;
use tokio::sync::mpsc;

use crate::assets;
use crate::demo::cluster::{Cluster, Settings};
use crate::demo::{Arguments, Counters, follow};
use crate::readers;

/// Name of the run.
const RUN: &str = "night";
/// Each of the 24 shipped recordings once: eight beds, three windows.
const MINUTES: f64 = 0.5;
/// How long a node may take to put a promoted generation in use.
const SWAP_MAX: Duration = Duration::from_secs(30);

/// What was written about one recording, before and after.
struct Pair {
    reference: String,
    before: String,
    after: String,
}

/// Runs the demo's night.
///
/// # Errors
/// Whatever a process met; a night that promotes nothing; a node that does not take the new generation.
pub async fn play(arguments: &Arguments, interrupt: Shutdown) -> anyhow::Result<()> {
    let began = Instant::now();
    let dir = std::env::temp_dir().join(format!("meit-night-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let bundle_dir = assets::bundle(arguments.bundle.as_deref())?;
    let bundle = Arc::new(Bundle::load(&bundle_dir, &candle_core::Device::Cpu).context("load bundle")?);
    let cluster = Cluster::open(arguments.brokers.as_deref()).await?;
    let section = job(&bundle_dir, &dir, &cluster.kafka)?;
    let arguments = Arguments {
        minutes: MINUTES,
        ..arguments.clone()
    };
    let mut settings = Settings::load(&arguments, &cluster.kafka)?;
    settings.node.node.watch.registry.clone_from(&section.registry);
    settings.node.node.watch.poll_ms = 100;
    let plan = bedside::plan(&settings.bedside.bedside)?;
    let references = assets::references(&plan.headers())?;

    let stop = Shutdown::new();
    let counters = Counters::serve(&arguments.metrics_address, &stop, &cluster, &bundle, &settings).await?;
    let (drafts, mut arrived) = mpsc::channel(64);
    let reader = tokio::spawn(readers::drafts(cluster.kafka.clone(), drafts, stop.clone()));
    let options = settings.node.node.decode.clone();
    let slot = Slot::new(Arc::new(BundleDrafter::new(Arc::clone(&bundle), options.clone())));
    let canary = Canary::default();
    let parts = (slot.clone(), canary.clone(), counters.node.clone());
    let serving = (ServedWeights::F32, options);
    let watcher = Watcher::new(settings.node.node.watch.clone(), &bundle, serving, parts)?;
    let watcher = tokio::spawn(watcher.run(stop.clone()));
    let node = tokio::spawn(node::run_with(
        settings.node,
        (slot.clone(), canary),
        counters.node.clone(),
        stop.clone(),
    ));
    let agent = tokio::spawn(agent::run_with(settings.agent, counters.agent.clone(), stop.clone()));

    let day = Day {
        bedside: settings.bedside,
        plan: &plan,
        counters: &counters,
        interrupt: &interrupt,
    };
    let told = day.and_night(&mut arrived, &section, &references, &slot).await;
    stop.trigger();
    watcher.await.context("the watcher panicked")??;
    node.await.context("node panicked")??;
    agent.await.context("agent panicked")??;
    reader.await.context("draft reader panicked")??;
    told?;
    println!(
        "all in {:.0} s; registry and run stay in {}",
        began.elapsed().as_secs_f64(),
        dir.display()
    );
    Ok(())
}

/// A job for two dozen recordings: a small adapter, many passes, margins as wide as so few test samples ask for.
fn job(bundle: &Path, dir: &Path, kafka: &KafkaSettings) -> anyhow::Result<PipelineSection> {
    let mut section = service::settings::load_checked::<PipelineSettings>("pipeline", None)?.pipeline;
    section.bundle = bundle.to_owned();
    section.registry = dir.join("registry").into();
    section.work = dir.join("work");
    section.sources = vec![Source::Kafka(kafka.brokers.clone())];
    section.samples_min = 8;
    section.reserve_mb = 64;
    section.train.rank = 16;
    section.train.alpha = 32.0;
    section.train.encoder = EncoderMode::Frozen;
    section.train.epochs = 8;
    section.train.batch = 8;
    section.train.learning_rate = 4e-4;
    section.gate.samples_min = 1;
    let margins = section.gate.higher.iter_mut().chain(section.gate.lower.iter_mut());
    for (metric, margin) in margins {
        *margin = if metric == "cider_d" { 1.5 } else { 0.15 };
    }
    Ok(section)
}

/// One pass of all recordings.
struct Day<'a> {
    bedside: bedside::settings::BedsideSettings,
    plan: &'a Plan,
    counters: &'a Counters,
    interrupt: &'a Shutdown,
}

impl Day<'_> {
    /// Drafts, signatures, the job, and drafts by what it promoted.
    async fn and_night(
        mut self,
        arrived: &mut mpsc::Receiver<DraftReport>,
        section: &PipelineSection,
        references: &BTreeMap<String, String>,
        slot: &Slot,
    ) -> anyhow::Result<()> {
        println!(
            "day    {} recordings, drafts by bundle {}",
            self.plan.windows(),
            slot.get().lineage().bundle_id
        );
        let before = self.drafts(arrived, 1).await?;
        let signed = sign(&before, self.plan, references, &self.bedside.kafka).await?;
        println!("sign   {signed} reports with the recordings' own text");
        let began = Instant::now();
        let id = promoted(&tonight(section).await?)?;
        println!(
            "night  generation {id} promoted after {:.0} s",
            began.elapsed().as_secs_f64()
        );
        wait_for(slot, &id).await?;
        let after = self.drafts(arrived, 2).await?;
        let others = after.iter().filter(|draft| draft.bundle.bundle_id != id).count();
        ensure!(
            others == 0,
            "{others} of {} drafts are by another generation",
            after.len()
        );
        println!("day    {} drafts, all by generation {id}", after.len());
        tell(section, &before, &after, self.plan, references)
    }

    async fn drafts(
        &mut self,
        arrived: &mut mpsc::Receiver<DraftReport>,
        boot: u64,
    ) -> anyhow::Result<Vec<DraftReport>> {
        self.bedside.bedside.boot_id = boot;
        let (settings, plan, stop) = (self.bedside.clone(), self.plan.clone(), self.interrupt.clone());
        let (metrics, agent) = (self.counters.bedside.clone(), self.counters.agent.clone());
        let (sent, read) = (metrics.clone(), agent.clone());
        let lag: bedside::LagProbe = Arc::new(move || sent.packets_sent().saturating_sub(read.packets_received()));
        let rejected = agent.summary().segments_rejected as usize;
        let replay = tokio::spawn(async move { bedside::run_with(settings, &plan, metrics, Some(lag), stop).await });
        let mut drafts = Vec::new();
        let windows = self.plan.windows() + rejected;
        follow(arrived, self.interrupt, &agent, Some(windows), replay, |draft| {
            drafts.push(draft.clone());
            Ok(())
        })
        .await?;
        ensure!(!self.interrupt.is_triggered(), "interrupted");
        Ok(drafts)
    }
}

/// The recording's own report of each accepted draft, as a clinician's signature; how many.
async fn sign(
    drafts: &[DraftReport],
    plan: &Plan,
    references: &BTreeMap<String, String>,
    kafka: &KafkaSettings,
) -> anyhow::Result<usize> {
    let sink = Sink::new(kafka).context("open kafka sink")?;
    let mut signed = 0;
    for draft in drafts.iter().filter(|draft| draft.decision == Decision::Accept) {
        let recording = plan.recording_at(&draft.stream_id, draft.start_sample);
        let Some((recording, text)) = recording.and_then(|r| Some((r, references.get(&r.name)?))) else {
            continue;
        };
        let is_same = draft.text.as_deref() == Some(text.as_str());
        let action = if is_same {
            SignAction::Accepted
        } else {
            SignAction::Edited
        };
        let report = SignedReport {
            draft_id: draft.draft_id.clone(),
            segment_id: draft.segment_id.clone(),
            text: text.clone(),
            action,
            signer: "demo".to_owned(),
            role: "cardiologist".to_owned(),
            signed_at_us: now_us(),
            training_consent: true,
            version: 1,
            reason: None,
            meaning: "the recording's own report".to_owned(),
            draft_text: draft.text.clone(),
            segment_sha256: draft.segment_sha256.clone(),
            bundle_id: draft.bundle.bundle_id.clone(),
            patient: Some(format!("patient-{}", recording.name)),
        };
        let key = Some(draft.segment_id.as_bytes());
        let headers = ecg::event::headers(topic::SIGNED_REPORTS, "/meit/demo", &report.draft_id);
        sink.send(topic::SIGNED_REPORTS, key, &serde_json::to_vec(&report)?, &headers)
            .await?;
        signed += 1;
    }
    Ok(signed)
}

/// Runs the job as `meit-pipeline run` does.
async fn tonight(section: &PipelineSection) -> anyhow::Result<Outcome> {
    let section = section.clone();
    let job = move || Night::open(&section, RUN)?.go(Step::Promote, &|_| false);
    match tokio::task::spawn_blocking(job).await.context("the job panicked")?? {
        Progress::Ended(outcome) => Ok(outcome),
        other => bail!("the job did not end: {other:?}"),
    }
}

fn promoted(outcome: &Outcome) -> anyhow::Result<String> {
    ensure!(outcome.status == Status::Promoted, "nothing was promoted: {outcome:?}");
    outcome
        .generation
        .clone()
        .context("a promoted run names its generation")
}

async fn wait_for(slot: &Slot, id: &str) -> anyhow::Result<()> {
    let swapped = async {
        while slot.get().lineage().bundle_id != id {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(SWAP_MAX, swapped).await;
    waited.with_context(|| format!("the node does not serve {id} after {SWAP_MAX:?}"))
}

/// Before and after: the gate's scores on the samples held out, and the drafts that the node itself wrote.
fn tell(
    section: &PipelineSection,
    before: &[DraftReport],
    after: &[DraftReport],
    plan: &Plan,
    references: &BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let run = section.work.join(RUN);
    let scores: Scores =
        serde_json::from_slice(&std::fs::read(run.join("scores.json"))?).context("parse scores.json")?;
    println!("gate   {} test samples, base then candidate:", scores.samples);
    for (metric, old) in scores
        .champion
        .metrics
        .iter()
        .filter(|(name, _)| slice_of(name).1.is_none())
    {
        println!(
            "         {metric:20} {old:7.4} {:7.4}",
            scores.candidate.metrics[metric]
        );
    }
    let learnt = learnt_from(&run)?;
    let text_of = |drafts: &[DraftReport], name: &str| {
        let of = |d: &&DraftReport| {
            plan.recording_at(&d.stream_id, d.start_sample)
                .is_some_and(|r| r.name == name)
        };
        drafts.iter().find(of).map(|d| d.text.clone().unwrap_or_default())
    };
    let mut pairs: BTreeMap<bool, Vec<Pair>> = BTreeMap::new();
    for draft in before {
        let Some(recording) = plan.recording_at(&draft.stream_id, draft.start_sample) else {
            continue;
        };
        let name = &recording.name;
        if let (Some(reference), Some(before), Some(after)) =
            (references.get(name), text_of(before, name), text_of(after, name))
        {
            pairs.entry(learnt.contains(&draft.segment_id)).or_default().push(Pair {
                reference: reference.clone(),
                before,
                after,
            });
        }
    }
    println!("drafts of the node, before then after:          BLEU-4          METEOR         ROUGE-L");
    for (is_learnt, pairs) in &pairs {
        let name = if *is_learnt {
            "signed and learnt from"
        } else {
            "not learnt from"
        };
        let score = |text: fn(&Pair) -> &String| {
            let pairs: Vec<_> = pairs.iter().map(|p| (text(p).clone(), p.reference.clone())).collect();
            score::score_pairs(&pairs, &score::Options::default())
        };
        let (old, new) = (score(|p| &p.before)?, score(|p| &p.after)?);
        println!(
            "         {name:24} {:3} recordings {:.3} -> {:.3}  {:.3} -> {:.3}  {:.3} -> {:.3}",
            pairs.len(),
            old.bleu4,
            new.bleu4,
            old.meteor_stem,
            new.meteor_stem,
            old.rouge_l,
            new.rouge_l
        );
    }
    Ok(())
}

/// Segments whose report was learnt from.
fn learnt_from(run: &Path) -> anyhow::Result<BTreeSet<String>> {
    let data = Dataset::open(&run.join("dataset"))?;
    let learnt = data.samples().iter().filter(|sample| sample.split == Split::Train);
    Ok(learnt
        .filter_map(|sample| sample.id.strip_prefix("segment/").map(str::to_owned))
        .collect())
}
