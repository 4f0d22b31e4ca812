//! Rows of tokens with their loss mask, and the order in which samples are seen.
//!
//! Place: between the tokenizer and the objective. Invariant: which samples a step sees depends on the seed, the stage and
//! the step alone, so a resumed run needs no saved generator.

use candle_core::{Device, Tensor};
use model::generate::padded;
use model::prompt::{PromptTokenizer, instruction, response};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// One tokenised sample: the prompt's tokens, then the report's with the stop token.
#[derive(Clone, Debug)]
pub struct Row {
    pub ids: Vec<u32>,
    pub prompt_len: usize,
    /// What each of its target tokens counts in the loss.
    pub weight: f32,
}

/// Tokenises prompt and report apart, so that the mask's edge is exact.
///
/// # Errors
/// A text that cannot be encoded.
pub fn row(
    tokenizer: &PromptTokenizer,
    prompt: &str,
    evidence: Option<&str>,
    report: &str,
) -> model::error::Result<Row> {
    let mut ids = tokenizer.encode(&instruction(prompt, evidence))?;
    let prompt_len = ids.len();
    ids.extend(tokenizer.encode(&response(report))?);
    Ok(Row {
        ids,
        prompt_len,
        weight: 1.0,
    })
}

/// Inputs (B, T), targets (B, T) and mask (B, T): the mask is the row's weight where the target belongs to the report or
/// its stop token, and 0 elsewhere.
pub struct TokenBatch {
    pub inputs: Tensor,
    pub targets: Tensor,
    pub mask: Tensor,
    /// The prompts, where they go into an encoder: ids (B, S), and each row's length.
    pub source: Option<(Tensor, Vec<usize>)>,
}

impl TokenBatch {
    /// Pads on the right; the causal mask hides the padding from every real token.
    ///
    /// # Errors
    /// A tensor that cannot be made.
    pub fn new(rows: &[&Row], pad: u32, device: &Device) -> candle_core::Result<Self> {
        let t = rows.iter().map(|r| r.ids.len()).max().unwrap_or(1) - 1;
        let (mut inputs, mut targets, mut mask) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            for i in 0..t {
                inputs.push(row.ids.get(i).copied().unwrap_or(pad));
                targets.push(row.ids.get(i + 1).copied().unwrap_or(pad));
                mask.push(if i + 1 >= row.prompt_len && i + 1 < row.ids.len() {
                    row.weight
                } else {
                    0.0
                });
            }
        }
        let shape = (rows.len(), t);
        Ok(Self {
            inputs: Tensor::from_vec(inputs, shape, device)?,
            targets: Tensor::from_vec(targets, shape, device)?,
            mask: Tensor::from_vec(mask, shape, device)?,
            source: None,
        })
    }

    /// As [`Self::new`], for a language model whose reports begin with `start`, where it has such a token: then prompts are the
    /// source, and inputs and targets are reports alone.
    ///
    /// # Errors
    /// A tensor that cannot be made.
    pub fn of(rows: &[&Row], start: Option<u32>, pad: u32, device: &Device) -> candle_core::Result<Self> {
        let Some(start) = start else {
            return Self::new(rows, pad, device);
        };
        let reports = rows.iter().map(|row| Row {
            ids: std::iter::once(start)
                .chain(row.ids[row.prompt_len..].iter().copied())
                .collect(),
            prompt_len: 1,
            weight: row.weight,
        });
        let reports: Vec<Row> = reports.collect();
        let mut batch = Self::new(&reports.iter().collect::<Vec<_>>(), pad, device)?;
        let prompts: Vec<&[u32]> = rows.iter().map(|row| &row.ids[..row.prompt_len]).collect();
        batch.source = Some(padded(&prompts, pad, device)?);
        Ok(batch)
    }
}

/// A generator for one purpose of one step.
pub fn step_rng(seed: u64, stage: u64, step: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ stage.rotate_left(48));
    rng.set_stream(step);
    rng
}

/// Batches that are shuffled together before they are sorted by length.
const POOL_BATCHES: usize = 16;

/// Sample indices in the order they are seen: each epoch is a fresh permutation, in batches of like length, so that little
/// of a batch is padding.
pub struct Order {
    seed: u64,
    stage: u64,
    lengths: Vec<usize>,
    batch: usize,
    epoch: Option<(u64, Vec<Vec<usize>>)>,
}

