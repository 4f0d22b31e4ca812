//! Reads recordings with and without recorded noise through the chain, one JSON line each: the material of docs/quality-gate.md.
//!
//! `cargo run --release -p ecg --example sweep -- --recordings DIR [--noise DIR] [--ids FILE] [--mix em:0,ma:-6] [--in-band]
//! [--config JSON]`
//!
//! Noise of each independent lead is another excerpt of the noise record, scaled to the ratio of variances (with `--in-band`
//! of the variances after the filter chain); the other limb leads follow from I and II. `true_db` is each lead's ratio after
//! the chain. `--config` holds settings of the chain other than the defaults. Without `--mix` the recordings are read as they
//! are. The same arguments give the same lines.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ecg::dsp::lanes::Frame;
use ecg::dsp::{self, DspConfig, filter, repair, resample};
use ecg::segment::LeadOrigin;
use ecg::window::Context;
use ecg::{LEADS, SEGMENT_SAMPLES, limb};

type Failure = Box<dyn std::error::Error>;

struct Arguments {
    recordings: PathBuf,
    noise: PathBuf,
    ids: Option<PathBuf>,
    mixes: Vec<(String, f64)>,
    in_band: bool,
    config: DspConfig,
}

fn arguments() -> Result<Arguments, Failure> {
    let mut read = Arguments {
        recordings: "tests/data/ptbxl".into(),
        noise: PathBuf::new(),
        ids: None,
        mixes: Vec::new(),
        in_band: false,
        config: DspConfig::default(),
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let mut value = || given.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--recordings" => read.recordings = value()?.into(),
            "--noise" => read.noise = value()?.into(),
            "--ids" => read.ids = Some(value()?.into()),
            "--in-band" => read.in_band = true,
            "--config" => read.config = serde_json::from_str(&std::fs::read_to_string(value()?)?)?,
            "--mix" => {
                for mix in value()?.split(',') {
                    let (kind, db) = mix
                        .split_once(':')
                        .ok_or_else(|| format!("mix {mix:?} is no KIND:DB"))?;
                    read.mixes.push((kind.to_owned(), db.parse()?));
                }
            }
            _ => return Err(format!("unknown argument {name:?}").into()),
        }
    }
    Ok(read)
}

fn main() -> Result<(), Failure> {
    let arguments = arguments()?;
    let mut headers = Vec::new();
    walk(&arguments.recordings, &mut headers)?;
    if let Some(ids) = &arguments.ids {
        let wanted: BTreeSet<String> = std::fs::read_to_string(ids)?
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        headers.retain(|header| {
            let stem = header
                .file_stem()
                .map(|s| s.to_string_lossy().into_owned())
                .unwrap_or_default();
            wanted.contains(stem.split('_').next().unwrap_or_default().trim_start_matches('0'))
        });
    }
    headers.sort();
    let mut sources: Vec<(String, Vec<Vec<f32>>)> = Vec::new();
    for (kind, _) in &arguments.mixes {
        if !sources.iter().any(|(name, _)| name == kind) {
            let record = ecg::wfdb::read(&arguments.noise.join(kind).with_extension("hea"))?;
            let channels = (0..record.signals.len())
                .map(|index| resample::to_500_hz(&record.signal_uv(index), record.rate_hz))
                .collect();
            sources.push((kind.clone(), channels));
        }
    }
    for (number, header) in headers.iter().enumerate() {
        let Ok(context) = ecg::wfdb::read(header).and_then(|record| record.context()) else {
            eprintln!("{} cannot be read", header.display());
            continue;
        };
        if arguments.mixes.is_empty() {
            print(header, ("none", None), &context, &[None; LEADS], &arguments.config);
        }
        for (index, (kind, db)) in arguments.mixes.iter().enumerate() {
            let channels = sources
                .iter()
                .find(|(name, _)| name == kind)
                .map(|(_, channels)| channels);
            let seed = (number * 1009 + index) as u64;
            let (mixed, true_db) = mix(&context, channels.ok_or("no such noise")?, *db, arguments.in_band, seed);
            print(header, (kind, Some(*db)), &mixed, &true_db, &arguments.config);
        }
    }
    Ok(())
}

