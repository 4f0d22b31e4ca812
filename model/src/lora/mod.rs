//! LoRA adapters in peft's format: read, made anew, trained, written, put on a model and merged into it.
//!
//! Place: between an adapter directory and the projections of a `decoder` or a `seq2seq` model. Invariant: the base is never
//! changed; a model with an adapter is another value that shares its weights.
//! Source: Hu et al. 2021 (arXiv 2106.09685), peft's LoraModel.

mod attach;
mod config;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

pub use attach::Adaptable;
pub use config::{AdapterConfig, Layers, Patterns, Targets};

use crate::error::{Error, Result};
use crate::files;
use crate::layers::{Linear, wide};
use crate::projection::Share;
use crate::shard::Shard;

pub const ADAPTER_CONFIG: &str = "adapter_config.json";
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// peft's name of the wrapped model, before every module's path.
const ROOT: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// Two factors for each module that the config targets: `y += scale B (A x)`, A (R, I), B (O, R), in f32.
#[derive(Clone)]
pub struct Adapter {
    config: AdapterConfig,
    modules: BTreeMap<String, Factors>,
    sha256: Option<String>,
}

#[derive(Clone)]
struct Factors {
    a: Tensor,
    b: Tensor,
    scale: f64,
}

impl Adapter {
    /// Reads a directory that peft or [`Self::save`] wrote, for `base`.
    ///
    /// # Errors
    /// A file that cannot be read; a setting that is not plain LoRA; a tensor that is missing, of another shape, not finite,
    /// or of a module that the base does not have.
    pub fn load(dir: &Path, base: &impl Adaptable) -> Result<Self> {
        let (config_path, weights_path) = (dir.join(ADAPTER_CONFIG), dir.join(ADAPTER_WEIGHTS));
        let config_bytes = files::read(&config_path)?;
        let config: AdapterConfig = files::parse(&config_path, &config_bytes)?;
        let weights_bytes = files::read(&weights_path)?;
        let digest = Sha256::new().chain_update(config_bytes).chain_update(&weights_bytes);
        let file = Shard::of_bytes(&weights_path, weights_bytes)?;
        let names = file.shapes().into_keys();
        let tensors: BTreeMap<String, Tensor> = names
            .map(|name| Ok((name.clone(), file.weight(&name)?)))
            .collect::<Result<_>>()?;
        let mut adapter = Self::new(config, &tensors, base)?;
        adapter.sha256 = Some(files::hex(&digest.finalize()));
        Ok(adapter)
    }

    /// An adapter that changes nothing yet: A uniform as peft draws it, B zero.
    ///
    /// # Errors
    /// A setting that is not plain LoRA; no module of the base that the config targets.
    pub fn fresh(mut config: AdapterConfig, base: &impl Adaptable, rng: &mut ChaCha8Rng) -> Result<Self> {
        config.fan_in_fan_out = base.weights_are_transposed();
        let mut tensors = BTreeMap::new();
        for (name, inputs, outputs) in targeted(&config, base)? {
            let rank = config.rank(&name)?;
            // kaiming_uniform with a = sqrt(5): a bound of one over the root of the inputs
            let bound = (inputs as f32).sqrt().recip();
            let values: Vec<f32> = (0..rank * inputs).map(|_| rng.random_range(-bound..bound)).collect();
            let a = Tensor::from_vec(values, (rank, inputs), &Device::Cpu)?;
            tensors.insert(format!("{ROOT}{name}{A}"), a);
            let b = Tensor::zeros((outputs, rank), DType::F32, &Device::Cpu)?;
            tensors.insert(format!("{ROOT}{name}{B}"), b);
        }
        Self::new(config, &tensors, base)
    }

    /// From tensors under peft's names. A tensor that is a variable stays one, so the adapter learns with it.
    ///
    /// # Errors
    /// As [`Self::load`], without files.
    pub fn new(config: AdapterConfig, tensors: &BTreeMap<String, Tensor>, base: &impl Adaptable) -> Result<Self> {
        config.validate()?;
        let mut modules = BTreeMap::new();
        for (name, inputs, outputs) in targeted(&config, base)? {
            let rank = config.rank(&name)?;
            let tensor = |part: &str, shape: [usize; 2]| factor(tensors, &format!("{ROOT}{name}{part}"), shape, base);
            let factors = Factors {
                a: tensor(A, [rank, inputs])?,
                b: tensor(B, [outputs, rank])?,
                scale: config.scale(&name)?,
            };
            modules.insert(name, factors);
        }
        for (name, tensor) in tensors {
            let path = name.strip_prefix(ROOT).unwrap_or_default();
            let module = path.strip_suffix(A).or_else(|| path.strip_suffix(B));
            if !module.is_some_and(|module| modules.contains_key(module)) {
                check_base_copy(name, path, tensor, base)?;
            }
        }
        Ok(Self {
            config,
            modules,
            sha256: None,
        })
    }

