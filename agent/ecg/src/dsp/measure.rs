//! Heart rate, intervals and axis.
//!
//! Place: after `beats`. Invariant: a value is None where the window does not show it; nothing is guessed.
//! Method: the dominant beats' median per lead, then global onsets and ends over all readable leads: QRS from the leads' summed
//! slope, T end by the tangent on the leads' root mean square, P from the bump before QRS. QTc is Fridericia's.

use super::beats::median_interval;
use super::quality::LeadSignals;
use super::snr::cluster;
use crate::lead::Lead;
use crate::segment::Measurements;
use crate::{LEADS, SAMPLE_RATE_HZ};

/// Samples of the median beat before R.
const BEFORE: usize = 200;
const AFTER_MAX: usize = 300;
const MS: f32 = 1000.0 / SAMPLE_RATE_HZ as f32;
/// Slope, relative to its QRS maximum, below which QRS has ended.
const QRS_EDGE_SHARE: f32 = 0.06;
const QRS_QUIET_SAMPLES: usize = 6;
/// RR variation (standard deviation over mean) above which a P wave is not looked for.
const RR_IRREGULAR: f32 = 0.15;
/// P wave height, relative to the noise before it, that is believed.
const P_OVER_NOISE: f32 = 2.5;
const P_UV_MIN: f32 = 15.0;

/// Measures the window.
pub fn measure(signals: &[LeadSignals], readable: &[bool], peaks: &[usize]) -> Measurements {
    let mut m = Measurements {
        beats: peaks.len() as u32,
        ..Measurements::default()
    };
    let Some((&first, &last)) = peaks.first().zip(peaks.last()).filter(|(a, b)| a < b) else {
        return m;
    };
    let mean_rr = (last - first) as f32 / (peaks.len() - 1) as f32;
    m.heart_rate_bpm = Some(60.0 * SAMPLE_RATE_HZ as f32 / mean_rr);
    let variance = peaks
        .windows(2)
        .map(|p| ((p[1] - p[0]) as f32 - mean_rr).powi(2))
        .sum::<f32>()
        / (peaks.len() - 1) as f32;
    m.rr_sd_ms = Some(variance.sqrt() * MS);
    let Some(beat) = MedianBeat::new(signals, readable, peaks) else {
        return m;
    };
    m.axis_degrees = beat.axis(readable);
    let Some((onset, end)) = beat.qrs() else { return m };
    m.qrs_ms = Some((end - onset) as f32 * MS);
    if let Some(t_end) = beat.t_end(end) {
        let qt = (t_end - onset) as f32 * MS;
        m.qt_ms = Some(qt);
        m.qtc_ms = Some(qt / (mean_rr / SAMPLE_RATE_HZ as f32).cbrt());
    }
    if variance.sqrt() / mean_rr < RR_IRREGULAR {
        m.pr_ms = beat.p_onset(onset).map(|p| (onset - p) as f32 * MS);
    }
    m
}

/// The dominant shape of the window: median over its beats in each lead, R at [`BEFORE`].
struct MedianBeat {
    leads: Vec<Vec<f32>>,
    /// Root mean square over the readable leads.
    rms: Vec<f32>,
    /// Sum over the readable leads of |slope|.
    slope: Vec<f32>,
}

impl MedianBeat {
    fn new(signals: &[LeadSignals], readable: &[bool], peaks: &[usize]) -> Option<Self> {
        let rr = median_interval(peaks)?;
        let after = AFTER_MAX.min((0.72 * rr) as usize);
        let length = signals.first()?.filtered.len();
        let inside: Vec<usize> = peaks
            .iter()
            .copied()
            .filter(|&p| p >= BEFORE && p + after <= length)
            .collect();
        let members = dominant(signals, readable, &inside, after)?;
        let leads: Vec<Vec<f32>> = signals
            .iter()
            .map(|s| {
                (0..BEFORE + after)
                    .map(|i| median(members.iter().map(|&p| s.filtered[p - BEFORE + i])))
                    .collect()
            })
            .collect();
        let used: Vec<&Vec<f32>> = leads
            .iter()
            .zip(readable)
            .filter(|(_, ok)| **ok)
            .map(|(l, _)| l)
            .collect();
        let n = used.len().max(1) as f32;
        let rms = (0..BEFORE + after)
            .map(|i| (used.iter().map(|l| l[i] * l[i]).sum::<f32>() / n).sqrt())
            .collect();
        let slope = (0..BEFORE + after)
            .map(|i| {
                let (a, b) = (i.saturating_sub(2), (i + 2).min(BEFORE + after - 1));
                used.iter().map(|l| (l[b] - l[a]).abs()).sum::<f32>()
            })
            .collect();
        Some(Self { leads, rms, slope })
    }

    /// Onset and end of QRS.
    fn qrs(&self) -> Option<(usize, usize)> {
        let near = BEFORE - 50..(BEFORE + 60).min(self.slope.len());
        let top = self.slope[near].iter().copied().fold(0.0, f32::max);
        let limit = QRS_EDGE_SHARE * top + self.quiet_slope();
        let quiet = |range: std::ops::Range<usize>| self.slope.get(range).is_some_and(|s| s.iter().all(|&v| v < limit));
        let onset = (60..BEFORE).rev().find(|&i| quiet(i - QRS_QUIET_SAMPLES..i))?;
        let end = (BEFORE + 5..self.slope.len() - QRS_QUIET_SAMPLES).find(|&i| quiet(i..i + QRS_QUIET_SAMPLES))?;
        (end - onset >= 20 && end - onset <= 125).then_some((onset, end))
    }

