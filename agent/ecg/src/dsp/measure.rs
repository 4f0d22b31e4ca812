//! Heart rate and its variability, intervals, axis, and each lead's amplitudes.
//!
//! Place: after `beats` and `shapes`. Invariant: a value is None where the window does not show it; nothing is guessed.
//! Method: the dominant beats' median per lead, its level between T and P taken off, then global onsets and ends over all
//! readable leads: QRS from the summed slope, T end by Zhang's area (2006) and P onset by the same area mirrored, both on the
//! leads' root mean square. QTc is Fridericia's. Limits were set on PTB-XL's normal recordings (medians QRS 90, PR 156,
//! QTc 390 ms) and its first-degree blocks (PR above 200 ms). P is looked for behind the T wave before it, so at high rates, in a
//! flutter and in a long block PR is None: there the bump before QRS is T or no foot is seen. Where that bump runs into QRS, at
//! rates above 125 a minute, the onset is not seen: neither QRS nor QT is given, nor a pattern for swapped electrodes; amplitudes are
//! taken from the level before that bump.

use super::beats::{heart_rate_bpm, median_interval};
use super::lanes::{Frame, medians, wide};
use super::reversal::{self, Pattern};
use super::shapes::median;
use crate::lead::Lead;
use crate::segment::{LeadAmplitudes, Measurements};
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
/// Shortest share of RR that is quiet before and after QRS: above 125 a minute P comes close to it.
const QRS_QUIET_RR: f64 = 0.025;
const QRS_SAMPLES: std::ops::RangeInclusive<usize> = 20..=125;
/// Share of the greatest slope that QRS reaches within so many samples of its onset; of 2,645 PTB-XL recordings 99.9 % do within 15.
const QRS_STEEP_SHARE: f32 = 0.2;
const QRS_FLANK_SAMPLES: usize = 17;
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
/// A search for P is this long at least, and its foot lies so far from where the search begins, samples.
const P_SPAN_MIN: usize = 40;
const P_EDGE: usize = 2;
/// T wave height that is believed, microvolts.
const T_UV_MIN: f32 = 30.0;

/// The ST segment's level is read so far behind the end of QRS, as the mean of the samples around: 60 ms, 5 samples.
const ST_AFTER_J: usize = 30;
const ST_SPAN: usize = 2;
/// The level that amplitudes count from: the mean of so many samples before the onset of QRS.
const PQ_SPAN: usize = 4;

/// Measures a window of filtered frames; `groups` are its beats by shape, the dominant one first.
///
/// The pattern of the dominant beat is there where all of its independent leads are readable.
pub fn measure(
    frames: &[Frame],
    readable: &[bool; LEADS],
    peaks: &[usize],
    groups: &[Vec<usize>],
) -> (Measurements, Option<Pattern>) {
    let mut m = Measurements {
        beats: peaks.len() as u32,
        ..Measurements::default()
    };
    let Some(bpm) = heart_rate_bpm(peaks) else {
        return (m, None);
    };
    m.heart_rate_bpm = Some(bpm);
    let mean_rr = 60.0 * SAMPLE_RATE_HZ as f32 / bpm;
    let intervals: Vec<f32> = peaks.windows(2).map(|p| (p[1] - p[0]) as f32).collect();
    let root_mean_square = |values: &mut dyn ExactSizeIterator<Item = f32>| {
        let n = values.len() as f32;
        (values.map(|v| v * v).sum::<f32>() / n).sqrt() * MS
    };
    m.rr_sd_ms = Some(root_mean_square(&mut intervals.iter().map(|rr| rr - mean_rr)));
    if intervals.len() > 1 {
        m.rmssd_ms = Some(root_mean_square(&mut intervals.windows(2).map(|rr| rr[1] - rr[0])));
    }
    let Some(beat) = MedianBeat::new(frames, readable, peaks, groups) else {
        return (m, None);
    };
    let Some((onset, end)) = beat.qrs() else {
        return (m, None);
    };
    m.axis_degrees = beat.axis(readable, onset..end);
    m.leads = (0..LEADS).map(|lead| beat.amplitudes(lead, onset..end)).collect();
    if beat.hides_onset(onset) {
        return (m, None);
    }
    m.qrs_ms = Some((end - onset) as f32 * MS);
    let level = beat.level(onset, mean_rr);
    let pattern = beat.pattern(onset..end, &level);
    let rms = beat.rms(level);
    let t_end = t_end(&rms, end);
    if let Some(t_end) = t_end {
        let qt = (t_end - onset) as f32 * MS;
        m.qt_ms = Some(qt);
        m.qtc_ms = Some(qt / (mean_rr / SAMPLE_RATE_HZ as f32).cbrt());
    }
    let mut changes: Vec<f32> = intervals.windows(2).map(|rr| (rr[1] - rr[0]).abs()).collect();
    if !changes.is_empty() && median(&mut changes) <= RR_IRREGULAR * mean_rr {
        let rr = median(&mut intervals.clone());
        let t_end = t_end.map_or(onset as f32 + qt_usual(rr), |t_end| t_end as f32);
        let t_before = (t_end - rr).max(0.0) as usize;
        m.pr_ms = beat.p_onset(t_before, onset).map(|p| (onset - p) as f32 * MS);
    }
    (m, pattern)
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
    /// Samples without slope that lie around QRS.
    quiet: usize,
}

