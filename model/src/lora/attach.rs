//! Models with adapters: for all rows of a batch, for each row its own, or merged into the weights.
//!
//! Place: called at load, at every batch of a node that serves several adapters, and by training. Invariant: a row's result
//! depends on its own adapter alone.

use candle_core::{DType, Device, Tensor};

use super::Adapter;
use crate::error::{Error, Result};
use crate::layers::{Linear, wide};
use crate::projection::Projection;

/// A model as its linear layers, which adapters change. A clone shares the weights.
pub trait Adaptable: Clone {
    /// Every linear layer under its name in transformers, the output head last.
    fn projections(&self) -> Vec<&Projection>;

    fn projections_mut(&mut self) -> Vec<&mut Projection>;

    fn model_type(&self) -> &str;

    /// Name of the output head.
    fn head(&self) -> &str;

    /// The token embedding (V, C) and the name of its module.
    fn embedding(&self) -> (String, &Tensor);

    /// The checkpoint keeps its linear weights as (I, O).
    fn weights_are_transposed(&self) -> bool;

    /// The dtype of the weights.
    fn dtype(&self) -> DType {
        self.embedding().1.dtype()
    }

    /// Where the weights are.
    fn device(&self) -> &Device {
        self.embedding().1.device()
    }

    /// Weight or bias of the embedding or of a linear layer, by its full name in transformers.
    fn tensor(&self, name: &str) -> Option<&Tensor> {
        let (module, part) = name.rsplit_once('.')?;
        let (embedding, tokens) = self.embedding();
        if part == "weight" && module == embedding {
            return Some(tokens);
        }
        let projection = self.projections().into_iter().find(|p| p.name() == module)?;
        match part {
            "weight" => projection.linear().weight(),
            "bias" => projection.linear().bias(),
            _ => None,
        }
    }

    /// (O, I) of a weight that [`Self::tensor`] cannot give, since its layer is quantised.
    fn quantised_weight(&self, name: &str) -> Option<(usize, usize)> {
        let module = name.strip_suffix(".weight")?;
        let projection = self.projections().into_iter().find(|p| p.name() == module)?;
        let linear = projection.linear();
        linear.weight().is_none().then(|| linear.dims().ok()).flatten()
    }

    /// This model with `adapter` in every row, instead of any that it had.
    fn with_adapter(&self, adapter: &Adapter) -> Self {
        let mut model = self.clone();
        for projection in model.projections_mut() {
            let share = adapter.share(projection.name(), None);
            projection.set_shares(share.into_iter().collect());
        }
        model
    }

    /// This model without adapters.
    fn base(&self) -> Self {
        let mut model = self.clone();
        for projection in model.projections_mut() {
            projection.set_shares(Vec::new());
        }
        model
    }

    /// This model for one batch in which row i has `rows[i]`; None is the base.
    ///
    /// # Errors
    /// A tensor that cannot be made.
    fn with_adapters(&self, rows: &[Option<&Adapter>]) -> Result<Self> {
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
        let mut model = self.clone();
        for projection in model.projections_mut() {
            let name = projection.name().to_owned();
            let shares = indexed
                .iter()
                .filter_map(|(adapter, members)| adapter.share(&name, Some(members.clone())));
            projection.set_shares(shares.collect());
        }
        Ok(model)
    }

    /// This model with `adapter` in its weights: as fast as the base, for one adapter.
    ///
    /// # Errors
    /// A model that already has adapters; a tensor operation that fails.
    fn merged(&self, adapter: &Adapter) -> Result<Self> {
        moved(self, adapter, 1.0)
    }

    /// Takes out what [`Self::merged`] put in; equal to the base but for rounding.
    ///
    /// # Errors
    /// As [`Self::merged`].
    fn unmerged(&self, adapter: &Adapter) -> Result<Self> {
        moved(self, adapter, -1.0)
    }
}

/// The weights with `sign` times what the adapter adds.
fn moved<M: Adaptable>(model: &M, adapter: &Adapter, sign: f64) -> Result<M> {
    let mut moved = model.clone();
    for projection in moved.projections_mut() {
        if projection.has_shares() {
            return Err(Error::Config {
                key: "adapter",
                value: projection.name().to_owned(),
                bound: "only the base can be merged; this model has an adapter in front of it".to_owned(),
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
        let sum = (weight.to_dtype(wide(weight.dtype()))? + delta)?.to_dtype(weight.dtype())?;
        let bias = projection.linear().bias().cloned();
        projection.set_linear(Linear::new(sum, bias));
    }
    Ok(moved)
}
