//! The instruction template and its tokens.
//!
//! Place: between a request and `generate`; the same template trains and serves.
//! Source: MEIT section 3.3, `<|user|>: {prompt} <|assistant|>: {report} </s>`, with the markers as real special tokens.

use std::sync::Arc;

use tokenizers::Tokenizer;

use crate::error::{Error, Result};

pub const USER: &str = "<|user|>";
pub const ASSISTANT: &str = "<|assistant|>";
pub const STOP: &str = "</s>";
pub const PAD: &str = "<pad>";

/// The text before the report, with what was measured where the prompt carries it; the markers alone where there is neither. The
/// decoder continues it with the report and [`STOP`].
pub fn instruction(prompt: &str, evidence: Option<&str>) -> String {
    let said = [prompt, evidence.unwrap_or_default()];
    let said: String = said
        .iter()
        .filter(|part| !part.is_empty())
        .map(|part| format!(" {part}"))
        .collect();
    format!("{USER}:{said} {ASSISTANT}:")
}

/// The text that follows [`instruction`] in training.
pub fn response(report: &str) -> String {
    format!(" {report}{STOP}")
}

/// Rows of an embedding that has one for each of the tokenizer's ids, gaps between them included.
pub(crate) fn rows(tokenizer: &Tokenizer) -> usize {
    let ids = tokenizer.get_vocab(true).into_values();
    ids.max().map_or(0, |last| last as usize + 1)
}

/// A tokenizer with the template's special tokens resolved. A clone shares it.
#[derive(Clone)]
pub struct PromptTokenizer {
    tokenizer: Arc<Tokenizer>,
    stop: u32,
    pad: u32,
}

impl PromptTokenizer {
    /// # Errors
    /// [`Error::Tokenizer`] where a special token of the template is missing.
    pub fn new(tokenizer: Tokenizer) -> Result<Self> {
        let id = |token: &'static str| {
            let missing = || Error::Tokenizer {
                action: "look up",
                message: format!("no token {token}"),
            };
            tokenizer.token_to_id(token).ok_or_else(missing)
        };
        for marker in [USER, ASSISTANT] {
            id(marker)?;
        }
        let (stop, pad) = (id(STOP)?, id(PAD)?);
        Ok(Self {
            tokenizer: Arc::new(tokenizer),
            stop,
            pad,
        })
    }

    /// Rows of an embedding that has one for each id.
    pub fn rows(&self) -> usize {
        rows(&self.tokenizer)
    }

    /// Size of the vocabulary, special tokens included.
    pub fn size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Token that ends a report.
    pub fn stop(&self) -> u32 {
        self.stop
    }

    /// Token that fills short rows.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let wrap = |e: tokenizers::Error| Error::Tokenizer {
            action: "encode",
            message: e.to_string(),
        };
        Ok(self.tokenizer.encode(text, false).map_err(wrap)?.get_ids().to_vec())
    }

    /// Text of `ids`, special tokens left out, trimmed.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let wrap = |e: tokenizers::Error| Error::Tokenizer {
            action: "decode",
            message: e.to_string(),
        };
        Ok(self.tokenizer.decode(ids, true).map_err(wrap)?.trim().to_owned())
    }
}
