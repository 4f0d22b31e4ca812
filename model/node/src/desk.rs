//! Where the device thread drafts ECGs that come while others are drafted.
//!
//! Place: under `device`, made by a drafter. Invariant: every ECG that is taken gets one text, under the name that it came with,
//! and the text that it would get alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use model::error::Error;
use model::meit::EcgInput;
use model::refill::{DraftRequest, Refill};

use crate::drafter::{BundleDrafter, DraftText, Drafter as _};

/// Takes ECGs between steps.
pub trait Desk {
    /// Takes ECGs, each under a name.
    ///
    /// # Errors
    /// When the device fails.
    fn admit(&mut self, ecgs: Vec<(usize, EcgInput)>) -> anyhow::Result<()>;

    /// One step for all that were taken; returns those that have ended.
    ///
    /// # Errors
    /// When the device fails.
    fn step(&mut self) -> anyhow::Result<Vec<(usize, DraftText)>>;
}

/// A desk without slots: a step drafts what has come, from the first token to the last.
pub(crate) struct Batches<F> {
    draft: F,
    come: Vec<(usize, EcgInput)>,
}

impl<F: Fn(&[EcgInput]) -> anyhow::Result<Vec<DraftText>>> Batches<F> {
    pub(crate) fn new(draft: F) -> Self {
        let come = Vec::new();
        Self { draft, come }
    }
}

impl<F: Fn(&[EcgInput]) -> anyhow::Result<Vec<DraftText>>> Desk for Batches<F> {
    fn admit(&mut self, ecgs: Vec<(usize, EcgInput)>) -> anyhow::Result<()> {
        self.come.extend(ecgs);
        Ok(())
    }

    fn step(&mut self) -> anyhow::Result<Vec<(usize, DraftText)>> {
        let (names, ecgs): (Vec<usize>, Vec<EcgInput>) = std::mem::take(&mut self.come).into_iter().unzip();
        let texts = (self.draft)(&ecgs)?;
        ensure!(
            texts.len() == ecgs.len(),
            "{} texts for {} ECGs",
            texts.len(),
            ecgs.len()
        );
        Ok(names.into_iter().zip(texts).collect())
    }
}

/// The slots of a bundle.
pub(crate) struct BundleDesk<'a> {
    slots: Refill<'a>,
    drafter: &'a BundleDrafter,
    /// When each ECG was taken, and when each of its steps was done since.
    steps: BTreeMap<usize, (Instant, Vec<Duration>)>,
    /// Texts of ECGs that no slot has room for.
    alone: Vec<(usize, DraftText)>,
}

impl<'a> BundleDesk<'a> {
    pub(crate) fn new(slots: Refill<'a>, drafter: &'a BundleDrafter) -> Self {
        Self {
            slots,
            drafter,
            steps: BTreeMap::new(),
            alone: Vec::new(),
        }
    }
}

impl Desk for BundleDesk<'_> {
    fn admit(&mut self, ecgs: Vec<(usize, EcgInput)>) -> anyhow::Result<()> {
        let begun = Instant::now();
        let requests = ecgs.iter().map(|(key, ecg)| DraftRequest {
            key: *key,
            ecg,
            adapter: None,
        });
        match self.slots.admit(&requests.collect::<Vec<_>>()) {
            Ok(()) => {
                let took = begun.elapsed();
                let names = ecgs.iter().map(|&(name, _)| name);
                self.steps.extend(names.map(|name| (name, (begun, vec![took]))));
            }
            Err(Error::LongRequest { .. }) if ecgs.len() > 1 => {
                return ecgs.into_iter().try_for_each(|ecg| self.admit(vec![ecg]));
            }
            Err(error @ Error::LongRequest { .. }) => {
                tracing::warn!(%error, "a segment is drafted by itself");
                for (name, ecg) in ecgs {
                    let texts = self.drafter.draft(&[ecg])?;
                    self.alone.extend(texts.into_iter().map(|text| (name, text)));
                }
            }
            Err(error) => return Err(error).context("draft texts"),
        }
        Ok(())
    }

    fn step(&mut self) -> anyhow::Result<Vec<(usize, DraftText)>> {
        let names: Vec<usize> = self.slots.keys().collect();
        let ended = self.slots.step().context("draft texts")?;
        for name in names {
            if let Some((begun, steps)) = self.steps.get_mut(&name) {
                steps.push(begun.elapsed());
            }
        }
        let texts = ended.into_iter().map(|(name, drafted)| {
            let (_, steps) = self.steps.remove(&name).unwrap_or_else(|| (Instant::now(), Vec::new()));
            (name, DraftText::new(&drafted, steps))
        });
        Ok(self.alone.drain(..).chain(texts).collect())
    }
}
