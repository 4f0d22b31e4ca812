//! Statements that a head on the encoder's frames and on the recording's morphology names, for the prompt.
//!
//! Place: between `encoder`, `morphology` and `evidence`. Shapes: frames (B, S', F), morphology (B, M) -> probabilities (B, N).
//! Invariant: a pure function of one recording; which statements there are and when one is named stands in the bundle's manifest.

use candle_core::{D, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::checks::Pace;
use crate::error::{Error, Result};
use crate::layers::Linear;
use crate::meit::EcgInput;
use crate::morphology::{self, morphology};
use crate::weights::Weights;

/// A statement that may be named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// As the prompt names it: an SCP-ECG code in lower case, such as "lvh".
    pub name: String,
    /// It is named where its probability is above this; 1 never names it.
    pub threshold: f32,
}

impl Finding {
    /// # Errors
    /// [`Error::Config`] for a name that is not one word, or a threshold out of 0..=1.
    pub fn validate(&self) -> Result<()> {
        let fail = |key, value: String, bound: &str| {
            let bound = bound.to_owned();
            Err(Error::Config { key, value, bound })
        };
        if self.name.is_empty() || self.name.chars().any(char::is_whitespace) {
            return fail("findings.name", self.name.clone(), "must be one word");
        }
        if !(0.0..=1.0).contains(&self.threshold) {
            return fail("findings.threshold", self.threshold.to_string(), "must be in 0..=1");
        }
        Ok(())
    }
}

/// Sizes of what the head makes of the morphology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MorphologyConfig {
    /// Width of the hidden layer.
    pub hidden: usize,
}

/// Hidden layer over the morphology: (B, M) -> (B, hidden). A clone shares the weights.
#[derive(Clone)]
pub struct MorphologyLayer(Linear);

impl MorphologyLayer {
    /// Reads `morphology.hidden`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(w: &Weights, config: MorphologyConfig) -> Result<Self> {
        Linear::load(&w.pp("morphology.hidden"), morphology::LENGTH, config.hidden).map(Self)
    }

    /// # Errors
    /// A tensor operation that fails.
    pub fn forward(&self, morphology: &Tensor) -> candle_core::Result<Tensor> {
        self.0.forward(morphology)?.relu()
    }
}

/// One logistic output a statement, over the mean and the maximum of the frames; where the bundle has it, its probability is the
/// mean with that of a second output, over the morphology. A clone shares the weights.
#[derive(Clone)]
pub struct FindingsHead {
    linear: Linear,
    morphology: Option<(MorphologyLayer, Linear)>,
    findings: Vec<Finding>,
}

impl FindingsHead {
    /// Reads `findings.weight` (N, 2 F) and `findings.bias` (N), and with a morphology `morphology.hidden` and `morphology.findings`.
    ///
    /// # Errors
    /// A finding out of bounds; a tensor that is missing or of another shape.
    pub fn load(
        w: &Weights,
        features: usize,
        morphology: Option<MorphologyConfig>,
        findings: &[Finding],
    ) -> Result<Self> {
        findings.iter().try_for_each(Finding::validate)?;
        let second = |config: MorphologyConfig| {
            let output = Linear::load(&w.pp("morphology.findings"), config.hidden, findings.len())?;
            Ok::<_, Error>((MorphologyLayer::load(w, config)?, output))
        };
        Ok(Self {
            linear: Linear::load(&w.pp("findings"), 2 * features, findings.len())?,
            morphology: morphology.map(second).transpose()?,
            findings: findings.to_vec(),
        })
    }

    /// Names of each recording's statements, in the manifest's order: B recordings and their frames (B, S', F) -> B lists.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub fn named(&self, ecgs: &[&EcgInput], frames: &Tensor) -> candle_core::Result<Vec<Vec<&str>>> {
        let of_morphology = |(hidden, output): &(MorphologyLayer, Linear)| {
            let rows: Vec<Vec<f32>> = ecgs.iter().map(|ecg| morphology(ecg)).collect();
            output.forward(&hidden.forward(&stacked(&rows, frames.device())?)?)
        };
        let second = self.morphology.as_ref().map(of_morphology).transpose()?;
        let rows = probabilities(&self.linear.forward(&pooled(frames)?)?, second.as_ref())?;
        let name = |at: usize| self.findings[at].name.as_str();
        let names = |(row, ecg): (&Vec<f32>, &&EcgInput)| {
            let named = named(&self.findings, row, ecg.measurements.heart_rate_bpm);
            named.into_iter().map(name).collect()
        };
        Ok(rows.iter().zip(ecgs).map(names).collect())
    }
}

