//! A safetensors file, read a tensor at a time.
//!
//! Place: below `weights` and `assemble`. Invariant: what is in memory is the header and the tensors that were asked for, so a
//! checkpoint of many gigabytes loads in the memory of the model that is made of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use safetensors::{Dtype, SafeTensorError};

use crate::error::{Error, Result};
use crate::files;

/// Bytes of the header's length, which come first.
const LENGTH: u64 = 8;
/// Bytes of a header at most, as the format says.
const HEADER_MAX: u64 = 100_000_000;
/// Types that are read.
const READ: [Dtype; 9] = [
    Dtype::F16,
    Dtype::BF16,
    Dtype::F32,
    Dtype::F64,
    Dtype::U8,
    Dtype::I16,
    Dtype::I32,
    Dtype::U32,
    Dtype::I64,
];

pub(crate) struct Shard {
    path: PathBuf,
    source: Source,
    metadata: Metadata,
    /// Where the tensors' bytes begin.
    start: u64,
}

/// Where a file's bytes are.
enum Source {
    Disk(File),
    Memory(Vec<u8>),
}

impl Source {
    fn len(&self) -> io::Result<u64> {
        match self {
            Self::Disk(file) => Ok(file.metadata()?.len()),
            Self::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    fn read_exact_at(&self, to: &mut [u8], from: u64) -> io::Result<()> {
        match self {
            Self::Disk(file) => file.read_exact_at(to, from),
            Self::Memory(bytes) => {
                let rest = bytes.get(from as usize..).unwrap_or_default();
                io::Read::read_exact(&mut &*rest, to)
            }
        }
    }
}

impl Shard {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Safetensors`] for a file that is no safetensors, or whose size is not the one its header gives.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(path, Source::Disk(files::open(path)?))
    }

    /// As [`Self::open`], of a file that was read whole.
    ///
    /// # Errors
    /// As there.
    pub fn of_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        Self::of(path, Source::Memory(bytes))
    }

    fn of(path: &Path, source: Source) -> Result<Self> {
        let read = |source| files::unreadable(path, source);
        let parsed = |source| Error::Safetensors {
            path: path.to_owned(),
            source,
        };
        let size = source.len().map_err(read)?;
        let mut length = [0; LENGTH as usize];
        if size < LENGTH {
            return Err(parsed(SafeTensorError::HeaderTooSmall));
        }
        source.read_exact_at(&mut length, 0).map_err(read)?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_MAX {
            return Err(parsed(SafeTensorError::HeaderTooLarge));
        }
        if length > size - LENGTH {
            return Err(parsed(SafeTensorError::InvalidHeaderLength));
        }
        let mut header = vec![0; length as usize];
        source.read_exact_at(&mut header, LENGTH).map_err(read)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(SafeTensorError::InvalidHeaderDeserialization)
            .map_err(parsed)?;
        let start = LENGTH + length;
        if metadata.data_len() as u64 != size - start {
            return Err(parsed(SafeTensorError::MetadataIncompleteBuffer));
        }
        Ok(Self {
            path: path.to_owned(),
            source,
            metadata,
            start,
        })
    }

    /// Shape of every weight, by name. Boolean tensors are masks that old checkpoints carry along, never weights.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let all = self.metadata.tensors().into_iter();
        let weights = all.filter(|(_, info)| info.dtype != Dtype::BOOL);
        weights.map(|(name, info)| (name, info.shape.clone())).collect()
    }

    /// A weight in the file's own type.
    ///
    /// # Errors
    /// As [`Self::read`]; [`Error::TensorType`] for integers too.
    pub fn weight(&self, name: &str) -> Result<Tensor> {
        let tensor = self.read(name)?;
        if tensor.dtype().is_float() {
            Ok(tensor)
        } else {
            Err(self.mistyped(name, self.info(name)?))
        }
    }

    /// A tensor in the file's own type: a weight, or integers that old checkpoints carry along.
    ///
    /// # Errors
    /// [`Error::MissingTensor`]; [`Error::Read`]; [`Error::TensorType`] for other types, whose values are none without their scales.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let info = self.info(name)?;
        if !READ.contains(&info.dtype) {
            return Err(self.mistyped(name, info));
        }
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        self.source
            .read_exact_at(&mut bytes, self.start + from as u64)
            .map_err(|source| files::unreadable(&self.path, source))?;
        let view = TensorView::new(info.dtype, info.shape.clone(), &bytes);
        let view = view.map_err(|source| Error::Safetensors {
            path: self.path.clone(),
            source,
        })?;
        Ok(view.load(&Device::Cpu)?)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        let info = self.metadata.info(name);
        info.ok_or_else(|| Error::MissingTensor { name: name.to_owned() })
    }

    fn mistyped(&self, name: &str, info: &TensorInfo) -> Error {
        Error::TensorType {
            path: self.path.clone(),
            name: name.to_owned(),
            got: format!("{:?}", info.dtype),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        std::fs::write(&path, bytes).unwrap();
        let error = Shard::open(&path).err().unwrap();
        assert!(error.to_string().contains("x.safetensors"), "{error}");
        std::error::Error::source(&error).unwrap().to_string()
    }

    #[test]
    fn a_file_that_was_cut_or_is_something_else_is_refused_by_name() {
        let tensors = BTreeMap::from([("a".to_owned(), Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap())]);
        let whole = crate::files::safetensors(&tensors).unwrap();
        assert!(refused(&whole[..whole.len() - 1]).contains("incomplete metadata"));
        assert!(refused(&whole[..20]).contains("header length"));
        assert!(refused(&whole[..5]).contains("header too small"));
        assert!(refused(&[0xff; 64]).contains("header too large"));
        assert!(refused(b"\x02\0\0\0\0\0\0\0[]").contains("invalid"));
        assert_eq!(
            refused(&[whole.as_slice(), b"x"].concat()),
            refused(&whole[..whole.len() - 1])
        );
    }

    #[test]
    fn tensors_are_read_by_name_and_masks_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let (floats, mask) = ([1.5f32, -2.0].map(f32::to_le_bytes).concat(), [1u8, 0, 1]);
        let views = [
            ("a", TensorView::new(Dtype::F32, vec![2], &floats).unwrap()),
            ("mask", TensorView::new(Dtype::BOOL, vec![3], &mask).unwrap()),
        ];
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        let shard = Shard::open(&path).unwrap();
        assert_eq!(shard.shapes(), BTreeMap::from([("a".to_owned(), vec![2])]));
        assert_eq!(shard.read("a").unwrap().to_vec1::<f32>().unwrap(), [1.5, -2.0]);
        assert_eq!(
            shard.read("b").err().unwrap().to_string(),
            "tensor b is missing from the weights"
        );
    }

    #[test]
    fn a_tensor_of_a_type_that_is_no_weights_is_refused_with_file_name_and_type() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let bytes = [0u8; 8];
        let views = [
            ("eights", TensorView::new(Dtype::F8_E4M3, vec![8], &bytes).unwrap()),
            ("bytes", TensorView::new(Dtype::I8, vec![8], &bytes).unwrap()),
            ("count", TensorView::new(Dtype::I64, vec![1], &bytes).unwrap()),
        ];
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        let shard = Shard::open(&path).unwrap();
        let refused = |name: &str, of_type: &str| {
            let text = shard.weight(name).err().unwrap().to_string();
            let expected =
                format!("x.safetensors: tensor {name} is of type {of_type}: weights are F16, BF16, F32 or F64");
            assert!(text.ends_with(&expected), "{text}");
        };
        refused("eights", "F8_E4M3");
        refused("bytes", "I8");
        refused("count", "I64");
        assert!(shard.read("eights").is_err() && shard.read("bytes").is_err());
        assert_eq!(shard.read("count").unwrap().to_vec1::<i64>().unwrap(), [0]);
    }
}