fn print(
    header: &Path,
    (kind, db): (&str, Option<f64>),
    context: &Context,
    true_db: &[Option<f64>; LEADS],
    config: &DspConfig,
) {
    let dsp::Analysis {
        segment,
        pattern,
        resting_share,
        ..
    } = dsp::analyse_in_full(context, config);
    let line = serde_json::json!({
        "samples_sha256": segment.samples_sha256,
        "record": header.file_stem().map(|s| s.to_string_lossy().into_owned()),
        "noise": kind,
        "db": db,
        "true_db": true_db,
        "decision": segment.decision,
        "reasons": segment.reasons,
        "quality": segment.quality,
        "measurements": segment.measurements,
        "resting_share": resting_share,
        "pattern": pattern.as_ref().map(|pattern| pattern.as_slice()),
    });
    println!("{line}");
}

/// The recording with noise, and each lead's ratio after the chain.
fn mix(clean: &Context, channels: &[Vec<f32>], db: f64, in_band: bool, seed: u64) -> (Context, [Option<f64>; LEADS]) {
    let mut state = seed;
    let mut draw = |bound: usize| {
        // SplitMix64
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    };
    let mut noise = clean.clone();
    for lead in [0, 1, 6, 7, 8, 9, 10, 11] {
        let channel = &channels[draw(channels.len())];
        let start = draw(channel.len() - clean.samples_uv[lead].len());
        noise.samples_uv[lead] = channel[start..start + clean.samples_uv[lead].len()].to_vec();
    }
    let power = |context: &Context| {
        if in_band {
            band_power(context)
        } else {
            variance(context)
        }
    };
    let (own, theirs) = (power(clean), power(&noise));
    let mut origin = [LeadOrigin::Missing; LEADS];
    for lead in [0, 1, 6, 7, 8, 9, 10, 11] {
        let gain = (own[lead] / 10f64.powf(db / 10.0) / theirs[lead].max(1e-9)).sqrt() as f32;
        noise.samples_uv[lead].iter_mut().for_each(|v| *v *= gain);
        origin[lead] = LeadOrigin::Measured;
    }
    limb::derive(&mut noise.samples_uv, &mut origin);
    let mut mixed = clean.clone();
    for (samples, noise) in mixed.samples_uv.iter_mut().zip(&noise.samples_uv) {
        samples.iter_mut().zip(noise).for_each(|(v, n)| *v += n);
    }
    let (own, theirs) = (band_power(clean), band_power(&noise));
    let true_db =
        std::array::from_fn(|l| (own[l] > 0.0 && theirs[l] > 0.0).then(|| 10.0 * (own[l] / theirs[l]).log10()));
    (mixed, true_db)
}

fn variance(context: &Context) -> [f64; LEADS] {
    std::array::from_fn(|lead| {
        let samples = &context.samples_uv[lead];
        let n = samples.len().max(1) as f64;
        let mean = samples.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        samples.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n
    })
}

/// Mean square of each lead inside the window after the filter chain.
fn band_power(context: &Context) -> [f64; LEADS] {
    let config = DspConfig::default();
    let (mut frames, mut out): (Vec<Frame>, Vec<Frame>) = (Vec::new(), Vec::new());
    repair::frames(context, &config, &mut repair::Scratch::default(), &mut frames);
    let plan = filter::Plan::new(filter::Band {
        high_pass_hz: config.high_pass_hz,
        low_pass_hz: config.low_pass_hz,
        notch_hz: None,
    });
    filter::zero_phase(&frames, &mut out, &plan);
    let square = |lead: usize| {
        out[filter::WINDOW]
            .iter()
            .map(|f| f64::from(f[lead]).powi(2))
            .sum::<f64>()
    };
    std::array::from_fn(|lead| square(lead) / SEGMENT_SAMPLES as f64)
}

fn walk(directory: &Path, headers: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, headers)?;
        } else if path.extension().is_some_and(|e| e == "hea") {
            headers.push(path);
        }
    }
    Ok(())
}
