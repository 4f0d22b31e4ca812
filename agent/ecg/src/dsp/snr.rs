//! Signal-to-noise ratio of a lead from its own beats.
//!
//! Place: after `shapes`. Invariant: unknown (None) rather than wrong: a ratio is given only where most beats repeat and the
//! signal is not far below the noise.
//! Definition `window_power`: mean power of the repeating beat over the window's whole length, over mean power of the residual,
//! in decibels; both after the filter chain. Beats are grouped by shape, so ectopic beats are no noise; the beat's window scales
//! with the RR interval and ends before the next beat's QRS; each beat may differ from its template by a gain and a shift in
//! time (respiration, sampling); the residual is corrected by n / (n - 1) for the template's own share of noise.
//! Noise does not know the heart's phase, but what is left of a beat that changes its shape lies at QRS and T. So the residual
//! is taken by phase, 40 ms at a time: where the ratio is low all phases count, where it is high only the quietest four tenths,
//! and between the two limits a mixture, in decibels. The limits and the share were set on PTB-XL recordings with nstdb noise.
//! Source: ecg-practice section 1.3.

use super::beats::median_interval;
use super::lanes::{Frame, wide};
use crate::LEADS;

/// Beats that must repeat, and their share of all whole beats.
const BEATS_MIN: usize = 3;
const REPEATED_SHARE_MIN: f64 = 0.6;
/// Below this the estimate is no better than a guess, decibels.
const KNOWN_DB_MIN: f64 = -3.0;
/// Window around R: these shares of the median RR interval, at most so many samples (400 and 600 ms).
const BEFORE_SHARE: f64 = 0.40;
const AFTER_SHARE: f64 = 0.60;
const BEFORE_MAX: f64 = 200.0;
const AFTER_MAX: f64 = 300.0;
/// Share of the distance to the beat before that belongs to a beat, and samples that end before the next R.
const OWN_SHARE: f64 = 0.40;
const NEXT_MARGIN: usize = 60;
/// Samples of one phase.
const PHASE: usize = 20;
const PHASES: usize = (BEFORE_MAX + AFTER_MAX) as usize / PHASE;
/// Share of the samples, in the quietest phases, that tells the noise where the ratio is high.
const QUIET_SHARE: f64 = 0.4;
/// Ratio by all phases up to which it stands, and from which the quiet phases alone count, decibels.
const ALL_PHASES_DB_MAX: f64 = 3.0;
const QUIET_PHASES_DB_MIN: f64 = 9.0;
/// Converter steps of 1 uV make this much noise, uV squared.
const NOISE_FLOOR: f64 = 1.0 / 12.0;

/// One beat's window: R, and the offsets from the longest window's start that belong to the beat.
#[derive(Clone, Copy, Debug)]
struct Beat {
    peak: usize,
    from: usize,
    to: usize,
}

/// Where each beat's window lies; the same for all leads.
pub struct Layout {
    /// Samples of the longest window before R and in all.
    before: usize,
    length: usize,
    /// Groups of two or more beats.
    groups: Vec<Vec<Beat>>,
    /// Mean length of the beats' windows over the mean RR interval, at most 1.
    coverage: f64,
}

impl Layout {
    /// The windows of grouped beats within `samples` samples; None where too few repeat.
    pub fn new(groups: &[Vec<usize>], samples: usize) -> Option<Self> {
        let mut peaks: Vec<usize> = groups.iter().flatten().copied().collect();
        peaks.sort_unstable();
        let rr = median_interval(&peaks)?;
        let before = (BEFORE_SHARE * rr).min(BEFORE_MAX) as usize;
        let after = (AFTER_SHARE * rr).min(AFTER_MAX) as usize;
        let window = |&peak: &usize| {
            let at = peaks.partition_point(|&p| p < peak);
            let own = at
                .checked_sub(1)
                .map_or(peak, |k| (OWN_SHARE * (peak - peaks[k]) as f64) as usize);
            let next = peaks
                .get(at + 1)
                .map_or(samples, |&n| n.saturating_sub(NEXT_MARGIN).max(peak));
            let from = peak - before.min(own).min(peak);
            let to = (peak + after).min(next).min(samples);
            Beat {
                peak,
                from: from + before - peak,
                to: to + before - peak,
            }
        };
        let groups: Vec<Vec<_>> = groups
            .iter()
            .filter(|members| members.len() >= 2)
            .map(|members| members.iter().map(window).collect())
            .collect();
        let repeated: usize = groups.iter().map(Vec::len).sum();
        if repeated < BEATS_MIN || (repeated as f64) < REPEATED_SHARE_MIN * peaks.len() as f64 {
            return None;
        }
        let covered: usize = groups.iter().flatten().map(|beat| beat.to - beat.from).sum();
        let mean_rr = (peaks[peaks.len() - 1] - peaks[0]) as f64 / (peaks.len() - 1) as f64;
        Some(Self {
            before,
            length: before + after,
            groups,
            coverage: (covered as f64 / repeated as f64 / mean_rr).min(1.0),
        })
    }
}

