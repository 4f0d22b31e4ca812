//! Sources to a data set: rules, erasures, split, prompt, filter chain, shards.
//!
//! Place: `meit-pipeline curate`, first step of the job. Invariant: the data set is a function of its query and of what the
//! sources hold; it appears whole, by one rename; a run that was killed goes on with the shards that were complete.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use ecg::segment::{Decision, Segment};
use ecg::{LEADS, SEGMENT_SAMPLES};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use service::kafka::KafkaSettings;
use store::disk;

use crate::corpus::splits;
use crate::erasure::Erasures;
use crate::manifest::{
    Dataset, ECG_BYTES, MANIFEST, Manifest, Query, Sample, Shard, ecg_path, file_sha256, read_manifest, read_rows,
    rows_path, sha256,
};
use crate::prompts::Prompts;
use crate::sources::{Candidate, Origin, Source, Sourced, Split, Waveform};
use crate::text_rules::Drop;

/// ECGs a shard.
const SHARD_SAMPLES: usize = 64;
/// Of 100 patients without a split of their source, those from here on are validation, and from [`TEST_FROM`] on test.
const VALIDATION_FROM: u64 = 80;
const TEST_FROM: u64 = 90;
const PLAN: &str = "plan.sha256";

/// What to curate, and what must be kept out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CurateSettings {
    pub sources: Vec<Source>,
    /// Samples a base source at most, drawn by hash; 0 for all.
    pub limit: usize,
    pub prompts: usize,
    pub seed: u64,
    /// Where reading of topics ends; empty for now.
    pub ends: BTreeMap<String, i64>,
    /// How the topics' brokers are spoken to; the defaults and the environment where it is None.
    #[serde(skip)]
    pub kafka: Option<KafkaSettings>,
    /// Id of the base bundle.
    pub base: String,
    /// Bytes that must stay free on the disk.
    pub reserve_bytes: u64,
}

/// Curates into `out`. A data set of the same query that is there already is left as it is.
///
/// # Errors
/// A source that cannot be read; a patient in two splits; too little room on the disk; another data set at `out`.
pub fn run(settings: &CurateSettings, erasures: &Erasures, out: &Path) -> anyhow::Result<Manifest> {
    let prompts = Prompts::of_size(settings.prompts)?;
    let mut query = Query {
        sources: settings.sources.clone(),
        limit: settings.limit,
        prompts: settings.prompts,
        seed: settings.seed,
        ends: settings.ends.clone(),
        erasures_sha256: erasures.sha256(),
        code_sha256: file_sha256(&std::env::current_exe().context("name this program's file")?)?,
        base: settings.base.clone(),
    };
    if out.join(MANIFEST).is_file() {
        let there = read_manifest(out)?;
        query.ends.clone_from(&there.query.ends);
        // a data set that is whole says itself which code made it
        query.code_sha256.clone_from(&there.query.code_sha256);
        ensure!(
            there.query == query,
            "{} holds a data set of another query: remove it, or choose another place",
            out.display()
        );
        return Ok(there);
    }
    let mut gathered = gather(settings, erasures)?;
    query.ends = std::mem::take(&mut gathered.ends);
    let partial = PathBuf::from(format!("{}.partial", out.display()));
    prepare(&partial, &query, &gathered.candidates)?;
    let mut writer = Writer {
        dir: &partial,
        prompts: &prompts,
        seed: settings.seed,
        dropped: gathered.dropped,
        shards: Vec::new(),
        samples: Vec::new(),
    };
    for (number, chunk) in gathered.candidates.chunks(SHARD_SAMPLES).enumerate() {
        disk::ensure_room(&partial, (chunk.len() * ECG_BYTES * 2) as u64, settings.reserve_bytes)?;
        writer.shard(number, chunk)?;
    }
    let manifest = Manifest::of(query, writer.dropped, writer.shards, &writer.samples)?;
    disk::replace(&partial.join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?)?;
    std::fs::remove_file(partial.join(PLAN)).context("remove the plan")?;
    std::fs::rename(&partial, out).with_context(|| format!("rename to {}", out.display()))?;
    Ok(manifest)
}

