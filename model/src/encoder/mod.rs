//! ECG encoder: millivolts to feature frames, by one of three trunks.
//!
//! Place: first stage of a request; its frames become P prefix tokens in `projector`. Shapes: (B, L, S) -> (B, S', F), after a
//! summary frame where the trunk has one. Invariant: the kind is known here alone; what follows sees frames.

pub(crate) mod config;
mod patches;
mod resnet;
mod scan;
mod vim;
mod vit;

use candle_core::Tensor;

use crate::config::{EncoderConfig, Trunk};
use crate::error::Result;
use crate::mode::Mode;
use crate::weights::Weights;

/// Trunk of any kind. A clone shares the weights.
#[derive(Clone)]
pub struct EcgEncoder {
    trunk: Modules,
    decimation: usize,
}

#[derive(Clone)]
enum Modules {
    Resnet1d(resnet::Resnet1d),
    Vit1d(vit::Vit1d),
    Vim(vim::Vim),
}

impl EcgEncoder {
    /// Reads the tensors of the config's trunk, under the names of its public implementations.
    ///
    /// # Errors
    /// A size that does not fit another; a tensor that is missing or of another shape.
    pub fn load(w: &Weights, config: &EncoderConfig) -> Result<Self> {
        config.validate()?;
        let trunk = match &config.trunk {
            Trunk::Resnet1d(sizes) => Modules::Resnet1d(resnet::Resnet1d::load(w, config.leads, sizes)?),
            Trunk::Vit1d(sizes) => Modules::Vit1d(vit::Vit1d::load(w, config.leads, sizes)?),
            Trunk::Vim(sizes) => Modules::Vim(vim::Vim::load(w, config.leads, sizes)?),
        };
        Ok(Self {
            trunk,
            decimation: config.decimation,
        })
    }

    /// (B, L, S) millivolts -> (B, S', F) frames.
    pub fn forward(&self, x: &Tensor, mode: &Mode) -> candle_core::Result<Tensor> {
        let x = decimate(x, self.decimation)?;
        match &self.trunk {
            Modules::Resnet1d(trunk) => trunk.forward(&x, mode),
            Modules::Vit1d(trunk) => trunk.forward(&x),
            Modules::Vim(trunk) => trunk.forward(&x),
        }
    }
}

/// Means of `factor` neighbouring samples: (B, L, S) -> (B, L, S / factor).
fn decimate(x: &Tensor, factor: usize) -> candle_core::Result<Tensor> {
    if factor == 1 {
        return Ok(x.clone());
    }
    let (b, l, s) = x.dims3()?;
    x.narrow(2, 0, s / factor * factor)?
        .contiguous()?
        .reshape((b, l, s / factor, factor))?
        .mean(3)
}