    /// Slope that the noise alone makes: the lower quartile over the beat.
    fn quiet_slope(&self) -> f32 {
        let mut sorted = self.slope.clone();
        sorted.sort_by(f32::total_cmp);
        sorted[sorted.len() / 4]
    }

    /// End of T: the steepest descent after its top, drawn down to the level before P.
    fn t_end(&self, qrs_end: usize) -> Option<usize> {
        let from = qrs_end + 30;
        let to = self.rms.len().saturating_sub(10);
        let top = (from..to).max_by(|&a, &b| self.rms[a].total_cmp(&self.rms[b]))?;
        let level = self.rms.iter().copied().fold(f32::MAX, f32::min);
        if top == from || self.rms[top] < level + 30.0 {
            return None;
        }
        let fall = |i: usize| self.rms[i - 5] - self.rms[i + 5];
        let steepest = (top + 5..(top + 80).min(to - 5)).max_by(|&a, &b| fall(a).total_cmp(&fall(b)))?;
        let per_sample = fall(steepest) / 10.0;
        let end = steepest + ((self.rms[steepest] - level) / per_sample.max(0.1)) as usize;
        (per_sample > 0.1 && end < self.rms.len()).then_some(end)
    }

    /// Onset of P: where its bump before QRS rises out of the quiet before it.
    fn p_onset(&self, qrs_onset: usize) -> Option<usize> {
        let (from, to) = (qrs_onset.checked_sub(130)?, qrs_onset - 12);
        let top = (from + 15..to).max_by(|&a, &b| self.rms[a].total_cmp(&self.rms[b]))?;
        let mut before: Vec<f32> = self.rms[from.saturating_sub(20)..top.saturating_sub(25).max(from + 5)].to_vec();
        before.sort_by(f32::total_cmp);
        let level = before[before.len() / 4];
        let height = self.rms[top] - level;
        if height < P_UV_MIN || self.rms[top] < P_OVER_NOISE * level.max(4.0) && height < 2.0 * P_UV_MIN {
            return None;
        }
        let onset = (from..top).rev().find(|&i| self.rms[i] < level + 0.15 * height)?;
        (top - onset <= 50).then_some(onset)
    }

    /// Frontal axis from the net QRS area of I and aVF, degrees, -180..180.
    fn axis(&self, readable: &[bool]) -> Option<f32> {
        let (i, avf) = (Lead::I.index(), Lead::AVF.index());
        if !readable[i] || !readable[avf] {
            return None;
        }
        let net = |lead: usize| self.leads[lead][BEFORE - 30..BEFORE + 40].iter().sum::<f32>();
        // aVF is an augmented lead: 2/sqrt(3) brings it to the scale of I
        Some((net(avf) * 2.0 / 3f32.sqrt()).atan2(net(i)).to_degrees())
    }
}

/// The peaks of the largest group of like beats.
fn dominant(signals: &[LeadSignals], readable: &[bool], peaks: &[usize], after: usize) -> Option<Vec<usize>> {
    let span = 40.min(after);
    let shapes: Vec<Vec<f64>> = peaks
        .iter()
        .map(|&p| {
            let used = signals.iter().zip(readable).filter(|(_, ok)| **ok);
            used.flat_map(|(s, _)| s.filtered[p - 40..p + span].iter().map(|&v| f64::from(v)))
                .collect()
        })
        .collect();
    let largest = cluster(&shapes)
        .into_iter()
        .max_by(|a, b| a.len().cmp(&b.len()).then(b[0].cmp(&a[0])))?;
    (largest.len() >= 2).then(|| largest.into_iter().map(|b| peaks[b]).collect())
}

fn median(values: impl Iterator<Item = f32>) -> f32 {
    let mut values: Vec<f32> = values.collect();
    values.sort_by(f32::total_cmp);
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) {
        (values[half - 1] + values[half]) / 2.0
    } else {
        values[half]
    }
}

const _: () = assert!(LEADS == 12, "the axis needs I and aVF of the standard order");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsp::testing::{beat_train, lead_signals};

    #[test]
    fn rate_and_intervals_of_a_known_beat_are_measured() {
        let (signal, _) = beat_train(72.0);
        let signals = lead_signals(&signal);
        let readable = vec![true; LEADS];
        let peaks = super::super::beats::detect(&signals, &readable);
        let m = measure(&signals, &readable, &peaks);
        assert!((m.heart_rate_bpm.unwrap() - 72.0).abs() < 0.5, "{m:?}");
        // the train's P starts 160 ms before its QRS, which lasts about 90 ms; T ends about 400 ms after QRS onset
        assert!((60.0..=120.0).contains(&m.qrs_ms.unwrap()), "{m:?}");
        assert!((120.0..=210.0).contains(&m.pr_ms.unwrap()), "{m:?}");
        assert!((340.0..=460.0).contains(&m.qt_ms.unwrap()), "{m:?}");
        assert!((m.axis_degrees.unwrap() - 49.1).abs() < 3.0, "equal I and aVF: {m:?}");
    }

    #[test]
    fn nothing_is_measured_without_two_beats() {
        let flat = vec![0.0; crate::SEGMENT_SAMPLES];
        let signals = lead_signals(&flat);
        assert_eq!(measure(&signals, &[true; LEADS], &[]), Measurements::default());
        assert_eq!(measure(&signals, &[true; LEADS], &[2500]).heart_rate_bpm, None);
    }
}