impl Order {
    /// Over samples of these token counts, `batch` of them a step.
    pub fn new(seed: u64, stage: u64, lengths: Vec<usize>, batch: usize) -> Self {
        let batch = batch.clamp(1, lengths.len().max(1));
        Self {
            seed,
            stage,
            lengths,
            batch,
            epoch: None,
        }
    }

    /// The samples of step `step`; the last ones of an epoch that fill no batch are left out.
    pub fn batch(&mut self, step: u64) -> &[usize] {
        let steps_an_epoch = (self.lengths.len() / self.batch) as u64;
        let (epoch, at) = (step / steps_an_epoch, (step % steps_an_epoch) as usize);
        if self.epoch.as_ref().is_none_or(|(e, _)| *e != epoch) {
            self.epoch = Some((epoch, self.shuffled(epoch)));
        }
        let batches = self
            .epoch
            .as_ref()
            .map(|(_, batches)| batches)
            .expect("the epoch was set above");
        &batches[at]
    }

    fn shuffled(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut rng = step_rng(self.seed, self.stage, epoch);
        let mut order: Vec<usize> = (0..self.lengths.len()).collect();
        order.shuffle(&mut rng);
        let mut batches = Vec::new();
        for pool in order.chunks_mut(self.batch * POOL_BATCHES) {
            pool.sort_by_key(|&i| (self.lengths[i], i));
            batches.extend(pool.chunks_exact(self.batch).map(<[usize]>::to_vec));
        }
        batches.shuffle(&mut rng);
        batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_sees_every_sample_once_and_a_resumed_order_is_the_same() {
        let order = |seed| Order::new(seed, 1, vec![9, 3, 5, 9, 1, 2, 7, 3, 4, 8], 2);
        let mut whole = order(7);
        let mut seen: Vec<usize> = (0..5).flat_map(|step| whole.batch(step).to_vec()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        assert_eq!(whole.batch(13), order(7).batch(13));
        let epoch = |seed| {
            (0..5)
                .flat_map(|step| order(seed).batch(step).to_vec())
                .collect::<Vec<_>>()
        };
        assert_ne!(epoch(8), epoch(7));
    }

    #[test]
    fn only_the_report_and_its_stop_token_are_targets() -> candle_core::Result<()> {
        let rows = [
            Row {
                ids: vec![5, 6, 7, 8, 9],
                prompt_len: 3,
                weight: 1.0,
            },
            Row {
                ids: vec![5, 6, 7, 8],
                prompt_len: 3,
                weight: 0.5,
            },
        ];
        let batch = TokenBatch::new(&[&rows[0], &rows[1]], 0, &Device::Cpu)?;
        assert_eq!(batch.inputs.to_vec2::<u32>()?, [[5, 6, 7, 8], [5, 6, 7, 8]]);
        assert_eq!(batch.targets.to_vec2::<u32>()?, [[6, 7, 8, 9], [6, 7, 8, 0]]);
        assert_eq!(batch.mask.to_vec2::<f32>()?, [[0., 0., 1., 1.], [0., 0., 0.5, 0.]]);
        Ok(())
    }

    #[test]
    fn an_encoder_gets_the_prompts_and_its_decoder_the_reports() -> candle_core::Result<()> {
        let row = |ids: &[u32], prompt_len| Row {
            ids: ids.to_vec(),
            prompt_len,
            weight: 1.0,
        };
        let rows = [row(&[5, 6, 7, 8, 9], 3), row(&[5, 8, 9, 9], 1)];
        let batch = TokenBatch::of(&[&rows[0], &rows[1]], Some(2), 0, &Device::Cpu)?;
        assert_eq!(batch.inputs.to_vec2::<u32>()?, [[2, 8, 9], [2, 8, 9]]);
        assert_eq!(batch.targets.to_vec2::<u32>()?, [[8, 9, 0], [8, 9, 9]]);
        assert_eq!(batch.mask.to_vec2::<f32>()?, [[1., 1., 0.], [1., 1., 1.]]);
        let (ids, lengths) = batch.source.expect("a source");
        assert_eq!(
            (ids.to_vec2::<u32>()?, lengths),
            (vec![vec![5, 6, 7], vec![5, 0, 0]], vec![3, 1])
        );
        Ok(())
    }
}
