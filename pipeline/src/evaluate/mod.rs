//! The ruler: a bundle's drafts against the cardiologists' reports, beside controls and baselines.
//!
//! Place: `meit-pipeline evaluate`, the nightly job and the benchmark. Controls show whether the ECG is read: drafts of
//! another patient's ECG and of a zeroed one. Baselines bound what templates give: the most frequent training report, and
//! the report of the nearest training ECG in the encoder's feature space. Invariant: the prompt is never part of a scored
//! string; every row has the same references.

pub mod baselines;
pub mod cases;
pub mod noise;
pub mod pairs;
pub mod readings;
pub mod ruler;
pub mod safety;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use candle_core::Device;
use model::bundle::Bundle;
use model::evidence::Evidence;
use score::clinical::{Agreement, ClassAgreement, Named, Tally, agreement_of};
use score::wordnet::WordNet;
use serde::Serialize;

use crate::bertscore::{BertScoreArgs, BertScorer, BertScores};
use crate::dataset::Ecg;
use crate::strata;
use cases::TestSet;
use readings::Reading;
use ruler::{Row, Ruler, Scored, interval};
use safety::Safety;

/// Cases a slice needs before it is reported.
pub const SLICE_MIN: usize = 20;

/// A metric's name and where a row has it.
type Metric = (&'static str, fn(&Row) -> Option<f64>);

/// Intervals by row and metric.
pub type Leads = BTreeMap<&'static str, BTreeMap<&'static str, [f64; 2]>>;

/// How a bundle is evaluated.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Seed of the shuffled control, the bootstrap and the noise.
    #[arg(long, default_value_t = 20_261_124)]
    pub seed: u64,
    /// Bootstrap resamples behind the 95 % intervals; 0 gives none.
    #[arg(long, default_value_t = 1000)]
    pub resamples: usize,
    /// WordNet 3.0 directory, for METEOR's synonyms; without it METEOR is of exact and stem matches.
    #[arg(long)]
    pub wordnet: Option<PathBuf>,
    /// Directory of the noise records bw, em and ma, for the refusal rates; white noise needs none.
    #[arg(long)]
    pub noise: Option<PathBuf>,
    /// Score the first recordings only.
    #[arg(long)]
    pub limit: Option<usize>,
    /// Recordings of the retrieval baseline's memory at most, drawn by the seed; each takes 120 kB.
    #[arg(long, default_value_t = 20_000)]
    pub memory_max: usize,
    #[command(flatten)]
    pub bertscore: BertScoreArgs,
}

/// The comparison, as it is written to JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub bundle_id: String,
    /// True when METEOR matches synonyms.
    pub meteor_synonyms: bool,
    pub model: Row,
    pub shuffled: Row,
    pub zeroed: Row,
    /// The patient's own measurements in the prompt, with a zeroed ECG; none for bundles that are told none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence_only: Option<Row>,
    pub most_frequent: Row,
    /// None when there is no recording of another patient.
    pub knn: Option<Row>,
    /// What the baselines answer with: the data set's other recordings ("memory"), or where it has none, those of the other patients
    /// that are scored ("other_patients").
    pub baselines_from: &'static str,
    /// 95 % intervals of the model's lead over the other rows, recordings drawn alike for both.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub model_minus: Leads,
    /// BERTScore of the model's drafts, when weights were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bertscore: Option<BertScores>,
    pub safety: Safety,
    /// The model's row by axis and value, of values with at least 20 recordings.
    pub slices: BTreeMap<String, BTreeMap<String, Row>>,
    /// The statements that drafts and references name, class by class.
    pub clinical: Agreement,
    /// Agreement with the data set's own SCP statements, where it has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scp: Option<ScpAgreement>,
}

/// How far texts and SCP statements agree; the references' row says how well the labeller reads.
#[derive(Clone, Debug, Serialize)]
pub struct ScpAgreement {
    pub model_f1_macro: Option<f64>,
    pub knn_f1_macro: Option<f64>,
    pub references_f1_macro: Option<f64>,
    pub references_f1_micro: f64,
    /// The references' statements, class by class; positives are the data set's.
    pub references: BTreeMap<&'static str, ClassAgreement>,
}