/// Buffers of the estimate.
#[derive(Debug, Default)]
pub struct Scratch {
    template: Vec<Frame>,
    slope: Vec<Frame>,
    /// Beats of the group at each of the template's samples.
    beats: Vec<f32>,
}

/// The ratio of each lead of filtered frames in decibels; None where it cannot be told.
pub fn window_power_db(frames: &[Frame], layout: &Layout, scratch: &mut Scratch) -> [Option<f32>; LEADS] {
    let mut total = [0f64; LEADS];
    let mut phases = [Phase::default(); PHASES];
    for group in &layout.groups {
        template(frames, layout, group, scratch);
        for beat in group {
            let at = beat.peak + beat.from - layout.before;
            let own = &frames[at..at + (beat.to - beat.from)];
            let span = beat.from..beat.to;
            let (t, s) = (&scratch.template[span.clone()], &scratch.slope[span.clone()]);
            let fit = fit(own, t, s);
            let power = residual(own, t, s, &scratch.beats[span], &fit, beat.from, &mut phases);
            (0..LEADS).for_each(|l| total[l] += f64::from(power[l]));
        }
    }
    let count: f64 = phases.iter().map(|phase| phase.count).sum::<f64>().max(1.0);
    std::array::from_fn(|lead| {
        let ratio_db = |noise: f64| {
            let noise = noise.max(NOISE_FLOOR);
            10.0 * ((total[lead] / count - noise) * layout.coverage / noise).log10()
        };
        let all = ratio_db(phases.iter().map(|phase| phase.noise[lead]).sum::<f64>() / count);
        let quiet = ratio_db(quiet_noise(&mut phases, lead, count));
        let share = ((all - ALL_PHASES_DB_MAX) / (QUIET_PHASES_DB_MIN - ALL_PHASES_DB_MAX)).clamp(0.0, 1.0);
        let db = all + share * (quiet - all);
        // NaN, where the residual is larger than the whole, compares false
        (db >= KNOWN_DB_MIN).then_some(db as f32)
    })
}

/// Residual of all beats in one phase.
#[derive(Clone, Copy, Debug, Default)]
struct Phase {
    noise: [f64; LEADS],
    count: f64,
}

/// Mean residual power of a lead in its quietest phases.
fn quiet_noise(phases: &mut [Phase; PHASES], lead: usize, count: f64) -> f64 {
    let power = |phase: &Phase| {
        if phase.count > 0.0 {
            phase.noise[lead] / phase.count
        } else {
            f64::MAX
        }
    };
    phases.sort_unstable_by(|a, b| power(a).total_cmp(&power(b)));
    let (mut noise, mut counted) = (0.0, 0.0);
    for phase in phases.iter() {
        if counted > 0.0 && counted + phase.count > QUIET_SHARE * count {
            break;
        }
        noise += phase.noise[lead];
        counted += phase.count;
    }
    noise / f64::max(counted, 1.0)
}

/// Fills the scratch with the mean beat of a group, its slope, and the number of beats at each sample.
fn template(frames: &[Frame], layout: &Layout, group: &[Beat], scratch: &mut Scratch) {
    let Scratch { template, slope, beats } = scratch;
    template.clear();
    template.resize(layout.length, [0.0; LEADS]);
    beats.clear();
    beats.resize(layout.length, 0.0);
    for beat in group {
        let at = beat.peak + beat.from - layout.before;
        add(&frames[at..], &mut template[beat.from..beat.to]);
        beats[beat.from..beat.to].iter_mut().for_each(|n| *n += 1.0);
    }
    for (mean, n) in template.iter_mut().zip(beats.iter()) {
        let share = 1.0 / n.max(1.0);
        *mean = mean.map(|v| v * share);
    }
    slope.resize(layout.length, [0.0; LEADS]);
    slopes(template, slope);
}

/// Least squares of one beat on the template and its slope: a gain and a shift in time of each lead.
struct Fit {
    gain: Frame,
    shift: Frame,
}

/// Leads whose sums are taken together.
const PART: usize = 4;

/// Sums over the beat of some leads' products: template and slope each with themselves and one another, beat with both.
#[inline(always)]
fn moments(from: usize, beat: &[Frame], template: &[Frame], slope: &[Frame]) -> [[f32; PART]; 5] {
    let [mut tt, mut ts, mut ss, mut xt, mut xs] = [1e-3, 0.0, 1e-3, 0.0, 0.0].map(|least| [least; PART]);
    for ((x, t), s) in beat.iter().zip(template).zip(slope) {
        for l in 0..PART {
            let (x, t, s) = (x[from + l], t[from + l], s[from + l]);
            tt[l] += t * t;
            ts[l] += t * s;
            ss[l] += s * s;
            xt[l] += x * t;
            xs[l] += x * s;
        }
    }
    [tt, ts, ss, xt, xs]
}

