//! Named tensors of a checkpoint, walked by the names that Hugging Face and PyTorch write.
//!
//! Place: between safetensors files and the modules. Invariant: a module reads its tensors by their checkpoint names, so a
//! checkpoint loads without renaming.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files;

/// A view of a checkpoint below one prefix.
#[derive(Clone)]
pub struct Weights {
    tensors: Arc<BTreeMap<String, Tensor>>,
    prefix: String,
}

/// Hands on every weight of a safetensors file, one after the other.
///
/// # Errors
/// A file that cannot be read or is not safetensors; what `each` gives.
pub(crate) fn for_each_tensor(path: &Path, mut each: impl FnMut(String, Tensor) -> Result<()>) -> Result<()> {
    let bytes = files::read(path)?;
    let file = SafeTensors::deserialize(&bytes).map_err(candle_core::Error::from)?;
    // boolean tensors are masks that old checkpoints carry along, never weights
    let weights = file
        .tensors()
        .into_iter()
        .filter(|(_, view)| view.dtype() != Dtype::BOOL);
    for (name, view) in weights {
        each(name, view.load(&Device::Cpu)?)?;
    }
    Ok(())
}

impl Weights {
    pub fn new(tensors: BTreeMap<String, Tensor>) -> Self {
        Self {
            tensors: Arc::new(tensors),
            prefix: String::new(),
        }
    }

    /// Reads `paths` (safetensors) and converts every floating-point tensor to `dtype`.
    ///
    /// # Errors
    /// A file that cannot be read or is not safetensors; a non-finite value in any tensor.
    pub fn load(paths: &[&Path], dtype: DType, device: &Device) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for path in paths {
            for_each_tensor(path, |name, tensor| {
                let tensor = if tensor.dtype().is_float() {
                    tensor.to_dtype(dtype)?
                } else {
                    tensor
                };
                tensors.insert(name, tensor.to_device(device)?);
                Ok(())
            })?;
        }
        for (name, tensor) in &tensors {
            files::check_finite(name, tensor)?;
        }
        Ok(Self::new(tensors))
    }

    /// Reads a Hugging Face checkpoint directory: model.safetensors, or the shards that model.safetensors.index.json names.
    ///
    /// # Errors
    /// As [`Self::load`]; an index that cannot be parsed.
    pub fn load_checkpoint(dir: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let shards: Vec<PathBuf> = shards(dir)?.iter().map(|shard| dir.join(shard)).collect();
        let shards: Vec<&Path> = shards.iter().map(PathBuf::as_path).collect();
        Self::load(&shards, dtype, device)
    }

    /// The view below `prefix.name`.
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        Self {
            tensors: Arc::clone(&self.tensors),
            prefix: self.path(&name.to_string()),
        }
    }

    /// The tensor `name`, which must have the shape `expected`.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Shape`].
    pub fn get(&self, expected: &[usize], name: &str) -> Result<Tensor> {
        let tensor = self
            .find(name)
            .ok_or_else(|| Error::MissingTensor { name: self.path(name) })?;
        if tensor.dims() != expected {
            let (got, expected) = (tensor.dims().to_vec(), expected.to_vec());
            return Err(Error::Shape {
                name: self.path(name),
                got,
                expected,
            });
        }
        Ok(tensor.clone())
    }

    /// The tensor `name` where the checkpoint has it.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(&self.path(name))
    }

    /// Every tensor of the checkpoint, by full name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    fn path(&self, name: &str) -> String {
        if name.is_empty() {
            return self.prefix.clone();
        }
        if self.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }
}

/// A checkpoint in one file.
pub const SINGLE: &str = "model.safetensors";
/// Names the shard of every tensor of a checkpoint in many files.
pub const INDEX: &str = "model.safetensors.index.json";

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// File names of a checkpoint's shards, sorted.
///
/// # Errors
/// An index that cannot be read or parsed.
pub fn shards(dir: &Path) -> Result<BTreeSet<String>> {
    let path = dir.join(INDEX);
    if !path.exists() {
        return Ok(BTreeSet::from([SINGLE.to_owned()]));
    }
    let index: Index = files::parse(&path, &files::read(&path)?)?;
    Ok(index.weight_map.into_values().collect())
}
