//! `meit report`: one recording in; measurements, quality and a draft out, as text, JSON or a picture.
//!
//! Place: the one-shot path. It runs the same `ecg::dsp::analyse` and the same bundle as the stream, without Kafka.
//! Invariant: what the node abstains from (rejected, paced, faulty texts) has no draft here either. A draft never goes out
//! without saying that no clinician has reviewed it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use candle_core::Device;
use ecg::LEADS;
use ecg::dsp::{self, DspConfig};
use ecg::lead::Lead;
use ecg::segment::{Decision, LeadQuality, Reason, Segment};
use model::bundle::Bundle;
use model::generate::DecodeOptions;
use model::meit::EcgInput;
use model::validate::{TextFault, validate};
use node::draft::{Abstain, abstains};
use review::words::{measured, origin, reasons};
use serde::Serialize;

use crate::{assets, import, svg};

/// What stands over every draft that people see.
pub const DRAFT_HEADING: &str = "DRAFT - not reviewed by a clinician";
/// Width of the draft in the text output, characters.
const TEXT_WIDTH: usize = 96;

/// Arguments of `meit report`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The recording: a WFDB header (.hea) with its signal files beside it, an EDF or EDF+ file, or a DICOM ECG.
    #[arg(value_name = "RECORD")]
    pub record: PathBuf,
    /// Draws the twelve leads on ECG paper, with the draft, into this SVG file.
    #[arg(long, value_name = "OUT")]
    pub svg: Option<PathBuf>,
    /// Prints one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
    /// Model bundle that drafts; without it, the shipped one.
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Measures only; needs no bundle.
    #[arg(long, conflicts_with = "bundle")]
    pub no_draft: bool,
}

/// Why a reading has no draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoDraft {
    /// None was asked for.
    NotAsked,
    /// The node would abstain too.
    Abstained(Abstain),
}

/// What is known of one recording.
pub struct Reading {
    /// Name of the recording in its header.
    pub name: String,
    /// Its first ten seconds, analysed.
    pub segment: Segment,
    /// The chain's settings.
    pub dsp: DspConfig,
    /// The draft, or why there is none.
    pub draft: Result<String, NoDraft>,
    /// Bundle that drafted, or would have; none when no draft was asked for.
    pub bundle_id: Option<String>,
}

/// The JSON output; `null` where something is not measurable.
#[derive(Serialize)]
struct Summary<'a> {
    decision: Decision,
    reasons: &'a [Reason],
    /// Decibels, window-power definition, standard lead order.
    snr_db: [Option<f32>; LEADS],
    heart_rate_bpm: Option<f32>,
    pr_ms: Option<f32>,
    qrs_ms: Option<f32>,
    qt_ms: Option<f32>,
    qtc_ms: Option<f32>,
    axis_degrees: Option<f32>,
    draft: Option<&'a str>,
    bundle_id: Option<&'a str>,
}

/// Reads the recording and prints what the arguments ask for.
///
/// # Errors
/// A recording or bundle that cannot be read; an output that cannot be written.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let bundle = if arguments.no_draft {
        None
    } else {
        let dir = assets::bundle(arguments.bundle.as_deref()).context("find the bundle (--no-draft goes without)")?;
        let load = || format!("load the bundle in {}", dir.display());
        Some(Bundle::load(&dir, &Device::Cpu).with_context(load)?)
    };
    let reading = read(&arguments.record, bundle.as_ref())?;
    if let Some(path) = &arguments.svg {
        std::fs::write(path, svg::draw(&reading)).with_context(|| format!("write {}", path.display()))?;
    }
    let output = if arguments.json {
        reading.json()?
    } else {
        reading.text()
    };
    writeln!(std::io::stdout(), "{}", output.trim_end()).context("write to standard output")
}

/// Analyses the first ten seconds of a recording and, with a bundle, drafts its report where the node would.
///
/// # Errors
/// A recording that cannot be read or holds fewer than ten seconds or two leads; a tensor operation that fails.
pub fn read(record: &Path, bundle: Option<&Bundle>) -> anyhow::Result<Reading> {
    let recording = import::read(record)?;
    let dsp = DspConfig::default();
    let segment = dsp::analyse(&recording.context().context("cut the first ten seconds")?, &dsp);
    let draft = match bundle {
        Some(bundle) => draft(&segment, bundle)?.map_err(NoDraft::Abstained),
        None => Err(NoDraft::NotAsked),
    };
    Ok(Reading {
        name: recording.name,
        segment,
        dsp,
        draft,
        bundle_id: bundle.map(|bundle| bundle.id().to_owned()),
    })
}

