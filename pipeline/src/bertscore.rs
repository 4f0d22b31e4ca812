//! BERTScore: greedy cosine matching of contextual token embeddings, precision, recall and F1.
//!
//! Place: beside the n-gram metrics, when weights are given by path. Invariant: equals the bert-score package on the same
//! weights, layer and baseline, without idf weights; BERT's and RoBERTa's own marker tokens take part in matching but carry
//! no weight. Source: Zhang et al. 2020; bert_score/utils.py (`greedy_cos_idf`, `sent_encode`, `model2layers`).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use serde::Serialize;
use tokenizers::Tokenizer;

/// Texts of one length that are encoded in one call.
const BATCH: usize = 32;
/// Positions that RoBERTa leaves unused before the first token, its padding index plus one.
const ROBERTA_FIRST_POSITION: usize = 2;

/// Which weights, which layer.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct BertScoreArgs {
    /// Directory of a BERT or RoBERTa model (config.json, model.safetensors, tokenizer.json), for BERTScore.
    #[arg(long = "bertscore", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Layer whose embeddings are compared; the bert-score package's choice for the usual sizes without it.
    #[arg(long = "bertscore-layer", value_name = "LAYER")]
    pub layer: Option<usize>,
    /// The bert-score package's baseline table (LAYER,P,R,F) to rescale with, such as rescale_baseline/en/roberta-large.tsv.
    #[arg(long = "bertscore-baseline", value_name = "TSV")]
    pub baseline: Option<PathBuf>,
}

/// Corpus means, and each pair's values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BertScores {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    pub layer: usize,
    /// True when a baseline was subtracted: 0 is then the score of unrelated texts.
    pub rescaled: bool,
    /// Precision, recall and F1 of each pair.
    #[serde(skip)]
    pub each: Vec<[f64; 3]>,
}

/// A loaded model.
pub struct BertScorer {
    model: BertModel,
    tokenizer: Tokenizer,
    markers: Vec<u32>,
    starts_with_space: bool,
    tokens_max: usize,
    layer: usize,
    baseline: Option<[f64; 3]>,
}

/// Unit-length embeddings of a text's tokens, and which of them carry weight.
struct Embedded {
    rows: Vec<Vec<f32>>,
    weighted: Vec<bool>,
}

impl BertScorer {
    /// Loads the layers that are needed; none when no directory is given.
    ///
    /// # Errors
    /// A file that cannot be read, a model that is neither BERT nor RoBERTa, a layer that it or the baseline lacks.
    pub fn open(args: &BertScoreArgs) -> anyhow::Result<Option<Self>> {
        let Some(dir) = &args.dir else { return Ok(None) };
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let mut config: Config = serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        let kind = config.model_type.clone().unwrap_or_default();
        ensure!(
            matches!(kind.as_str(), "bert" | "roberta"),
            "{}: model_type is {kind:?}: expected bert or roberta",
            path.display()
        );
        let layer = match args.layer {
            Some(layer) => layer,
            None => usual_layer(&kind, config.num_hidden_layers).with_context(|| {
                format!(
                    "no usual layer for {kind} of {} layers: give --bertscore-layer",
                    config.num_hidden_layers
                )
            })?,
        };
        ensure!(
            (1..=config.num_hidden_layers).contains(&layer),
            "--bertscore-layer is {layer}: the model has layers 1 to {}",
            config.num_hidden_layers
        );
        config.num_hidden_layers = layer;
        let first_position = if kind == "roberta" { ROBERTA_FIRST_POSITION } else { 0 };
        config.max_position_embeddings -= first_position;
        let weights = weights(&dir.join("model.safetensors"), &kind, first_position)?;
        let tokenizer_path = dir.join("tokenizer.json");
        let mut tokenizer =
            Tokenizer::from_file(&tokenizer_path).map_err(|e| anyhow!("read {}: {e}", tokenizer_path.display()))?;
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|e| anyhow!("{}: {e}", tokenizer_path.display()))?;
        let markers = tokenizer.encode("", true).map_err(|e| anyhow!("encode nothing: {e}"))?;
        Ok(Some(Self {
            model: BertModel::load(VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu), &config)
                .with_context(|| format!("load {}", dir.display()))?,
            tokenizer,
            markers: markers.get_ids().to_vec(),
            starts_with_space: kind == "roberta",
            tokens_max: config.max_position_embeddings,
            layer,
            baseline: args.baseline.as_deref().map(|path| baseline(path, layer)).transpose()?,
        }))
    }

    /// Scores (hypothesis, reference) pairs; the text is compared as it is, case included.
    ///
    /// # Errors
    /// A text that cannot be encoded, a tensor operation that fails.
    pub fn score(&self, pairs: &[(String, String)]) -> anyhow::Result<BertScores> {
        let embedded = self.embed(pairs.iter().flat_map(|(h, r)| [h.trim(), r.trim()]))?;
        let each: Vec<[f64; 3]> = pairs
            .iter()
            .map(|(h, r)| self.rescaled(matched(&embedded[h.trim()], &embedded[r.trim()])))
            .collect();
        let mean = |k: usize| each.iter().map(|values| values[k]).sum::<f64>() / each.len().max(1) as f64;
        Ok(BertScores {
            precision: mean(0),
            recall: mean(1),
            f1: mean(2),
            layer: self.layer,
            rescaled: self.baseline.is_some(),
            each,
        })
    }

    fn rescaled(&self, values: [f64; 3]) -> [f64; 3] {
        let Some(baseline) = self.baseline else { return values };
        std::array::from_fn(|k| (values[k] - baseline[k]) / (1.0 - baseline[k]))
    }

    /// Embeddings of the distinct texts, those of one length together so that none is padded.
    fn embed<'a>(&self, texts: impl Iterator<Item = &'a str>) -> anyhow::Result<HashMap<&'a str, Embedded>> {
        let mut by_length: BTreeMap<usize, BTreeMap<&'a str, Vec<u32>>> = BTreeMap::new();
        for text in texts {
            let ids = self.encode(text)?;
            by_length.entry(ids.len()).or_default().insert(text, ids);
        }
        let mut embedded = HashMap::new();
        for (length, texts) in by_length {
            let texts: Vec<(&str, Vec<u32>)> = texts.into_iter().collect();
            for batch in texts.chunks(BATCH) {
                let ids: Vec<u32> = batch.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
                let ids = Tensor::from_vec(ids, (batch.len(), length), &Device::Cpu)?; // (B, T)
                let hidden = self.model.forward(&ids, &ids.zeros_like()?, None)?; // (B, T, C)
                let norm = hidden.sqr()?.sum_keepdim(2)?.sqrt()?;
                let rows = hidden.broadcast_div(&norm)?.to_vec3::<f32>()?;
                for ((text, ids), rows) in batch.iter().zip(rows) {
                    let weighted = ids.iter().map(|id| !self.markers.contains(id)).collect();
                    embedded.insert(*text, Embedded { rows, weighted });
                }
            }
        }
        Ok(embedded)
    }

    fn encode(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        let spaced = format!(" {text}");
        let text = if self.starts_with_space && !text.is_empty() {
            spaced.as_str()
        } else {
            text
        };
        let encoding = self
            .tokenizer
            .encode(text, true)
            .map_err(|e| anyhow!("encode {text:?}: {e}"))?;
        let mut ids = encoding.get_ids().to_vec();
        if ids.len() > self.tokens_max {
            // what is cut off is text; the closing marker stays
            let last = ids[ids.len() - 1];
            ids.truncate(self.tokens_max - 1);
            ids.push(last);
        }
        Ok(ids)
    }
}

