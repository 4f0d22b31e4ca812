//! Byte-pair tokenizer of the training reports.
//!
//! Place: before the first training step; shipped in the bundle as tokenizer.json. Invariant: decoding an encoding gives the
//! text back, whatever its bytes.

use std::path::Path;

use anyhow::anyhow;
use model::prompt::{ASSISTANT, PAD, STOP, USER};
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{AddedToken, TokenizerBuilder};

/// Trains on `texts` and writes tokenizer.json to `path`.
///
/// # Errors
/// A tokenizer that cannot be trained or written.
pub fn train(texts: &[String], vocabulary: usize, path: &Path) -> anyhow::Result<()> {
    let special = [PAD, STOP, USER, ASSISTANT]
        .map(|token| AddedToken::from(token, true))
        .to_vec();
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(vocabulary)
        .min_frequency(2)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let wrap = |e: tokenizers::Error| anyhow!("train tokenizer: {e}");
    let mut tokenizer =
        TokenizerBuilder::<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, ByteLevelDecoder>::default()
            .with_model(BPE::default())
            .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
            .with_decoder(Some(ByteLevelDecoder::default()))
            .build()
            .map_err(wrap)?;
    tokenizer
        .train(&mut trainer, texts.iter().map(String::as_str))
        .map_err(wrap)?;
    tokenizer.save(path, false).map_err(wrap)?;
    Ok(())
}
