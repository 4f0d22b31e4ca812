//! What can go wrong between a bundle on disk and a draft's text.
//!
//! Place: returned by every function of this crate. Invariant: each variant carries the values that failed.

use std::path::PathBuf;

/// Errors of loading, checking and running a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("tensor operation")]
    Tensor(#[from] candle_core::Error),
    #[error("read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("parse {path}")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("parse {path}")]
    Safetensors {
        path: PathBuf,
        source: safetensors::SafeTensorError,
    },
    #[error("read the decoder's config")]
    DecoderConfig { source: serde_json::Error },
    #[error("{path}: tensor {name} is of type {got}: weights are F16, BF16, F32 or F64")]
    TensorType { path: PathBuf, name: String, got: String },
    #[error("tensor {name} is missing from the weights")]
    MissingTensor { name: String },
    #[error("tensor {name} belongs to no module that the adapter's config targets")]
    UnknownTensor { name: String },
    #[error("tensor {name} is a base weight, and not the one of this base")]
    OtherBase { name: String },
    #[error("tensor {name} has shape {got:?}, expected {expected:?}")]
    Shape {
        name: String,
        got: Vec<usize>,
        expected: Vec<usize>,
    },
    #[error("config key {key} is {value}: {bound}")]
    Config {
        key: &'static str,
        value: String,
        bound: String,
    },
    #[error("adapter_config.json has {key}, {value}: no setting of LoRA that is known here")]
    UnknownKey { key: String, value: String },
    #[error("log probabilities of the smoke ECG {name} are not finite")]
    Smoke { name: &'static str },
    #[error("{path} is there and not empty: a bundle is made in a directory of its own")]
    NotEmpty { path: PathBuf },
    #[error("{file} has sha256 {got}, bundle.json says {expected}")]
    Hash {
        file: String,
        got: String,
        expected: String,
    },
    #[error("tensor {name} holds a non-finite value")]
    NonFinite { name: String },
    #[error("tokenizer {action}: {message}")]
    Tokenizer { action: &'static str, message: String },
    #[error("ECG {index} has {got} samples, expected {expected} (12 leads x 10 s at 500 Hz)")]
    EcgLength { index: usize, got: usize, expected: usize },
    #[error("{requests} requests for {free} free slots")]
    NoSlot { requests: usize, free: usize },
    #[error("request {request} needs {needed} tokens (ECG, prompt and {new} new ones), a slot has {room}")]
    LongRequest {
        request: usize,
        needed: usize,
        new: usize,
        room: usize,
    },
}

pub type Result<T> = std::result::Result<T, Error>;
