//! The encoder's trunk, as the command line names it.
//!
//! Place: a part of the training settings. Invariant: the kinds that are named without sizes are of about as many parameters.

use std::str::FromStr;

use model::config::{ResnetConfig, Trunk, VimConfig, VitConfig};
use serde::{Deserialize, Serialize};

/// The encoder's trunk, by its kind or by all of its sizes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EncoderTrunk {
    /// A ResNet of the settings' sizes.
    #[default]
    Resnet1d,
    /// A transformer of about as many parameters as the ResNet of the defaults.
    Vit1d,
    /// State-space layers, likewise.
    Vim,
    #[serde(untagged)]
    Sized(Trunk),
}

impl FromStr for EncoderTrunk {
    type Err = serde_json::Error;

    /// A kind's name, or JSON as bundle.json has it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with('{') {
            serde_json::from_str(text).map(Self::Sized)
        } else {
            serde_json::from_value(text.into())
        }
    }
}

/// Samples of a patch of the two below.
const PATCH: usize = 25;
/// Without its patches; about as many parameters as the ResNet of the defaults.
const SMALL_VIT: VitConfig = VitConfig {
    width: 128,
    layers: 5,
    heads: 4,
    mlp: 512,
    patch: PATCH,
    patches: 0,
};
/// Likewise.
const SMALL_VIM: VimConfig = VimConfig {
    width: 128,
    layers: 7,
    inner: 256,
    state: 16,
    rank: 8,
    conv: 4,
    patch: PATCH,
    patches: 0,
};

impl EncoderTrunk {
    /// The trunk that it names, over so many samples; a ResNet is `resnet`.
    pub(super) fn of(&self, resnet: ResnetConfig, samples: usize) -> Trunk {
        let patches = samples / PATCH;
        match self {
            Self::Resnet1d => Trunk::Resnet1d(resnet),
            Self::Vit1d => Trunk::Vit1d(VitConfig { patches, ..SMALL_VIT }),
            Self::Vim => Trunk::Vim(VimConfig { patches, ..SMALL_VIM }),
            Self::Sized(trunk) => trunk.clone(),
        }
    }
}