fn draft(segment: &Segment, bundle: &Bundle) -> anyhow::Result<Result<String, Abstain>> {
    if let Some(why) = abstains(segment) {
        return Ok(Err(why));
    }
    let drafts = bundle
        .drafting()
        .draft(&[EcgInput::from(segment)], &DecodeOptions::default())
        .context("draft the report")?;
    let Some(text) = drafts.into_iter().next().map(|draft| draft.text) else {
        return Ok(Err(Abstain::Text(TextFault::Empty)));
    };
    Ok(match validate(&text) {
        Ok(()) => Ok(text.trim().to_owned()),
        Err(fault) => Err(Abstain::Text(fault)),
    })
}

impl Reading {
    /// One JSON object.
    ///
    /// # Errors
    /// None in practice; serde_json's are passed on.
    pub fn json(&self) -> anyhow::Result<String> {
        let m = &self.segment.measurements;
        let summary = Summary {
            decision: self.segment.decision,
            reasons: &self.segment.reasons,
            snr_db: std::array::from_fn(|lead| self.segment.quality[lead].snr_db),
            heart_rate_bpm: m.heart_rate_bpm,
            pr_ms: m.pr_ms,
            qrs_ms: m.qrs_ms,
            qt_ms: m.qt_ms,
            qtc_ms: m.qtc_ms,
            axis_degrees: m.axis_degrees,
            draft: self.draft.as_deref().ok(),
            bundle_id: self.bundle_id.as_deref(),
        };
        serde_json::to_string(&summary).context("encode the reading")
    }

    /// Measurements, the quality of each lead, and the draft, for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // writing to a String cannot fail
        let _ = writeln!(out, "Recording   {} ({} Hz)", self.name, self.segment.source_rate_hz);
        let _ = writeln!(out, "Decision    {}", self.segment.decision.as_str());
        let _ = writeln!(out, "Reasons     {}\n", reasons(&self.segment.reasons, "none"));
        for (name, value) in measured(&self.segment.measurements) {
            let _ = writeln!(out, "{name:<11} {value}");
        }
        let _ = writeln!(out, "\nLead  SNR dB  Baseline µV  Mains µV  Origin         Read  Flags");
        for (lead, quality) in Lead::ALL.into_iter().zip(&self.segment.quality) {
            let _ = writeln!(out, "{}", quality_row(lead, quality));
        }
        let _ = writeln!(out, "\n{DRAFT_HEADING} ({})", self.lineage());
        for line in wrap(&self.draft_or_why(), TEXT_WIDTH) {
            let _ = writeln!(out, "  {line}");
        }
        out
    }

    /// The draft, or a sentence that says why there is none.
    pub fn draft_or_why(&self) -> String {
        match &self.draft {
            Ok(text) => text.clone(),
            Err(NoDraft::NotAsked) => "No draft: none was asked for.".to_owned(),
            Err(NoDraft::Abstained(Abstain::Rejected)) => format!(
                "No draft: the recording was rejected ({}).",
                reasons(&self.segment.reasons, "no reason")
            ),
            Err(NoDraft::Abstained(why)) => format!("No draft: abstained ({}).", why.as_str().replace('_', " ")),
        }
    }

    /// The bundle, in words.
    pub fn lineage(&self) -> String {
        self.bundle_id
            .as_ref()
            .map_or_else(|| "no bundle".to_owned(), |id| format!("bundle {id}"))
    }
}

fn quality_row(lead: Lead, quality: &LeadQuality) -> String {
    let snr = quality.snr_db.map_or_else(|| "-".to_owned(), |db| format!("{db:.1}"));
    format!(
        "{:<4} {:>7} {:>12.0} {:>9.0}  {:<13}  {:<4}  {}",
        lead.name(),
        snr,
        quality.baseline_uv,
        quality.mains_uv,
        origin(quality.origin),
        if quality.usable { "yes" } else { "no" },
        reasons(&quality.flags, "-"),
    )
}