impl MedianBeat {
    fn new(frames: &[Frame], readable: &[bool; LEADS], peaks: &[usize], groups: &[Vec<usize>]) -> Option<Self> {
        let rr = median_interval(peaks)?;
        let after = AFTER_MAX.min((0.72 * rr) as usize);
        let dominant = groups.first()?.iter().copied();
        let members: Vec<usize> = dominant.filter(|&p| p >= BEFORE && p + after <= frames.len()).collect();
        if members.len() < BEATS_MIN {
            return None;
        }
        let rows: Vec<&[Frame]> = members.iter().map(|&p| &frames[p - BEFORE..p + after]).collect();
        let mut beat = vec![[0.0; LEADS]; BEFORE + after];
        medians(&rows, &mut beat);
        let used: Vec<usize> = (0..LEADS).filter(|&lead| readable[lead]).collect();
        let averaged = (used.len().max(1) * members.len()) as f32;
        let mut variance = vec![[0.0; LEADS]; BEFORE];
        variances(&rows, &mut variance);
        let noise = variance
            .iter()
            .map(|of_leads| (used.iter().map(|&l| of_leads[l]).sum::<f32>() / averaged).sqrt())
            .collect();
        let leads: Vec<Vec<f32>> = (0..LEADS)
            .map(|lead| match readable[lead] {
                true => beat.iter().map(|frame| frame[lead]).collect(),
                false => vec![0.0; beat.len()],
            })
            .collect();
        let slope = (0..BEFORE + after)
            .map(|i| {
                let (a, b) = (i.saturating_sub(2), (i + 2).min(BEFORE + after - 1));
                used.iter().map(|&l| (leads[l][b] - leads[l][a]).abs()).sum::<f32>()
            })
            .collect();
        Some(Self {
            leads,
            used,
            slope,
            noise,
            quiet: QRS_QUIET_SAMPLES.min((QRS_QUIET_RR * rr) as usize).max(2),
        })
    }

    /// Onset and end of QRS.
    fn qrs(&self) -> Option<(usize, usize)> {
        let top = self.steepest();
        // slope that noise alone makes: the lower quartile over the beat
        let mut slopes = self.slope.clone();
        let quarter = slopes.len() / 4;
        let noise = *slopes.select_nth_unstable_by(quarter, f32::total_cmp).1;
        QRS_EDGE_SHARES
            .iter()
            .find_map(|share| self.qrs_above(share * top + noise))
    }