/// Candidates of all sources, sorted, none twice and none of an erased patient.
fn gather(settings: &CurateSettings, erasures: &Erasures) -> anyhow::Result<Sourced> {
    let mut all = Sourced::default();
    for source in &settings.sources {
        let sourced = source
            .read(&settings.ends, settings.kafka.as_ref())
            .with_context(|| format!("read source {source}"))?;
        for (why, n) in sourced.dropped {
            *all.dropped.entry(why).or_default() += n;
        }
        all.ends.extend(sourced.ends);
        all.candidates.extend(limited(sourced.candidates, settings));
    }
    all.candidates.sort_by(|a, b| a.id.cmp(&b.id));
    let mut seen = BTreeSet::new();
    let (mut kept, dropped) = (Vec::new(), &mut all.dropped);
    for candidate in std::mem::take(&mut all.candidates) {
        let why = if erasures.contains(&candidate.patient_hash) {
            Drop::Erased
        } else if !seen.insert(candidate.id.clone()) {
            Drop::Duplicate
        } else {
            kept.push(candidate);
            continue;
        };
        *dropped.entry(why).or_default() += 1;
    }
    splits(&kept)?;
    all.candidates = kept;
    Ok(all)
}

/// At most `limit` base samples, those of the smallest hash, so that a larger limit keeps those of a smaller one.
fn limited(mut candidates: Vec<Candidate>, settings: &CurateSettings) -> Vec<Candidate> {
    let is_base = candidates.iter().all(|c| c.origin == Origin::Base);
    if settings.limit == 0 || candidates.len() <= settings.limit || !is_base {
        return candidates;
    }
    candidates.sort_by_cached_key(|c| sha256(format!("limit\0{}\0{}", settings.seed, c.id).as_bytes()));
    candidates.truncate(settings.limit);
    candidates
}

/// Keeps what an earlier run of the same plan wrote, and removes everything else.
fn prepare(partial: &Path, query: &Query, candidates: &[Candidate]) -> anyhow::Result<()> {
    let mut plan = serde_json::to_string(query)?;
    for candidate in candidates {
        plan += &format!("\n{}\t{}\t{}", candidate.id, candidate.patient_hash, candidate.report);
    }
    let plan = sha256(plan.as_bytes());
    let path = partial.join(PLAN);
    if std::fs::read_to_string(&path).is_ok_and(|there| there == plan) {
        return Ok(());
    }
    if partial.exists() {
        std::fs::remove_dir_all(partial).with_context(|| format!("remove {}", partial.display()))?;
    }
    std::fs::create_dir_all(partial).with_context(|| format!("create {}", partial.display()))?;
    disk::replace(&path, plan.as_bytes())
}

/// The split of a patient whose source has none; it never changes.
pub fn split_of(patient_hash: &str) -> Split {
    let digest = sha256(format!("meit-split/1\0{patient_hash}").as_bytes());
    match u64::from_str_radix(&digest[..12], 16).unwrap_or(0) % 100 {
        n if n >= TEST_FROM => Split::Test,
        n if n >= VALIDATION_FROM => Split::Validation,
        _ => Split::Train,
    }
}

struct Writer<'a> {
    dir: &'a Path,
    prompts: &'a Prompts,
    seed: u64,
    dropped: BTreeMap<Drop, usize>,
    shards: Vec<Shard>,
    samples: Vec<Sample>,
}

/// What a shard says about the candidates that it left out, beside its rows.
const DROPS: &str = "drops.json";

impl Writer<'_> {
    /// Filters and writes some candidates, unless an earlier run has.
    fn shard(&mut self, number: usize, candidates: &[Candidate]) -> anyhow::Result<()> {
        let name = format!("{number:05}");
        let drops_path = self.dir.join(format!("{name}.{DROPS}"));
        let drops: BTreeMap<Drop, usize> = match std::fs::read(&drops_path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("parse {}", drops_path.display()))?,
            Err(_) => self.write(&name, candidates, &drops_path)?,
        };
        for (why, n) in drops {
            *self.dropped.entry(why).or_default() += n;
        }
        let samples = read_rows(&rows_path(self.dir, &name))?;
        self.shards.push(shard(self.dir, &name, samples.len())?);
        self.samples.extend(samples);
        Ok(())
    }

    fn write(&self, name: &str, candidates: &[Candidate], drops_path: &Path) -> anyhow::Result<BTreeMap<Drop, usize>> {
        let filtered: Vec<_> = candidates.par_iter().map(segment).collect();
        let (mut ecgs, mut rows, mut drops) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (candidate, segment) in candidates.iter().zip(filtered) {
            match segment {
                Ok(segment) => {
                    rows.push(self.sample(candidate, &segment));
                    ecgs.push(segment.filtered);
                }
                Err(why) => *drops.entry(why).or_default() += 1,
            }
        }
        write_shard(self.dir, name, &ecgs, &rows)?;
        disk::replace(drops_path, &serde_json::to_vec(&drops)?)?;
        Ok(drops)
    }

    fn sample(&self, candidate: &Candidate, segment: &Segment) -> Sample {
        let prompt = self.prompts.draw(&candidate.id, self.seed).to_owned();
        let mut bytes: Vec<u8> = segment.filtered.iter().flat_map(|v| v.to_le_bytes()).collect();
        bytes.extend_from_slice(candidate.report.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(prompt.as_bytes());
        Sample {
            id: candidate.id.clone(),
            patient_hash: candidate.patient_hash.clone(),
            split: candidate.split.unwrap_or_else(|| split_of(&candidate.patient_hash)),
            origin: candidate.origin,
            prompt,
            report: candidate.report.clone(),
            labels: candidate.labels.clone(),
            strata: candidate.strata.clone(),
            measurements: segment.measurements.clone(),
            sha256: sha256(&bytes),
        }
    }
}

