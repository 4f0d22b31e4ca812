//! Sizes of the ECG encoder, as bundle.json has them.
//!
//! Place: written by training and `bundle create`, read once at load, and by `init` for fresh weights. Invariant: what an
//! encoder reads and what training draws follow from the same lists here.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::weights::Weights;

/// Sizes of encoder and projector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct EncoderConfig {
    /// Leads of the input, L.
    pub leads: usize,
    /// Neighbouring samples averaged into one before the trunk: 2 turns 500 Hz into 250 Hz.
    pub decimation: usize,
    pub trunk: Trunk,
    /// Width of the projector's hidden layer.
    pub hidden: usize,
    /// Head dimension of the decoder, D.
    pub dim: usize,
    /// Prefix tokens, P; the first is the summary frame where the trunk has one.
    pub tokens: usize,
    /// A learned vector per time token, added before the projector.
    pub time_embedding: bool,
}

/// What turns samples into frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Trunk {
    Resnet1d(ResnetConfig),
    Vit1d(VitConfig),
    Vim(VimConfig),
}

/// A 1-D ResNet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResnetConfig {
    /// Channels of the stem; stage i has expansion width 2^i outputs.
    pub width: usize,
    pub stem_kernel: usize,
    pub stem_stride: usize,
    /// Blocks a stage; 2, 2, 2, 2 in ResNet-18, 3, 4, 6, 3 in ResNet-34 and 50.
    pub blocks: Vec<usize>,
    #[serde(default)]
    pub block: Block,
    /// Taps of the blocks' convolutions that look around; 3 in the public ones.
    #[serde(default = "public_kernel", skip_serializing_if = "is_public_kernel")]
    pub kernel: usize,
    /// Groups of channels that those convolutions keep apart; 1 in the public ones.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub groups: usize,
}

fn public_kernel() -> usize {
    3
}

fn is_public_kernel(kernel: &usize) -> bool {
    *kernel == public_kernel()
}

fn one() -> usize {
    1
}

fn is_one(groups: &usize) -> bool {
    *groups == one()
}

/// Kind of a ResNet's block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Block {
    /// Two convolutions, as in ResNet-18 and 34.
    Basic,
    /// A convolution between two that are 1 wide, with four times the outputs, as in ResNet-50.
    #[default]
    Bottleneck,
}

/// A transformer over patches in time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub mlp: usize,
    /// Samples of all leads in one patch, after decimation.
    pub patch: usize,
    /// Patches of a recording.
    pub patches: usize,
}

/// Bidirectional state-space layers over patches in time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VimConfig {
    pub width: usize,
    pub layers: usize,
    /// Width inside a layer.
    pub inner: usize,
    /// States of each inner channel.
    pub state: usize,
    /// Rank of the step sizes.
    pub rank: usize,
    /// Taps of the depthwise convolution.
    pub conv: usize,
    /// Samples of all leads in one patch, after decimation.
    pub patch: usize,
    /// Patches of a recording.
    pub patches: usize,
}

impl EncoderConfig {
    /// Features of a frame.
    pub fn features(&self) -> usize {
        match &self.trunk {
            Trunk::Resnet1d(sizes) => sizes.block.outputs(sizes.width << (sizes.blocks.len() - 1)),
            Trunk::Vit1d(sizes) => sizes.width,
            Trunk::Vim(sizes) => sizes.width,
        }
    }

    /// True where the first frame sums up the recording and the rest follow in time.
    pub fn has_summary(&self) -> bool {
        match self.trunk {
            Trunk::Resnet1d(_) => false,
            Trunk::Vit1d(_) | Trunk::Vim(_) => true,
        }
    }

    /// Trained values of encoder and projector; running statistics are none.
    pub fn parameters(&self) -> usize {
        let (f, h, d) = (self.features(), self.hidden, self.dim);
        let projector = f * h + 3 * h + h * d + 3 * d;
        let time = if self.time_embedding { self.tokens * f } else { 0 };
        self.trunk.parameters(self.leads) + projector + time
    }

