//! Training from nothing, or from a language model of Hugging Face's: the decoder on reports, the encoder on the statements of
//! recordings, then all of it on recordings with their reports.
//!
//! Place: `meit-pipeline train`. Reads as a recipe: open, step, validate, save, export. Invariant: step k depends on the
//! settings, the data and the weights before it, and on nothing else, so a killed run resumes to the same result.

mod heads;
pub(crate) mod language;
pub(crate) mod pretrained;

use std::path::Path;

use anyhow::{Context, ensure};
use candle_core::{Device, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use model::findings::{Finding, named, stacked};
use model::meit::Meit;
use model::mode::{Mode, Training};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::augment::{augment, augment_morphology, millivolts};
use crate::batch::{Order, Row, TokenBatch, step_rng};
use crate::checkpoint::{Checkpoints, State};
use crate::corpus::Corpus;
use crate::export::{CLIP_MV, export};
use crate::objective;
use crate::optimizer::{AdamW, schedule};
use crate::params::Params;
use crate::record::Stopwatch;
use crate::settings::TrainSettings;
use crate::train_data::{Told, TrainingData};
use heads::{Heads, Views};
use language::Language;
use pretrained::Pretrained;

/// Steps between two lines of progress in the log.
const LOG_EVERY: u64 = 20;
const STAGE_TEXT: u64 = 1;
const STAGE_ECG: u64 = 2;
const STAGE_DROPOUT: u64 = 3;
const STAGE_INIT: u64 = 4;
const STAGE_LABEL: u64 = 5;

/// Trains with `settings` on folds 1-8 of `data`, validates on fold 9, writes the bundle to `out` and returns its id.
///
/// `stop` is asked after every step; when it says so, the run ends there as if it had been killed, and gives `None`. The next
/// run continues from the last checkpoint.
///
/// # Errors
/// Settings out of bounds, data that cannot be read, a loss that is not finite, a full disk.
pub fn run(
    settings: &TrainSettings,
    data: &Corpus,
    out: &Path,
    stop: &dyn Fn(u64) -> bool,
) -> anyhow::Result<Option<String>> {
    settings.validate()?;
    std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    language::prepare(settings, out)?;
    let trainer = Trainer::open(settings, data, out)?;
    if let Some(pretrained) = &trainer.pretrained {
        eprintln!("{pretrained}");
    }
    if trainer.train(out, stop)? == Ended::Stopped {
        return Ok(None);
    }
    trainer.params.restore(&trainer.checkpoints.best())?;
    let findings = if settings.evidence().tells_findings() {
        trainer.seen()?.findings
    } else {
        Vec::new()
    };
    export(&trainer.params, settings, &trainer.language, findings, out).map(Some)
}

/// How the steps ended.
#[derive(PartialEq, Eq)]
enum Ended {
    Complete,
    Stopped,
}

struct Trainer<'a> {
    settings: &'a TrainSettings,
    checkpoints: Checkpoints,
    params: Params,
    model: Meit,
    heads: Heads,
    /// What the encoder started from, where not from fresh weights alone.
    pretrained: Option<Pretrained>,
    language: Language,
    data: TrainingData,
    state: State,
    device: Device,
}

/// Validation recordings as the encoder of the moment sees them.
struct Seen {
    /// Frames (1, S', F) of each.
    frames: Vec<Tensor>,
    /// Places of the statements that the head names of each.
    named: Vec<Vec<usize>>,
    /// Thresholds that the head's probabilities give.
    findings: Vec<Finding>,
}

/// A stage of the run, and which of its steps is next.
enum Stage {
    Text(u64),
    Label(u64),
    Ecg(u64),
}

impl<'a> Trainer<'a> {
    fn open(settings: &'a TrainSettings, data: &Corpus, out: &Path) -> anyhow::Result<Self> {
        let data = TrainingData::open(settings, data, out)?;
        let language = Language::open(settings, &data.tokenizer, out)?;
        let Fresh {
            params,
            model,
            heads,
            pretrained,
        } = Fresh::new(settings, &language, data.statements.len(), data.scp)?;
        let state = State {
            settings: settings.clone(),
            data_sha256: data.sha256.clone(),
            step: 0,
            best: None,
        };
        Ok(Self {
            settings,
            checkpoints: Checkpoints::open(out.join("checkpoint"))?,
            params,
            model,
            heads,
            pretrained,
            language,
            data,
            state,
            device: Device::Cpu,
        })
    }

    fn stage(&self, step: u64) -> Stage {
        let (text, label) = (self.settings.text_steps, self.settings.label_steps);
        match step.checked_sub(text) {
            None => Stage::Text(step),
            Some(done) if done < label => Stage::Label(done),
            Some(done) => Stage::Ecg(done - label),
        }
    }

