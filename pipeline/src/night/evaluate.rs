//! Candidate and champion on the same test samples.
//!
//! Place: third step of the job. Invariant: both draft the same recordings with the same options; the prompt is never part of
//! a scored text; a text that is unfit to be read counts as an abstention and as an empty text.

use candle_core::Device;
use model::bundle::Bundle;
use model::checks::contradictions;
use model::generate::DecodeOptions;
use model::validate::validate;
use serde::{Deserialize, Serialize};

use crate::gate::Metrics;
use crate::manifest::{Dataset, sha256};
use crate::sources::Split;

/// ECGs that are drafted together.
const BATCH: usize = 64;

/// What a bundle wrote about the test samples, and how well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    pub bundle_id: String,
    pub metrics: Metrics,
    /// One text a test sample; empty where it abstained.
    pub texts: Vec<String>,
}

/// The test samples of a data set, at most `max` of them, drawn by hash and sorted.
pub fn test_set(data: &Dataset, max: usize, seed: u64) -> Vec<usize> {
    let mut test = data.indices(|s| s.split == Split::Test);
    test.sort_by_cached_key(|&i| sha256(format!("test\0{seed}\0{}", data.samples()[i].id).as_bytes()));
    test.truncate(max);
    test.sort_unstable();
    test
}

/// Drafts and scores.
///
/// # Errors
/// A bundle or recording that cannot be read.
pub fn score(bundle: &std::path::Path, data: &Dataset, test: &[usize]) -> anyhow::Result<Scored> {
    let bundle = Bundle::load(bundle, &Device::Cpu)?;
    let options = DecodeOptions::default();
    let mut texts = Vec::with_capacity(test.len());
    for chunk in test.chunks(BATCH) {
        let ecgs = chunk.iter().map(|&i| Ok(data.ecg(i)?.input()));
        let ecgs = ecgs.collect::<anyhow::Result<Vec<_>>>()?;
        texts.extend(bundle.drafting().draft(&ecgs, &options)?.into_iter().map(|d| d.text));
    }
    let abstained = |text: &String| validate(text).is_err();
    let abstentions = texts.iter().filter(|text| abstained(text)).count();
    texts.iter_mut().filter(|text| abstained(text)).for_each(String::clear);
    let contradicted = test
        .iter()
        .zip(&texts)
        .filter(|(i, text)| !contradictions(text, &data.samples()[**i].measurements).is_empty());
    let contradicted = contradicted.count();
    let references: Vec<&str> = test.iter().map(|&i| data.samples()[i].report.as_str()).collect();
    let n = test.len();
    let pairs = |shift: usize| -> Vec<(String, String)> {
        (0..n)
            .map(|i| (texts[(i + shift) % n].clone(), references[i].to_owned()))
            .collect()
    };
    let own = score::score_pairs(&pairs(0), &score::Options::default())?;
    let others = score::score_pairs(&pairs(1), &score::Options::default())?;
    let share = |count: usize| count as f64 / n.max(1) as f64;
    let metrics = [
        ("bleu4", own.bleu4),
        ("meteor", own.meteor_stem),
        ("rouge_l", own.rouge_l),
        ("cider_d", own.cider_d),
        (
            "ecg_use",
            if own.rouge_l > 0.0 {
                1.0 - others.rouge_l / own.rouge_l
            } else {
                0.0
            },
        ),
        ("abstain_rate", share(abstentions)),
        ("contradiction_rate", share(contradicted)),
    ];
    Ok(Scored {
        bundle_id: bundle.id().to_owned(),
        metrics: metrics
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        texts,
    })
}
