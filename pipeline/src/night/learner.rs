//! Trains a LoRA adapter, and the encoder where it may learn, on a curated data set.
//!
//! Place: second step of the job. Invariant: step k depends on settings, data and the weights before it, and on nothing else:
//! a killed run resumes to the same weights, bit for bit on the CPU.
//! Source: MEIT section 4.1 (LoRA on all linear layers, encoder trained with it); replay and weights are ours.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use model::backbone::Backbone;
use model::bundle::{ADAPTER, Bundle, ENCODER};
use model::encoder::EcgEncoder;
use model::fusion::Fusion;
use model::lora::{Adaptable, Adapter, AdapterConfig, Targets};
use model::meit::EcgInput;
use model::mode::{Mode, Training};
use model::projector::Projector;
use model::weights::Weights;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::settings::{AdapterSettings, EncoderMode};
use crate::batch::{Order, Row, TokenBatch, row, step_rng};
use crate::checkpoint::{Checkpoints, State};
use crate::manifest::{Dataset, Sample};
use crate::objective::{self, language_loss};
use crate::optimizer::{AdamW, schedule};
use crate::params::Params;
use crate::record::{self, Stopwatch};
use crate::sources::{Origin, Split};

/// The linear layers that are adapted, as in the paper: all of them but the output head.
const TARGETS: &str = "all-linear";
/// First part of the encoder's names among the parameters; the adapter's are peft's.
const ENCODER_PREFIX: &str = "encoder.";
const STAGE_SIGNED: u64 = 11;
const STAGE_BASE: u64 = 12;
const STAGE_DROPOUT: u64 = 13;
const STAGE_INIT: u64 = 14;

/// What a training run is made of; another one does not resume from its checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    pub train: AdapterSettings,
    pub seed: u64,
    /// Base bundle.
    pub base: String,
    /// Generation whose adapter and encoder training starts from; none for a fresh adapter.
    pub parent: Option<String>,
}

/// How training ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Complete,
    /// `stop` said so; the next run goes on from the last checkpoint.
    Stopped,
}

/// A loss or gradient that is not finite; the champion stays.
#[derive(Debug, thiserror::Error)]
#[error("{what} is {value} at step {step} of training")]
pub struct NotFinite {
    pub what: &'static str,
    pub value: f64,
    pub step: u64,
}

/// A training run that is ready to step.
pub struct Learner<'a> {
    recipe: &'a Recipe,
    data: &'a Dataset,
    /// The base, without an adapter.
    bundle: Bundle,
    /// On the variables of `params`, as encoder and projector are.
    adapter: Adapter,
    backbone: Backbone,
    encoder: EcgEncoder,
    projector: Projector,
    params: Params,
    checkpoints: Checkpoints,
    /// Directory of the checkpoints and of the record.
    work: PathBuf,
    rows: Vec<Row>,
    signed: Vec<usize>,
    base: Vec<usize>,
    /// Embeddings (1, P, D) of a frozen encoder, by sample.
    embedded: RefCell<BTreeMap<usize, Tensor>>,
}

