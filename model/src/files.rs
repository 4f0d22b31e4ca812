//! Files of bundles, checkpoints and adapters, with errors that name them.
//!
//! Place: below `bundle`, `weights`, `architecture` and `lora`. Invariant: a file is replaced whole or not at all.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// # Errors
/// [`Error::Read`].
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// # Errors
/// [`Error::Json`].
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })
}

/// JSON that people read, with a line end; `path` is for the error.
///
/// # Errors
/// [`Error::Json`].
pub(crate) fn pretty<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// A safetensors file with the mark of PyTorch's layout that transformers and peft ask for.
///
/// # Errors
/// A tensor that cannot be read back from its device.
pub(crate) fn safetensors(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(safetensors::serialize(tensors, Some(format)).map_err(candle_core::Error::from)?)
}

/// Writes through a neighbour that is renamed; the directory is made where it is missing.
///
/// # Errors
/// [`Error::Write`].
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let partial = path.with_extension("partial");
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(fail)?;
    }
    std::fs::write(&partial, bytes).map_err(fail)?;
    std::fs::rename(&partial, path).map_err(fail)
}

/// # Errors
/// [`Error::NonFinite`] where a float tensor holds an infinity or no number.
pub(crate) fn check_finite(name: &str, tensor: &Tensor) -> Result<()> {
    if !tensor.dtype().is_float() || tensor.elem_count() == 0 {
        return Ok(());
    }
    let sum = tensor.detach().to_dtype(DType::F32)?.abs()?.sum_all()?;
    if sum.to_scalar::<f32>()?.is_finite() {
        Ok(())
    } else {
        Err(Error::NonFinite { name: name.to_owned() })
    }
}

/// Hexadecimal digits of a hash.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