    /// The same adapter on f32 variables, which are returned under peft's names for an optimiser. The adapter sees every step.
    ///
    /// # Errors
    /// A tensor that cannot become a variable.
    pub fn trainable(&self) -> Result<(Self, BTreeMap<String, Var>)> {
        let mut vars = BTreeMap::new();
        let mut adapter = self.clone();
        adapter.sha256 = None;
        for (name, factors) in &mut adapter.modules {
            for (part, tensor) in [(A, &mut factors.a), (B, &mut factors.b)] {
                let var = Var::from_tensor(&tensor.copy()?)?;
                *tensor = var.as_tensor().clone();
                vars.insert(format!("{ROOT}{name}{part}"), var);
            }
        }
        Ok((adapter, vars))
    }

    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// sha256 of adapter_config.json followed by adapter_model.safetensors, where the adapter was read from files.
    pub fn sha256(&self) -> Option<&str> {
        self.sha256.as_deref()
    }

    /// Modules that have an adapter.
    pub fn modules(&self) -> impl Iterator<Item = &String> {
        self.modules.keys()
    }

    /// Parameters of all factors.
    pub fn parameters(&self) -> usize {
        let count = |f: &Factors| f.a.elem_count() + f.b.elem_count();
        self.modules.values().map(count).sum()
    }

    /// Detached copies under peft's names.
    ///
    /// # Errors
    /// A tensor that cannot be copied.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        for (name, factors) in &self.modules {
            for (part, tensor) in [(A, &factors.a), (B, &factors.b)] {
                let copy = tensor.detach().copy()?.to_device(&Device::Cpu)?;
                tensors.insert(format!("{ROOT}{name}{part}"), copy);
            }
        }
        Ok(tensors)
    }

    /// Writes adapter_config.json and adapter_model.safetensors, as peft reads them, and returns their sha256.
    ///
    /// # Errors
    /// A directory or file that cannot be written; a value that is not finite, which is never written.
    pub fn save(&self, dir: &Path) -> Result<String> {
        let tensors = self.tensors()?;
        for (name, tensor) in &tensors {
            files::check_finite(name, tensor)?;
        }
        let mut config = self.config.clone();
        config.inference_mode = true;
        let config = files::pretty(&dir.join(ADAPTER_CONFIG), &config)?;
        let weights = files::safetensors(&tensors)?;
        files::write(&dir.join(ADAPTER_CONFIG), &config)?;
        files::write(&dir.join(ADAPTER_WEIGHTS), &weights)?;
        let digest = Sha256::new().chain_update(config).chain_update(weights);
        Ok(files::hex(&digest.finalize()))
    }

    /// What a module adds to its output, if anything.
    fn share(&self, module: &str, rows: Option<Tensor>) -> Option<Share> {
        self.modules.get(module).map(|factors| Share {
            rows,
            a: Linear::new(factors.a.clone(), None),
            b: Linear::new(factors.b.clone(), None),
            scale: factors.scale,
            dropout: self.config.lora_dropout,
        })
    }
}

/// peft saves the base's own embedding or head beside an adapter that targets the head; it must be what the base is. A layer that is
/// quantised has no weight left to compare with: there the shape alone must be the base's.
fn check_base_copy(name: &str, path: &str, tensor: &Tensor, base: &impl Adaptable) -> Result<()> {
    let stored = path.replace(".base_layer.", ".");
    let Some(own) = base.tensor(&stored) else {
        return match base.quantised_weight(&stored) {
            Some((outputs, inputs)) if tensor.dims() == [outputs, inputs] => Ok(()),
            Some(_) => Err(Error::OtherBase { name: name.to_owned() }),
            None => Err(Error::UnknownTensor { name: name.to_owned() }),
        };
    };
    let tensor = tensor.to_dtype(own.dtype())?.to_device(own.device())?;
    let same =
        tensor.dims() == own.dims() && tensor.ne(own)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()? == 0.0;
    if same {
        Ok(())
    } else {
        Err(Error::OtherBase { name: name.to_owned() })
    }
}

fn factor(
    tensors: &BTreeMap<String, Tensor>,
    name: &str,
    expected: [usize; 2],
    base: &impl Adaptable,
) -> Result<Tensor> {
    let missing = || Error::MissingTensor { name: name.to_owned() };
    let tensor = tensors.get(name).ok_or_else(missing)?;
    if tensor.dims() != expected {
        return Err(Error::Shape {
            name: name.to_owned(),
            got: tensor.dims().to_vec(),
            expected: expected.to_vec(),
        });
    }
    files::check_finite(name, tensor)?;
    Ok(tensor.to_dtype(wide(base.dtype()))?.to_device(base.device())?)
}

/// Path, inputs and outputs of every module of the base that the config targets.
fn targeted(config: &AdapterConfig, base: &impl Adaptable) -> Result<Vec<(String, usize, usize)>> {
    let head = base.head();
    let mut found = Vec::new();
    for projection in base.projections() {
        if config.targets(projection.name(), projection.name() == head)? {
            let (outputs, inputs) = projection.linear().dims()?;
            found.push((projection.name().to_owned(), inputs, outputs));
        }
    }
    if found.is_empty() {
        return Err(Error::Config {
            key: "target_modules",
            value: format!("{:?}", config.target_modules),
            bound: format!("must match a module of {}", base.model_type()),
        });
    }
    Ok(found)
}
