//! Operations of a decoder on the CPU that would otherwise be many: one pass over the values, forward and back.
//!
//! Place: under `norm`, `rotary`, `attention`, `projection` and the losses. candle composes each of several tensors, adds every
//! gradient to a new tensor of zeros, and keeps gradients of what does not learn (0.11.1). On other devices and in other types
//! the composed forms run. Invariant: a row's values do not depend on the rows beside it, bit for bit; gradients are those of the
//! composed form, and tests compare them with finite differences.

pub(crate) mod adapted;
pub(crate) mod attention;
pub(crate) mod cross_entropy;
pub(crate) mod gate;
pub(crate) mod head;
pub(crate) mod mlp;
pub(crate) mod norm;
pub(crate) mod rotary;
#[cfg(test)]
mod tests;
mod ties;

use crate::threads::share;
use crate::wide::Real;
use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor};

/// Values below which other cores are not woken.
const SHARED_MIN: usize = 1 << 15;

/// True where the operations of this module take a tensor.
pub(crate) fn takes(t: &Tensor) -> bool {
    t.device().is_cpu() && matches!(t.dtype(), DType::F32 | DType::F64)
}

/// True where `x` is taken and all of `weights`, of its type, do not learn.
pub(crate) fn takes_frozen<'a>(x: &Tensor, weights: impl IntoIterator<Item = &'a Tensor>) -> bool {
    let frozen = |w: &Tensor| !w.track_op() && w.dtype() == x.dtype();
    takes(x) && weights.into_iter().all(frozen)
}

/// Runs `$run::<T>` for the type of a storage.
macro_rules! by_type {
    ($storage:expr, $T:ident => $run:expr) => {
        match $storage {
            candle_core::CpuStorage::F32(_) => {
                type $T = f32;
                $run
            }
            candle_core::CpuStorage::F64(_) => {
                type $T = f64;
                $run
            }
            other => candle_core::bail!(
                "fused operations take f32 and f64, not {:?}",
                candle_core::backend::BackendStorage::dtype(other)
            ),
        }
    };
}
pub(crate) use by_type;

/// The values of a contiguous tensor.
pub(crate) fn values<'a, T: Real>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice()?[from..to]),
        None => candle_core::bail!("fused operations take contiguous tensors, not {layout:?}"),
    }
}

/// The storage of an operation's result.
pub(crate) fn stored<T: Real>(values: Vec<T>) -> CpuStorage {
    T::to_cpu_storage_owned(values)
}

/// As [`values`], of a tensor that an operation holds.
pub(crate) fn held<'a, T: Real>(
    (storage, layout): &'a (impl std::ops::Deref<Target = Storage>, &Layout),
) -> Result<&'a [T]> {
    match &**storage {
        Storage::Cpu(storage) => values(storage, layout),
        _ => candle_core::bail!("fused operations run on the CPU"),
    }
}

/// Fills `y` in parts of `width` values, on every core where that pays; `fill` gets the part's index.
pub(crate) fn fill_parts<T: Real>(y: &mut [T], width: usize, fill: impl Fn(usize, &mut [T]) + Sync + Send) {
    if y.len() < SHARED_MIN {
        y.chunks_mut(width).enumerate().for_each(|(i, part)| fill(i, part));
    } else {
        share(y.chunks_mut(width).collect(), fill);
    }
}
