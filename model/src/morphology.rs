//! What the head of the findings sees of an ECG beside the encoder's frames: its measurements and its dominant beat, as numbers.
//!
//! Place: between a segment and `findings`. Invariant: a pure function of what the segment carries (filtered samples and
//! measurements), the same in training and in serving; every value is finite, and what was not measured is 0 beside a 0 that
//! says so. Standard lead order, whatever the encoder's.

use ecg::dsp::dominant::{self, Dominant, dominant};
use ecg::segment::{LeadAmplitudes, Measurements};
use ecg::{LEADS, SEGMENT_SAMPLES};

use crate::meit::EcgInput;

/// Samples averaged into one value of the beat: 16 ms.
const DECIMATION: usize = 8;
/// Values of each lead's dominant beat.
pub const BEAT: usize = (dominant::BEFORE + dominant::AFTER) / DECIMATION;
/// Values of a lead's amplitudes: readable or not, R, S, ST.
pub const AMPLITUDES: usize = 4;
/// Values before the amplitudes: seven measurements with their validity, the axis with its own, three counts of beats.
pub const MEASURED: usize = 2 * 7 + 3 + 3;
/// Values of one recording: those measured, the amplitudes lead by lead, the beat lead by lead.
pub const LENGTH: usize = MEASURED + LEADS * (AMPLITUDES + BEAT);

/// Largest magnitude of a beat's value, millivolts, and of a measurement's, standard deviations.
const BEAT_MV_MAX: f32 = 3.0;
const SPREAD_MAX: f32 = 4.0;
/// Values of the beat that show the level before QRS: 140 to 60 ms before R.
const LEVEL: std::ops::Range<usize> = 10..15;
const UV_PER_MV: f32 = 1000.0;

/// Of one recording, [`LENGTH`] values.
pub fn morphology(ecg: &EcgInput) -> Vec<f32> {
    let beat = beat_of(ecg);
    let mut values = Vec::with_capacity(LENGTH);
    measured(&ecg.measurements, &mut values);
    match &beat {
        Some(found) => values.extend([
            found.members as f32 / 10.0,
            found.shapes.min(5) as f32 / 3.0,
            (found.beats - found.members) as f32 / 5.0,
        ]),
        None => values.extend([0.0; 3]),
    }
    for lead in 0..LEADS {
        values.extend(amplitudes(ecg.measurements.leads.get(lead)));
    }
    for lead in 0..LEADS {
        match &beat {
            Some(found) => values.extend(shape(found, lead)),
            None => values.extend([0.0; BEAT]),
        }
    }
    values
}

/// Each measurement as (1, its distance from a usual value in usual spreads), or (0, 0) where it is not there.
fn measured(m: &Measurements, values: &mut Vec<f32>) {
    let percent_of_rr = |ms: Option<f32>| {
        let share = ms.zip(m.heart_rate_bpm).map(|(ms, bpm)| ms * bpm / 600.0);
        share.map(f32::ln_1p)
    };
    for (value, usual, spread) in [
        (m.heart_rate_bpm, 75.0, 20.0),
        (percent_of_rr(m.rr_sd_ms), 1.5, 1.0),
        (percent_of_rr(m.rmssd_ms), 1.5, 1.0),
        (m.pr_ms, 160.0, 30.0),
        (m.qrs_ms, 95.0, 20.0),
        (m.qtc_ms, 410.0, 35.0),
        (m.beat_agreement, 0.95, 0.1),
    ] {
        match value.filter(|v| v.is_finite()) {
            Some(v) => values.extend([1.0, ((v - usual) / spread).clamp(-SPREAD_MAX, SPREAD_MAX)]),
            None => values.extend([0.0; 2]),
        }
    }
    match m.axis_degrees.filter(|v| v.is_finite()).map(f32::to_radians) {
        Some(axis) => values.extend([1.0, axis.cos(), axis.sin()]),
        None => values.extend([0.0; 3]),
    }
}

fn amplitudes(lead: Option<&LeadAmplitudes>) -> [f32; AMPLITUDES] {
    let Some((r, s)) = lead.and_then(|lead| lead.r_mv.zip(lead.s_mv)) else {
        return [0.0; AMPLITUDES];
    };
    let st = lead.and_then(|lead| lead.st_mv).unwrap_or(0.0);
    let within = |v: f32| {
        if v.is_finite() {
            v.clamp(-SPREAD_MAX, SPREAD_MAX)
        } else {
            0.0
        }
    };
    [1.0, within((r - 0.7) / 0.6), within((s + 0.5) / 0.6), within(st / 0.1)]
}