/// Breaks a text between words into lines of at most `width` characters; a longer word stays whole.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Twelve leads of made-up beats at 75 bpm, analysed.
    pub(crate) fn reading(draft: Option<&str>, decision: Decision) -> Reading {
        let beat = |i: usize| {
            let phase = (i % 400) as f32;
            1000.0 * (-((phase - 200.0) / 8.0).powi(2)).exp() + 200.0 * (-((phase - 330.0) / 30.0).powi(2)).exp()
        };
        let samples_uv = vec![(0..ecg::SEGMENT_SAMPLES).map(beat).collect(); LEADS];
        let context = ecg::window::Context::of("made-up", samples_uv);
        let dsp = DspConfig::default();
        let mut segment = dsp::analyse(&context, &dsp);
        segment.decision = decision;
        Reading {
            name: "made-up".into(),
            segment,
            dsp,
            draft: draft.map(str::to_owned).ok_or(NoDraft::Abstained(Abstain::Rejected)),
            bundle_id: Some("0123456789abcdef".into()),
        }
    }

    #[test]
    fn the_json_has_exactly_the_documented_keys() {
        let json: serde_json::Value =
            serde_json::from_str(&reading(Some("sinus rhythm."), Decision::Accept).json().unwrap()).unwrap();
        let mut keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        let mut expected = [
            "decision",
            "reasons",
            "snr_db",
            "heart_rate_bpm",
            "pr_ms",
            "qrs_ms",
            "qt_ms",
            "qtc_ms",
            "axis_degrees",
            "draft",
            "bundle_id",
        ];
        expected.sort_unstable();
        assert_eq!(keys, expected);
        assert_eq!(json["snr_db"].as_array().unwrap().len(), LEADS);
        assert_eq!(json["decision"], "accept");
    }

    #[test]
    fn a_rejected_recording_has_a_null_draft_and_says_why() {
        let mut rejected = reading(None, Decision::Reject);
        rejected.segment.reasons = vec![Reason::Flat, Reason::SnrLow];
        let json: serde_json::Value = serde_json::from_str(&rejected.json().unwrap()).unwrap();
        assert!(json["draft"].is_null());
        assert_eq!(json["reasons"], serde_json::json!(["flat", "snr_low"]));
        assert!(
            rejected
                .text()
                .contains("No draft: the recording was rejected (flat, snr low).")
        );
    }

    #[test]
    fn a_reading_without_a_bundle_has_null_draft_and_bundle_and_says_so() {
        let mut measured_only = reading(None, Decision::Accept);
        measured_only.draft = Err(NoDraft::NotAsked);
        measured_only.bundle_id = None;
        let json: serde_json::Value = serde_json::from_str(&measured_only.json().unwrap()).unwrap();
        assert!(json["draft"].is_null() && json["bundle_id"].is_null());
        assert!(
            measured_only
                .text()
                .contains("(no bundle)\n  No draft: none was asked for.")
        );
    }

    #[test]
    fn a_paced_or_faulty_draft_names_the_nodes_reason() {
        for (why, words) in [
            (Abstain::Paced, "paced"),
            (Abstain::Text(TextFault::Looping), "text looping"),
        ] {
            let mut abstained = reading(None, Decision::Marginal);
            abstained.draft = Err(NoDraft::Abstained(why));
            assert_eq!(abstained.draft_or_why(), format!("No draft: abstained ({words})."));
        }
    }

    #[test]
    fn the_text_names_every_lead_and_marks_the_draft() {
        let text = reading(Some("sinus rhythm. normal ecg."), Decision::Accept).text();
        for lead in Lead::ALL {
            assert!(
                text.lines()
                    .any(|line| line.split_whitespace().next() == Some(lead.name())),
                "{lead}"
            );
        }
        assert!(text.contains("DRAFT - not reviewed by a clinician"));
        assert!(text.contains("Heart rate  75 bpm"), "{text}");
    }

    #[test]
    fn lines_break_between_words_and_long_words_stay_whole() {
        assert_eq!(wrap("sinus rhythm. normal ecg.", 13), ["sinus rhythm.", "normal ecg."]);
        assert_eq!(
            wrap("a electrocardiographically b", 5),
            ["a", "electrocardiographically", "b"]
        );
        assert!(wrap(" ", 5).is_empty());
    }
}