    fn train(&self, out: &Path, stop: &dyn Fn(u64) -> bool) -> anyhow::Result<Ended> {
        let settings = self.settings;
        let (mut state, mut optimizer) = match self.checkpoints.resume(&self.params, &self.state)? {
            Some(resumed) => resumed,
            None => (self.state.clone(), AdamW::default()),
        };
        let total = settings.text_steps + settings.label_steps + settings.steps;
        let bar = progress_bar(total, state.step)?;
        let stopwatch = Stopwatch::start(settings, state.step, out).with_pretrained(self.pretrained.clone());
        let order = |stage, told: &[Told], batch| -> anyhow::Result<Order> {
            let lengths = told.iter().map(|told| Ok(self.data.bare(told)?.ids.len()));
            Ok(Order::new(
                settings.seed,
                stage,
                lengths.collect::<anyhow::Result<_>>()?,
                batch,
            ))
        };
        let mut text_order = order(STAGE_TEXT, &self.data.text, settings.text_batch)?;
        let mut label_order = order(STAGE_LABEL, &self.data.train.told, settings.label_batch)?;
        let mut ecg_order = order(STAGE_ECG, &self.data.train.told, settings.batch)?;
        while state.step < total {
            let loss = match self.stage(state.step) {
                Stage::Text(done) => self.text_step(state.step, text_order.batch(done), &mut optimizer)?,
                Stage::Label(done) => self.label_step(state.step, done, label_order.batch(done), &mut optimizer)?,
                Stage::Ecg(done) => self.ecg_step(state.step, done, ecg_order.batch(done), &mut optimizer)?,
            };
            ensure!(
                loss.is_finite(),
                "loss is {loss} at step {}: training stops, the last checkpoint stays",
                state.step
            );
            state.step += 1;
            bar.set_message(format!("loss {loss:.3}"));
            bar.inc(1);
            if state.step.is_multiple_of(LOG_EVERY) {
                say(
                    &bar,
                    &format!("step {} loss {loss:.4} {:.2} steps/s", state.step, bar.per_sec()),
                );
            }
            if state.step.is_multiple_of(settings.validate_every) || state.step == total {
                match self.stage(state.step - 1) {
                    Stage::Text(_) => {}
                    Stage::Label(_) => say(&bar, &format!("step {} {}", state.step, self.named_well(&self.seen()?))),
                    Stage::Ecg(_) => {
                        let seen = self.seen()?;
                        let loss = self.validate(&seen)?;
                        let named = self.named_well(&seen);
                        say(&bar, &format!("step {} validation loss {loss:.4} {named}", state.step));
                        if state.best.is_none_or(|(best, _)| loss < best) {
                            state.best = Some((loss, state.step));
                            self.checkpoints.save_best(&self.params)?;
                        }
                    }
                }
                stopwatch.note(settings, state.step, out)?;
                self.checkpoints.save(&self.params, &optimizer, &state)?;
            }
            if stop(state.step) {
                return Ok(Ended::Stopped);
            }
        }
        bar.finish();
        Ok(Ended::Complete)
    }

