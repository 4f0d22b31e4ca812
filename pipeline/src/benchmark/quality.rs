//! Report quality, on the trained data set and across data sets.
//!
//! Place: tasks quality and zero-shot, and the rows of ablations. Invariant: every row is scored on the same recordings and references.

use model::bundle::Bundle;
use score::Scores;
use score::reference::{ReferenceScores, score_as_authors};
use score::wordnet::WordNet;
use serde::Serialize;
use serde_json::json;

use super::chart::Chart;
use super::table::Table;
use super::{BenchmarkArgs, Results, open};
use crate::bertscore::{BertScorer, BertScores};
use crate::evaluate::baselines;
use crate::evaluate::cases::TestSet;
use crate::evaluate::pairs::AUTHORS_PROMPT;
use crate::evaluate::readings::{self, Reading};
use crate::evaluate::ruler::{Row, Ruler, Scored};

/// Columns of the paper's quality tables, and the clinical one.
const COLUMNS: [&str; 14] = [
    "Model",
    "BLEU-1",
    "BLEU-2",
    "BLEU-3",
    "BLEU-4",
    "METEOR",
    "ROUGE-1",
    "ROUGE-2",
    "ROUGE-L",
    "CIDEr-D",
    "BERTScore P",
    "BERTScore R",
    "BERTScore F1",
    "Clinical F1",
];
/// Columns of the authors' scoring.
const REFERENCE_COLUMNS: [&str; 9] = [
    "Scored strings",
    "BLEU-1",
    "BLEU-2",
    "BLEU-3",
    "BLEU-4",
    "METEOR",
    "ROUGE-1",
    "ROUGE-L",
    "CIDEr-D",
];

/// One row of a quality table.
#[derive(Serialize)]
pub(super) struct Line {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle_id: Option<String>,
    scores: Scores,
    row: Row,
    #[serde(skip_serializing_if = "Option::is_none")]
    bertscore: Option<BertScores>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference_mode: Option<ReferenceScores>,
}

impl Line {
    fn values(&self) -> Vec<Option<f64>> {
        let s = &self.scores;
        let clean = [
            s.bleu1,
            s.bleu2,
            s.bleu3,
            s.bleu4,
            s.meteor.unwrap_or(s.meteor_stem),
            s.rouge1_f,
            s.rouge2_f,
            s.rouge_l,
            s.cider_d,
        ];
        let bert = self.bertscore.as_ref();
        let bert = [bert.map(|b| b.precision), bert.map(|b| b.recall), bert.map(|b| b.f1)];
        clean
            .into_iter()
            .map(Some)
            .chain(bert)
            .chain([self.row.clinical_f1_macro])
            .collect()
    }
}

/// What rows are scored with.
pub(super) struct Bench<'a> {
    args: &'a BenchmarkArgs,
    set: &'a TestSet,
    pub(super) ruler: Ruler,
    scorer: Option<BertScorer>,
    readings: Vec<Reading>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(args: &'a BenchmarkArgs, set: &'a TestSet) -> anyhow::Result<Self> {
        let settings = &args.settings;
        let wordnet = settings.wordnet.as_deref().map(WordNet::open).transpose()?;
        let references = set.cases.iter().map(|case| case.report.clone()).collect();
        Ok(Self {
            args,
            set,
            ruler: Ruler::new(references, wordnet, settings.resamples, settings.seed),
            scorer: BertScorer::open(&settings.bertscore)?,
            readings: readings::read(&set.cases, |_, _| ())?,
        })
    }

    fn bundle_line(&self, name: String, bundle: &Bundle) -> anyhow::Result<Line> {
        let (line, _) = self.drafted(name, bundle)?;
        Ok(line)
    }

    /// A bundle's row, and what it was told from.
    pub(super) fn drafted(&self, name: String, bundle: &Bundle) -> anyhow::Result<(Line, Scored)> {
        let drafts = readings::draft(bundle, self.readings.iter().map(|r| &r.ecg))?;
        let (line, scored) = self.scored(name, &drafts)?;
        let bundle_id = Some(bundle.id().to_owned());
        Ok((Line { bundle_id, ..line }, scored))
    }

    fn line(&self, name: String, drafts: &[String]) -> anyhow::Result<Line> {
        let (line, _) = self.scored(name, drafts)?;
        Ok(line)
    }

    fn scored(&self, name: String, drafts: &[String]) -> anyhow::Result<(Line, Scored)> {
        let (pairs, scored) = (self.ruler.pairs(drafts), self.ruler.score(drafts));
        let line = Line {
            name,
            bundle_id: None,
            scores: scored.scores(),
            row: self.ruler.row(&scored),
            bertscore: self.scorer.as_ref().map(|scorer| scorer.score(&pairs)).transpose()?,
            reference_mode: self
                .args
                .reference_mode
                .then(|| score_as_authors(&pairs, AUTHORS_PROMPT)),
        };
        Ok((line, scored))
    }

    /// Most frequent report, and retrieval in the first bundle's feature space.
    fn baselines(&self, bundle: &Bundle) -> anyhow::Result<Vec<Line>> {
        let mut lines = vec![self.line("most frequent report".to_owned(), &baselines::frequent(self.set))?];
        if let Some(retrieved) = baselines::retrieved(bundle, self.set, &self.readings)? {
            lines.push(self.line("kNN retrieval".to_owned(), &retrieved)?);
        }
        Ok(lines)
    }

    pub(super) fn results(&self, title: &str, lines: Vec<Line>) -> anyhow::Result<Results> {
        let mut table = Table::new(title, &COLUMNS);
        table.rows = lines.iter().map(|line| (line.name.clone(), line.values())).collect();
        let synonyms = match self.args.settings.wordnet {
            Some(_) => "exact, stem and WordNet synonym matches",
            None => "exact and stem matches only (no --wordnet)",
        };
        let n = self.readings.len();
        table.notes.push(format!(
            "n = {n} recordings; no prompt in any scored text; METEOR of {synonyms}."
        ));
        let mut tables = vec![table];
        tables.extend(lines.iter().filter_map(reference_table));
        let charts = vec![("quality".to_owned(), bars(title, &lines))];
        Ok(Results {
            json: json!(lines),
            tables,
            charts,
        })
    }
}