/// Precision, recall and F1 of a pair; zero where a text has no token of its own.
fn matched(hypothesis: &Embedded, reference: &Embedded) -> [f64; 3] {
    let best = |of: &Embedded, among: &Embedded| {
        let weighted = of.rows.iter().zip(&of.weighted).filter(|(_, weighted)| **weighted);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        let (mut sum, mut count) = (0.0, 0usize);
        for (row, _) in weighted {
            let nearest = among.rows.iter().map(|other| dot(row, other)).fold(f32::MIN, f32::max);
            sum += f64::from(nearest);
            count += 1;
        }
        sum / count as f64
    };
    let empty = |text: &Embedded| !text.weighted.contains(&true);
    if empty(hypothesis) || empty(reference) {
        return [0.0; 3];
    }
    let (precision, recall) = (best(hypothesis, reference), best(reference, hypothesis));
    [precision, recall, 2.0 * precision * recall / (precision + recall)]
}

/// The bert-score package's layer for a model of this kind and depth (bert_score/utils.py, `model2layers`).
fn usual_layer(kind: &str, layers: usize) -> Option<usize> {
    match (kind, layers) {
        ("roberta", 24) => Some(17),
        ("roberta", 12) => Some(10),
        ("bert", 24) => Some(18),
        ("bert", 12) => Some(9),
        _ => None,
    }
}

/// The weights by the names that BERT gives them, RoBERTa's positions counted from its first.
fn weights(path: &Path, kind: &str, first_position: usize) -> anyhow::Result<HashMap<String, Tensor>> {
    let tensors = candle_core::safetensors::load(path, &Device::Cpu);
    let tensors = tensors.with_context(|| format!("read {}", path.display()))?;
    let prefix = format!("{kind}.");
    let mut renamed = HashMap::new();
    for (name, tensor) in tensors {
        let name = name.strip_prefix(&prefix).unwrap_or(&name);
        let name = name.replace(".gamma", ".weight").replace(".beta", ".bias");
        let tensor = match name.as_str() {
            "embeddings.position_embeddings.weight" => {
                let (positions, _) = tensor.dims2()?;
                tensor.narrow(0, first_position, positions - first_position)?
            }
            _ => tensor,
        };
        renamed.insert(name, tensor);
    }
    Ok(renamed)
}

/// P, R and F of a layer in a baseline table.
fn baseline(path: &Path, layer: usize) -> anyhow::Result<[f64; 3]> {
    let mut reader = csv::Reader::from_path(path).with_context(|| format!("open {}", path.display()))?;
    for row in reader.deserialize() {
        let (of, p, r, f): (usize, f64, f64, f64) = row.with_context(|| format!("read {}", path.display()))?;
        if of == layer {
            return Ok([p, r, f]);
        }
    }
    bail!("{} has no baseline for layer {layer}", path.display())
}

#[cfg(test)]
mod tests;
