//! A shock: all leads at the rail at once, as a defibrillator drives them.
//!
//! Place: on the context's samples as they came. Invariant: a shock in the 5 s before a window, or in it, rejects it, for amplifiers
//! take up to 5 s to settle (ecg-practice 7.1, fault 9); 5 s are what a context has before its window, so this is a function of it.

use std::ops::Range;

use super::quality::{Limits, extremes};
use super::reversal;
use crate::SEGMENT_SAMPLES;
use crate::segment::LeadOrigin;
use crate::stretch::{self, Stretches};
use crate::window::Context;

/// True where all independent leads that are there and on are at the rail, or marked saturated, at once, before the window's end.
pub fn is_seen(context: &Context, limits: &Limits) -> bool {
    let seen = 0..context.before + SEGMENT_SAMPLES;
    if stretch::within(&context.all_saturated, &seen).next().is_some() {
        return true;
    }
    // chest electrodes come off for the pads
    let there = |lead: &usize| context.origin[*lead] != LeadOrigin::Missing && !context.lead_off[*lead];
    let mut leads = reversal::LEADS.into_iter().filter(there);
    let Some(first) = leads.next() else { return false };
    let mut common = at_rail(context, first, limits);
    for lead in leads {
        if common.is_empty() {
            return false;
        }
        common = stretch::both(&common, &at_rail(context, lead, limits));
    }
    stretch::within(&common, &seen).any(|at| at.len() >= limits.saturated_run_min)
}

/// Where a lead stays at a rail.
fn at_rail(context: &Context, lead: usize, limits: &Limits) -> Stretches {
    let samples = &context.samples_uv[lead];
    // most contexts come near no rail
    let (low, high) = extremes(samples);
    if !is_rail(low, limits) && !is_rail(high, limits) {
        return Stretches::new();
    }
    let own = stretch::at_rail(samples);
    let found = stretch::union(&own, &context.at_rail[lead]).into_iter();
    found.filter(|at| stays_at_rail(samples, at, limits)).collect()
}

/// True where a lead stays at a rail over this stretch of its samples, for long enough.
pub(super) fn stays_at_rail(samples: &[f32], at: &Range<usize>, limits: &Limits) -> bool {
    let middle = samples.get(at.start + at.len() / 2);
    at.len() >= limits.saturated_run_min && middle.is_some_and(|&uv| is_rail(uv, limits))
}

/// A rail's magnitude, of which resampling leaves all but a thousandth.
fn is_rail(uv: f32, limits: &Limits) -> bool {
    uv.abs() >= 0.999 * limits.saturated_uv_min
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LEADS;
    use crate::dsp::testing;

    /// Ten seconds with their context in which some leads are at the rail over a stretch of it.
    fn railed(stretch: std::ops::Range<usize>, leads: std::ops::Range<usize>) -> Context {
        let plain = testing::context(72.0, 10.0);
        let around = |lead: &Vec<f32>| [&lead[2500..], lead, &lead[..2500]].concat();
        let mut context = Context {
            samples_uv: plain.samples_uv.iter().map(around).collect(),
            before: 2500,
            after: 2500,
            ..plain
        };
        for lead in &mut context.samples_uv[leads] {
            lead[stretch.clone()].fill(-5000.0);
        }
        context
    }

    #[test]
    fn all_leads_at_the_rail_within_5_s_before_the_window_are_a_shock_and_one_lead_is_none() {
        let seen = |context: &Context| is_seen(context, &Limits::default());
        assert!(seen(&railed(0..50, 0..LEADS)));
        assert!(seen(&railed(7000..7400, 0..LEADS)));
        assert!(!seen(&railed(7500..7900, 0..LEADS)), "after the window");
        assert!(!seen(&railed(100..120, 0..LEADS)), "40 ms");
        let without_v6 = railed(100..500, 0..11);
        assert!(!seen(&without_v6), "V6 goes on");
        let mut off = without_v6;
        off.lead_off[11] = true;
        assert!(seen(&off), "V6 is off");
        let mut apart = railed(100..300, 0..6);
        apart.samples_uv[6..]
            .iter_mut()
            .for_each(|lead| lead[290..500].fill(-5000.0));
        assert!(!seen(&apart), "20 ms at once");
        // leads that a device derives are no rail: III of two that are
        let mut derived = railed(100..500, 0..LEADS);
        derived.samples_uv[2][100..500].fill(0.0);
        assert!(seen(&derived));
    }

    #[test]
    fn what_the_device_marks_is_a_shock_where_its_samples_are_none() {
        let mut marked = railed(0..0, 0..0);
        assert!(!is_seen(&marked, &Limits::default()));
        marked.all_saturated.push(10..12);
        assert!(is_seen(&marked, &Limits::default()));
        marked.all_saturated[0] = 8000..8100;
        assert!(!is_seen(&marked, &Limits::default()));
    }
}
