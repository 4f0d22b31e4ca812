//! Heart rate, intervals and axis.
//!
//! Place: after `beats` and `shapes`. Invariant: a value is None where the window does not show it; nothing is guessed.
//! Method: the dominant beats' median per lead, its level between T and P taken off, then global onsets and ends over all
//! readable leads: QRS from the summed slope, T end by Zhang's area (2006) and P onset by the same area mirrored, both on the
//! leads' root mean square. QTc is Fridericia's. Limits were set on PTB-XL's normal recordings (medians QRS 90, PR 156,
//! QTc 390 ms) and its first-degree blocks (PR above 200 ms).

use super::beats::{heart_rate_bpm, median_interval};
use super::quality::LeadSignals;
use super::shapes::median;
use crate::lead::Lead;
use crate::segment::Measurements;
use crate::{LEADS, SAMPLE_RATE_HZ};

/// Samples of the median beat before R.
const BEFORE: usize = 200;
const AFTER_MAX: usize = 300;
/// Beats of the dominant shape that a median is taken of, at least.
const BEATS_MIN: usize = 2;
const MS: f32 = 1000.0 / SAMPLE_RATE_HZ as f32;
/// Slopes, relative to the QRS maximum, below which QRS has ended; the second where a steep T leaves the first unmet.
const QRS_EDGE_SHARES: [f32; 2] = [0.03, 0.06];
const QRS_QUIET_SAMPLES: usize = 6;
const QRS_SAMPLES: std::ops::RangeInclusive<usize> = 20..=125;
/// Stretch that shows the level between T and P.
const LEVEL_SAMPLES: usize = 20;
/// Median change of the RR interval over its mean above which a P wave is not looked for.
const RR_IRREGULAR: f32 = 0.08;
/// P wave height that is believed, microvolts, and relative to the noise of the averaged beats.
const P_UV_MIN: f32 = 10.0;
const P_OVER_NOISE: f32 = 3.0;
/// Areas that find the feet of T and P, samples.
const T_AREA: usize = 64;
const P_AREA: usize = 32;
/// T wave height that is believed, microvolts.
const T_UV_MIN: f32 = 30.0;

/// Measures the window; `groups` are its beats by shape, the dominant one first.
pub fn measure(signals: &[LeadSignals], readable: &[bool], peaks: &[usize], groups: &[Vec<usize>]) -> Measurements {
    let mut m = Measurements {
        beats: peaks.len() as u32,
        ..Measurements::default()
    };
    let Some(bpm) = heart_rate_bpm(peaks) else { return m };
    m.heart_rate_bpm = Some(bpm);
    let mean_rr = 60.0 * SAMPLE_RATE_HZ as f32 / bpm;
    let intervals: Vec<f32> = peaks.windows(2).map(|p| (p[1] - p[0]) as f32).collect();
    let variance = intervals.iter().map(|rr| (rr - mean_rr).powi(2)).sum::<f32>() / intervals.len() as f32;
    m.rr_sd_ms = Some(variance.sqrt() * MS);
    let Some(beat) = MedianBeat::new(signals, readable, peaks, groups) else {
        return m;
    };
    let Some((onset, end)) = beat.qrs() else { return m };
    m.axis_degrees = beat.axis(readable, onset..end);
    m.qrs_ms = Some((end - onset) as f32 * MS);
    let rms = beat.rms(beat.level(onset, mean_rr));
    if let Some(t_end) = t_end(&rms, end) {
        let qt = (t_end - onset) as f32 * MS;
        m.qt_ms = Some(qt);
        m.qtc_ms = Some(qt / (mean_rr / SAMPLE_RATE_HZ as f32).cbrt());
    }
    let mut changes: Vec<f32> = intervals.windows(2).map(|rr| (rr[1] - rr[0]).abs()).collect();
    if !changes.is_empty() && median(&mut changes) <= RR_IRREGULAR * mean_rr {
        m.pr_ms = beat.p_onset(onset).map(|p| (onset - p) as f32 * MS);
    }
    m
}

/// The dominant shape of the window: median over its beats in each readable lead, R at [`BEFORE`].
struct MedianBeat {
    /// Every lead; readable or not.
    leads: Vec<Vec<f32>>,
    /// The readable leads' indices.
    used: Vec<usize>,
    /// Sum over the readable leads of |slope|.
    slope: Vec<f32>,
    /// Noise that is left in the average, root mean square over readable leads, at each sample before R.
    noise: Vec<f32>,
}

