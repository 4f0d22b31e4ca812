//! Where tensors live: the CPU, or a GPU in a build with the feature `cuda`.
//!
//! Place: opened once at start by every process that runs the model; everything else takes the device from its tensors.
//! Invariant: a name that cannot be had is refused with the reason, never replaced by another device.

use candle_core::Device;

use crate::error::{Error, Result};

/// The device of a name: "cpu", "cuda" (the first GPU) or "cuda:N".
///
/// # Errors
/// [`Error::Config`] for another name, for a GPU in a build without the feature `cuda`, and for one that is not there.
pub fn open(name: &str) -> Result<Device> {
    let refused = |bound: &str| Error::Config {
        key: "device",
        value: name.to_owned(),
        bound: bound.to_owned(),
    };
    let number = match name {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => Some("0"),
        other => other.strip_prefix("cuda:"),
    };
    let ordinal: usize = number
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| refused("must be \"cpu\", \"cuda\" or \"cuda:N\""))?;
    if !candle_core::utils::cuda_is_available() {
        return Err(refused(
            "needs a build with --features cuda, and this build has none; use \"cpu\"",
        ));
    }
    Device::new_cuda(ordinal).map_err(|error| refused(&format!("no such GPU, or its driver does not answer: {error}")))
}

/// The most bytes of a GPU's memory that tensors have held at once since the process began; None for the CPU.
///
/// # Errors
/// A driver that refuses the question.
pub fn peak_bytes(device: &Device) -> candle_core::Result<Option<u64>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => pool::used_high(cuda).map(Some),
        _ => Ok(None),
    }
}

#[cfg(feature = "cuda")]
mod pool {
    //! candle allocates from the device's default pool, and the pool keeps its high-water mark.

    use candle_core::cuda_backend::cudarc::driver::sys;
    use candle_core::{CudaDevice, Result};

    pub fn used_high(device: &CudaDevice) -> Result<u64> {
        let ordinal = device.cuda_stream().context().ordinal();
        let ordinal = i32::try_from(ordinal).map_err(candle_core::Error::wrap)?;
        let (mut handle, mut pool, mut bytes) = (0, std::ptr::null_mut(), 0u64);
        // SAFETY: the three calls write to the variables they are given, which outlive them; the attribute is a 64-bit number
        unsafe {
            answered(sys::cuDeviceGet(&mut handle, ordinal))?;
            answered(sys::cuDeviceGetDefaultMemPool(&mut pool, handle))?;
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
            answered(sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast()))?;
        }
        Ok(bytes)
    }

    fn answered(result: sys::CUresult) -> Result<()> {
        result.result().map_err(candle_core::Error::wrap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_cannot_be_had_is_named_with_the_reason() {
        assert!(open("cpu").unwrap().is_cpu());
        assert_eq!(peak_bytes(&Device::Cpu).unwrap(), None);
        for (name, reason) in [
            ("gpu", "must be"),
            ("cuda:", "must be"),
            ("cuda:x", "must be"),
            ("cuda:4096", ""),
        ] {
            let error = open(name).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(reason), "{error}");
        }
    }
}