wide! {
    fn add(beat: &[Frame], sum: &mut [Frame]) {
        for (sum, frame) in sum.iter_mut().zip(beat) {
            for l in 0..LEADS {
                sum[l] += frame[l];
            }
        }
    }

    fn slopes(template: &[Frame], out: &mut [Frame]) {
        let last = template.len() - 1;
        for (i, out) in out.iter_mut().enumerate() {
            let (a, b) = (&template[i.saturating_sub(1)], &template[(i + 1).min(last)]);
            for l in 0..LEADS {
                out[l] = (b[l] - a[l]) / 2.0;
            }
        }
    }

    fn fit(beat: &[Frame], template: &[Frame], slope: &[Frame]) -> Fit {
        // by parts that fit registers: all leads at once keep their sums in memory
        let parts: [[[f32; PART]; 5]; LEADS / PART] =
            std::array::from_fn(|part| moments(part * PART, beat, template, slope));
        let solve = |l: usize| {
            let [tt, ts, ss, xt, xs] = parts[l / PART].map(|sums| f64::from(sums[l % PART]));
            let determinant = tt * ss - ts * ts;
            (((xt * ss - xs * ts) / determinant) as f32, ((xs * tt - xt * ts) / determinant) as f32)
        };
        Fit {
            gain: std::array::from_fn(|l| solve(l).0),
            shift: std::array::from_fn(|l| solve(l).1),
        }
    }

    /// Adds what the fit leaves of a beat to its phases; returns the beat's own power. `from` is the phase of its first sample.
    ///
    /// Samples where the group has but one beat tell nothing and do not count.
    fn residual(
        beat: &[Frame],
        template: &[Frame],
        slope: &[Frame],
        beats: &[f32],
        fit: &Fit,
        from: usize,
        phases: &mut [Phase; PHASES],
    ) -> Frame {
        let mut total = [0f32; LEADS];
        let mut start = 0;
        while start < beat.len() {
            let phase = &mut phases[((from + start) / PHASE).min(PHASES - 1)];
            let end = (start + PHASE - (from + start) % PHASE).min(beat.len());
            let mut noise = [0f32; LEADS];
            for i in start..end {
                let n = beats[i];
                if n < 2.0 {
                    continue;
                }
                let (x, t, s) = (&beat[i], &template[i], &slope[i]);
                let share = n / (n - 1.0);
                for l in 0..LEADS {
                    let left = x[l] - fit.gain[l] * t[l] - fit.shift[l] * s[l];
                    noise[l] += left * left * share;
                    total[l] += x[l] * x[l];
                }
                phase.count += 1.0;
            }
            for (sum, noise) in phase.noise.iter_mut().zip(noise) {
                *sum += f64::from(noise);
            }
            start = end;
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsp::shapes;
    use crate::dsp::testing::{beat_train, on_all_leads, white_noise};

    fn read_db(samples: &[f32], peaks: &[usize]) -> Option<f32> {
        let frames = on_all_leads(samples);
        let groups = shapes::group(&frames, &[true; LEADS], peaks, &mut shapes::Scratch::default());
        window_power_db(&frames, &Layout::new(&groups, samples.len())?, &mut Scratch::default())[3]
    }

    #[test]
    fn known_mixes_are_read_within_three_decibels() {
        for bpm in [40.0, 50.0, 75.0, 120.0, 150.0] {
            let (signal, peaks) = beat_train(bpm);
            let power = signal.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / signal.len() as f64;
            for db in [0.0, 6.0, 12.0, 18.0, 24.0] {
                let sd = (power / 10f64.powf(db / 10.0)).sqrt();
                let mixed: Vec<f32> = signal
                    .iter()
                    .zip(white_noise(signal.len()))
                    .map(|(s, n)| s + sd as f32 * n)
                    .collect();
                let got = read_db(&mixed, &peaks).unwrap_or_else(|| panic!("{bpm} bpm at {db} dB is unknown"));
                assert!((f64::from(got) - db).abs() < 3.0, "{bpm} bpm at {db} dB: read {got}");
            }
        }
    }

    #[test]
    fn a_gain_that_breathes_is_no_noise() {
        let (signal, peaks) = beat_train(75.0);
        let breathing: Vec<f32> = signal
            .iter()
            .enumerate()
            .map(|(i, s)| s * (1.0 + 0.15 * (i as f32 / 300.0).sin()))
            .collect();
        assert!(read_db(&breathing, &peaks).unwrap() > 28.0);
    }

    #[test]
    fn noise_without_beats_is_unknown() {
        let noise: Vec<f32> = white_noise(5000).map(|v| 300.0 * v).collect();
        let peaks = [300, 800, 1300, 1800, 2300, 2800, 3300, 3800, 4300];
        assert_eq!(read_db(&noise, &peaks), None);
        assert_eq!(read_db(&noise, &[2500]), None);
    }
}