impl MedianBeat {
    fn new(signals: &[LeadSignals], readable: &[bool], peaks: &[usize], groups: &[Vec<usize>]) -> Option<Self> {
        let rr = median_interval(peaks)?;
        let after = AFTER_MAX.min((0.72 * rr) as usize);
        let length = signals.first()?.filtered.len();
        let dominant = groups.first()?.iter().copied();
        let members: Vec<usize> = dominant.filter(|&p| p >= BEFORE && p + after <= length).collect();
        if members.len() < BEATS_MIN {
            return None;
        }
        let mut values = vec![0.0; members.len()];
        let mut leads = vec![vec![0.0; BEFORE + after]; signals.len()];
        let mut variance = vec![0.0; BEFORE];
        let used: Vec<usize> = (0..signals.len()).filter(|&lead| readable[lead]).collect();
        for &lead in &used {
            let samples = &signals[lead].filtered;
            for i in 0..BEFORE + after {
                values
                    .iter_mut()
                    .zip(&members)
                    .for_each(|(v, p)| *v = samples[p - BEFORE + i]);
                if let Some(sum) = variance.get_mut(i) {
                    let mean = values.iter().sum::<f32>() / values.len() as f32;
                    *sum += values.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / values.len() as f32;
                }
                leads[lead][i] = median(&mut values);
            }
        }
        let slope = (0..BEFORE + after)
            .map(|i| {
                let (a, b) = (i.saturating_sub(2), (i + 2).min(BEFORE + after - 1));
                used.iter().map(|&l| (leads[l][b] - leads[l][a]).abs()).sum::<f32>()
            })
            .collect();
        let averaged = (used.len().max(1) * members.len()) as f32;
        let noise = variance.into_iter().map(|v| (v / averaged).sqrt()).collect();
        Some(Self {
            leads,
            used,
            slope,
            noise,
        })
    }

    /// Onset and end of QRS.
    fn qrs(&self) -> Option<(usize, usize)> {
        let near = BEFORE - 50..(BEFORE + 60).min(self.slope.len());
        let top = self.slope[near].iter().copied().fold(0.0, f32::max);
        // slope that noise alone makes: the lower quartile over the beat
        let mut sorted = self.slope.clone();
        sorted.sort_by(f32::total_cmp);
        let noise = sorted[sorted.len() / 4];
        QRS_EDGE_SHARES
            .iter()
            .find_map(|share| self.qrs_above(share * top + noise))
    }

    fn qrs_above(&self, limit: f32) -> Option<(usize, usize)> {
        let quiet = |range: std::ops::Range<usize>| self.slope.get(range).is_some_and(|s| s.iter().all(|&v| v < limit));
        let onset = (60..BEFORE).rev().find(|&i| quiet(i - QRS_QUIET_SAMPLES..i))?;
        let end = (BEFORE + 5..self.slope.len()).find(|&i| quiet(i..i + QRS_QUIET_SAMPLES))?;
        QRS_SAMPLES.contains(&(end - onset)).then_some((onset, end))
    }

    /// Each lead's level in the quietest stretch between T and P, before this beat or after it.
    fn level(&self, qrs_onset: usize, mean_rr: f32) -> Vec<f32> {
        let after_t = BEFORE + (0.6 * mean_rr).min(260.0) as usize;
        let starts = (0..qrs_onset.saturating_sub(60 + LEVEL_SAMPLES)).chain(after_t..self.slope.len() - LEVEL_SAMPLES);
        let activity = |i: usize| self.slope[i..i + LEVEL_SAMPLES].iter().sum::<f32>();
        let quietest = starts.min_by(|&a, &b| activity(a).total_cmp(&activity(b))).unwrap_or(0);
        self.level_in(quietest..quietest + LEVEL_SAMPLES)
    }

    fn level_in(&self, range: std::ops::Range<usize>) -> Vec<f32> {
        self.leads
            .iter()
            .map(|lead| median(&mut lead[range.clone()].to_vec()))
            .collect()
    }

