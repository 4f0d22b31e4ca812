//! Drafts that share a decoder's slots, each from its coming to its own end.
//!
//! Place: over `slots`, beside the batches of `meit`; the node's device thread admits what waits between two steps. Invariant: a
//! draft is the one that its ECG gets alone.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::error::Result;
use crate::generate::DecodeOptions;
use crate::lora::Adapter;
use crate::meit::{Drafted, Drafting, EcgInput};
use crate::slots::{Request, SlotLimits, Slots};

/// What is to be drafted.
#[derive(Clone, Copy)]
pub struct DraftRequest<'e, 'a> {
    /// The caller's name for it.
    pub key: usize,
    pub ecg: &'e EcgInput,
    /// None is the drafting's own adapter, or the base.
    pub adapter: Option<&'a Adapter>,
}

/// The slots of one drafting.
pub struct Refill<'a> {
    drafting: &'a Drafting,
    slots: Slots<'a>,
    tokens_max: usize,
    /// Tokens of the prompts of those that were admitted and not returned.
    prompts: BTreeMap<usize, usize>,
}

impl Drafting {
    /// Empty slots for drafts.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] for an encoder-decoder, which drafts in batches alone.
    pub fn refill(&self, limits: SlotLimits, options: &DecodeOptions) -> Result<Refill<'_>> {
        let decoder = self.model.backbone.decoder()?.clone();
        let slots = Slots::new(decoder, limits, Some(self.tokenizer.stop()), options.clone());
        Ok(Refill {
            drafting: self,
            slots: slots.with_own(self.adapter.as_deref()),
            tokens_max: options.tokens_max,
            prompts: BTreeMap::new(),
        })
    }
}

impl<'a> Refill<'a> {
    /// Slots without a draft.
    pub fn free(&self) -> usize {
        self.slots.free()
    }

    /// True when every draft that was admitted has been returned.
    pub fn is_empty(&self) -> bool {
        self.prompts.is_empty()
    }

    /// Names of the drafts that are written.
    pub fn keys(&self) -> impl Iterator<Item = usize> {
        self.slots.keys()
    }

    /// Gives each request a slot and its first token, or none of them.
    ///
    /// # Errors
    /// As [`Slots::admit`]; [`crate::error::Error::EcgLength`].
    pub fn admit(&mut self, requests: &[DraftRequest<'_, 'a>]) -> Result<()> {
        if requests.is_empty() {
            return Ok(());
        }
        // on the CPU each ECG by itself: encoded together they would get other bits, and none any sooner
        let together = if self.drafting.device.is_cpu() {
            1
        } else {
            requests.len()
        };
        let (drafting, some) = (self.drafting, requests.chunks(together));
        let seen = some.map(|some| {
            let ecgs: Vec<&EcgInput> = some.iter().map(|request| request.ecg).collect();
            rayon::scope(|_| drafting.seen(&ecgs, some[0].key))
        });
        let (prompts, e): (Vec<_>, Vec<Tensor>) = seen.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let (prompts, e) = (prompts.concat(), Tensor::cat(&e, 0)?);
        let with_prompts = requests.iter().zip(&prompts);
        let requests: Vec<Request> = with_prompts
            .map(|(request, prompt)| Request {
                key: request.key,
                prompt,
                tokens_max: self.tokens_max,
                adapter: request.adapter,
            })
            .collect();
        self.slots.admit(&requests, Some(&e))?;
        let lengths = requests.iter().map(|request| (request.key, request.prompt.len()));
        self.prompts.extend(lengths);
        Ok(())
    }

    /// One more token for every draft, and then the drafts that have ended since the last call.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub fn step(&mut self) -> Result<Vec<(usize, Drafted)>> {
        self.slots.step()?;
        let ended = self.slots.ended().into_iter().map(|(key, row)| {
            let prompt_tokens = self.prompts.remove(&key).unwrap_or_default();
            Ok((key, self.drafting.drafted(&row, prompt_tokens)?))
        });
        ended.collect()
    }
}