/// Scores with the pairs that made the model's row.
pub struct Evaluation {
    pub scores: Comparison,
    pairs: Vec<(String, String)>,
}

impl Evaluation {
    /// One `hypothesis<TAB>reference` a line.
    pub fn pairs_tsv(&self) -> String {
        let plain = |text: &str| text.replace(['\t', '\n', '\r'], " ");
        self.pairs
            .iter()
            .map(|(h, r)| format!("{}\t{}\n", plain(h), plain(r)))
            .collect()
    }

    /// The comparison for people.
    pub fn table(&self) -> String {
        let s = &self.scores;
        let rows = [
            ("model", Some(&s.model)),
            ("ECG shuffled", Some(&s.shuffled)),
            ("ECG zeroed", Some(&s.zeroed)),
            ("evidence only", s.evidence_only.as_ref()),
            ("most frequent", Some(&s.most_frequent)),
            ("kNN retrieval", s.knn.as_ref()),
        ];
        let mut table = format!(
            "{:14} {:>7} {:>7} {:>7} {:>7} {:>8} {:>5}\n",
            "", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr-D", "clin. F1", "n"
        );
        for (name, r) in rows.into_iter().filter_map(|(name, row)| Some((name, row?))) {
            let clinical = r.clinical_f1_macro.map_or("-".to_owned(), |f1| format!("{f1:.4}"));
            table += &format!(
                "{name:14} {:7.4} {:7.4} {:7.4} {:7.4} {clinical:>8} {:5}\n",
                r.bleu4, r.meteor, r.rouge_l, r.cider_d, r.n
            );
        }
        let safety = &s.safety;
        table += &format!(
            "contradicts the measured rate {:.4} (references {:.4}), abstains {:.4}\n",
            safety.contradiction_rate, safety.contradiction_rate_references, safety.abstain_rate
        );
        table
    }
}

/// Drafts every case and scores it.
///
/// # Errors
/// A bundle, recording, noise record or WordNet directory that cannot be read; an empty test set.
pub fn run(bundle: &Path, set: &TestSet, settings: &Settings) -> anyhow::Result<Evaluation> {
    ensure!(!set.cases.is_empty(), "the test set has no recording");
    let wordnet = settings.wordnet.as_deref().map(WordNet::open).transpose();
    let wordnet = wordnet.context("read --wordnet")?;
    let scorer = BertScorer::open(&settings.bertscore).context("open --bertscore")?;
    let meteor_synonyms = wordnet.is_some();
    let bundle = Bundle::load(bundle, &Device::Cpu).context("load bundle")?;
    let references = set.cases.iter().map(|case| case.report.clone()).collect();
    let ruler = Ruler::new(references, wordnet, settings.resamples, settings.seed);
    let readings = readings::read(&set.cases, |_, _| ())?;
    let drafts = readings::draft(&bundle, readings.iter().map(|r| &r.ecg))?;
    let knn = baselines::retrieved(&bundle, set, &readings)?;
    let n = drafts.len();
    let zeroed = readings::draft(&bundle, std::iter::once(&Ecg::default()))?;
    let shuffled: Vec<String> = baselines::derangement(n, settings.seed)
        .into_iter()
        .map(|other| drafts[other].clone())
        .collect();
    let scored = ruler.score(&drafts);
    let mut others = vec![
        ("shuffled", ruler.score(&shuffled)),
        ("zeroed", ruler.score(&vec![zeroed[0].clone(); n])),
        ("most_frequent", ruler.score(&baselines::frequent(set))),
    ];
    others.extend(knn.map(|knn| ("knn", ruler.score(&knn))));
    let told = evidence_only(&bundle, &readings)?;
    others.extend(told.map(|drafts| ("evidence_only", ruler.score(&drafts))));
    let pairs = ruler.pairs(&drafts);
    let of = |name: &str| {
        others
            .iter()
            .find(|(other, _)| *other == name)
            .map(|(_, scored)| scored)
    };
    let row = |name: &str| of(name).map(|scored| ruler.row(scored));
    let scores = Comparison {
        bundle_id: bundle.id().to_owned(),
        meteor_synonyms,
        model: ruler.row(&scored),
        shuffled: row("shuffled").unwrap_or_default(),
        zeroed: row("zeroed").unwrap_or_default(),
        evidence_only: row("evidence_only"),
        most_frequent: row("most_frequent").unwrap_or_default(),
        knn: row("knn"),
        baselines_from: if set.memory.is_empty() {
            "other_patients"
        } else {
            "memory"
        },
        model_minus: leads(&ruler, &scored, &others),
        bertscore: scorer.map(|scorer| scorer.score(&pairs)).transpose()?,
        safety: safety::safety(&set.cases, &readings, &drafts, settings.noise.as_deref(), settings.seed)?,
        slices: slices(set, &ruler, &scored),
        clinical: agreement_of(scored.findings.iter().zip(&ruler.findings)),
        scp: scp(set, &ruler, &scored, of("knn")),
    };
    Ok(Evaluation { scores, pairs })
}