impl<'a> Learner<'a> {
    /// Loads the base (and the parent's adapter), tokenises the samples, and embeds them where the encoder is frozen.
    ///
    /// # Errors
    /// A bundle, parent or data set that cannot be read; no signed training sample.
    pub fn open(
        recipe: &'a Recipe,
        base: &Path,
        parent: Option<&Path>,
        data: &'a Dataset,
        work: &Path,
    ) -> anyhow::Result<Self> {
        let bundle = Bundle::load(base, &Device::Cpu).context("load base bundle")?.base();
        let bare = &bundle.drafting().model.backbone;
        let start = match parent {
            Some(dir) => Adapter::load(&dir.join(ADAPTER), bare).context("load the parent's adapter")?,
            None => Adapter::fresh(
                config(&recipe.train, bare),
                bare,
                &mut step_rng(recipe.seed, STAGE_INIT, 0),
            )?,
        };
        let (held, asked) = (start.config(), &recipe.train);
        ensure!(
            (held.r, held.lora_alpha) == (asked.rank, asked.alpha),
            "the parent's rank and alpha are {} and {}, this run's {} and {}: keep them, or start from an empty registry",
            held.r,
            held.lora_alpha,
            asked.rank,
            asked.alpha
        );
        ensure!(
            !asked.by_layer || matches!(bundle.manifest().fusion, Fusion::Prefix { .. }),
            "pipeline.train.by_layer is true, and the base's fusion is {:?}: it takes fusion \"prefix\" alone",
            bundle.manifest().fusion
        );
        let mut tensors = start.tensors()?;
        let encoder = Weights::load(&[&parent.unwrap_or(base).join(ENCODER)], DType::F32, &Device::Cpu)?;
        let encoder = encoder.tensors()?.into_iter();
        tensors.extend(encoder.map(|(name, t)| (format!("{ENCODER_PREFIX}{name}"), t)));
        let params = Params::new(&tensors)?;
        let (adapter, weights) = (on_variables(&start, &params, bare)?, params.weights().pp("encoder"));
        let backbone = bare.with_adapter(&adapter);
        let sizes = &bundle.manifest().encoder;
        let (encoder, projector) = (EcgEncoder::load(&weights, sizes)?, Projector::load(&weights, sizes)?);
        let in_split = |split, signed: bool| data.indices(|s| s.split == split && (s.origin != Origin::Base) == signed);
        let (signed, base_samples) = (in_split(Split::Train, true), in_split(Split::Train, false));
        ensure!(!signed.is_empty(), "no signed training sample");
        let rows = data.samples().par_iter().enumerate().map(|(i, sample)| {
            let drafting = bundle.drafting();
            let told = match drafting.findings {
                Some(_) => data.ecg(i)?.input(),
                None => EcgInput {
                    measurements: sample.measurements.clone(),
                    ..EcgInput::default()
                },
            };
            let evidence = drafting.evidence_of(&told)?;
            let mut row = row(&drafting.tokenizer, &sample.prompt, evidence.as_deref(), &sample.report)?;
            row.weight = weight(&recipe.train, sample);
            anyhow::Ok(row)
        });
        let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self {
            recipe,
            data,
            adapter,
            backbone,
            encoder,
            projector,
            params,
            checkpoints: Checkpoints::open(work.join("checkpoint"))?,
            work: work.to_owned(),
            rows,
            signed,
            base: base_samples,
            embedded: RefCell::default(),
            bundle,
        })
    }

    /// Runs to the end, or until `stop` says so after a step.
    ///
    /// # Errors
    /// [`NotFinite`]; a checkpoint that cannot be written.
    pub fn train(&self, stop: &dyn Fn(u64) -> bool) -> anyhow::Result<Ended> {
        let train = &self.recipe.train;
        let fresh = State {
            settings: self.recipe.clone(),
            data_sha256: self.data.manifest().samples_sha256()?,
            step: 0,
            best: None,
        };
        let (mut state, mut optimizer) = match self.checkpoints.resume(&self.params, &fresh)? {
            Some(resumed) => resumed,
            None => (fresh, AdamW::default()),
        };
        let stopwatch = Stopwatch::start(self.recipe, state.step, &self.work);
        let from_base = if self.base.is_empty() {
            0
        } else {
            (train.batch as f64 * train.replay).round() as usize
        };
        let from_signed = train.batch.saturating_sub(from_base).clamp(1, self.signed.len());
        let steps = train.epochs * self.signed.len().div_ceil(from_signed) as u64;
        let order = |stage, picked: &[usize], batch| {
            let lengths = picked.iter().map(|&i| self.rows[i].ids.len()).collect();
            Order::new(self.recipe.seed, stage, lengths, batch)
        };
        let mut signed = order(STAGE_SIGNED, &self.signed, from_signed);
        let mut base = order(STAGE_BASE, &self.base, from_base);
        while state.step < steps {
            let mut picked: Vec<usize> = signed.batch(state.step).iter().map(|&i| self.signed[i]).collect();
            if from_base > 0 {
                picked.extend(base.batch(state.step).iter().map(|&i| self.base[i]));
            }
            let loss = self.step(state.step, steps, &picked, &mut optimizer)?;
            state.step += 1;
            if state.step.is_multiple_of(train.checkpoint_steps) || state.step == steps {
                tracing::info!(step = state.step, steps, loss, "training");
                stopwatch.note(self.recipe, state.step, &self.work)?;
                self.checkpoints.save(&self.params, &optimizer, &state)?;
            }
            if stop(state.step) {
                return Ok(Ended::Stopped);
            }
        }
        Ok(Ended::Complete)
    }

    fn step(&self, step: u64, steps: u64, picked: &[usize], optimizer: &mut AdamW) -> anyhow::Result<f32> {
        let train = &self.recipe.train;
        let training = Training::new(train.dropout, step_rng(self.recipe.seed, STAGE_DROPOUT, step));
        let (loss, grads) = self.gradients(picked, &Mode::Train(&training))?;
        let value = loss.to_scalar::<f32>()?;
        let finite = |what, value: f64| {
            let not = NotFinite { what, value, step };
            if value.is_finite() { Ok(()) } else { Err(not) }
        };
        finite("loss", f64::from(value))?;
        let rate = train.learning_rate * schedule(step, steps, train.warmup);
        let norm = optimizer.descend(&grads, self.learning(), train.clip_norm, train.weight_decay, |_| rate)?;
        finite("gradient norm", norm)?;
        Ok(value)
    }

    fn learning(&self) -> impl Iterator<Item = (&String, &candle_core::Var)> + Clone {
        let encoder_learns = self.recipe.train.encoder == EncoderMode::Trainable;
        let all = self.params.trainable();
        all.filter(move |(name, _)| encoder_learns || !name.starts_with(ENCODER_PREFIX))
    }

    /// Mean weighted language loss of some samples, and its gradients.
    fn gradients(&self, picked: &[usize], mode: &Mode) -> anyhow::Result<(Tensor, GradStore)> {
        let rows: Vec<&Row> = picked.iter().map(|&i| &self.rows[i]).collect();
        let pad = self.bundle.drafting().tokenizer.pad();
        let batch = TokenBatch::of(&rows, self.backbone.start(), pad, &Device::Cpu)?;
        let embedded = match self.recipe.train.encoder {
            EncoderMode::Trainable => self.embed(picked)?,
            EncoderMode::Frozen => {
                let parts = picked.iter().map(|&i| self.embedded_once(i));
                Tensor::cat(&parts.collect::<anyhow::Result<Vec<_>>>()?, 0)?
            }
        };
        if self.recipe.train.by_layer {
            let decoder = self.backbone.decoder()?;
            let prefix = decoder.prefix_in(&embedded, mode)?;
            let loss = |logits: &Tensor| language_loss(logits, &batch);
            return Ok(decoder.backward_by_layer(&batch.inputs, Some(&prefix), mode, loss)?);
        }
        let loss = objective::loss(&self.backbone, &batch, Some(&embedded), mode)?;
        let grads = loss.backward()?;
        Ok((loss, grads))
    }

    /// Embeddings (B, P, D); batch norms keep their statistics, so a sample's embedding does not depend on its batch.
    fn embed(&self, picked: &[usize]) -> anyhow::Result<Tensor> {
        let ecgs = picked.iter().map(|&i| Ok(self.data.ecg(i)?.input()));
        let ecgs = ecgs.collect::<anyhow::Result<Vec<EcgInput>>>()?;
        let x = self.bundle.drafting().input(&ecgs.iter().collect::<Vec<_>>(), 0)?;
        let frames = self.encoder.forward(&x, &Mode::Eval)?;
        Ok(self.projector.forward(&frames, &Mode::Eval)?)
    }

    /// A sample's embedding under an encoder that does not change.
    fn embedded_once(&self, i: usize) -> anyhow::Result<Tensor> {
        if let Some(known) = self.embedded.borrow().get(&i) {
            return Ok(known.clone());
        }
        let embedded = self.embed(&[i])?.detach();
        self.embedded.borrow_mut().insert(i, embedded.clone());
        Ok(embedded)
    }

    /// The record of its time.
    pub fn record(&self) -> PathBuf {
        self.work.join(record::FILE)
    }

    /// The adapter as it is now.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// The encoder's tensors as they are now, under their checkpoint names.
    ///
    /// # Errors
    /// A tensor that cannot be converted.
    pub fn encoder_tensors(&self) -> candle_core::Result<std::collections::HashMap<String, Tensor>> {
        self.params.part("encoder", DType::F16)
    }

    /// The base.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }
}

/// The adapter on the variables of `params`, which have its tensors under the same names.
fn on_variables(start: &Adapter, params: &Params, backbone: &Backbone) -> anyhow::Result<Adapter> {
    let weights = params.weights();
    let mut tensors = weights.tensors()?;
    tensors.retain(|name, _| !name.starts_with(ENCODER_PREFIX));
    Ok(Adapter::new(start.config().clone(), &tensors, backbone)?)
}

fn config(train: &AdapterSettings, backbone: &Backbone) -> AdapterConfig {
    let mut config = AdapterConfig::new(train.rank, train.alpha, Targets::Pattern(TARGETS.to_owned()));
    config.lora_dropout = train.dropout;
    let task = match backbone {
        Backbone::Decoder(_) => "CAUSAL_LM",
        Backbone::Seq2Seq(_) => "SEQ_2_SEQ_LM",
    };
    config.task_type = Some(task.to_owned());
    config
}

fn weight(train: &AdapterSettings, sample: &Sample) -> f32 {
    match sample.origin {
        Origin::Base => 1.0,
        Origin::Accepted => train.accepted_weight,
        Origin::Edited => train.edited_weight,
    }
}
