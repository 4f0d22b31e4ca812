//! Named variables of a training run.
//!
//! Place: between `model::init` or a checkpoint and the model's weights. Invariant: the model's tensors are these variables,
//! so an optimiser step or a batch-norm update is seen by the next forward without a copy.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor, Var};
use model::weights::Weights;

/// Every variable, trained or not, by full name.
pub struct Params {
    vars: BTreeMap<String, Var>,
}

impl Params {
    /// # Errors
    /// A tensor that cannot become a variable.
    pub fn new(tensors: &BTreeMap<String, Tensor>) -> candle_core::Result<Self> {
        let vars = tensors.iter().map(|(name, t)| Ok((name.clone(), Var::from_tensor(t)?)));
        Ok(Self {
            vars: vars.collect::<candle_core::Result<_>>()?,
        })
    }

    /// The variables as a checkpoint that modules can read.
    pub fn weights(&self) -> Weights {
        Weights::new(
            self.vars
                .iter()
                .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
                .collect(),
        )
    }

    /// Variables that the optimiser moves: all but the running statistics of batch norms.
    pub fn trainable(&self) -> impl Iterator<Item = (&String, &Var)> + Clone {
        self.vars.iter().filter(|(name, _)| !name.contains("running_"))
    }

    /// Detached copies, for a checkpoint.
    pub fn snapshot(&self) -> candle_core::Result<HashMap<String, Tensor>> {
        self.vars
            .iter()
            .map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().copy()?)))
            .collect()
    }

    /// Tensors below `prefix.`, in `dtype`, under their names without it.
    pub fn part(&self, prefix: &str, dtype: DType) -> candle_core::Result<HashMap<String, Tensor>> {
        let mut part = HashMap::new();
        for (name, var) in &self.vars {
            if let Some(short) = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')) {
                part.insert(short.to_owned(), var.as_detached_tensor().to_dtype(dtype)?);
            }
        }
        Ok(part)
    }

    /// Sets every variable from a checkpoint file.
    ///
    /// # Errors
    /// A file that cannot be read or that lacks a variable.
    pub fn restore(&self, path: &Path) -> anyhow::Result<()> {
        let saved =
            candle_core::safetensors::load(path, &Device::Cpu).with_context(|| format!("read {}", path.display()))?;
        ensure!(
            saved.len() == self.vars.len(),
            "{} has {} tensors, expected {}",
            path.display(),
            saved.len(),
            self.vars.len()
        );
        for (name, var) in &self.vars {
            let tensor = saved
                .get(name)
                .with_context(|| format!("{} lacks {name}", path.display()))?;
            var.set(tensor).with_context(|| format!("restore {name}"))?;
        }
        Ok(())
    }
}
