//! Named tensors of a checkpoint, walked by the names that Hugging Face and PyTorch write.
//!
//! Place: between safetensors files and the modules. Invariant: a module reads its tensors by their checkpoint names, so a
//! checkpoint loads without renaming; a tensor is read when a module asks for it, and no other copy of it is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files;
use crate::layers::Linear;
use crate::shard::Shard;

/// Where named tensors come from: memory, files, or whoever makes them.
pub trait Tensors: Send + Sync {
    fn names(&self) -> Vec<String>;

    /// None where there is no such tensor.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// # Errors
    /// A tensor that is missing or cannot be read.
    fn tensor(&self, name: &str) -> Result<Tensor>;

    /// As [`Self::tensor`], of floating-point numbers where files are the source.
    ///
    /// # Errors
    /// As [`Self::tensor`]; [`Error::TensorType`].
    fn weight(&self, name: &str) -> Result<Tensor> {
        self.tensor(name)
    }
}

/// A view of a checkpoint below one prefix.
#[derive(Clone)]
pub struct Weights {
    tensors: Arc<dyn Tensors>,
    prefix: String,
    /// Type of every floating-point tensor; None leaves them as they are.
    dtype: Option<DType>,
    /// What the backbone's linear layers are held in, where not in tensors.
    blocks: Option<GgmlDType>,
}

impl Tensors for BTreeMap<String, Tensor> {
    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.get(name).map(|tensor| tensor.dims().to_vec())
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let missing = || Error::MissingTensor { name: name.to_owned() };
        self.get(name).cloned().ok_or_else(missing)
    }
}

/// Files of a checkpoint, whose tensors go to a device.
struct Files {
    shards: Vec<Shard>,
    /// Each tensor's shard and shape.
    tensors: BTreeMap<String, (usize, Vec<usize>)>,
    device: Device,
}

impl Tensors for Files {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|(_, shape)| shape.clone())
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        self.read(name, Shard::read)
    }

    fn weight(&self, name: &str) -> Result<Tensor> {
        self.read(name, Shard::weight)
    }
}

impl Files {
    fn read(&self, name: &str, read: impl Fn(&Shard, &str) -> Result<Tensor>) -> Result<Tensor> {
        let missing = || Error::MissingTensor { name: name.to_owned() };
        let (shard, _) = self.tensors.get(name).ok_or_else(missing)?;
        let tensor = read(&self.shards[*shard], name)?;
        files::check_finite(name, &tensor)?;
        Ok(tensor.to_device(&self.device)?)
    }
}

impl Weights {
    pub fn new(tensors: BTreeMap<String, Tensor>) -> Self {
        Self::from_source(tensors)
    }

    /// The tensors of a source, as they are.
    pub fn from_source(tensors: impl Tensors + 'static) -> Self {
        Self {
            tensors: Arc::new(tensors),
            prefix: String::new(),
            dtype: None,
            blocks: None,
        }
    }

    /// Opens `paths` (safetensors), whose floating-point tensors become `dtype` on `device` as they are read. Of a name that two files
    /// have, the last holds.
    ///
    /// # Errors
    /// A file that cannot be read or is not safetensors. Later, of each tensor: one that cannot be read or is of a type that holds no
    /// weights, a non-finite value.
    pub fn load(paths: &[&Path], dtype: DType, device: &Device) -> Result<Self> {
        let shards = paths.iter().map(|path| Shard::open(path)).collect::<Result<Vec<_>>>()?;
        let mut tensors = BTreeMap::new();
        for (at, shard) in shards.iter().enumerate() {
            let shapes = shard.shapes().into_iter();
            tensors.extend(shapes.map(|(name, shape)| (name, (at, shape))));
        }
        let files = Files {
            shards,
            tensors,
            device: device.clone(),
        };
        Ok(Self::from_source(files).in_dtype(dtype))
    }

    /// Opens a Hugging Face checkpoint directory: model.safetensors, or the shards that model.safetensors.index.json names.
    ///
    /// # Errors
    /// As [`Self::load`]; an index that cannot be parsed.
    pub fn load_checkpoint(dir: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let shards: Vec<PathBuf> = shards(dir)?.iter().map(|shard| dir.join(shard)).collect();
        let shards: Vec<&Path> = shards.iter().map(PathBuf::as_path).collect();
        Self::load(&shards, dtype, device)
    }

