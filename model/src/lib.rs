//! MEIT: an ECG encoder whose embeddings enter a language model as a key/value prefix of every attention layer.
//!
//! Place: between a gated segment and a draft's text. Pure tensors: no clock, no network, no global state; only
//! [`weights`] and [`bundle`] read files, at start.
//!
//! Axes, bound once for the whole crate: B batch, L leads, S samples, T tokens, P prefix tokens, H query heads, K key/value
//! heads, G = H / K, D head dimension, C hidden width, V vocabulary, O output features.
//!
//! Invariants (tests hold them): a batch of n equals n batches of one; prefix + cache step equals the full forward; every
//! trainable parameter's gradient equals its finite difference.

pub mod architecture;
pub mod assemble;
pub mod attention;
pub mod backbone;
pub mod batch_norm;
pub mod bundle;
pub mod cache;
pub mod checkpoint;
pub mod checks;
pub mod columns;
pub mod config;
pub mod decoder;
pub mod device;
mod embedding;
pub mod encoder;
pub mod error;
pub mod evidence;
pub mod family;
mod files;
pub mod findings;
pub mod frozen;
mod fused;
pub mod fusion;
pub mod generate;
pub mod init;
pub mod layers;
pub mod lora;
pub mod loss;
pub mod mask;
pub mod meit;
mod mlp;
pub mod mode;
pub mod morphology;
pub mod norm;
mod panels;
pub mod prefix;
mod product;
pub mod projection;
pub mod projector;
pub mod prompt;
pub mod refill;
pub mod registry;
pub mod rotary;
pub mod seq2seq;
pub mod served;
mod shard;
pub mod slots;
pub mod smoke;
pub mod threads;
pub mod validate;
pub mod weights;
mod wide;
