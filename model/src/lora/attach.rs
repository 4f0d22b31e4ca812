//! Decoders with adapters: for all rows of a batch, for each row its own, or merged into the weights.
//!
//! Place: called at load, at every batch of a node that serves several adapters, and by training. Invariant: a row's result
//! depends on its own adapter alone.

use candle_core::{DType, Tensor};

use super::Adapter;
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::layers::Linear;

impl Decoder {
    /// This decoder with `adapter` in every row, instead of any that it had.
    pub fn with_adapter(&self, adapter: &Adapter) -> Self {
        let mut decoder = self.clone();
        for projection in decoder.projections_mut() {
            let share = adapter.share(projection.name(), None);
            projection.set_shares(share.into_iter().collect());
        }
        decoder
    }

    /// This decoder without adapters.
    pub fn base(&self) -> Self {
        let mut decoder = self.clone();
        for projection in decoder.projections_mut() {
            projection.set_shares(Vec::new());
        }
        decoder
    }

    /// This decoder for one batch in which row i has `rows[i]`; None is the base.
    ///
    /// # Errors
    /// A tensor that cannot be made.
    pub fn with_adapters(&self, rows: &[Option<&Adapter>]) -> Result<Self> {
        let mut groups: Vec<(&Adapter, Vec<u32>)> = Vec::new();
        for (row, adapter) in rows.iter().enumerate() {
            let Some(adapter) = adapter else { continue };
            match groups.iter_mut().find(|(known, _)| std::ptr::eq(*known, *adapter)) {
                Some((_, members)) => members.push(row as u32),
                None => groups.push((adapter, vec![row as u32])),
            }
        }
        if let [(adapter, members)] = groups.as_slice()
            && members.len() == rows.len()
        {
            return Ok(self.with_adapter(adapter));
        }
        let indexed = groups.into_iter().map(|(adapter, members)| {
            let n = members.len();
            Ok((adapter, Tensor::from_vec(members, n, self.device())?))
        });
        let indexed: Vec<(&Adapter, Tensor)> = indexed.collect::<Result<_>>()?;
        let mut decoder = self.clone();
        for projection in decoder.projections_mut() {
            let name = projection.name().to_owned();
            let shares = indexed
                .iter()
                .filter_map(|(adapter, members)| adapter.share(&name, Some(members.clone())));
            projection.set_shares(shares.collect());
        }
        Ok(decoder)
    }

    /// This decoder with `adapter` in its weights: as fast as the base, for one adapter.
    ///
    /// # Errors
    /// A decoder that already has adapters; a tensor operation that fails.
    pub fn merged(&self, adapter: &Adapter) -> Result<Self> {
        self.moved(adapter, 1.0)
    }

    /// Takes out what [`Self::merged`] put in; equal to the base but for rounding.
    ///
    /// # Errors
    /// As [`Self::merged`].
    pub fn unmerged(&self, adapter: &Adapter) -> Result<Self> {
        self.moved(adapter, -1.0)
    }

    fn moved(&self, adapter: &Adapter, sign: f64) -> Result<Self> {
        let mut decoder = self.clone();
        for projection in decoder.projections_mut() {
            if projection.has_shares() {
                return Err(Error::Config {
                    key: "adapter",
                    value: projection.name().to_owned(),
                    bound: "only the base can be merged; this decoder has an adapter in front of it".to_owned(),
                });
            }
            let Some(factors) = adapter.modules.get(projection.name()) else {
                continue;
            };
            let delta = (factors.b.matmul(&factors.a)? * (sign * factors.scale))?; // (O, I)
            let Some(weight) = projection.linear().weight() else {
                return Err(Error::Config {
                    key: "adapter",
                    value: projection.name().to_owned(),
                    bound: "a quantised weight cannot be merged; merge first, then quantise".to_owned(),
                });
            };
            let moved = (weight.to_dtype(wider(weight.dtype()))? + delta)?.to_dtype(weight.dtype())?;
            let bias = projection.linear().bias().cloned();
            projection.set_linear(Linear::new(moved, bias));
        }
        Ok(decoder)
    }
}

fn wider(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}