    /// Rows of some samples, with the head's mistakes in what their prompts tell.
    fn rows<'b>(&self, told: impl Iterator<Item = &'b Told>, rng: &mut ChaCha8Rng) -> anyhow::Result<Vec<Row>> {
        let (missed, made_up) = (self.settings.finding_missed, self.settings.finding_made_up);
        let row = |told: &Told| {
            if rng.random::<f32>() < self.settings.evidence_dropout {
                return Ok(self.data.bare(told)?);
            }
            let named = self.data.statements.mistaken(&told.named, missed, made_up, rng);
            Ok(self.data.row(told, &named)?)
        };
        told.map(row).collect()
    }

    fn text_step(&self, step: u64, picked: &[usize], optimizer: &mut AdamW) -> anyhow::Result<f32> {
        let told = picked.iter().map(|&i| &self.data.text[i]);
        let rows = if self.settings.evidence().tells_findings() {
            self.rows(told, &mut step_rng(self.settings.seed, STAGE_TEXT, step))?
        } else {
            told.map(|told| Ok(self.data.bare(told)?))
                .collect::<anyhow::Result<_>>()?
        };
        let training = Training::new(self.settings.dropout, step_rng(self.settings.seed, STAGE_DROPOUT, step));
        let loss = self.language(&rows, None, &Mode::Train(&training))?;
        let rate = self.settings.text_lr * schedule(step, self.settings.text_steps, self.settings.warmup);
        self.descend(
            &loss,
            optimizer,
            |name| if name.starts_with("decoder.") { rate } else { 0.0 },
        )?;
        Ok(loss.to_scalar()?)
    }

    fn label_step(&self, step: u64, done: u64, picked: &[usize], optimizer: &mut AdamW) -> anyhow::Result<f32> {
        let mut rng = step_rng(self.settings.seed, STAGE_LABEL, step);
        let training = Training::new(self.settings.dropout, step_rng(self.settings.seed, STAGE_DROPOUT, step));
        let mode = Mode::Train(&training);
        let frames = self.frames(&self.distorted(picked, &mut rng), &mode)?;
        let loss = self.label_loss(&frames, picked, &mut rng, &mode)?;
        let rate = self.settings.label_lr * schedule(done, self.settings.label_steps, self.settings.warmup);
        self.descend(
            &loss,
            optimizer,
            |name| if name.starts_with("decoder.") { 0.0 } else { rate },
        )?;
        Ok(loss.to_scalar()?)
    }

    fn ecg_step(&self, step: u64, done: u64, picked: &[usize], optimizer: &mut AdamW) -> anyhow::Result<f32> {
        let mut rng = step_rng(self.settings.seed, STAGE_ECG, step);
        let ecgs = self.distorted(picked, &mut rng);
        let rows = self.rows(picked.iter().map(|&i| &self.data.train.told[i]), &mut rng)?;
        let training = Training::new(self.settings.dropout, step_rng(self.settings.seed, STAGE_DROPOUT, step));
        let mode = Mode::Train(&training);
        let frames = self.frames(&ecgs, &mode)?;
        let language = self.language(&rows, Some(&frames), &mode)?;
        let labels = self.label_loss(&frames, picked, &mut rng, &mode)?;
        let loss = (&language + (labels * self.settings.label_weight)?)?;
        let scale = schedule(done, self.settings.steps, self.settings.warmup);
        self.descend(&loss, optimizer, |name| {
            let peak = match name {
                _ if name.starts_with("decoder.") => self.settings.decoder_lr,
                _ if ["encoder.projector", "encoder.time_embedding", "encoder.fusion"]
                    .iter()
                    .any(|part| name.starts_with(part)) =>
                {
                    self.settings.projector_lr
                }
                _ => self.settings.encoder_lr,
            };
            peak * scale
        })?;
        Ok(language.to_scalar()?)
    }

    /// Some training recordings as this step shows them, in millivolts; each has a generator of its own.
    fn distorted(&self, picked: &[usize], rng: &mut ChaCha8Rng) -> Vec<Vec<f32>> {
        let seeds: Vec<(usize, u64)> = picked.iter().map(|&i| (i, rng.random())).collect();
        let distort = |&(i, seed): &(usize, u64)| {
            augment(&self.data.train.ecgs[i].filtered, &mut ChaCha8Rng::seed_from_u64(seed))
        };
        seeds.par_iter().map(distort).collect()
    }

    /// ECGs in millivolts -> frames (B, S', F).
    fn frames(&self, ecgs: &[Vec<f32>], mode: &Mode) -> anyhow::Result<Tensor> {
        let shape = (ecgs.len(), ecg::LEADS, ecg::SEGMENT_SAMPLES);
        let x = Tensor::from_vec(ecgs.concat(), shape, &self.device)?.clamp(-CLIP_MV, CLIP_MV)?;
        Ok(self.model.encoder.forward(&x, mode)?)
    }

    /// Language loss of rows, after their frames where there are some.
    fn language(&self, rows: &[Row], frames: Option<&Tensor>, mode: &Mode) -> anyhow::Result<Tensor> {
        let (backbone, rows) = (&self.model.backbone, rows.iter().collect::<Vec<_>>());
        let batch = TokenBatch::of(&rows, backbone.start(), self.data.tokenizer.pad(), &self.device)?;
        let e = frames.map(|frames| self.model.projector.forward(frames, mode));
        Ok(objective::loss(backbone, &batch, e.transpose()?.as_ref(), mode)?)
    }

    /// Loss of the heads on training recordings, whose frames these are.
    fn label_loss(
        &self,
        frames: &Tensor,
        picked: &[usize],
        rng: &mut ChaCha8Rng,
        mode: &Mode,
    ) -> anyhow::Result<Tensor> {
        let train = &self.data.train;
        let labels: Vec<&[f32]> = picked.iter().map(|&i| train.labels[i].as_slice()).collect();
        let distorted = picked.iter().map(|&i| augment_morphology(&train.morphology[i], rng));
        let views = Views {
            frames,
            morphology: &stacked(&distorted.collect::<Vec<_>>(), &self.device)?,
        };
        Ok(self.heads.loss(&views, &labels, mode, self.settings.label_dropout)?)
    }

    /// The validation recordings, undistorted.
    fn seen(&self) -> anyhow::Result<Seen> {
        let validation = &self.data.validation;
        let recordings = validation.ecgs.par_iter().zip(&validation.morphology);
        let frames = recordings.map(|(ecg, morphology)| {
            let frames = self.frames(&[millivolts(&ecg.filtered)], &Mode::Eval)?;
            let views = Views {
                frames: &frames,
                morphology: &stacked(&[morphology], &self.device)?,
            };
            let probabilities = self.heads.probabilities(&views)?.concat();
            anyhow::Ok((frames.detach(), probabilities))
        });
        let (frames, probabilities): (Vec<Tensor>, Vec<Vec<f32>>) =
            frames.collect::<anyhow::Result<Vec<_>>>()?.into_iter().unzip();
        let findings = self.data.statements.with_thresholds(&probabilities);
        let rows = probabilities.iter().zip(&validation.told);
        let named = rows.map(|(row, told)| named(&findings, row, told.measurements.heart_rate_bpm));
        Ok(Seen {
            frames,
            named: named.collect(),
            findings,
        })
    }

    /// How well the head names what the validation reports name, as a line for people.
    fn named_well(&self, seen: &Seen) -> String {
        let told = &self.data.validation.told;
        let own: Vec<&[usize]> = told.iter().map(|told| told.named.as_slice()).collect();
        let agreement = self.data.statements.agreement(&seen.named, &own);
        let f1 = agreement.f1_macro.map_or("unknown".to_owned(), |f1| format!("{f1:.4}"));
        format!(
            "statements F1 {f1}, {:.2} missed, {:.2} made up a recording",
            agreement.missed, agreement.made_up
        )
    }

    /// Mean language loss of the validation recordings, with the statements that the head names.
    fn validate(&self, seen: &Seen) -> anyhow::Result<f64> {
        let told = self.data.validation.told.par_iter();
        let losses = told.zip(&seen.frames).zip(&seen.named).map(|((told, frames), named)| {
            let row = self.data.row(told, named)?;
            let targets = (row.ids.len() - row.prompt_len) as f64;
            let loss = self.language(&[row], Some(frames), &Mode::Eval)?.to_scalar::<f32>()?;
            anyhow::Ok((f64::from(loss) * targets, targets))
        });
        let losses = losses.collect::<anyhow::Result<Vec<_>>>()?;
        let (sum, count) = losses.iter().fold((0.0, 0.0), |(sum, count), (loss, targets)| {
            (sum + loss, count + targets)
        });
        Ok(sum / count)
    }

    fn descend(&self, loss: &Tensor, optimizer: &mut AdamW, rate: impl Fn(&str) -> f64) -> anyhow::Result<()> {
        let (clip_norm, decay) = (self.settings.clip_norm, self.settings.weight_decay);
        let norm = optimizer.descend(&loss.backward()?, self.params.trainable(), clip_norm, decay, rate)?;
        ensure!(
            norm.is_finite(),
            "gradient norm is {norm}: training stops, the last checkpoint stays"
        );
        Ok(())
    }
}