    /// Root mean square over the readable leads of their distance from `level`, smoothed.
    fn rms(&self, level: Vec<f32>) -> Vec<f32> {
        let n = self.used.len().max(1) as f32;
        let power = |i: usize| {
            self.used
                .iter()
                .map(|&l| (self.leads[l][i] - level[l]).powi(2))
                .sum::<f32>()
                / n
        };
        let rms: Vec<f32> = (0..self.slope.len()).map(|i| power(i).sqrt()).collect();
        (0..rms.len())
            .map(|i| {
                let near = &rms[i.saturating_sub(4)..(i + 5).min(rms.len())];
                near.iter().sum::<f32>() / near.len() as f32
            })
            .collect()
    }

    /// Onset of P: the foot of the most prominent bump in the 300 ms before QRS.
    fn p_onset(&self, qrs_onset: usize) -> Option<usize> {
        let (from, to) = (qrs_onset.saturating_sub(150).max(4), qrs_onset.checked_sub(6)?);
        let rms = self.rms(self.level_in(qrs_onset.checked_sub(7)?..qrs_onset - 1));
        let lowest = |range: std::ops::Range<usize>| rms[range].iter().copied().fold(f32::MAX, f32::min);
        let highest = |range: std::ops::Range<usize>| rms[range].iter().copied().fold(0.0, f32::max);
        let tops = (from + 5..to.saturating_sub(5))
            .filter(|&i| rms[i] >= highest(from.max(i.saturating_sub(12))..(i + 13).min(to)));
        let prominence = |i: usize| rms[i] - lowest(from.max(i.saturating_sub(50))..i).max(lowest(i..to));
        let (height, top) = tops.map(|i| (prominence(i), i)).max_by(|a, b| a.0.total_cmp(&b.0))?;
        let noise = (self.noise[from..to].iter().map(|v| v * v).sum::<f32>() / (to - from) as f32).sqrt();
        if height < P_UV_MIN.max(P_OVER_NOISE * noise) {
            return None;
        }
        let area = |t: usize| rms[t..t + P_AREA].iter().sum::<f32>() - P_AREA as f32 * rms[t];
        (from.max(top.saturating_sub(50))..top - 6).max_by(|&a, &b| area(a).total_cmp(&area(b)))
    }

    /// Frontal axis from the net QRS area of I and aVF above the level at its onset, degrees, -180..180.
    fn axis(&self, readable: &[bool], qrs: std::ops::Range<usize>) -> Option<f32> {
        let (i, avf) = (Lead::I.index(), Lead::AVF.index());
        if !readable[i] || !readable[avf] {
            return None;
        }
        let net = |lead: usize| {
            let level = self.leads[lead][qrs.start];
            self.leads[lead][qrs.clone()].iter().map(|v| v - level).sum::<f32>()
        };
        // aVF is an augmented lead: 2/sqrt(3) brings it to the scale of I
        Some((net(avf) * 2.0 / 3f32.sqrt()).atan2(net(i)).to_degrees())
    }
}

/// End of T on the leads' root mean square: where the area above the present value, over what came just before, is largest.
fn t_end(rms: &[f32], qrs_end: usize) -> Option<usize> {
    let (from, to) = (qrs_end + 30, rms.len().saturating_sub(10));
    if to < from + 40 {
        return None;
    }
    let top = (from..to).max_by(|&a, &b| rms[a].total_cmp(&rms[b]))?;
    let lowest = rms[from..to].iter().copied().fold(f32::MAX, f32::min);
    let last = (top + 100).min(rms.len() - 6);
    if top < from + 3 || rms[top] < lowest + T_UV_MIN || last < top + 20 {
        return None;
    }
    let area = |t: usize| rms[t + 1 - T_AREA..=t].iter().sum::<f32>() - T_AREA as f32 * rms[t];
    (top + 10..last).max_by(|&a, &b| area(a).total_cmp(&area(b)))
}

const _: () = assert!(LEADS == 12, "the axis needs I and aVF of the standard order");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsp::testing::{beat_train, lead_signals};
    use crate::dsp::{beats, shapes};

    #[test]
    fn rate_and_intervals_of_a_known_beat_are_measured() {
        let (signal, _) = beat_train(72.0);
        let signals = lead_signals(&signal);
        let readable = vec![true; LEADS];
        let peaks = beats::detect(&signals, &readable).peaks;
        let groups = shapes::group(&signals, &readable, &peaks);
        let m = measure(&signals, &readable, &peaks, &groups);
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
        assert_eq!(measure(&signals, &[true; LEADS], &[], &[]), Measurements::default());
        assert_eq!(
            measure(&signals, &[true; LEADS], &[2500], &[vec![2500]]).heart_rate_bpm,
            None
        );
    }
}
