//! `meit bench gate`: how well the quality gate tells clean recordings from noisy ones, on PTB-XL with recorded noise.
//!
//! Place: calls `ecg::dsp::analyse` as the agent does and counts its decisions. Invariant: a mix is a function of the recording,
//! the noise and the seed, so the same arguments print the same figures. A recording is clean where PTB-XL has no noise
//! annotation; recordings with a pacemaker are left out, because they are refused for that. A mix adds another excerpt of the
//! noise to each independent lead, scaled to the ratio of the raw variances.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use bedside::noise::{Noise, NoiseSource};
use ecg::dsp::{DspConfig, analyse};
use ecg::lead::Lead;
use ecg::segment::Decision;
use ecg::window::Context;
use pipeline::sources::Source;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Noise that makes a window unreadable, and ratios at which it does, decibels: what the gate must reject.
const BAD_DB: [f64; 2] = [0.0, -6.0];
/// SCP codes of the rhythms that a gate is tempted to take for noise, and of sinus; the first that a recording has names it.
const RHYTHMS: [(&str, &[&str]); 4] = [
    ("af", &["AFIB", "AFLT"]),
    ("pvc", &["PVC", "BIGU", "TRIGU"]),
    ("tachycardia", &["STACH", "SVTAC", "PSVT"]),
    ("sinus", &["SR", "NORM", "SBRAD", "SARRH"]),
];

/// Arguments of `meit bench gate`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// PTB-XL in its own layout, as ptbxl:DIR.
    #[arg(long, value_name = "ptbxl:DIR")]
    dataset: Source,
    /// Directory of the MIT-BIH noise records em and ma.
    #[arg(long, value_name = "DIR")]
    noise: PathBuf,
    /// Folds of PTB-XL.
    #[arg(long, value_delimiter = ',', default_value = "9")]
    folds: Vec<u8>,
    /// Seed of the noise excerpts.
    #[arg(long, default_value_t = 20_261_128)]
    seed: u64,
}

/// What was counted.
#[derive(Debug, Serialize)]
struct Figures {
    chain: String,
    folds: Vec<u8>,
    seed: u64,
    /// Of clean and noisy windows together, those that are decided right.
    accuracy: f64,
    /// Mean of sensitivity and specificity.
    balanced_accuracy: f64,
    /// Of windows with em or ma noise at 0 and -6 dB, those rejected.
    sensitivity: f64,
    /// Of clean windows, those not rejected.
    specificity: f64,
    clean: Count,
    noisy: Count,
    /// Clean windows by rhythm: `reject` is the false reject.
    clean_by_rhythm: BTreeMap<&'static str, Count>,
    noisy_by_mix: BTreeMap<String, Count>,
    /// Recordings that PTB-XL marks noisy, by its annotation.
    marked: BTreeMap<&'static str, Count>,
}

/// Windows and the share of each decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Count {
    windows: usize,
    accept: f64,
    marginal: f64,
    reject: f64,
}

/// Decisions of one kind of window.
#[derive(Clone, Debug, Default)]
struct Decisions(Vec<Decision>);

impl Decisions {
    fn share(&self, decision: Decision) -> f64 {
        let found = self.0.iter().filter(|&&made| made == decision).count();
        found as f64 / self.0.len().max(1) as f64
    }

    fn count(&self) -> Count {
        Count {
            windows: self.0.len(),
            accept: self.share(Decision::Accept),
            marginal: self.share(Decision::Marginal),
            reject: self.share(Decision::Reject),
        }
    }
}

/// A row of ptbxl_database.csv.
#[derive(Debug, Deserialize)]
struct Row {
    scp_codes: String,
    strat_fold: u8,
    filename_hr: String,
    baseline_drift: String,
    static_noise: String,
    burst_noise: String,
    electrodes_problems: String,
    pacemaker: String,
}

impl Row {
    fn marks(&self) -> impl Iterator<Item = &'static str> {
        let marks = [
            ("baseline_drift", &self.baseline_drift),
            ("static_noise", &self.static_noise),
            ("burst_noise", &self.burst_noise),
            ("electrodes_problems", &self.electrodes_problems),
        ];
        marks
            .into_iter()
            .filter(|(_, leads)| !leads.trim().is_empty())
            .map(|(mark, _)| mark)
    }

    /// The rhythm by the codes of "{'SR': 0.0, 'NORM': 100.0}".
    fn rhythm(&self) -> &'static str {
        let codes: Vec<&str> = self.scp_codes.split('\'').skip(1).step_by(2).collect();
        let named = RHYTHMS
            .iter()
            .find(|(_, own)| own.iter().any(|code| codes.contains(code)));
        named.map_or("other", |(rhythm, _)| rhythm)
    }
}

/// Reads the recordings of the folds, clean and mixed, through the chain and prints how they were decided.
///
/// # Errors
/// A data set other than PTB-XL; a table, recording or noise record that cannot be read; no recording in the folds.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Source::PtbXl(root) = &arguments.dataset else {
        bail!("--dataset is {}: expected ptbxl:DIR", arguments.dataset);
    };
    let mut sources = Vec::new();
    for (name, noise) in [("em", Noise::Em), ("ma", Noise::Ma)] {
        let source = NoiseSource::load(&arguments.noise, noise)?;
        sources.push((name, source.expect("only Noise::None has no record")));
    }
    let figures = count(root, &sources, &arguments.folds, arguments.seed)?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

