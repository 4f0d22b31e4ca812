//! Rows that decode together, each from its own start to its own end (continuous batching).
//!
//! Place: between `generate` or `refill`, which admit requests, and `decoder`. Invariant: a request gets the tokens and the log
//! probabilities that it would get alone, whatever runs beside it and whenever it came. Keys and values lie in one cache that is
//! made once; the rows that run are its first ones.

use candle_core::{IndexOp, Tensor};

use crate::cache::Cache;
use crate::columns::Past;
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::generate::{DecodeOptions, Generated, Row, log_probabilities, padded};
use crate::lora::{Adaptable, Adapter};
use crate::prefix::EcgPrefix;

/// Size of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLimits {
    /// Requests that decode together, at most.
    pub slots: usize,
    /// Tokens of one request, at most: those of the ECG where it is input, the prompt's, and the new ones.
    pub tokens: usize,
}

/// What is to be continued.
#[derive(Clone, Copy)]
pub struct Request<'p, 'a> {
    /// The caller's name for it.
    pub key: usize,
    /// At least one token.
    pub prompt: &'p [u32],
    /// New tokens, at most.
    pub tokens_max: usize,
    /// None is the adapter of the decoder, if it has one.
    pub adapter: Option<&'a Adapter>,
}

/// A decoder's slots.
pub struct Slots<'a> {
    decoder: Decoder,
    /// What `decoder` has in front of its base.
    own: Option<&'a Adapter>,
    /// `decoder` with the adapters of the rows that run.
    adapted: Decoder,
    cache: Cache,
    /// Whether the requests have an ECG.
    sees: Option<bool>,
    /// That of every slot; none where nothing of it is needed after the prompt.
    ecg: Option<EcgPrefix>,
    rows: Vec<Running<'a>>,
    ended: Vec<(usize, Generated)>,
    limits: SlotLimits,
    stop: Option<u32>,
    options: DecodeOptions,
}

/// One row of the cache.
struct Running<'a> {
    key: usize,
    adapter: Option<&'a Adapter>,
    row: Row,
    /// Chosen, not yet in the cache.
    next: u32,
    /// Columns of text in the cache.
    columns: usize,
}

impl<'a> Slots<'a> {
    /// Empty slots; the cache is made when the first request comes, whose ECG gives its shape. How many tokens are new is the
    /// requests' to say, not the options'.
    pub fn new(decoder: Decoder, limits: SlotLimits, stop: Option<u32>, options: DecodeOptions) -> Self {
        Self {
            cache: decoder.cache_of_slots(limits.slots, limits.tokens),
            adapted: decoder.clone(),
            decoder,
            own: None,
            sees: None,
            ecg: None,
            rows: Vec::new(),
            ended: Vec::new(),
            limits,
            stop,
            options,
        }
    }

    /// Says which adapter the decoder has, for those requests that come without one beside others that bring theirs.
    pub fn with_own(mut self, own: Option<&'a Adapter>) -> Self {
        self.own = own;
        self
    }

    /// Slots without a request.
    pub fn free(&self) -> usize {
        self.limits.slots - self.rows.len()
    }

    /// Requests that decode.
    pub fn running(&self) -> usize {
        self.rows.len()
    }

    /// Their names.
    pub fn keys(&self) -> impl Iterator<Item = usize> {
        self.rows.iter().map(|running| running.key)
    }

    /// Those that have ended since the last call, with what they were given.
    pub fn ended(&mut self) -> Vec<(usize, Generated)> {
        std::mem::take(&mut self.ended)
    }

    /// Gives each request a slot and its first token, from one forward over their prompts. Row i of `ecg` (B, P, E) is of request
    /// i; requests that share slots all have one, of equal size, or none.
    ///
    /// # Errors
    /// [`Error::NoSlot`], [`Error::LongRequest`], and then no request is admitted; a tensor operation that fails.
    pub fn admit(&mut self, requests: &[Request<'_, 'a>], ecg: Option<&Tensor>) -> Result<()> {
        let decoder = self.adapted_to(requests.iter().map(|request| request.adapter))?;
        let prefix = ecg.map(|e| decoder.prefix(e)).transpose()?;
        self.start(&decoder, requests, prefix.as_ref())
    }

    /// As [`Self::admit`], for requests without adapters whose ECGs the decoder has seen.
    ///
    /// # Errors
    /// As there.
    pub fn admit_seeing(&mut self, requests: &[Request<'_, 'a>], prefix: Option<&EcgPrefix>) -> Result<()> {
        let decoder = self.decoder.clone();
        self.start(&decoder, requests, prefix)
    }