/// A lead is read where its QRS could be measured; where none could, wherever it shows anything.
fn beat_of(ecg: &EcgInput) -> Option<Dominant> {
    if ecg.millivolts.len() != LEADS * SEGMENT_SAMPLES {
        return None;
    }
    let samples = |lead: usize| &ecg.millivolts[lead * SEGMENT_SAMPLES..(lead + 1) * SEGMENT_SAMPLES];
    let readable = std::array::from_fn(|lead| match ecg.measurements.leads.get(lead) {
        Some(amplitudes) => amplitudes.r_mv.is_some(),
        None => samples(lead).iter().any(|v| *v != 0.0),
    });
    // the chain's whole microvolts
    let microvolts = |v: f32| if v.is_finite() { (v * UV_PER_MV).round() } else { 0.0 };
    let frame = |i: usize| std::array::from_fn(|lead| microvolts(samples(lead)[i]));
    let frames: Vec<_> = (0..SEGMENT_SAMPLES).map(frame).collect();
    dominant(&frames, &readable)
}

/// A lead's beat in millivolts above its level before QRS.
fn shape(found: &Dominant, lead: usize) -> [f32; BEAT] {
    let mean = |at: usize| {
        let near = &found.beat[at * DECIMATION..(at + 1) * DECIMATION];
        near.iter().map(|frame| frame[lead]).sum::<f32>() / (DECIMATION as f32 * UV_PER_MV)
    };
    let values: [f32; BEAT] = std::array::from_fn(mean);
    let mut before = values[LEVEL].to_vec();
    before.sort_unstable_by(f32::total_cmp);
    let level = before[before.len() / 2];
    values.map(|v| (v - level).clamp(-BEAT_MV_MAX, BEAT_MV_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A triangle of 1 mV and 40 ms every second, on every lead but the last.
    fn triangles() -> EcgInput {
        let at = |i: usize| (1.0 - ((i % 500) as f32 - 250.0).abs() / 20.0).max(0.0);
        let lead = |lead: usize| (0..SEGMENT_SAMPLES).map(move |i| if lead + 1 < LEADS { at(i) } else { 0.0 });
        EcgInput {
            millivolts: (0..LEADS).flat_map(lead).collect(),
            ..EcgInput::default()
        }
    }

    #[test]
    fn a_beat_lies_in_its_leads_values_with_r_where_it_belongs() {
        let values = morphology(&triangles());
        assert_eq!(values.len(), LENGTH);
        assert_eq!(values[MEASURED - 3..MEASURED], [1.0, 1.0 / 3.0, 0.0]);
        let beats = &values[MEASURED + LEADS * AMPLITUDES..];
        let r = dominant::BEFORE / DECIMATION;
        // the mean of eight samples around the top
        let top = beats[..BEAT].iter().copied().fold(0.0, f32::max);
        assert!(top > 0.8 && beats[r].max(beats[r - 1]) == top, "{:?}", &beats[..BEAT]);
        assert_eq!(beats[..BEAT], beats[BEAT..2 * BEAT]);
        assert!(beats[(LEADS - 1) * BEAT..].iter().all(|v| *v == 0.0));
    }

    #[test]
    fn silence_and_what_is_not_finite_give_numbers() {
        let silent = EcgInput {
            millivolts: vec![0.0; LEADS * SEGMENT_SAMPLES],
            ..EcgInput::default()
        };
        assert_eq!(morphology(&silent), vec![0.0; LENGTH]);
        assert_eq!(morphology(&EcgInput::default()), vec![0.0; LENGTH]);
        let mut wild = triangles();
        wild.millivolts[7] = f32::NAN;
        wild.millivolts[9000] = 1e30;
        wild.measurements.qrs_ms = Some(f32::INFINITY);
        wild.measurements.axis_degrees = Some(f32::NAN);
        wild.measurements.leads = vec![
            LeadAmplitudes {
                r_mv: Some(f32::NAN),
                s_mv: Some(-1e9),
                st_mv: None,
            };
            LEADS
        ];
        assert!(morphology(&wild).iter().all(|v| v.is_finite()));
    }

    #[test]
    fn a_measurement_is_told_beside_that_it_is_known() {
        let mut ecg = EcgInput::default();
        ecg.measurements.heart_rate_bpm = Some(95.0);
        ecg.measurements.qtc_ms = Some(1000.0);
        ecg.measurements.axis_degrees = Some(90.0);
        let values = morphology(&ecg);
        assert_eq!(values[..2], [1.0, 1.0]);
        assert_eq!(values[10..12], [1.0, SPREAD_MAX]);
        assert_eq!(values[14], 1.0);
        assert!((values[16] - 1.0).abs() < 1e-6);
    }
}
