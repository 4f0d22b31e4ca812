//! What positions an encoder-decoder knows: vectors added to the embeddings, or a bias of the scores.
//!
//! Place: before the first layer of a stack (learned), or in the mask that its layers share (relative). Invariant: a position that a
//! stack does not have is an error with both numbers.

use candle_core::{DType, Device, Tensor};

use super::config::{Positions, StackShape};
use super::place::Place;
use crate::error::Result;

/// Positions of one stack.
#[derive(Clone)]
pub(super) enum Table {
    /// (rows, C).
    Learned { table: Tensor, offset: usize },
    /// (buckets, H).
    Relative { table: Tensor, buckets: Buckets },
}

/// Which bucket a distance falls into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buckets {
    count: usize,
    distance_max: usize,
    /// Keys after the query have buckets of their own; otherwise they count as distance zero.
    both_ways: bool,
}

impl Table {
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(stack: &Place, shape: StackShape, is_decoder: bool) -> Result<Self> {
        let (config, names) = (stack.config, &stack.config.names);
        match config.positions {
            Positions::Learned { rows, offset } => {
                let table = stack.pp(names.learned_positions);
                let table = table.tensor(&[rows, config.hidden_size], "weight")?;
                Ok(Self::Learned { table, offset })
            }
            Positions::Relative { buckets, distance_max } => {
                let layer = if is_decoder { names.decoder } else { names.encoder };
                let at = stack.pp(names.layers).pp("0").pp(layer.self_attention);
                let table = at.pp(names.relative_bias);
                Ok(Self::Relative {
                    table: table.tensor(&[buckets, shape.heads], "weight")?,
                    buckets: Buckets {
                        count: buckets,
                        distance_max,
                        both_ways: !is_decoder,
                    },
                })
            }
        }
    }

    /// x (B, T, C) at positions from `past` on, with their vectors.
    pub fn place(&self, x: &Tensor, past: usize) -> candle_core::Result<Tensor> {
        let Self::Learned { table, offset } = self else {
            return Ok(x.clone());
        };
        let (t, rows) = (x.dim(1)?, table.dim(0)?);
        if past + t + offset > rows {
            candle_core::bail!("text of {} tokens: the model has {} positions", past + t, rows - offset);
        }
        x.broadcast_add(&table.narrow(0, past + offset, t)?)
    }

    /// Bias of `t` queries after `past` tokens over all tokens up to the last query: (H, T, past + T).
    pub fn bias(&self, past: usize, t: usize, dtype: DType) -> candle_core::Result<Option<Tensor>> {
        let Self::Relative { table, buckets } = self else {
            return Ok(None);
        };
        let (all, heads) = (past + t, table.dim(1)?);
        let index: Vec<u32> = (past..all)
            .flat_map(|query| (0..all).map(move |key| buckets.of(query, key) as u32))
            .collect();
        let index = Tensor::from_vec(index, t * all, table.device())?;
        let bias = table.index_select(&index, 0)?.reshape((t, all, heads))?;
        bias.permute((2, 0, 1))?.contiguous()?.to_dtype(dtype).map(Some)
    }
}

impl Buckets {
    /// Half of the buckets of a direction are for single distances, the others grow with the logarithm up to the largest.
    /// Source: transformers' T5Attention._relative_position_bucket, in f32 as there.
    fn of(self, query: usize, key: usize) -> usize {
        let (count, first, distance) = match (self.both_ways, key > query) {
            (true, true) => (self.count / 2, self.count / 2, key - query),
            (true, false) => (self.count / 2, 0, query - key),
            (false, _) => (self.count, 0, query.saturating_sub(key)),
        };
        let exact = count / 2;
        if distance < exact {
            return first + distance;
        }
        let share = (distance as f32 / exact as f32).ln() / ((self.distance_max as f64 / exact as f64).ln() as f32);
        let beyond = (share * (count - exact) as f32) as usize;
        first + (exact + beyond).min(count - 1)
    }
}

/// Which queries see which tokens: (1, T, past + T), zero where visible.
pub(super) fn causal(past: usize, t: usize, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
    let all = past + t;
    let visible = |query: usize| (0..all).map(move |key| if key <= query { 0.0 } else { f32::MIN });
    let mask: Vec<f32> = (past..all).flat_map(visible).collect();
    Tensor::from_vec(mask, (1, t, all), device)?.to_dtype(dtype)
}

/// Which columns of each row are text: (B, 1, 1, S), zero where row i's first `lengths[i]` columns are.
pub(super) fn padding(lengths: &[usize], s: usize, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
    let row = |&length: &usize| (0..s).map(move |column| if column < length { 0.0 } else { f32::MIN });
    let mask: Vec<f32> = lengths.iter().flat_map(row).collect();
    Tensor::from_vec(mask, (lengths.len(), 1, 1, s), device)?.to_dtype(dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_distances_have_a_bucket_each_and_far_ones_share() {
        let buckets = |both_ways| Buckets {
            count: 8,
            distance_max: 16,
            both_ways,
        };
        let back: Vec<usize> = (0..20).map(|d| buckets(false).of(30, 30 - d)).collect();
        assert_eq!(back, [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7, 7, 7]);
        assert_eq!(buckets(false).of(3, 9), 0);
        let both: Vec<usize> = [20, 29, 30, 31, 32, 60].map(|key| buckets(true).of(30, key)).into();
        assert_eq!(both, [3, 1, 0, 5, 6, 7]);
    }
}