/// The candidate's segment, from the chain that serves.
fn segment(candidate: &Candidate) -> Result<Segment, Drop> {
    let header = match &candidate.waveform {
        Waveform::Segment(segment) => return Ok(in_microvolts((**segment).clone())),
        Waveform::Recording(header) => header,
    };
    let context = ecg::wfdb::read(header).and_then(|record| record.context());
    let context = context.map_err(|_| Drop::Unreadable)?;
    let segment = ecg::dsp::analyse(&context, &ecg::dsp::DspConfig::default());
    if segment.decision == Decision::Reject {
        return Err(Drop::Gate);
    }
    Ok(segment)
}

/// The segment with one microvolt a unit, as shards hold it.
fn in_microvolts(mut segment: Segment) -> Segment {
    if segment.uv_per_unit != 1.0 {
        for sample in &mut segment.filtered {
            // a cast of what does not fit gives the nearest value that does
            *sample = (f32::from(*sample) * segment.uv_per_unit).round() as i16;
        }
        segment.uv_per_unit = 1.0;
    }
    segment
}

/// Writes the two files of a shard.
pub(crate) fn write_shard(dir: &Path, name: &str, ecgs: &[Vec<i16>], rows: &[Sample]) -> anyhow::Result<()> {
    let bytes: Vec<u8> = ecgs.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    let shape = vec![ecgs.len(), LEADS, SEGMENT_SAMPLES];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::I16, shape, &bytes)?;
    disk::replace(&ecg_path(dir, name), &safetensors::serialize([("ecg", view)], None)?)?;
    let mut lines = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut lines, row)?;
        lines.push(b'\n');
    }
    disk::replace(&rows_path(dir, name), &lines)
}

pub(crate) fn shard(dir: &Path, name: &str, samples: usize) -> anyhow::Result<Shard> {
    Ok(Shard {
        name: name.to_owned(),
        samples,
        ecg_sha256: file_sha256(&ecg_path(dir, name))?,
        rows_sha256: file_sha256(&rows_path(dir, name))?,
    })
}

/// Rewrites a data set without some patients' samples; shards without one of them stay as they are.
///
/// # Errors
/// A data set that cannot be read or written.
pub fn erase(dir: &Path, erasures: &Erasures) -> anyhow::Result<usize> {
    let data = Dataset::open(dir)?;
    let mut manifest = data.manifest().clone();
    let (mut shards, mut kept, mut at) = (Vec::new(), Vec::new(), 0);
    for old in &manifest.shards {
        let range = at..at + old.samples;
        at = range.end;
        let stays = |&i: &usize| !erasures.contains(&data.samples()[i].patient_hash);
        let stay: Vec<usize> = range.clone().filter(stays).collect();
        let rows: Vec<Sample> = stay.iter().map(|&i| data.samples()[i].clone()).collect();
        if stay.len() < range.len() {
            let ecgs = stay
                .iter()
                .map(|&i| Ok(data.ecg(i)?.filtered))
                .collect::<anyhow::Result<Vec<_>>>()?;
            write_shard(dir, &old.name, &ecgs, &rows)?;
            shards.push(shard(dir, &old.name, rows.len())?);
        } else {
            shards.push(old.clone());
        }
        kept.extend(rows);
    }
    let gone = data.samples().len() - kept.len();
    if gone > 0 {
        *manifest.dropped.entry(Drop::Erased).or_default() += gone;
    }
    manifest.query.erasures_sha256 = erasures.sha256();
    let manifest = Manifest::of(manifest.query, manifest.dropped, shards, &kept)?;
    disk::replace(&dir.join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?)?;
    Ok(gone)
}
