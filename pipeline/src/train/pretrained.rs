//! Weights of an encoder that was trained before, as by self-supervision, over the fresh ones.
//!
//! Place: between the fresh tensors and the first step. Invariant: a tensor is taken under its own name and in its own shape or the run
//! ends; what the file does not have stays fresh.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, bail};
use candle_core::{DType, Device, Tensor};
use model::weights::Weights;
use serde::{Deserialize, Serialize};

use crate::manifest::file_sha256;

/// What a run took of a file of encoder weights; training.json keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pretrained {
    /// sha256 of the file.
    pub sha256: String,
    /// Tensors of trunk and projector that it gave.
    pub taken: usize,
    /// Those that it lacks, which start fresh.
    pub fresh: usize,
    /// Its own that are none of trunk and projector.
    pub left_out: usize,
}

impl fmt::Display for Pretrained {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (taken, of) = (self.taken, self.taken + self.fresh);
        write!(
            f,
            "encoder weights: {taken} of trunk's and projector's {of} tensors, {} of the file's left out",
            self.left_out
        )
    }
}

/// Puts the tensors of the safetensors file `path` in the place of those of trunk and projector in `tensors`, where they lie below
/// `encoder.`.
///
/// # Errors
/// A file that cannot be read, none of whose tensors has the name of one of the encoder's, or one of whose tensors has another shape.
pub(super) fn lay_over(path: &Path, tensors: &mut BTreeMap<String, Tensor>) -> anyhow::Result<Pretrained> {
    let context = || format!("read encoder weights {}", path.display());
    let file = Weights::load(&[path], DType::F32, &Device::Cpu).with_context(context)?;
    let (mut taken, mut fresh) = (0, 0);
    for (name, tensor) in tensors {
        // a fusion's own weights belong to one language model
        let Some(name) = name
            .strip_prefix("encoder.")
            .filter(|name| !name.starts_with("fusion."))
        else {
            continue;
        };
        if file.has(name) {
            *tensor = file.get(tensor.dims(), name).with_context(context)?;
            taken += 1;
        } else {
            fresh += 1;
        }
    }
    let names = file.names();
    if taken == 0 {
        let some: Vec<&str> = names.iter().take(3).map(String::as_str).collect();
        bail!(
            "{} has none of the encoder's {fresh} tensors, which have the names of docs/model.md, but {} others ({}, ..)",
            path.display(),
            names.len(),
            some.join(", ")
        );
    }
    Ok(Pretrained {
        sha256: file_sha256(path)?,
        taken,
        fresh,
        left_out: names.len() - taken,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeros(shape: &[usize]) -> Tensor {
        Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
    }

    fn ones(shape: &[usize]) -> Tensor {
        Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap()
    }

    fn fresh() -> BTreeMap<String, Tensor> {
        let names = [
            "encoder.conv1.weight",
            "encoder.projector.0.bias",
            "encoder.fusion.gate",
            "decoder.conv1.weight",
        ];
        names.map(|name| (name.to_owned(), zeros(&[2, 3]))).into()
    }

    fn laid_over(file: &[(&str, Tensor)]) -> (anyhow::Result<Pretrained>, BTreeMap<String, Tensor>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ssl.safetensors");
        let named = file.iter().map(|(name, t)| ((*name).to_owned(), t.clone())).collect();
        candle_core::safetensors::save(&named, &path).unwrap();
        let mut tensors = fresh();
        (lay_over(&path, &mut tensors), tensors)
    }

    #[test]
    fn tensors_of_trunk_and_projector_are_taken_by_name_and_counted() {
        let (taken, tensors) = laid_over(&[
            ("conv1.weight", ones(&[2, 3])),
            ("fusion.gate", ones(&[2, 3])),
            ("head.weight", ones(&[7])),
        ]);
        let taken = taken.unwrap();
        assert_eq!((taken.taken, taken.fresh, taken.left_out), (1, 1, 2));
        assert_eq!(taken.sha256.len(), 64);
        let sum = |name: &str| tensors[name].sum_all().unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(sum("encoder.conv1.weight"), 6.0);
        assert_eq!(
            sum("encoder.projector.0.bias") + sum("encoder.fusion.gate") + sum("decoder.conv1.weight"),
            0.0
        );
    }

    #[test]
    fn a_file_of_other_names_or_shapes_is_refused_with_what_it_has() {
        let text = |file: &[(&str, Tensor)]| format!("{:#}", laid_over(file).0.unwrap_err());
        let others = text(&[("trunk.conv1.weight", ones(&[2, 3]))]);
        assert!(
            others.contains("none of the encoder's 2 tensors") && others.contains("trunk.conv1.weight"),
            "{others}"
        );
        let shaped = text(&[("conv1.weight", ones(&[3, 2]))]);
        assert!(
            shaped.contains("tensor conv1.weight has shape [3, 2], expected [2, 3]"),
            "{shaped}"
        );
    }
}
