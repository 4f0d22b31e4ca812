//! Sample values and a drafter without a model, for the tests of this package.
//!
//! Place: tests only.
//! Invariant: the same each time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use ecg::LEADS;
use ecg::report::{BundleLineage, DecodeParameters};
use ecg::segment::{Decision, LeadOrigin, LeadQuality, Measurements, Segment};
use model::generate::Finish;
use model::meit::EcgInput;

use model::slots::SlotLimits;

use crate::desk::Desk;
use crate::draft::Author;
use crate::drafter::{DraftText, Drafter};

/// Writes one text about everything, or fails.
pub(crate) struct FakeDrafter {
    text: Option<String>,
    /// ECGs drafted so far.
    pub ecgs: AtomicUsize,
}

impl FakeDrafter {
    pub(crate) const BUNDLE_ID: &str = "fake";

    pub(crate) fn writing(text: &str) -> Self {
        Self {
            text: Some(text.to_owned()),
            ecgs: AtomicUsize::new(0),
        }
    }

    pub(crate) fn failing() -> Self {
        Self {
            text: None,
            ecgs: AtomicUsize::new(0),
        }
    }
}

impl Drafter for FakeDrafter {
    fn draft(&self, ecgs: &[EcgInput]) -> anyhow::Result<Vec<DraftText>> {
        let Some(words) = &self.text else {
            anyhow::bail!("out of memory");
        };
        self.ecgs.fetch_add(ecgs.len(), Ordering::Relaxed);
        Ok(ecgs.iter().map(|_| text(words)).collect())
    }

    fn lineage(&self) -> BundleLineage {
        author().bundle
    }

    fn decode_parameters(&self) -> DecodeParameters {
        author().decode
    }
}

/// Has slots, and ends a text when a test says so.
pub(crate) struct SteppedDrafter {
    bundle_id: &'static str,
    steps: mpsc::SyncSender<Vec<usize>>,
    told: Mutex<mpsc::Receiver<Vec<usize>>>,
}

impl SteppedDrafter {
    pub(crate) fn new(bundle_id: &'static str) -> Arc<Self> {
        let (steps, told) = mpsc::sync_channel(0);
        Arc::new(Self {
            bundle_id,
            steps,
            told: Mutex::new(told),
        })
    }

    /// Lets the next step go; it ends the ECGs of these names, which count from 0. Returns once the step has begun.
    pub(crate) fn step(&self, ends: &[usize]) {
        self.steps.send(ends.to_vec()).unwrap();
    }
}

impl Drafter for SteppedDrafter {
    fn draft(&self, _ecgs: &[EcgInput]) -> anyhow::Result<Vec<DraftText>> {
        anyhow::bail!("drafts in slots alone");
    }

    fn desk(&self, _limits: SlotLimits) -> anyhow::Result<Box<dyn Desk + '_>> {
        let on = BTreeSet::new();
        Ok(Box::new(SteppedDesk { drafter: self, on }))
    }

    fn lineage(&self) -> BundleLineage {
        BundleLineage {
            bundle_id: self.bundle_id.to_owned(),
            ..author().bundle
        }
    }

    fn decode_parameters(&self) -> DecodeParameters {
        author().decode
    }
}

struct SteppedDesk<'a> {
    drafter: &'a SteppedDrafter,
    on: BTreeSet<usize>,
}

impl Desk for SteppedDesk<'_> {
    fn admit(&mut self, ecgs: Vec<(usize, EcgInput)>) -> anyhow::Result<()> {
        self.on.extend(ecgs.into_iter().map(|(name, _)| name));
        Ok(())
    }

    fn step(&mut self) -> anyhow::Result<Vec<(usize, DraftText)>> {
        let ends = self.drafter.told.lock().unwrap().recv().unwrap();
        let end = |name| {
            assert!(self.on.remove(&name), "{name} is not on the desk");
            (name, text("sinus rhythm"))
        };
        Ok(ends.into_iter().map(end).collect())
    }
}

/// A text of so many tokens as words.
pub(crate) fn text(words: &str) -> DraftText {
    DraftText {
        text: words.to_owned(),
        tokens: words.split_whitespace().count() as u32,
        prompt_tokens: 9,
        steps: vec![],
        logprob_mean: -0.5,
        logprob_min: -2.0,
        finish: Finish::Stop,
    }
}

/// The author behind [`FakeDrafter`].
pub(crate) fn author() -> Author {
    Author {
        bundle: BundleLineage {
            bundle_id: FakeDrafter::BUNDLE_ID.to_owned(),
            base_sha256: "base".to_owned(),
            ..BundleLineage::default()
        },
        decode: DecodeParameters {
            strategy: "greedy".to_owned(),
            max_tokens: 96,
            ..DecodeParameters::default()
        },
    }
}

/// An accepted, silent segment with its own id.
pub(crate) fn segment(number: i64) -> Segment {
    let quality = LeadQuality {
        origin: LeadOrigin::Measured,
        usable: true,
        ..LeadQuality::default()
    };
    Segment {
        id: ecg::id::segment_id("bed-01", ("monitor", 1), number * 5000, "meit-dsp", 1),
        stream_id: "bed-01".to_owned(),
        device_id: "monitor".to_owned(),
        boot_id: 1,
        start_sample: number * 5000,
        start_time_us: 10_000_000,
        last_gateway_time_us: 20_000_000,
        source_rate_hz: 500.0,
        uv_per_unit: 1.0,
        raw: vec![0; LEADS * ecg::SEGMENT_SAMPLES],
        filtered: vec![0; LEADS * ecg::SEGMENT_SAMPLES],
        quality: std::array::from_fn(|_| quality.clone()),
        measurements: Measurements::default(),
        decision: Decision::Accept,
        reasons: vec![],
        chain: "meit-dsp".to_owned(),
        chain_version: 1,
        stat: false,
        filter_class: ecg::segment::FilterClass::Unspecified,
        context_before: true,
        context_after: true,
        samples_sha256: "ab".to_owned(),
    }
}