/// Drafts of a zeroed ECG with the patient's own measurements; none for bundles whose prompt tells none.
fn evidence_only(bundle: &Bundle, readings: &[Reading]) -> anyhow::Result<Option<Vec<String>>> {
    if bundle.drafting().evidence == Evidence::None {
        return Ok(None);
    }
    let silent = |reading: &Reading| Ecg {
        measurements: reading.ecg.measurements.clone(),
        ..Ecg::default()
    };
    let silent: Vec<Ecg> = readings.iter().map(silent).collect();
    readings::draft(bundle, silent.iter()).map(Some)
}

/// Intervals of the model's metrics minus the others', resample by resample.
pub(crate) fn leads(ruler: &Ruler, model: &Scored, others: &[(&'static str, Scored)]) -> Leads {
    let rows = ruler.resampled(model);
    if rows.is_empty() {
        return BTreeMap::new();
    }
    let metrics: [Metric; 5] = [
        ("bleu4", |r| Some(r.bleu4)),
        ("meteor", |r| Some(r.meteor)),
        ("rouge_l", |r| Some(r.rouge_l)),
        ("cider_d", |r| Some(r.cider_d)),
        ("clinical_f1_macro", |r| r.clinical_f1_macro),
    ];
    let lead = |other: &Scored| -> BTreeMap<&'static str, [f64; 2]> {
        let other = ruler.resampled(other);
        let metric = |(name, value): &Metric| {
            let differences = rows.iter().zip(&other).map(|(a, b)| Some(value(a)? - value(b)?));
            Some((*name, interval(differences.collect::<Option<Vec<f64>>>()?)))
        };
        metrics.iter().filter_map(metric).collect()
    };
    others.iter().map(|(name, other)| (*name, lead(other))).collect()
}

fn slices(set: &TestSet, ruler: &Ruler, scored: &Scored) -> BTreeMap<String, BTreeMap<String, Row>> {
    let mut slices: BTreeMap<String, BTreeMap<String, Row>> = BTreeMap::new();
    for ((axis, value), members) in strata::members(set.cases.iter().map(|case| &case.strata)) {
        if members.len() >= SLICE_MIN {
            let row = ruler.subset(scored, &members);
            slices.entry(axis).or_default().insert(value, row);
        }
    }
    slices
}

fn scp(set: &TestSet, ruler: &Ruler, model: &Scored, knn: Option<&Scored>) -> Option<ScpAgreement> {
    let codes = |case: &cases::Case| Named::from_codes(case.scp.iter().map(String::as_str));
    let scp: Vec<Named> = set.cases.iter().map(codes).collect();
    let tally =
        |findings: &[score::clinical::Findings]| Tally::of(findings.iter().map(Named::of).zip(scp.iter().copied()));
    let references = tally(&ruler.findings);
    let frequent = references.frequent();
    let has_statements = scp.iter().any(|named| *named != Named::default());
    has_statements.then(|| ScpAgreement {
        model_f1_macro: tally(&model.findings).f1_macro(&frequent),
        knn_f1_macro: knn.and_then(|knn| tally(&knn.findings).f1_macro(&frequent)),
        references_f1_macro: references.f1_macro(&frequent),
        references_f1_micro: references.f1_micro(),
        references: references.each(),
    })
}

#[cfg(test)]
mod tests;