    /// Greatest slope near R.
    fn steepest(&self) -> f32 {
        let near = BEFORE - 50..(BEFORE + 60).min(self.slope.len());
        self.slope[near].iter().copied().fold(0.0, f32::max)
    }

    /// True where a high rate lets the wave before QRS run into it, so that the onset found is that wave's.
    fn hides_onset(&self, onset: usize) -> bool {
        let steep = QRS_STEEP_SHARE * self.steepest();
        let flank = &self.slope[onset..(onset + QRS_FLANK_SAMPLES).min(self.slope.len())];
        self.quiet < QRS_QUIET_SAMPLES && flank.iter().all(|&v| v < steep)
    }

    fn qrs_above(&self, limit: f32) -> Option<(usize, usize)> {
        let quiet = |range: std::ops::Range<usize>| self.slope.get(range).is_some_and(|s| s.iter().all(|&v| v < limit));
        let onset = (60..BEFORE).rev().find(|&i| quiet(i - self.quiet..i))?;
        let end = (BEFORE + 5..self.slope.len()).find(|&i| quiet(i..i + self.quiet))?;
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

    /// Onset of P: the foot of the most prominent bump in the 300 ms before QRS and after the T wave before it, `t_end`.
    fn p_onset(&self, t_end: usize, qrs_onset: usize) -> Option<usize> {
        let (from, to) = (
            qrs_onset.saturating_sub(150).max(4).max(t_end),
            qrs_onset.checked_sub(6)?,
        );
        if to < from + P_SPAN_MIN {
            return None;
        }
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
        let foot = (from.max(top.saturating_sub(50))..top - 6).max_by(|&a, &b| area(a).total_cmp(&area(b)))?;
        // at the edge of the search the foot itself is not seen
        (foot > from + P_EDGE).then_some(foot)
    }

    /// Largest deflections of a lead within QRS, and its ST level, all above the level before QRS; None where not readable.
    fn amplitudes(&self, lead: usize, qrs: std::ops::Range<usize>) -> LeadAmplitudes {
        if !self.used.contains(&lead) {
            return LeadAmplitudes::default();
        }
        let samples = &self.leads[lead];
        let mean = |range: std::ops::Range<usize>| {
            let n = range.len() as f32;
            samples.get(range).map(|span| span.iter().sum::<f32>() / n)
        };
        let Some(level) = mean(qrs.start - PQ_SPAN..qrs.start) else {
            return LeadAmplitudes::default();
        };
        let within = || samples[qrs.clone()].iter().map(|v| (v - level) / 1000.0);
        let r_mv = within().fold(0.0, f32::max);
        let r_at = (qrs.start..qrs.end).fold(qrs.start, |top, i| if samples[i] > samples[top] { i } else { top });
        let s_mv = samples[r_at..qrs.end]
            .iter()
            .map(|v| (v - level) / 1000.0)
            .fold(0.0, f32::min);
        let st = qrs.end + ST_AFTER_J;
        LeadAmplitudes {
            r_mv: Some(r_mv),
            s_mv: Some(s_mv),
            st_mv: mean(st - ST_SPAN..st + ST_SPAN + 1).map(|v| (v - level) / 1000.0),
        }
    }

    /// Mean level of each independent lead in the phases of `reversal`, scaled to unit QRS power.
    fn pattern(&self, qrs: std::ops::Range<usize>, level: &[f32]) -> Option<Pattern> {
        let third = qrs.len() / 3;
        let last = self.slope.len();
        let phases: [std::ops::Range<usize>; reversal::PHASES] = [
            qrs.start - 60..qrs.start - 15,
            qrs.start..qrs.start + third,
            qrs.start + third..qrs.end - third,
            qrs.end - third..qrs.end,
            (qrs.end + 40).min(last - 20)..(qrs.end + 120).min(last),
        ];
        if reversal::LEADS.iter().any(|lead| !self.used.contains(lead)) {
            return None;
        }
        let mut pattern = [0.0; reversal::LENGTH];
        for (of_phase, phase) in pattern.chunks_exact_mut(reversal::LEADS.len()).zip(&phases) {
            for (value, &lead) in of_phase.iter_mut().zip(&reversal::LEADS) {
                let samples = &self.leads[lead][phase.clone()];
                *value = samples.iter().sum::<f32>() / samples.len() as f32 - level[lead];
            }
        }
        let of_qrs = &pattern[reversal::LEADS.len()..4 * reversal::LEADS.len()];
        let size = of_qrs.iter().map(|v| v * v).sum::<f32>().sqrt();
        (size > 0.0).then(|| pattern.map(|v| v / size))
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

wide! {
    /// Variance over the rows at each of the first frames.
    fn variances(rows: &[&[Frame]], out: &mut [Frame]) {
        let share = 1.0 / rows.len() as f32;
        for (i, variance) in out.iter_mut().enumerate() {
            let (mut mean, mut square) = ([0f32; LEADS], [0f32; LEADS]);
            for row in rows {
                for l in 0..LEADS {
                    mean[l] += row[i][l] * share;
                }
            }
            for row in rows {
                for l in 0..LEADS {
                    let v = row[i][l] - mean[l];
                    square[l] += v * v;
                }
            }
            *variance = square.map(|v| v * share);
        }
    }
}

/// QT at this RR interval where it is not measured, samples: a QTc of 420 ms by Fridericia's formula.
fn qt_usual(rr: f32) -> f32 {
    let second = SAMPLE_RATE_HZ as f32;
    0.42 * second * (rr / second).cbrt()
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
    use crate::dsp::testing::{beat_train, on_all_leads};
    use crate::dsp::{beats, shapes};

    fn measured(signal: &[f32]) -> Measurements {
        let (frames, readable) = (on_all_leads(signal), [true; LEADS]);
        let peaks = beats::detect(&frames, &readable, &mut beats::Scratch::default()).peaks;
        let groups = shapes::group(&frames, &readable, &peaks, &mut shapes::Scratch::default());
        measure(&frames, &readable, &peaks, &groups).0
    }

    #[test]
    fn rate_and_intervals_of_a_known_beat_are_measured() {
        let (signal, _) = beat_train(72.0);
        let m = measured(&signal);
        assert!((m.heart_rate_bpm.unwrap() - 72.0).abs() < 0.5, "{m:?}");
        // by two and a half widths of the train's Gaussians: QRS from 42 ms before R to 42 ms after it, P from 200 ms before R,
        // T until 2.3 widths, 372 ms, after it
        near("QRS", m.qrs_ms, 84.0, 10.0);
        near("PR", m.pr_ms, 158.0, 10.0);
        near("QT", m.qt_ms, 414.0, 10.0);
        assert!((m.axis_degrees.unwrap() - 49.1).abs() < 3.0, "equal I and aVF: {m:?}");
    }

    #[track_caller]
    fn near(name: &str, got: Option<f32>, want: f32, within: f32) {
        let got = got.unwrap_or(f32::NAN);
        assert!((got - want).abs() <= within, "{name} {got} ms, not {want} ms");
    }

    /// Beats at `bpm` with P so many samples before R, QRS and T as `beat_train` has them.
    fn with_p_at(bpm: f64, p_before: f64) -> Vec<f32> {
        let (train, peaks) = beat_train(bpm);
        let squeeze = (75.0 / bpm).min(1.0);
        let bump = |x: f64, width: f64| (-(x / width).powi(2) / 2.0).exp();
        let p = |i: usize| -> f64 {
            let of = |peak: &usize| {
                let x = i as f64 - *peak as f64;
                120.0 * (bump(x + p_before, 10.0 * squeeze) - bump(x + 75.0 * squeeze, 10.0 * squeeze))
            };
            peaks.iter().map(of).sum()
        };
        train.iter().enumerate().map(|(i, v)| v + p(i) as f32).collect()
    }

    #[test]
    fn a_long_pr_is_measured_to_where_its_foot_is_seen_and_is_never_the_edge_of_the_search() {
        // P's onset lies 25 samples before its top, QRS 21 before R
        for (p_before, pr) in [(75.0, 158.0), (100.0, 208.0), (130.0, 268.0)] {
            near("PR", measured(&with_p_at(55.0, p_before)).pr_ms, pr, 10.0);
        }
        for p_before in [150.0, 165.0, 180.0] {
            assert_eq!(measured(&with_p_at(55.0, p_before)).pr_ms, None, "{p_before}");
        }
    }

    #[test]
    fn a_t_wave_close_before_qrs_is_no_p_wave() {
        for bpm in [180.0, 200.0, 230.0, 245.0] {
            let m = measured(&beat_train(bpm).0);
            assert_eq!(m.pr_ms, None, "{bpm}: {m:?}");
        }
        // a small one that lies apart is read: 98 ms before R
        near("PR", measured(&beat_train(150.0).0).pr_ms, 56.0, 12.0);
    }

    #[test]
    fn qrs_does_not_reach_into_a_p_wave_that_a_high_rate_brings_close() {
        // P ends 8 ms before QRS
        near("QRS", measured(&with_p_at(200.0, 34.0)).qrs_ms, 84.0, 10.0);
    }

    #[test]
    fn where_a_high_rate_lets_p_run_into_qrs_neither_is_measured() {
        for bpm in [160.0, 180.0, 200.0, 220.0, 245.0] {
            let m = measured(&beat_train(bpm).0);
            assert_eq!((m.qrs_ms, m.qt_ms, m.pr_ms), (None, None, None), "{bpm}");
            assert!(
                m.axis_degrees.is_some() && m.leads[0].r_mv.unwrap() > 0.9,
                "{bpm}: {m:?}"
            );
        }
        // P ends where QRS begins
        near("QRS", measured(&beat_train(150.0).0).qrs_ms, 84.0, 10.0);
    }

    #[test]
    fn nothing_is_measured_without_two_beats() {
        let flat = [0.0; crate::SEGMENT_SAMPLES];
        assert_eq!(measured(&flat), Measurements::default());
        let one = measure(&on_all_leads(&flat), &[true; LEADS], &[2500], &[vec![2500]]).0;
        assert_eq!(one.heart_rate_bpm, None);
    }

    #[test]
    fn amplitudes_are_those_of_the_beat_and_an_unread_lead_has_none() {
        let m = measured(&beat_train(72.0).0);
        let lead = m.leads[0];
        // the train's R is 1 mV less the feet of its neighbours, its S 0.2 mV, its ST level 0
        assert!((lead.r_mv.unwrap() - 0.98).abs() < 0.05, "{lead:?}");
        assert!((lead.s_mv.unwrap() + 0.17).abs() < 0.05, "{lead:?}");
        assert!(lead.st_mv.unwrap().abs() < 0.03, "{lead:?}");
        let frames = on_all_leads(&beat_train(72.0).0);
        let (mut readable, peaks) = ([true; LEADS], beat_train(72.0).1);
        readable[4] = false;
        let m = measure(&frames, &readable, &peaks, std::slice::from_ref(&peaks)).0;
        assert_eq!(m.leads[4], LeadAmplitudes::default());
        assert!(m.leads[5].r_mv.is_some());
    }

    #[test]
    fn variability_of_alternating_intervals_is_half_and_whole_their_difference() {
        let peaks = [300, 690, 1100, 1490, 1900, 2290, 2700];
        let m = measure(
            &on_all_leads(&[0.0; crate::SEGMENT_SAMPLES]),
            &[true; LEADS],
            &peaks,
            &[],
        )
        .0;
        // 780 and 820 ms in turn
        assert!((m.rr_sd_ms.unwrap() - 20.0).abs() < 0.01, "{m:?}");
        assert!((m.rmssd_ms.unwrap() - 40.0).abs() < 0.01, "{m:?}");
    }
}
