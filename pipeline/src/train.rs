//! Training from nothing: first the decoder on reports, then all of it on recordings with their reports.
//!
//! Place: `meit-pipeline train`. Reads as a recipe: open, step, validate, save, export. Invariant: step k depends on the
//! settings, the data and the weights before it, and on nothing else, so a killed run resumes to the same result.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use model::config::DecoderConfig;
use model::meit::Meit;
use model::mode::{Mode, Training};
use rand::Rng as _;

use crate::augment::{augment, millivolts};
use crate::batch::{Order, Row, TokenBatch, step_rng};
use crate::checkpoint::{Checkpoints, State};
use crate::dataset::PtbXl;
use crate::export::{CLIP_MV, export};
use crate::objective::{label_loss, language_loss};
use crate::optimizer::{AdamW, schedule};
use crate::params::Params;
use crate::settings::TrainSettings;
use crate::train_data::{EcgSet, TrainingData};

/// Steps between two lines of progress in the log.
const LOG_EVERY: u64 = 20;
const STAGE_TEXT: u64 = 1;
const STAGE_ECG: u64 = 2;
const STAGE_DROPOUT: u64 = 3;
const STAGE_INIT: u64 = 4;

/// Trains with `settings` on folds 1-8 of `data`, validates on fold 9, writes the bundle to `out` and returns its id.
///
/// `stop` is asked after every step; when it says so, the run ends there as if it had been killed, and gives `None`. The next
/// run continues from the last checkpoint.
///
/// # Errors
/// Settings out of bounds, data that cannot be read, a loss that is not finite, a full disk.
pub fn run(
    settings: &TrainSettings,
    data: &PtbXl,
    out: &Path,
    stop: &dyn Fn(u64) -> bool,
) -> anyhow::Result<Option<String>> {
    settings.validate()?;
    std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let trainer = Trainer::open(settings, data, out)?;
    if trainer.train(stop)? == Ended::Stopped {
        return Ok(None);
    }
    trainer.params.restore(&trainer.checkpoints.best())?;
    export(&trainer.params, settings, &trainer.decoder_config, out).map(Some)
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
    scp_head: model::layers::Linear,
    decoder_config: DecoderConfig,
    data: TrainingData,
    state: State,
    device: Device,
}