    /// This view with every floating-point tensor in `dtype`.
    #[must_use]
    pub fn in_dtype(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// This view with the linear layers of a backbone in blocks of a kind, if any, each made as soon as its weight is read. Layers
    /// whose inputs are no multiple of a block stay as they are.
    #[must_use]
    pub fn in_blocks(mut self, kind: Option<GgmlDType>) -> Self {
        self.blocks = kind;
        self
    }

    /// The view below `prefix.name`.
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        Self {
            prefix: self.path(&name.to_string()),
            ..self.clone()
        }
    }

    /// The tensor `name`, which must have the shape `expected`.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Shape`], [`Error::TensorType`], [`Error::NonFinite`]; a file that cannot be read.
    pub fn get(&self, expected: &[usize], name: &str) -> Result<Tensor> {
        let name = self.path(name);
        let got = self.tensors.shape(&name);
        let got = got.ok_or_else(|| Error::MissingTensor { name: name.clone() })?;
        if got != expected {
            let expected = expected.to_vec();
            return Err(Error::Shape { name, got, expected });
        }
        self.typed(&name, self.tensors.weight(&name)?)
    }

    /// The tensor of the full name `name`, in the type of this view.
    fn typed(&self, name: &str, tensor: Tensor) -> Result<Tensor> {
        match self.dtype {
            Some(dtype) if tensor.dtype().is_float() && tensor.dtype() != dtype => {
                let tensor = tensor.to_dtype(dtype)?;
                files::check_finite(name, &tensor)?; // a narrower type may not hold the value
                Ok(tensor)
            }
            _ => Ok(tensor),
        }
    }

    /// A layer of the backbone, held as this view says.
    ///
    /// # Errors
    /// A weight that cannot be quantised.
    pub(crate) fn held(&self, layer: Linear) -> Result<Linear> {
        match self.blocks {
            Some(kind) => Ok(layer.quantised(kind)?),
            None => Ok(layer),
        }
    }

    /// True where the checkpoint has the tensor `name`.
    pub fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// Shape of the tensor `name`, where the checkpoint has it.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.shape(&self.path(name))
    }

    /// Numbers in all tensors of the checkpoint, of which none is read.
    pub fn elements(&self) -> usize {
        let shapes = self.names().into_iter().filter_map(|name| self.tensors.shape(&name));
        shapes.map(|shape| shape.iter().product::<usize>()).sum()
    }

    /// Full name of every tensor of the checkpoint.
    pub fn names(&self) -> Vec<String> {
        self.tensors.names()
    }

    /// Every tensor of the checkpoint, by full name.
    ///
    /// # Errors
    /// A tensor that cannot be read; [`Error::NonFinite`].
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let names = self.names().into_iter();
        let typed = |name: String| {
            let tensor = self.typed(&name, self.tensors.tensor(&name)?)?;
            Ok((name, tensor))
        };
        names.map(typed).collect()
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
/// An index that cannot be read or parsed; [`Error::Config`] for a name that leads out of `dir`.
pub fn shards(dir: &Path) -> Result<BTreeSet<String>> {
    let path = dir.join(INDEX);
    if !path.exists() {
        return Ok(BTreeSet::from([SINGLE.to_owned()]));
    }
    let index: Index = files::parse(&path, &files::read(&path)?)?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    for shard in &shards {
        files::check_name("weight_map", shard)?;
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_outside_of_its_checkpoint_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let named = |shard: &str| {
            let index = serde_json::json!({"weight_map": {"a": shard}});
            std::fs::write(dir.path().join(INDEX), index.to_string()).unwrap();
            shards(dir.path())
        };
        assert_eq!(
            named("model-1.safetensors").unwrap(),
            ["model-1.safetensors".to_owned()].into()
        );
        for shard in [
            "../x.safetensors",
            "a/x.safetensors",
            "/x.safetensors",
            "a\\x",
            "..",
            ".",
            "",
        ] {
            let text = named(shard).err().unwrap().to_string();
            assert!(
                text.contains(&format!("weight_map is {shard}: must be a plain file name")),
                "{text}"
            );
        }
    }
}