/// The authors' scoring of one row beside its clean scores.
fn reference_table(line: &Line) -> Option<Table> {
    let reference = line.reference_mode.as_ref()?;
    let mut table = Table::new(&format!("Reference mode: {}", line.name), &REFERENCE_COLUMNS);
    let rows = [
        ("clean", &line.scores),
        ("<|assistant|> kept", &reference.assistant_kept),
        ("prompt kept", &reference.prompt_kept),
        ("prompt kept, no right word", &reference.floor_prompt_kept),
    ];
    for (name, s) in rows {
        let values = [
            s.bleu1,
            s.bleu2,
            s.bleu3,
            s.bleu4,
            s.meteor_stem,
            s.rouge1_f,
            s.rouge_l,
            s.cider_d,
        ];
        table.rows.push((name.to_owned(), values.map(Some).to_vec()));
    }
    table.notes = reference
        .inflated_by
        .iter()
        .map(|reason| format!("- {reason}"))
        .collect();
    Some(table)
}

fn bars(title: &str, lines: &[Line]) -> Chart {
    let metric = |name: &str, value: fn(&Line) -> f64| -> (String, Vec<f64>) {
        (name.to_owned(), lines.iter().map(value).collect())
    };
    Chart {
        title: title.to_owned(),
        x: "model".to_owned(),
        y: "score".to_owned(),
        places: lines.iter().map(|line| line.name.clone()).collect(),
        series: vec![
            metric("BLEU-4", |l| l.scores.bleu4),
            metric("METEOR", |l| l.scores.meteor.unwrap_or(l.scores.meteor_stem)),
            metric("ROUGE-L", |l| l.scores.rouge_l),
            metric("Clinical F1", |l| l.row.clinical_f1_macro.unwrap_or_default()),
        ],
    }
}

/// Tables 1 to 3: every bundle, and the baselines that templates give.
///
/// # Errors
/// A bundle, recording or model for a metric that cannot be read.
pub fn quality(args: &BenchmarkArgs, set: &TestSet) -> anyhow::Result<Results> {
    let bench = Bench::new(args, set)?;
    let mut lines = Vec::new();
    let mut first = None;
    for bundle in &args.bundles {
        let (name, bundle) = open(bundle)?;
        lines.push(bench.bundle_line(name, &bundle)?);
        first.get_or_insert(bundle);
    }
    if let Some(bundle) = &first {
        lines.extend(bench.baselines(bundle)?);
    }
    bench.results("Quality of generated reports", lines)
}

/// Figure 2: without instruction tuning, with it on another data set, and with it on this one.
///
/// # Errors
/// As [`quality`].
pub fn zero_shot(args: &BenchmarkArgs, set: &TestSet) -> anyhow::Result<Results> {
    let bench = Bench::new(args, set)?;
    let mut lines = Vec::new();
    let settings = [
        ("zero-shot W/O IT", &args.without_it),
        ("zero-shot IT", &args.bundles),
        ("IT", &args.in_domain),
    ];
    for (setting, bundles) in settings {
        for bundle in bundles {
            let (name, bundle) = open(bundle)?;
            lines.push(bench.bundle_line(format!("{name}, {setting}"), &bundle)?);
        }
    }
    let mut results = bench.results("Zero-shot transfer", lines)?;
    results.tables[0].notes.push(
        "\"zero-shot\" says that the bundle was trained on another data set; this run cannot check what a bundle was trained \
         on."
            .to_owned(),
    );
    Ok(results)
}