    /// # Errors
    /// [`Error::Config`] for a size of zero, or heads that do not divide the width.
    pub fn validate(&self) -> Result<()> {
        let mut sizes = vec![
            ("leads", self.leads),
            ("decimation", self.decimation),
            ("tokens", self.tokens),
        ];
        match &self.trunk {
            Trunk::Resnet1d(r) => {
                sizes.extend([
                    ("width", r.width),
                    ("stem_stride", r.stem_stride),
                    ("stem_kernel", r.stem_kernel),
                    ("kernel", r.kernel),
                    ("groups", r.groups),
                ]);
                sizes.push(("blocks", r.blocks.iter().copied().min().unwrap_or(0)));
            }
            Trunk::Vit1d(v) => {
                sizes.extend([
                    ("width", v.width),
                    ("heads", v.heads),
                    ("patch", v.patch),
                    ("patches", v.patches),
                ]);
            }
            Trunk::Vim(v) => {
                sizes.extend([
                    ("width", v.width),
                    ("inner", v.inner),
                    ("state", v.state),
                    ("rank", v.rank),
                ]);
                sizes.extend([("conv", v.conv), ("patch", v.patch), ("patches", v.patches)]);
            }
        }
        let fail = |key, value: usize, bound: String| {
            let value = value.to_string();
            Err(Error::Config { key, value, bound })
        };
        if let Some(&(key, value)) = sizes.iter().find(|(_, value)| *value == 0) {
            return fail(key, value, "must be at least 1".to_owned());
        }
        match &self.trunk {
            Trunk::Resnet1d(r) if !r.width.is_multiple_of(r.groups) => {
                fail("width", r.width, format!("must be a multiple of groups, {}", r.groups))
            }
            Trunk::Vit1d(v) if !v.width.is_multiple_of(v.heads) => {
                fail("width", v.width, format!("must be a multiple of heads, {}", v.heads))
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// [`Error::Config`] where a trunk of patches has positions for another number of them than `samples` of a recording give.
    pub fn check_samples(&self, samples: usize) -> Result<()> {
        let (patch, patches) = match &self.trunk {
            Trunk::Resnet1d(_) => return Ok(()),
            Trunk::Vit1d(v) => (v.patch, v.patches),
            Trunk::Vim(v) => (v.patch, v.patches),
        };
        let given = samples / self.decimation / patch;
        if given == patches {
            return Ok(());
        }
        Err(Error::Config {
            key: "encoder.trunk.patches",
            value: patches.to_string(),
            bound: format!(
                "{samples} samples with decimation {} have {given} patches of {patch}",
                self.decimation
            ),
        })
    }

    /// The config of a reference-shaped ResNet (stem kernel from its weight, stride 2, no decimation), with sizes
    /// read from the tensors' shapes.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] where a tensor that carries a size is not there.
    pub fn from_weights(w: &Weights, tokens: usize) -> Result<Self> {
        let shape = |name: &str| {
            w.shape(name)
                .ok_or_else(|| Error::MissingTensor { name: name.to_owned() })
        };
        let stem = shape("conv1.weight")?;
        let blocks_of = |stage: usize| {
            (0..)
                .take_while(|block| w.has(&format!("layer{stage}.{block}.conv1.weight")))
                .count()
        };
        let block = if w.has("layer1.0.conv3.weight") {
            Block::Bottleneck
        } else {
            Block::Basic
        };
        let around = match block {
            Block::Basic => "layer1.0.conv1.weight",
            Block::Bottleneck => "layer1.0.conv2.weight",
        };
        Ok(Self {
            leads: stem[1],
            decimation: 1,
            trunk: Trunk::Resnet1d(ResnetConfig {
                width: stem[0],
                stem_kernel: stem[2],
                stem_stride: 2,
                blocks: (1..).map(blocks_of).take_while(|&n| n > 0).collect(),
                block,
                kernel: shape(around)?[2],
                groups: shape(around)?[0] / shape(around)?[1].max(1),
            }),
            hidden: shape("projector.0.weight")?[0],
            dim: shape("projector.3.weight")?[0],
            tokens,
            time_embedding: w.has("time_embedding"),
        })
    }
}

impl Trunk {
    fn parameters(&self, leads: usize) -> usize {
        let patches = |c: usize, patch: usize, count: usize| c * leads * patch + c + c + (1 + count) * c;
        match self {
            Self::Resnet1d(r) => {
                let blocks = r.residuals();
                let convs = blocks.iter().flat_map(|b| b.path.iter().chain(&b.shortcut));
                let of = |c: &Convolution| c.inputs / c.groups * c.outputs * c.kernel + 2 * c.outputs;
                of(&r.stem(leads)) + convs.map(of).sum::<usize>()
            }
            Self::Vit1d(v) => {
                let (c, m) = (v.width, v.mlp);
                let layer = 4 * c + 4 * c * c + 4 * c + 2 * c * m + m + c;
                patches(c, v.patch, v.patches) + v.layers * layer + 2 * c
            }
            Self::Vim(v) => {
                let (c, e, s, r) = (v.width, v.inner, v.state, v.rank);
                let direction = e * v.conv + e + (r + 2 * s) * e + e * r + e + e * s + e;
                patches(c, v.patch, v.patches) + v.layers * (c + 3 * e * c + 2 * direction) + c
            }
        }
    }
}

/// A convolution without bias and the name of its batch norm.
pub(crate) struct Convolution {
    pub name: String,
    pub norm: String,
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub groups: usize,
}

/// One block of a ResNet.
pub(crate) struct ResidualConfig {
    pub path: Vec<Convolution>,
    pub shortcut: Option<Convolution>,
}

impl Block {
    /// Outputs of a block whose inner width is `width`.
    fn outputs(self, width: usize) -> usize {
        match self {
            Self::Basic => width,
            Self::Bottleneck => 4 * width,
        }
    }

    /// Kernel of each convolution, given that of those that look around, and which of them carries the stride.
    fn kernels(self, around: usize) -> (Vec<usize>, usize) {
        match self {
            Self::Basic => (vec![around; 2], 0),
            Self::Bottleneck => (vec![1, around, 1], 1),
        }
    }
}

impl ResnetConfig {
    pub(crate) fn stem(&self, leads: usize) -> Convolution {
        Convolution {
            name: "conv1".to_owned(),
            norm: "bn1".to_owned(),
            inputs: leads,
            outputs: self.width,
            kernel: self.stem_kernel,
            stride: self.stem_stride,
            groups: 1,
        }
    }

    /// Every block, in order.
    pub(crate) fn residuals(&self) -> Vec<ResidualConfig> {
        let mut inputs = self.width;
        let mut all = Vec::new();
        for (stage, &count) in self.blocks.iter().enumerate() {
            let (width, outputs) = (self.width << stage, self.block.outputs(self.width << stage));
            for index in 0..count {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let (kernels, strided) = self.block.kernels(self.kernel);
                let name = format!("layer{}.{index}", stage + 1);
                let mut from = inputs;
                let mut path = Vec::new();
                for (i, &kernel) in kernels.iter().enumerate() {
                    let to = if i + 1 == kernels.len() { outputs } else { width };
                    path.push(Convolution {
                        name: format!("{name}.conv{}", i + 1),
                        norm: format!("{name}.bn{}", i + 1),
                        inputs: from,
                        outputs: to,
                        kernel,
                        stride: if i == strided { stride } else { 1 },
                        groups: if kernel == 1 { 1 } else { self.groups },
                    });
                    from = to;
                }
                let shortcut = (stride != 1 || inputs != outputs).then(|| Convolution {
                    name: format!("{name}.shortcut.0"),
                    norm: format!("{name}.shortcut.1"),
                    inputs,
                    outputs,
                    kernel: 1,
                    stride,
                    groups: 1,
                });
                all.push(ResidualConfig { path, shortcut });
                inputs = outputs;
            }
        }
        all
    }
}

/// The config's text: a ResNet of bottleneck blocks may have its sizes beside the others, as the first bundles do.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    leads: usize,
    decimation: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trunk: Option<Trunk>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    width: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stem_kernel: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stem_stride: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blocks: Option<Vec<usize>>,
    hidden: usize,
    dim: usize,
    tokens: usize,
    time_embedding: bool,
}

impl TryFrom<Written> for EncoderConfig {
    type Error = String;

    fn try_from(w: Written) -> std::result::Result<Self, String> {
        let beside = (w.width, w.stem_kernel, w.stem_stride, w.blocks);
        let trunk = match (w.trunk, beside) {
            (Some(trunk), (None, None, None, None)) => trunk,
            (None, (Some(width), Some(stem_kernel), Some(stem_stride), Some(blocks))) => {
                Trunk::Resnet1d(ResnetConfig {
                    width,
                    stem_kernel,
                    stem_stride,
                    blocks,
                    block: Block::Bottleneck,
                    kernel: public_kernel(),
                    groups: one(),
                })
            }
            (Some(_), _) => return Err("trunk: width, stem_kernel, stem_stride and blocks lie inside it".to_owned()),
            (None, _) => {
                return Err("trunk: without it width, stem_kernel, stem_stride and blocks are needed".to_owned());
            }
        };
        Ok(Self {
            leads: w.leads,
            decimation: w.decimation,
            trunk,
            hidden: w.hidden,
            dim: w.dim,
            tokens: w.tokens,
            time_embedding: w.time_embedding,
        })
    }
}

impl From<EncoderConfig> for Written {
    fn from(c: EncoderConfig) -> Self {
        let beside = match &c.trunk {
            Trunk::Resnet1d(r) if r.block == Block::Bottleneck && is_public_kernel(&r.kernel) && is_one(&r.groups) => {
                Some(r.clone())
            }
            _ => None,
        };
        Self {
            leads: c.leads,
            decimation: c.decimation,
            trunk: beside.is_none().then_some(c.trunk),
            width: beside.as_ref().map(|r| r.width),
            stem_kernel: beside.as_ref().map(|r| r.stem_kernel),
            stem_stride: beside.as_ref().map(|r| r.stem_stride),
            blocks: beside.map(|r| r.blocks),
            hidden: c.hidden,
            dim: c.dim,
            tokens: c.tokens,
            time_embedding: c.time_embedding,
        }
    }
}
