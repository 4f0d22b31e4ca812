//! What was measured of an ECG and which statements the encoder's head names, as words of the prompt.
//!
//! Place: between a segment's measurements, `findings` and `prompt::instruction`. Invariant: a pure function of both, with values
//! rounded so coarsely that each is one the training set has seen; what was not measured is said to be unknown.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use ecg::segment::Measurements;
use serde::{Deserialize, Serialize};

use crate::checks::Pace;

/// What a bundle's prompt tells the model beside the ECG.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// Nothing: the model sees the ECG alone.
    #[default]
    None,
    /// Heart rate, RR variability, intervals and axis.
    Measurements,
    /// The measurements, and the statements that the encoder's head names.
    Findings,
    /// As `Findings`, with a word beside the heart rate: how fast a text may call it (`checks::Pace`).
    RatedFindings,
}

impl FromStr for Evidence {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "none" => Ok(Evidence::None),
            "measurements" => Ok(Evidence::Measurements),
            "findings" => Ok(Evidence::Findings),
            "rated_findings" => Ok(Evidence::RatedFindings),
            _ => Err(format!(
                "evidence is {name}: must be none, measurements, findings or rated_findings"
            )),
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Evidence::None => "none",
            Evidence::Measurements => "measurements",
            Evidence::Findings => "findings",
            Evidence::RatedFindings => "rated_findings",
        })
    }
}

impl Evidence {
    /// The words, or None where the prompt carries no evidence.
    pub fn words(self, measurements: &Measurements, named: &[&str]) -> Option<String> {
        if self == Evidence::None {
            return None;
        }
        let mut text = measured(measurements, self == Evidence::RatedFindings);
        if self.tells_findings() {
            let names = if named.is_empty() {
                "none".to_owned()
            } else {
                named.join(" ")
            };
            text = format!("{text} findings {names}");
        }
        Some(text)
    }

    /// Whether the prompt tells what a head names.
    pub fn tells_findings(self) -> bool {
        matches!(self, Evidence::Findings | Evidence::RatedFindings)
    }
}

/// Steps to which the values are rounded: beats a minute, percent of the mean RR interval, milliseconds, degrees.
const RATE_STEP: f32 = 5.0;
const RR_SD_STEP: f32 = 2.0;
const PR_STEP: f32 = 20.0;
const QRS_STEP: f32 = 10.0;
const QTC_STEP: f32 = 20.0;
const AXIS_STEP: f32 = 15.0;

fn measured(m: &Measurements, with_pace: bool) -> String {
    let rr_sd_percent = m
        .rr_sd_ms
        .zip(m.heart_rate_bpm)
        .map(|(sd, bpm)| 100.0 * sd * bpm / 60_000.0);
    let facts = [
        ("rate", m.heart_rate_bpm, RATE_STEP, 20.0..=250.0),
        ("rr", rr_sd_percent, RR_SD_STEP, 0.0..=40.0),
        ("pr", m.pr_ms, PR_STEP, 80.0..=400.0),
        ("qrs", m.qrs_ms, QRS_STEP, 50.0..=200.0),
        ("qtc", m.qtc_ms, QTC_STEP, 300.0..=600.0),
        ("axis", m.axis_degrees, AXIS_STEP, -180.0..=180.0),
    ];
    let mut text = String::new();
    for (name, value, step, range) in facts {
        let value = value.filter(|v| v.is_finite());
        match value.map(|v| (v.clamp(*range.start(), *range.end()) / step).round() * step) {
            // an i64 has no negative zero
            Some(v) => write!(text, " {name} {}", v as i64),
            None => write!(text, " {name} unknown"),
        }
        .expect("a String takes what is written");
        if with_pace
            && name == "rate"
            && let Some(bpm) = value
        {
            text.push(' ');
            text.push_str(Pace::of(bpm).word());
        }
    }
    text.trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_and_what_is_not_measured_is_unknown() {
        let m = Measurements {
            heart_rate_bpm: Some(71.6),
            rr_sd_ms: Some(50.0),
            qrs_ms: Some(94.0),
            axis_degrees: Some(-5.0),
            ..Measurements::default()
        };
        let text = Evidence::Measurements.words(&m, &["lvh"]).unwrap();
        assert_eq!(text, "rate 70 rr 6 pr unknown qrs 90 qtc unknown axis 0");
        assert_eq!(Evidence::None.words(&m, &["lvh"]), None);
    }

    #[test]
    fn statements_follow_the_measurements() {
        let text = |named: &[&str]| Evidence::Findings.words(&Measurements::default(), named).unwrap();
        assert!(text(&["sr", "lvh"]).ends_with("axis unknown findings sr lvh"));
        assert!(text(&[]).ends_with("axis unknown findings none"));
    }

    #[test]
    fn a_rated_prompt_says_how_fast_the_measured_rate_may_be_called() {
        let text = |bpm| {
            let m = Measurements {
                heart_rate_bpm: bpm,
                ..Measurements::default()
            };
            Evidence::RatedFindings.words(&m, &["afib"]).unwrap()
        };
        // by the rate itself, not by the rounded one
        assert!(text(Some(49.9)).starts_with("rate 50 slow rr"));
        assert!(text(Some(50.0)).starts_with("rate 50 slowish rr"));
        assert!(text(Some(91.0)).starts_with("rate 90 even rr"));
        assert!(text(None).starts_with("rate unknown rr"));
        assert!(text(Some(f32::NAN)).starts_with("rate unknown rr"));
        assert!(text(Some(120.0)).ends_with("axis unknown findings afib"));
    }

    #[test]
    fn values_out_of_range_are_held_at_its_ends() {
        let m = Measurements {
            heart_rate_bpm: Some(1e6),
            pr_ms: Some(f32::NAN),
            ..Measurements::default()
        };
        let text = Evidence::Measurements.words(&m, &[]).unwrap();
        assert!(text.starts_with("rate 250 rr unknown pr unknown"), "{text}");
    }
}