impl<'a> Trainer<'a> {
    fn open(settings: &'a TrainSettings, data: &PtbXl, out: &Path) -> anyhow::Result<Self> {
        let data = TrainingData::open(settings, data, out)?;
        let tokenizer = &data.tokenizer;
        let decoder_config = settings.decoder(tokenizer.size(), tokenizer.stop(), tokenizer.pad());
        let (params, model, scp_head) = fresh_model(settings, &decoder_config, data.labels)?;
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
            scp_head,
            decoder_config,
            data,
            state,
            device: Device::Cpu,
        })
    }

    fn train(&self, stop: &dyn Fn(u64) -> bool) -> anyhow::Result<Ended> {
        let (mut state, mut optimizer) = match self.checkpoints.resume(&self.params, &self.state)? {
            Some(resumed) => resumed,
            None => (self.state.clone(), AdamW::default()),
        };
        let total = self.settings.text_steps + self.settings.steps;
        let bar = progress_bar(total, state.step)?;
        let lengths = |rows: &[Row]| rows.iter().map(|r| r.ids.len()).collect();
        let mut text_order = Order::new(
            self.settings.seed,
            STAGE_TEXT,
            lengths(&self.data.text),
            self.settings.text_batch,
        );
        let mut ecg_order = Order::new(
            self.settings.seed,
            STAGE_ECG,
            lengths(&self.data.train.rows),
            self.settings.batch,
        );
        while state.step < total {
            let loss = if state.step < self.settings.text_steps {
                self.text_step(state.step, text_order.batch(state.step), &mut optimizer)?
            } else {
                let picked = ecg_order.batch(state.step - self.settings.text_steps);
                self.ecg_step(state.step, picked, &mut optimizer)?
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
            let ecg_stage = state.step > self.settings.text_steps;
            if state.step.is_multiple_of(self.settings.validate_every) || state.step == total {
                if ecg_stage {
                    let loss = self.validate()?;
                    say(&bar, &format!("step {} validation loss {loss:.4}", state.step));
                    if state.best.is_none_or(|(best, _)| loss < best) {
                        state.best = Some((loss, state.step));
                        self.checkpoints.save_best(&self.params)?;
                    }
                }
                self.checkpoints.save(&self.params, &optimizer, &state)?;
            }
            if stop(state.step) {
                return Ok(Ended::Stopped);
            }
        }
        bar.finish();
        Ok(Ended::Complete)
    }

    fn text_step(&self, step: u64, picked: &[usize], optimizer: &mut AdamW) -> anyhow::Result<f32> {
        let rows: Vec<&Row> = picked.iter().map(|&i| &self.data.text[i]).collect();
        let batch = TokenBatch::new(&rows, self.data.tokenizer.pad(), &self.device)?;
        let training = Training::new(self.settings.dropout, step_rng(self.settings.seed, STAGE_DROPOUT, step));
        let decoder = &self.model.decoder;
        let logits = decoder.forward(&batch.inputs, None, &mut decoder.cache(), &Mode::Train(&training))?;
        let loss = language_loss(&logits, &batch)?;
        let rate = self.settings.text_lr * schedule(step, self.settings.text_steps, self.settings.warmup);
        self.descend(
            &loss,
            optimizer,
            |name| if name.starts_with("decoder.") { rate } else { 0.0 },
        )?;
        Ok(loss.to_scalar()?)
    }

    fn ecg_step(&self, step: u64, picked: &[usize], optimizer: &mut AdamW) -> anyhow::Result<f32> {
        let mut rng = step_rng(self.settings.seed, STAGE_ECG, step);
        let ecgs: Vec<f32> = picked
            .iter()
            .flat_map(|&i| augment(&self.data.train.ecgs[i].filtered, &mut rng))
            .collect();
        let rows: Vec<&Row> = picked
            .iter()
            .map(|&i| {
                let told = rng.random::<f32>() >= self.settings.evidence_dropout;
                if told {
                    &self.data.train.rows[i]
                } else {
                    &self.data.train.bare[i]
                }
            })
            .collect();
        let training = Training::new(self.settings.dropout, step_rng(self.settings.seed, STAGE_DROPOUT, step));
        let (language, labels) = self.losses(&self.data.train, picked, &rows, ecgs, &Mode::Train(&training))?;
        let loss = (&language + (labels * self.settings.scp_weight)?)?;
        let done = step - self.settings.text_steps;
        let scale = schedule(done, self.settings.steps, self.settings.warmup);
        let (decoder, encoder) = (self.settings.decoder_lr * scale, self.settings.encoder_lr * scale);
        self.descend(&loss, optimizer, |name| {
            if name.starts_with("decoder.") { decoder } else { encoder }
        })?;
        Ok(language.to_scalar()?)
    }

    /// Language loss and SCP label loss of some of a set's recordings, given as millivolts.
    fn losses(
        &self,
        set: &EcgSet,
        picked: &[usize],
        rows: &[&Row],
        ecgs: Vec<f32>,
        mode: &Mode,
    ) -> anyhow::Result<(Tensor, Tensor)> {
        let batch = TokenBatch::new(rows, self.data.tokenizer.pad(), &self.device)?;
        let shape = (picked.len(), ecg::LEADS, ecg::SEGMENT_SAMPLES);
        let x = Tensor::from_vec(ecgs, shape, &self.device)?.clamp(-CLIP_MV, CLIP_MV)?;
        let frames = self.model.encoder.forward(&x, mode)?;
        let prefix = self
            .model
            .decoder
            .prefix(&self.model.projector.forward(&frames, mode)?)?;
        let decoder = &self.model.decoder;
        let logits = decoder.forward(&batch.inputs, Some(&prefix), &mut decoder.cache(), mode)?;
        let labels: Vec<f32> = picked.iter().flat_map(|&i| set.labels[i].iter().copied()).collect();
        let labels = Tensor::from_vec(labels, (picked.len(), set.labels[0].len()), &self.device)?;
        let scp = label_loss(&self.scp_head.forward(&frames.mean(1)?)?, &labels)?;
        Ok((language_loss(&logits, &batch)?, scp))
    }

    fn descend(&self, loss: &Tensor, optimizer: &mut AdamW, rate: impl Fn(&str) -> f64) -> anyhow::Result<()> {
        let (clip_norm, decay) = (self.settings.clip_norm, self.settings.weight_decay);
        let norm = optimizer.descend(loss, self.params.trainable(), clip_norm, decay, rate)?;
        ensure!(
            norm.is_finite(),
            "gradient norm is {norm}: training stops, the last checkpoint stays"
        );
        Ok(())
    }

    /// Mean language loss of the validation recordings, undistorted.
    fn validate(&self) -> anyhow::Result<f64> {
        let all: Vec<usize> = (0..self.data.validation.ecgs.len()).collect();
        let (mut sum, mut count) = (0.0, 0.0);
        for picked in all.chunks(self.settings.batch) {
            let ecgs = picked
                .iter()
                .flat_map(|&i| millivolts(&self.data.validation.ecgs[i].filtered))
                .collect();
            let rows: Vec<&Row> = picked.iter().map(|&i| &self.data.validation.rows[i]).collect();
            let (language, _) = self.losses(&self.data.validation, picked, &rows, ecgs, &Mode::Eval)?;
            let targets: usize = rows.iter().map(|row| row.ids.len() - row.prompt_len).sum();
            sum += f64::from(language.to_scalar::<f32>()?) * targets as f64;
            count += targets as f64;
        }
        Ok(sum / count)
    }
}

fn fresh_model(
    settings: &TrainSettings,
    decoder_config: &DecoderConfig,
    labels: usize,
) -> anyhow::Result<(Params, Meit, model::layers::Linear)> {
    let mut rng = step_rng(settings.seed, STAGE_INIT, 0);
    let mut tensors = BTreeMap::new();
    for (prefix, part) in [
        ("encoder", model::init::encoder(&settings.encoder(), &mut rng)?),
        ("decoder", model::init::decoder(decoder_config, &mut rng)?),
    ] {
        tensors.extend(
            part.into_iter()
                .map(|(name, tensor)| (format!("{prefix}.{name}"), tensor)),
        );
    }
    let features = settings.encoder().features();
    tensors.insert(
        "scp_head.weight".to_owned(),
        Tensor::zeros((labels, features), DType::F32, &Device::Cpu)?,
    );
    tensors.insert(
        "scp_head.bias".to_owned(),
        Tensor::zeros(labels, DType::F32, &Device::Cpu)?,
    );
    let params = Params::new(&tensors)?;
    let weights = params.weights();
    let model = Meit::load(
        &weights.pp("encoder"),
        &settings.encoder(),
        &weights.pp("decoder"),
        decoder_config,
    )?;
    let scp_head = model::layers::Linear::load(&weights.pp("scp_head"), features, labels)?;
    Ok((params, model, scp_head))
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