    fn start(&mut self, decoder: &Decoder, requests: &[Request<'_, 'a>], prefix: Option<&EcgPrefix>) -> Result<()> {
        let before = prefix.map_or(Ok(0), EcgPrefix::text_columns)?;
        self.check(requests, before)?;
        if requests.is_empty() {
            return Ok(());
        }
        if *self.sees.get_or_insert(prefix.is_some()) != prefix.is_some() {
            let error = "requests with an ECG and requests without one in the same slots";
            return Err(candle_core::Error::Msg(error.to_owned()).into());
        }
        let first = self.rows.len();
        if let Some(prefix) = prefix {
            if self.ecg.is_none() {
                self.ecg = prefix.room(self.limits.slots)?;
            }
            if let Some(ecg) = &self.ecg {
                ecg.set_rows(first, prefix)?;
            }
        }
        let prompts: Vec<&[u32]> = requests.iter().map(|request| request.prompt).collect();
        let (ids, lengths) = padded(&prompts, 0, decoder.device())?;
        self.cache.select(first, Past::alike(0));
        let cache = &mut self.cache;
        let logits = rayon::scope(|_| decoder.forward_last_of(&ids, &lengths, prefix, cache))?;
        self.rows.extend(requests.iter().map(|request| Running {
            key: request.key,
            adapter: request.adapter,
            row: Row::new(&self.options, request.tokens_max),
            next: 0,
            columns: before + request.prompt.len(),
        }));
        self.choose(&logits, first)?;
        self.adapt()
    }

    /// One more token for every request that runs.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub fn step(&mut self) -> Result<()> {
        let n = self.rows.len();
        if n == 0 {
            return Ok(());
        }
        let ids = self.rows.iter().map(|running| running.next).collect();
        let ids = Tensor::from_vec(ids, (n, 1), self.decoder.device())?;
        let columns = self.rows.iter().map(|running| running.columns).collect();
        self.cache.select(0, Past::of_rows(columns));
        let ecg = self.ecg.as_ref().map(|ecg| ecg.rows(0, n)).transpose()?;
        let (adapted, cache) = (&self.adapted, &mut self.cache);
        let logits = rayon::scope(|_| adapted.forward_last(&ids, ecg.as_ref(), cache))?;
        self.rows.iter_mut().for_each(|running| running.columns += 1);
        self.choose(&logits, 0)?;
        if self.rows.len() < n {
            self.adapt()?;
        }
        Ok(())
    }

    fn check(&self, requests: &[Request<'_, 'a>], before: usize) -> Result<()> {
        if requests.len() > self.free() {
            return Err(Error::NoSlot {
                requests: requests.len(),
                free: self.free(),
            });
        }
        let room = self.limits.tokens;
        for request in requests {
            let new = request.tokens_max;
            let needed = before + request.prompt.len() + new;
            if needed > room {
                let request = request.key;
                return Err(Error::LongRequest {
                    request,
                    needed,
                    new,
                    room,
                });
            }
        }
        Ok(())
    }

    /// Chooses the next token of the rows from `first` on, by their logits; those that end leave.
    fn choose(&mut self, logits: &Tensor, first: usize) -> Result<()> {
        let logprobs = log_probabilities(logits)?;
        for (i, running) in self.rows[first..].iter_mut().enumerate() {
            running.next = running.row.step(&logprobs.i(i)?, self.stop)?;
        }
        for i in (0..self.rows.len()).rev() {
            if self.rows[i].row.has_ended() {
                self.leave(i)?;
            }
        }
        Ok(())
    }

    /// Takes a row out; the last one takes its place.
    fn leave(&mut self, i: usize) -> Result<()> {
        let gone = self.rows.swap_remove(i);
        if let Some(moved) = self.rows.get(i) {
            let last = self.rows.len();
            self.cache.copy_row(last, i, moved.columns)?;
            if let Some(ecg) = &self.ecg {
                ecg.set_rows(i, &ecg.rows(last, 1)?)?;
            }
        }
        self.ended.push((gone.key, gone.row.end()));
        Ok(())
    }

    /// Gives the decoder the adapters of the rows that run now.
    fn adapt(&mut self) -> Result<()> {
        self.adapted = self.adapted_to(self.rows.iter().map(|running| running.adapter))?;
        Ok(())
    }

    /// The decoder for rows with these adapters.
    fn adapted_to(&self, adapters: impl Iterator<Item = Option<&'a Adapter>> + Clone) -> Result<Decoder> {
        if adapters.clone().all(|adapter| adapter.is_none()) {
            return Ok(self.decoder.clone());
        }
        let or_own: Vec<_> = adapters.map(|adapter| adapter.or(self.own)).collect();
        self.decoder.with_adapters(&or_own)
    }
}