/// Places of the statements that one recording's probabilities name, rising; a sinus rhythm goes by a name that its measured rate
/// allows.
pub fn named(findings: &[Finding], probabilities: &[f32], heart_rate_bpm: Option<f32>) -> Vec<usize> {
    let each = findings.iter().zip(probabilities).enumerate();
    let mut places: Vec<usize> = each
        .filter(|(_, (finding, p))| **p > finding.threshold)
        .map(|(at, _)| at)
        .collect();
    let Some(bpm) = heart_rate_bpm else { return places };
    let allowed = sinus_at(bpm);
    let is = |names: &[&str], at: usize| names.contains(&findings[at].name.as_str());
    let is_sinus = places.iter().any(|&at| is(&SINUS, at));
    places.retain(|&at| !is(&SINUS, at) || is(allowed, at));
    if is_sinus && !places.iter().any(|&at| is(&SINUS, at)) {
        places.extend((0..findings.len()).find(|&at| is(&allowed[..1], at)));
        places.sort_unstable();
    }
    places
}

/// Sinus rhythm, sinus bradycardia and sinus tachycardia, as the prompt names them.
const SINUS: [&str; 3] = ["sr", "sbrad", "stach"];

/// Those of [`SINUS`] that a heart rate allows by the bounds of `checks`, the likeliest first.
fn sinus_at(bpm: f32) -> &'static [&'static str] {
    match Pace::of(bpm) {
        Pace::Slow => &["sbrad"],
        Pace::Slowish => &["sr", "sbrad"],
        Pace::Even => &["sr"],
        Pace::Fastish => &["sr", "stach"],
        Pace::Fast => &["stach"],
    }
}

/// What the head sees: frames (B, S', F) -> mean and maximum over time (B, 2 F).
pub fn pooled(frames: &Tensor) -> candle_core::Result<Tensor> {
    Tensor::cat(&[frames.mean(1)?, frames.max(1)?], D::Minus1)
}

/// Recordings' morphologies as a tensor (B, M).
///
/// # Errors
/// A tensor that cannot be made.
pub fn stacked(rows: &[impl AsRef<[f32]>], device: &Device) -> candle_core::Result<Tensor> {
    let values: Vec<f32> = rows.iter().flat_map(|row| row.as_ref()).copied().collect();
    Tensor::from_vec(values, (rows.len(), morphology::LENGTH), device)
}

