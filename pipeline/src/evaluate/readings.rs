//! Recordings as a node would see them, clean or disturbed, and the drafts of them.
//!
//! Place: between the cases and the ruler. Invariant: filter, gate, measurements, abstention and text checks are the ones
//! that serve; a disturbance acts on the raw samples, before the filter.

use anyhow::Context as _;
use ecg::segment::Decision;
use ecg::window::Context;
use model::bundle::Bundle;
use model::generate::DecodeOptions;
use model::meit::EcgInput;
use node::draft::abstains;
use rayon::prelude::*;

use super::cases::Case;
use crate::dataset::Ecg;

/// Recordings that are drafted in one call.
const DRAFT_CHUNK: usize = 64;

/// One recording after the chain that serves.
#[derive(Clone)]
pub struct Reading {
    /// Filtered samples and what was measured.
    pub ecg: Ecg,
    /// The gate's verdict.
    pub decision: Decision,
    /// True when a node would not show it to the model.
    pub refused: bool,
}

/// Reads each case, lets `disturb` change its raw samples, and filters, gates and measures it.
///
/// # Errors
/// A recording that cannot be read.
pub fn read(cases: &[Case], disturb: impl Fn(usize, &mut Context) + Sync) -> anyhow::Result<Vec<Reading>> {
    let config = ecg::dsp::DspConfig::default();
    let read = |(index, case): (usize, &Case)| {
        let record = ecg::wfdb::read(&case.header).with_context(|| format!("read {}", case.header.display()))?;
        let mut context = record.context()?;
        disturb(index, &mut context);
        let segment = ecg::dsp::analyse(&context, &config);
        anyhow::Ok(Reading {
            refused: abstains(&segment).is_some(),
            decision: segment.decision,
            ecg: Ecg {
                filtered: segment.filtered,
                measurements: segment.measurements,
            },
        })
    };
    cases.par_iter().enumerate().map(read).collect()
}

/// The bundle's greedy drafts, in order, whatever the gate said.
///
/// # Errors
/// A device that fails.
pub fn draft<'a>(bundle: &Bundle, ecgs: impl Iterator<Item = &'a Ecg>) -> anyhow::Result<Vec<String>> {
    let options = DecodeOptions::default();
    let ecgs: Vec<&Ecg> = ecgs.collect();
    let mut drafts = Vec::with_capacity(ecgs.len());
    for chunk in ecgs.chunks(DRAFT_CHUNK) {
        let chunk: Vec<EcgInput> = chunk.iter().map(|ecg| ecg.input()).collect();
        drafts.extend(bundle.drafting().draft(&chunk, &options)?.into_iter().map(|d| d.text));
    }
    Ok(drafts)
}
