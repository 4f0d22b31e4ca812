//! Quality under noise of a known ratio.
//!
//! Place: task robustness (figure 3). Invariant: noise is added to the raw samples, before filter and gate, at a true
//! signal-to-noise ratio of each lead; the authors' noise, which is none, stands beside it in reference mode only.

use model::bundle::Bundle;
use score::wordnet::WordNet;
use serde::Serialize;
use serde_json::json;

use super::chart::Chart;
use super::table::Table;
use super::{BenchmarkArgs, Results, open};
use crate::evaluate::cases::TestSet;
use crate::evaluate::noise::{Disturbance, authors_segment_noise};
use crate::evaluate::readings::{self, Reading};
use crate::evaluate::ruler::{Row, Ruler};

/// Ratios in decibels.
const SNR_DB: [f64; 6] = [24.0, 18.0, 12.0, 6.0, 0.0, -6.0];
/// Ratios of powers, the paper's range read literally; 0.05 is -13 dB.
const SNR_LINEAR: [f64; 4] = [0.2, 0.15, 0.1, 0.05];
/// Largest share of the recording that the authors' noise covers.
const AUTHORS_PROPORTIONS: [f64; 5] = [0.0, 0.05, 0.1, 0.15, 0.2];

/// One bundle under one noise.
#[derive(Serialize)]
struct Point {
    bundle: String,
    noise: &'static str,
    /// Decibels, a ratio of powers, or the authors' proportion.
    level: f64,
    unit: &'static str,
    row: Row,
    /// Recordings a node would refuse to draft, of all.
    refused_rate: f64,
}

struct Bench<'a> {
    args: &'a BenchmarkArgs,
    set: &'a TestSet,
    ruler: Ruler,
    clean: Vec<Reading>,
    points: Vec<Point>,
}

impl Bench<'_> {
    fn add(
        &mut self,
        bundles: &[(String, Bundle)],
        noise: (&'static str, f64, &'static str),
        disturb: impl Fn(usize, &mut ecg::window::Context) + Sync,
    ) -> anyhow::Result<()> {
        let readings = readings::read(&self.set.cases, disturb)?;
        let refused = readings.iter().filter(|reading| reading.refused).count();
        for (name, bundle) in bundles {
            let drafts = readings::draft(bundle, readings.iter().map(|r| &r.ecg))?;
            let (noise, level, unit) = noise;
            self.points.push(Point {
                bundle: name.clone(),
                noise,
                level,
                unit,
                row: self.ruler.row(&self.ruler.score(&drafts)),
                refused_rate: refused as f64 / readings.len() as f64,
            });
        }
        Ok(())
    }

    /// ROUGE-L of a bundle under a noise at each of [`SNR_DB`]; empty without that noise.
    fn rouge_l(&self, bundle: &str, noise: &str) -> Vec<f64> {
        let of = |p: &&Point| p.bundle == bundle && p.noise == noise && p.unit == "dB";
        self.points.iter().filter(of).map(|p| p.row.rouge_l).collect()
    }
}

/// Scores every bundle on clean recordings and under each noise.
///
/// # Errors
/// A bundle, recording or noise record that cannot be read.
pub fn robustness(args: &BenchmarkArgs, set: &TestSet) -> anyhow::Result<Results> {
    let bundles = args
        .bundles
        .iter()
        .map(|bundle| open(bundle))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let settings = &args.settings;
    let wordnet = settings.wordnet.as_deref().map(WordNet::open).transpose()?;
    let references = set.cases.iter().map(|case| case.report.clone()).collect();
    let mut bench = Bench {
        args,
        set,
        ruler: Ruler::new(references, wordnet, settings.resamples, settings.seed),
        clean: readings::read(&set.cases, |_, _| ())?,
        points: Vec::new(),
    };
    bench.add(&bundles, ("none", f64::INFINITY, "dB"), |_, _| ())?;
    let clean = std::mem::take(&mut bench.clean);
    let seed = settings.seed;
    for disturbance in Disturbance::all(settings.noise.as_deref(), seed)? {
        let linear = SNR_LINEAR.iter().map(|&ratio| (ratio, 10.0 * ratio.log10(), "ratio"));
        let levels = SNR_DB.iter().map(|&db| (db, db, "dB")).chain(linear);
        for (level, snr_db, unit) in levels.collect::<Vec<_>>() {
            bench.add(&bundles, (disturbance.name, level, unit), |index, context| {
                disturbance.add(context, &clean[index].ecg.filtered, snr_db, seed, index);
            })?;
        }
    }
    if args.reference_mode {
        for proportion in AUTHORS_PROPORTIONS {
            bench.add(&bundles, ("authors", proportion, "proportion"), |index, context| {
                authors_segment_noise(context, proportion, seed, index);
            })?;
        }
    }
    Ok(results(&bench, &bundles))
}

fn results(bench: &Bench<'_>, bundles: &[(String, Bundle)]) -> Results {
    let mut table = Table::new(
        "Robustness to noise",
        &[
            "Model, noise, level",
            "BLEU-4",
            "METEOR",
            "ROUGE-L",
            "CIDEr-D",
            "Clinical F1",
            "Refused",
        ],
    );
    for p in &bench.points {
        let level = if p.level.is_infinite() {
            String::new()
        } else {
            format!(", {} {}", p.level, p.unit)
        };
        let r = &p.row;
        let values = [
            Some(r.bleu4),
            Some(r.meteor),
            Some(r.rouge_l),
            Some(r.cider_d),
            r.clinical_f1_macro,
        ];
        let values = values.into_iter().chain([Some(p.refused_rate)]).collect();
        table.rows.push((format!("{}, {}{level}", p.bundle, p.noise), values));
    }
    table.notes.push(format!(
        "n = {} recordings. Every recording is drafted, also those that a node would refuse (last column). Ratios are of the \
         variance of each lead's filtered signal to that of its noise.",
        bench.set.cases.len()
    ));
    if bench.args.reference_mode {
        table.notes.push(
            "\"authors\" is the paper's noise: a stretch of at most that proportion of the recording gets white noise of at \
             most a tenth of its range. It is no signal-to-noise ratio, and most of the recording stays clean."
                .to_owned(),
        );
    }
    let mut charts = Vec::new();
    for (at, (name, _)) in bundles.iter().enumerate() {
        let series = ["white", "bw", "em", "ma"].into_iter().filter_map(|noise| {
            let values: Vec<f64> = bench.rouge_l(name, noise);
            (!values.is_empty()).then(|| (noise.to_owned(), values))
        });
        charts.push((
            format!("robustness-{at}"),
            Chart {
                title: name.clone(),
                x: "signal-to-noise ratio, dB".to_owned(),
                y: "ROUGE-L".to_owned(),
                places: SNR_DB.map(|db| db.to_string()).to_vec(),
                series: series.collect(),
            },
        ));
    }
    Results {
        json: json!(bench.points),
        tables: vec![table],
        charts,
    }
}
