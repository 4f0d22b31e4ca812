//! Files of bundles, checkpoints and adapters, with errors that name them.
//!
//! Place: below `bundle`, `weights`, `architecture` and `lora`. Invariant: a file is replaced whole or not at all.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Component, Path};

use candle_core::{DType, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// # Errors
/// [`Error::Read`].
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| unreadable(path, source))
}

/// # Errors
/// [`Error::Read`].
pub(crate) fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|source| unreadable(path, source))
}

/// # Errors
/// [`Error::Config`] for a `name` that is not a plain file name, and so could lead out of the directory of the file that names it
/// under `key`.
pub(crate) fn check_name(key: &'static str, name: &str) -> Result<()> {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    if plain && !name.contains('\\') {
        return Ok(());
    }
    Err(Error::Config {
        key,
        value: name.to_owned(),
        bound: "must be a plain file name".to_owned(),
    })
}

/// sha256 of a file, hexadecimal, without the whole of it in memory.
///
/// # Errors
/// [`Error::Read`].
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(&mut open(path)?, &mut hash).map_err(|source| unreadable(path, source))?;
    Ok(hex(&hash.finalize()))
}

pub(crate) fn unreadable(path: &Path, source: std::io::Error) -> Error {
    Error::Read {
        path: path.to_owned(),
        source,
    }
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
    Ok(safetensors::serialize(tensors, Some(layout())).map_err(candle_core::Error::from)?)
}

/// As [`safetensors`], into a file without the whole of it in memory.
///
/// # Errors
/// [`Error::Write`].
pub(crate) fn write_safetensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    replace(path, |partial| {
        safetensors::serialize_to_file(tensors, Some(layout()), partial).map_err(std::io::Error::other)
    })
}

fn layout() -> HashMap<String, String> {
    HashMap::from([("format".to_owned(), "pt".to_owned())])
}

/// Writes through a neighbour that is renamed; the directory is made where it is missing.
///
/// # Errors
/// [`Error::Write`].
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |partial| std::fs::write(partial, bytes))
}

/// As [`write`], of the bytes of another file.
///
/// # Errors
/// [`Error::Read`]; [`Error::Write`].
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut file = open(from)?;
    replace(to, |partial| {
        std::io::copy(&mut file, &mut File::create(partial)?).map(drop)
    })
}

/// Makes the directory `dir` of what `fill` puts into a neighbour, which is renamed when that is done and removed when it fails.
///
/// # Errors
/// [`Error::NotEmpty`] where `dir` holds something; [`Error::Write`]; whatever `fill` fails with.
pub(crate) fn fill_directory<T>(dir: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let fail = |source| Error::Write {
        path: dir.to_owned(),
        source,
    };
    let is_free = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == ErrorKind::NotFound => true,
        Err(error) => return Err(fail(error)),
    };
    if !is_free {
        return Err(Error::NotEmpty { path: dir.to_owned() });
    }
    let unnamed = || fail(std::io::Error::other("the directory needs a name"));
    let mut name = dir.file_name().ok_or_else(unnamed)?.to_owned();
    name.push(format!(".partial-{}", std::process::id()));
    let partial = dir.with_file_name(name);
    std::fs::create_dir_all(&partial).map_err(fail)?;
    let filled = fill(&partial).and_then(|value| std::fs::rename(&partial, dir).map_err(fail).map(|()| value));
    if filled.is_err() {
        // the first error tells more than one of this
        let _ = std::fs::remove_dir_all(&partial);
    }
    filled
}

fn replace(path: &Path, fill: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    let fail = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let partial = path.with_extension("partial");
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(fail)?;
    }
    fill(&partial).map_err(fail)?;
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