fn count(root: &Path, sources: &[(&str, NoiseSource)], folds: &[u8], seed: u64) -> anyhow::Result<Figures> {
    let config = DspConfig::default();
    let decide = |context: &Context| analyse(context, &config).decision;
    let (mut clean, mut noisy) = (Decisions::default(), Decisions::default());
    let mut by_rhythm: BTreeMap<&str, Decisions> = BTreeMap::new();
    let mut by_mix: BTreeMap<String, Decisions> = BTreeMap::new();
    let mut marked: BTreeMap<&str, Decisions> = BTreeMap::new();
    for (number, row) in rows(root, folds)?.into_iter().enumerate() {
        let header = root.join(&row.filename_hr).with_extension("hea");
        // a data set may come without some of its recordings
        if !header.is_file() || !row.pacemaker.trim().is_empty() {
            continue;
        }
        let context = ecg::wfdb::read(&header)?.context()?;
        let decision = decide(&context);
        for mark in row.marks() {
            marked.entry(mark).or_default().0.push(decision);
        }
        if row.marks().next().is_some() {
            continue;
        }
        clean.0.push(decision);
        by_rhythm.entry(row.rhythm()).or_default().0.push(decision);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number as u64);
        for (name, source) in sources {
            for db in BAD_DB {
                let decision = decide(&mixed(&context, source, db, &mut rng));
                noisy.0.push(decision);
                by_mix.entry(format!("{name} {db} dB")).or_default().0.push(decision);
            }
        }
    }
    ensure!(
        !clean.0.is_empty(),
        "no clean recording in folds {folds:?} of {}",
        root.display()
    );
    let (sensitivity, specificity) = (noisy.share(Decision::Reject), 1.0 - clean.share(Decision::Reject));
    let (n_noisy, n_clean) = (noisy.0.len() as f64, clean.0.len() as f64);
    let counts = |(&kind, decisions): (&&'static str, &Decisions)| (kind, decisions.count());
    Ok(Figures {
        chain: config.chain_name(),
        folds: folds.to_vec(),
        seed,
        accuracy: (sensitivity * n_noisy + specificity * n_clean) / (n_noisy + n_clean),
        balanced_accuracy: f64::midpoint(sensitivity, specificity),
        sensitivity,
        specificity,
        clean: clean.count(),
        noisy: noisy.count(),
        clean_by_rhythm: by_rhythm.iter().map(counts).collect(),
        noisy_by_mix: by_mix.into_iter().map(|(mix, of)| (mix, of.count())).collect(),
        marked: marked.iter().map(counts).collect(),
    })
}

fn rows(root: &Path, folds: &[u8]) -> anyhow::Result<Vec<Row>> {
    let table = root.join("ptbxl_database.csv");
    let named = || format!("read {}", table.display());
    let mut reader = csv::Reader::from_path(&table).with_context(named)?;
    let rows: Vec<Row> = reader.deserialize().collect::<Result<_, _>>().with_context(named)?;
    Ok(rows.into_iter().filter(|row| folds.contains(&row.strat_fold)).collect())
}

/// The recording with noise `db` below the variance of each of its leads.
fn mixed(clean: &Context, source: &NoiseSource, db: f64, rng: &mut ChaCha8Rng) -> Context {
    let mut mixed = clean.clone();
    let mut leads: Vec<(Lead, Vec<f32>)> = Lead::ALL.into_iter().zip(mixed.samples_uv).collect();
    source.add(&mut leads, db, rng);
    mixed.samples_uv = leads.into_iter().map(|(_, samples)| samples).collect();
    mixed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assets;

    fn shipped(folds: &[u8]) -> anyhow::Result<Figures> {
        // rough enough to hide every beat
        let wave = |step: u64| {
            let value = |at: u64| (at.wrapping_mul(step).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32;
            (0..60_000).map(value).collect()
        };
        let source = NoiseSource::new(vec![wave(7), wave(13)]);
        count(&assets::recordings(None)?, &[("white", source)], folds, 1)
    }

    #[test]
    fn clean_recordings_pass_noisy_ones_do_not_and_the_figures_repeat() {
        let figures = shipped(&[9]).unwrap();
        assert!(figures.clean.windows >= 5, "{figures:?}");
        assert_eq!(figures.noisy.windows, 2 * figures.clean.windows);
        assert!(figures.specificity == 1.0 && figures.sensitivity > 0.9, "{figures:?}");
        let counted = (47.0 + 24.0) / 72.0;
        assert!((figures.accuracy - counted).abs() < 1e-9, "{figures:?}");
        let of_rhythms: usize = figures.clean_by_rhythm.values().map(|count| count.windows).sum();
        assert_eq!(of_rhythms, figures.clean.windows);
        let again = shipped(&[9]).unwrap();
        assert_eq!(
            serde_json::to_string(&figures).unwrap(),
            serde_json::to_string(&again).unwrap()
        );
    }

    #[test]
    fn folds_without_recordings_are_named() {
        let error = shipped(&[77]).unwrap_err().to_string();
        assert!(error.contains("[77]"), "{error}");
    }

    #[test]
    fn a_recording_is_of_the_first_rhythm_that_its_codes_name() {
        for (codes, rhythm) in [
            ("{'SR': 0.0, 'NORM': 100.0}", "sinus"),
            ("{'PVC': 100.0, 'AFIB': 0.0}", "af"),
            ("{'ASMI': 50.0}", "other"),
        ] {
            let row = Row {
                scp_codes: codes.into(),
                strat_fold: 9,
                filename_hr: String::new(),
                baseline_drift: String::new(),
                static_noise: String::new(),
                burst_noise: String::new(),
                electrodes_problems: String::new(),
                pacemaker: String::new(),
            };
            assert_eq!(row.rhythm(), rhythm, "{codes}");
        }
    }
}
