//! Statements that a head on the encoder's frames names, for the prompt.
//!
//! Place: between `encoder` and `evidence`. Shapes: frames (B, S', F) -> probabilities (B, N). Invariant: a pure function of one
//! recording's frames; which statements there are and when one is named stands in the bundle's manifest.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::layers::Linear;
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

/// One logistic output a statement, over the mean and the maximum of the frames. A clone shares the weights.
#[derive(Clone)]
pub struct FindingsHead {
    linear: Linear,
    findings: Vec<Finding>,
}

impl FindingsHead {
    /// Reads `findings.weight` (N, 2 F) and `findings.bias` (N).
    ///
    /// # Errors
    /// A finding out of bounds; a tensor that is missing or of another shape.
    pub fn load(w: &Weights, features: usize, findings: &[Finding]) -> Result<Self> {
        findings.iter().try_for_each(Finding::validate)?;
        Ok(Self {
            linear: Linear::load(&w.pp("findings"), 2 * features, findings.len())?,
            findings: findings.to_vec(),
        })
    }

    /// Names of each recording's statements, in the manifest's order: frames (B, S', F) -> B lists.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub fn named(&self, frames: &Tensor) -> candle_core::Result<Vec<Vec<&str>>> {
        let rows = probabilities(&self.linear.forward(&pooled(frames)?)?)?;
        let name = |at: usize| self.findings[at].name.as_str();
        let names = |row: &Vec<f32>| named(&self.findings, row).into_iter().map(name).collect();
        Ok(rows.iter().map(names).collect())
    }
}

/// Places of the statements that one recording's probabilities name, rising.
pub fn named(findings: &[Finding], probabilities: &[f32]) -> Vec<usize> {
    let each = findings.iter().zip(probabilities).enumerate();
    each.filter(|(_, (finding, p))| **p > finding.threshold)
        .map(|(at, _)| at)
        .collect()
}

/// What the head sees: frames (B, S', F) -> mean and maximum over time (B, 2 F).
pub fn pooled(frames: &Tensor) -> candle_core::Result<Tensor> {
    Tensor::cat(&[frames.mean(1)?, frames.max(1)?], D::Minus1)
}

/// Logits (B, N) -> probabilities, row by row.
pub fn probabilities(logits: &Tensor) -> candle_core::Result<Vec<Vec<f32>>> {
    candle_nn::ops::sigmoid(logits)?.to_vec2()
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
            &[finding("high", thresholds[0]), finding("mean", thresholds[1])],
        )
    }

    #[test]
    fn a_statement_is_named_above_its_threshold() -> Result<()> {
        let frames = Tensor::new(&[[[4f32], [-4.0]], [[1.0], [1.0]]], &Device::Cpu)?;
        assert_eq!(head([0.9, 0.6])?.named(&frames)?, [vec!["high"], vec!["mean"]]);
        assert_eq!(head([1.0, 0.5])?.named(&frames)?, [vec![], vec!["mean"]]);
        Ok(())
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