/// What a run starts with.
struct Fresh {
    params: Params,
    model: Meit,
    heads: Heads,
    pretrained: Option<Pretrained>,
}

impl Fresh {
    fn new(settings: &TrainSettings, language: &Language, statements: usize, scp: usize) -> anyhow::Result<Self> {
        let mut rng = step_rng(settings.seed, STAGE_INIT, 0);
        let mut tensors = language.tensors(settings, &mut rng)?;
        let weights = settings.encoder_weights.as_deref();
        let pretrained = weights.map(|path| pretrained::lay_over(path, &mut tensors));
        let morphology = model::init::morphology(settings.morphology(), &mut rng)?;
        tensors.extend(
            morphology
                .into_iter()
                .map(|(name, tensor)| (format!("encoder.{name}"), tensor)),
        );
        let sizes = heads::Sizes {
            features: language.encoder.features(),
            statements,
            scp,
            morphology: settings.morphology(),
        };
        tensors.extend(Heads::fresh(sizes)?);
        let params = Params::new(&tensors)?;
        let weights = params.weights();
        let model = Meit::assemble(
            &weights.pp("encoder"),
            &language.encoder,
            &weights.pp("decoder"),
            &language.config,
            &language.fusion,
        )?;
        Ok(Self {
            heads: Heads::load(&weights, sizes)?,
            params,
            model,
            pretrained: pretrained.transpose()?,
        })
    }
}

/// A line above the bar, or on standard error where there is no terminal.
fn say(bar: &ProgressBar, line: &str) {
    if bar.is_hidden() {
        eprintln!("{line}")
    } else {
        bar.println(line)
    }
}

fn progress_bar(total: u64, done: u64) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps {per_sec} {eta} left {msg}")?;
    let bar = ProgressBar::new(total).with_style(style).with_position(done);
    bar.reset_eta();
    Ok(bar)
}