/// Logits (B, N) of one output, or of both -> probabilities, row by row: the mean of both outputs'.
pub fn probabilities(of_frames: &Tensor, of_morphology: Option<&Tensor>) -> candle_core::Result<Vec<Vec<f32>>> {
    let own = candle_nn::ops::sigmoid(of_frames)?;
    match of_morphology {
        None => own,
        Some(logits) => ((own + candle_nn::ops::sigmoid(logits)?)? * 0.5)?,
    }
    .to_vec2()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn finding(name: &str, threshold: f32) -> Finding {
        Finding {
            name: name.to_owned(),
            threshold,
        }
    }

    fn head(thresholds: [f32; 2]) -> Result<FindingsHead> {
        // "high" is as probable as the maximum of the frames is large, "mean" as their mean
        let weight = Tensor::new(&[[0f32, 1.0], [1.0, 0.0]], &Device::Cpu)?;
        let bias = Tensor::new(&[0f32, 0.0], &Device::Cpu)?;
        let tensors = [("findings.weight", weight), ("findings.bias", bias)];
        let weights = Weights::new(tensors.map(|(name, t)| (name.to_owned(), t)).into_iter().collect());
        FindingsHead::load(
            &weights,
            1,
            None,
            &[finding("high", thresholds[0]), finding("mean", thresholds[1])],
        )
    }

    #[test]
    fn a_statement_is_named_above_its_threshold() -> Result<()> {
        let frames = Tensor::new(&[[[4f32], [-4.0]], [[1.0], [1.0]]], &Device::Cpu)?;
        let ecg = EcgInput::default();
        let named = |thresholds| -> Result<Vec<Vec<String>>> {
            let head = head(thresholds)?;
            let rows = head.named(&[&ecg, &ecg], &frames)?;
            Ok(rows
                .iter()
                .map(|row| row.iter().map(|name| (*name).to_owned()).collect())
                .collect())
        };
        assert_eq!(named([0.9, 0.6])?, [vec!["high"], vec!["mean"]]);
        assert_eq!(named([1.0, 0.5])?, [vec![], vec!["mean"]]);
        Ok(())
    }

    #[test]
    fn morphology_has_half_a_say() -> Result<()> {
        // of the frames the probability is 0.73; of the morphology 0.88 where the heart rate is known, else 0.02
        let mut hidden = vec![0f32; morphology::LENGTH];
        hidden[0] = 1.0;
        let tensors = [
            ("findings.weight", Tensor::new(&[[1f32, 0.0]], &Device::Cpu)?),
            ("findings.bias", Tensor::new(&[0f32], &Device::Cpu)?),
            (
                "morphology.hidden.weight",
                Tensor::from_vec(hidden, (1, morphology::LENGTH), &Device::Cpu)?,
            ),
            ("morphology.hidden.bias", Tensor::new(&[0f32], &Device::Cpu)?),
            ("morphology.findings.weight", Tensor::new(&[[6f32]], &Device::Cpu)?),
            ("morphology.findings.bias", Tensor::new(&[-4f32], &Device::Cpu)?),
        ];
        let weights = Weights::new(tensors.map(|(name, t)| (name.to_owned(), t)).into_iter().collect());
        let config = Some(MorphologyConfig { hidden: 1 });
        let head = FindingsHead::load(&weights, 1, config, &[finding("sr", 0.5)])?;
        let frames = Tensor::new(&[[[1f32]], [[1.0]]], &Device::Cpu)?;
        let (unknown, mut known) = (EcgInput::default(), EcgInput::default());
        known.measurements.heart_rate_bpm = Some(75.0);
        assert_eq!(head.named(&[&unknown, &known], &frames)?, [vec![], vec!["sr"]]);
        let missing = FindingsHead::load(&weights, 1, Some(MorphologyConfig { hidden: 2 }), &[finding("sr", 0.5)]);
        assert!(missing.is_err());
        Ok(())
    }

    #[test]
    fn a_sinus_rhythm_goes_by_a_name_that_its_rate_allows() {
        let findings = ["lvh", "sr", "sbrad", "stach"].map(|name| finding(name, 0.5));
        let named = |probabilities: [f32; 4], bpm| -> Vec<&str> {
            let places = named(&findings, &probabilities, bpm);
            places.iter().map(|&at| findings[at].name.as_str()).collect()
        };
        let (normal, slow, fast) = ([0.9, 0.9, 0.0, 0.0], [0.0, 0.0, 0.9, 0.0], [0.0, 0.0, 0.0, 0.9]);
        for (probabilities, bpm, expected) in [
            (normal, None, vec!["lvh", "sr"]),
            (normal, Some(75.0), vec!["lvh", "sr"]),
            (normal, Some(49.0), vec!["lvh", "sbrad"]),
            (normal, Some(55.0), vec!["lvh", "sr"]),
            (normal, Some(110.0), vec!["lvh", "stach"]),
            (slow, Some(55.0), vec!["sbrad"]),
            (slow, Some(75.0), vec!["sr"]),
            (fast, Some(100.0), vec!["stach"]),
            (fast, Some(90.0), vec!["sr"]),
            (fast, Some(40.0), vec!["sbrad"]),
            ([0.9, 0.0, 0.0, 0.0], Some(40.0), vec!["lvh"]),
        ] {
            assert_eq!(named(probabilities, bpm), expected, "at {bpm:?}");
        }
        // where the bundle does not know the name, nothing is put in its place
        let place = super::named(&findings[..2], &[0.0, 0.9], Some(40.0));
        assert_eq!(place, Vec::<usize>::new());
    }

    #[test]
    fn a_name_of_two_words_and_a_threshold_above_one_are_refused() {
        for (bad, part) in [
            (finding("left lvh", 0.5), "left lvh"),
            (finding("lvh", 1.5), "1.5"),
            (finding("lvh", f32::NAN), "NaN"),
        ] {
            let error = bad.validate().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
