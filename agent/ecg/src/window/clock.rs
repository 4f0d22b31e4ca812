//! The device's clock held against its sample index: jumps, drift, and a rate that the label does not tell.
//!
//! Place: behind `window::Windower`, one a boot; every packet is observed before its samples are written.
//! Invariant: windows are cut by sample index alone, so nothing here moves one; it only says whether the index and the
//! label can be believed. A device time of 0 means that the device has no clock, and then nothing is said.

use std::collections::VecDeque;

/// A step of the device's clock from one packet to the next that is no jitter, seconds, beside [`JUMP_SHARE`].
const JUMP_S: f64 = 0.5;
/// Part of the distance of two packets that belongs to the label and not to the clock: a rate up to five times too high.
const JUMP_SHARE: f64 = 4.0;
/// Distance of two remembered points, seconds.
const POINT_S: f64 = 1.0;
/// Points remembered: a minute.
const POINTS: usize = 61;
/// Stream time after which a label is doubted, seconds; shorter than the context after a window, so that no window
/// closes on a label that is 5 % or more wrong.
const DOUBT_S: f64 = 4.0;
/// Stream time after which a label that was doubted and has been right since is believed again, however small the error was, seconds:
/// 1.5 % show within it, and a step of the clock behind a long gap, which looks like a smaller error, costs no more.
const FORGIVEN_S: f64 = 25.0;
/// Part by which the measured rate may differ from the label (ecg-practice 7.1, fault 27).
const RATE_TOLERANCE: f64 = 0.01;
/// Jitter of the device's time stamps over the whole distance, seconds.
const JITTER_S: f64 = 0.1;
/// Packets in a row that must speak against the label: one stray packet is no rate.
const WRONG_MIN: u32 = 3;
/// Difference of a packet's device time from that of its index that no jitter explains, seconds.
const ELSEWHERE_S: f64 = 1.0;
/// Distance over which drift is told, seconds.
const DRIFT_S: f64 = 30.0;
/// Distance over which the rate of one context is told, seconds: a window and some of what is around it. Time stamps that are
/// 50 ms off at random then move it by 0.1 %.
const RATE_S: f64 = 12.0;

/// Which way the device's clock jumped against its sample index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClockJump {
    /// Back: NTP, the end of summer time, an empty battery.
    Back,
    /// Forward; or the sample index itself jumped ahead and went on from there.
    Forward,
}

/// What one packet says about clock and label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Observed {
    /// Nothing new.
    Steady,
    /// The clock jumped, the label is fine.
    Jump(ClockJump),
    /// The samples come at another rate than the label says, hertz.
    Rate(f64),
}

/// The device's time of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub sample: i64,
    pub time_us: i64,
}

impl Point {
    /// Seconds on the device's clock from `self` to `other`.
    fn seconds_to(self, other: Self) -> f64 {
        (other.time_us as f64 - self.time_us as f64) * 1e-6
    }

    /// Seconds that the samples from `self` to `other` take at `rate_hz`.
    fn samples_to(self, other: Self, rate_hz: f64) -> f64 {
        (other.sample - self.sample) as f64 / rate_hz
    }
}

/// Follows one boot's clock.
#[derive(Debug, Default)]
pub(super) struct DeviceClock {
    /// At least a second apart, oldest first, all since the last jump.
    points: VecDeque<Point>,
    last: Option<Point>,
    /// The rate by which the label was found wrong; it has not been right since for as long as such an error takes to show, or [`FORGIVEN_S`].
    doubted: Option<f64>,
    /// Packets in a row that speak against the label.
    wrong: u32,
}

impl DeviceClock {
    /// Takes a packet's first sample and the device's time of it.
    pub(super) fn observe(&mut self, sample: i64, time_us: i64, rate_hz: f64) -> Observed {
        if time_us == 0 {
            return Observed::Steady;
        }
        let point = Point { sample, time_us };
        let jump = self.last.and_then(|last| jump(last, point, rate_hz));
        if self.last.is_none_or(|last| last.sample <= sample) || jump.is_some() {
            self.last = Some(point);
        }
        if jump.is_some() {
            self.points.clear();
        }
        match self.verdict(point, rate_hz) {
            Some(Some(measured_hz)) => {
                self.wrong += 1;
                if self.wrong >= WRONG_MIN {
                    self.doubted = Some(measured_hz);
                    self.wrong = 0;
                    self.points.clear();
                    self.points.push_back(point);
                }
            }
            Some(None) => {
                self.wrong = 0;
                self.doubted = self.doubted.filter(|&hz| !self.would_show(hz, point, rate_hz));
                self.remember(point, rate_hz);
            }
            None => self.remember(point, rate_hz),
        }
        match (self.doubted, jump) {
            (Some(measured_hz), _) => Observed::Rate(measured_hz),
            (None, Some(jump)) => Observed::Jump(jump),
            (None, None) => Observed::Steady,
        }
    }

    /// Whether the label is right by the points that are far enough back: the rate if it is not, by the nearest that says so, for a
    /// step of the clock looks the larger the nearer it is; nothing when there is no such point.
    fn verdict(&self, point: Point, rate_hz: f64) -> Option<Option<f64>> {
        let points = self.points.iter().rev();
        let distances = points.map(|&p| (p.samples_to(point, rate_hz), p.seconds_to(point)));
        let mut long = distances.filter(|(told, _)| *told >= DOUBT_S).peekable();
        long.peek()?;
        let wrong = long.find(|&(told, took)| is_wrong(told, took));
        Some(wrong.map(|(told, took)| told * rate_hz / took))
    }

    /// Whether samples taken at `measured_hz` since the oldest point would have spoken against the label by now, if ever.
    fn would_show(&self, measured_hz: f64, point: Point, rate_hz: f64) -> bool {
        let told = self
            .points
            .front()
            .map_or(0.0, |first| first.samples_to(point, rate_hz));
        told >= FORGIVEN_S || is_wrong(told, told * rate_hz / measured_hz)
    }

    /// Whether a sample was taken at another time than its index says, by the newest packet before; `None` without a clock.
    pub(super) fn is_elsewhere(&self, sample: i64, time_us: i64, rate_hz: f64) -> Option<bool> {
        let last = self.last.filter(|_| time_us != 0)?;
        let point = Point { sample, time_us };
        let ahead = last.seconds_to(point) - last.samples_to(point, rate_hz);
        Some(ahead.abs() > ELSEWHERE_S)
    }

    /// Parts per million by which the device's clock runs ahead of its sample index (positive: fewer samples than told),
    /// by least squares over the last minute; `None` before half a minute.
    pub(super) fn drift_ppm(&self, rate_hz: f64) -> Option<f64> {
        let (first, last) = (*self.points.front()?, *self.points.back()?);
        if first.samples_to(last, rate_hz) < DRIFT_S {
            return None;
        }
        Some(1e6 * gain(self.points.iter().copied(), rate_hz))
    }

    fn remember(&mut self, point: Point, rate_hz: f64) {
        let next = self.points.back().map(|last| last.samples_to(point, rate_hz));
        if next.is_none_or(|seconds| seconds >= POINT_S) {
            if self.points.len() == POINTS {
                self.points.pop_front();
            }
            self.points.push_back(point);
        }
    }
}

/// Whether samples that take `told` seconds by their label took so many others that no jitter explains it.
fn is_wrong(told: f64, took: f64) -> bool {
    (took - told).abs() > RATE_TOLERANCE * told + JITTER_S
}

/// True when the device's clock tells another rate of packets, in the order of their samples, than their label: by least squares, so
/// it sees over one context what [`DeviceClock`] believes after a minute. False where one has no time, the clock jumped between two,
/// or the first and the last begin less than [`RATE_S`] apart.
pub(super) fn is_another_rate(packets: &[Point], rate_hz: f64) -> bool {
    let (Some(&first), Some(&last)) = (packets.first(), packets.last()) else {
        return false;
    };
    let steady = |pair: &[Point]| jump(pair[0], pair[1], rate_hz).is_none();
    first.samples_to(last, rate_hz) >= RATE_S
        && packets.iter().all(|point| point.time_us != 0)
        && packets.windows(2).all(steady)
        && gain(packets.iter().copied(), rate_hz).abs() > RATE_TOLERANCE
}

/// Seconds a second by which the clock runs ahead of the samples, by least squares.
fn gain(points: impl ExactSizeIterator<Item = Point> + Clone, rate_hz: f64) -> f64 {
    let Some(first) = points.clone().next() else { return 0.0 };
    let count = points.len() as f64;
    let told = points.clone().map(|p| first.samples_to(p, rate_hz));
    let ahead = points.map(|p| first.seconds_to(p) - first.samples_to(p, rate_hz));
    let (told_mean, ahead_mean) = (told.clone().sum::<f64>() / count, ahead.clone().sum::<f64>() / count);
    let (mut upper, mut lower) = (0.0, 0.0);
    for (told, ahead) in told.zip(ahead) {
        upper += (told - told_mean) * (ahead - ahead_mean);
        lower += (told - told_mean).powi(2);
    }
    upper / lower
}

/// A jump of the clock between two packets, wherever they lie to each other on the sample index.
fn jump(from: Point, to: Point, rate_hz: f64) -> Option<ClockJump> {
    let told = from.samples_to(to, rate_hz);
    let ahead = from.seconds_to(to) - told;
    if ahead.abs() <= JUMP_S + JUMP_SHARE * told.abs() {
        None
    } else if ahead < 0.0 {
        Some(ClockJump::Back)
    } else {
        Some(ClockJump::Forward)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_US: i64 = 1_700_000_000_000_000;

    /// Observes packets of 125 samples from `from` on, with the device's time of each.
    fn run(clock: &mut DeviceClock, samples: std::ops::Range<i64>, time_us: impl Fn(i64) -> f64) -> Vec<Observed> {
        let starts = samples.step_by(125);
        starts
            .map(|at| clock.observe(at, START_US + time_us(at) as i64, 500.0))
            .collect()
    }

    #[test]
    fn a_steady_clock_says_nothing_and_drift_is_measured() {
        for ppm in [0.0, 100.0, -37.0] {
            let mut clock = DeviceClock::default();
            let jitter = |at: i64| ((at * 7919) % 2001 - 1000) as f64;
            let seen = run(&mut clock, 0..60_000, |at| {
                at as f64 * 2000.0 * (1.0 + ppm * 1e-6) + jitter(at)
            });
            assert!(seen.iter().all(|seen| *seen == Observed::Steady));
            let told = clock.drift_ppm(500.0).unwrap();
            assert!((told - ppm).abs() < 15.0, "{told} ppm for {ppm}");
        }
    }

    #[test]
    fn a_jump_is_told_once_and_either_way() {
        for (seconds, way) in [
            (-3600.0, ClockJump::Back),
            (3600.0, ClockJump::Forward),
            (-2.0, ClockJump::Back),
        ] {
            let mut clock = DeviceClock::default();
            let seen = run(&mut clock, 0..20_000, |at| {
                at as f64 * 2000.0 + if at < 10_000 { 0.0 } else { seconds * 1e6 }
            });
            let jumps: Vec<_> = (0..)
                .zip(&seen)
                .filter(|(_, seen)| **seen != Observed::Steady)
                .collect();
            assert_eq!(jumps, [(80, &Observed::Jump(way))], "{seconds} s");
        }
    }

    #[test]
    fn a_wrong_label_is_told_within_the_context_and_forgiven_when_it_is_right_again() {
        for true_hz in [250.0, 450.0, 1000.0] {
            let mut clock = DeviceClock::default();
            run(&mut clock, 0..10_000, |at| at as f64 * 2000.0);
            let turn = 20e6;
            let seen = run(&mut clock, 10_000..15_000, |at| {
                turn + (at - 10_000) as f64 * 1e6 / true_hz
            });
            let first = seen.iter().position(|seen| matches!(seen, Observed::Rate(_))).unwrap();
            assert!(first * 125 <= 2300, "{true_hz} Hz told after {} samples", first * 125);
            let turn = turn + 5000.0 * 1e6 / true_hz;
            let seen = run(&mut clock, 15_000..20_000, |at| turn + (at - 15_000) as f64 * 2000.0);
            assert_eq!(seen.last(), Some(&Observed::Steady), "{true_hz} Hz");
        }
    }

    #[test]
    fn a_label_that_is_a_little_wrong_is_not_forgiven_while_it_stays_so() {
        let mut clock = DeviceClock::default();
        let seen = run(&mut clock, 0..60_000, |at| at as f64 * 2030.0);
        let first = seen.iter().position(|seen| matches!(seen, Observed::Rate(_))).unwrap();
        assert!((80..=90).contains(&first), "1.5 % are told after 20 s: {first}");
        assert!(seen[first..].iter().all(|seen| matches!(seen, Observed::Rate(_))));
        let turn = 60_000.0 * 2030.0;
        let seen = run(&mut clock, 60_000..85_000, |at| turn + (at - 60_000) as f64 * 2000.0);
        let forgiven = seen.iter().position(|seen| *seen == Observed::Steady).unwrap();
        assert!(forgiven <= 90, "1.5 % show after 20 s: {forgiven}");
        assert!(seen[forgiven..].iter().all(|seen| *seen == Observed::Steady));
    }

    #[test]
    fn a_clock_that_was_set_by_less_than_a_jump_costs_seconds_at_most_26_of_them_behind_a_gap() {
        for (gap_s, step_s, refused_max) in [
            (0, 0.2, 20),
            (0, 0.3, 20),
            (0, 0.7, 20),
            (0, -1.0, 20),
            (30, 0.9, 30),
            (120, 1.35, 105),
            (300, 3.4, 105),
        ] {
            let mut clock = DeviceClock::default();
            run(&mut clock, 0..45_000, |at| at as f64 * 2000.0);
            let from = 45_000 + gap_s * 500;
            let seen = run(&mut clock, from..from + 60_000, |at| at as f64 * 2000.0 + step_s * 1e6);
            let refused = seen.iter().filter(|seen| matches!(seen, Observed::Rate(_))).count();
            assert!(
                refused <= refused_max && seen.last() == Some(&Observed::Steady),
                "{step_s} s behind {gap_s} s: {refused} packets of 250 ms refused"
            );
        }
    }

    /// Points of 125 samples from 0 to `end`, with the device's time of each.
    fn points(end: i64, time_us: impl Fn(i64) -> f64) -> Vec<Point> {
        let point = |sample| Point {
            sample,
            time_us: START_US + time_us(sample) as i64,
        };
        (0..end).step_by(125).map(point).collect()
    }

    #[test]
    fn a_context_of_another_rate_is_told_through_jitter_and_not_where_the_clock_jumped_or_is_none() {
        // 50 ms of jitter
        let jitter = |at: i64| ((at * 7919) % 100_003 - 50_001) as f64;
        for (rate_hz, other) in [
            (493.0, true),
            (496.5, false),
            (500.0, false),
            (503.5, false),
            (507.0, true),
        ] {
            let packets = points(10_000, |at| at as f64 * 1e6 / rate_hz + jitter(at));
            assert_eq!(is_another_rate(&packets, 500.0), other, "{rate_hz} Hz");
        }
        let slow = |at: i64| at as f64 * 2500.0;
        assert!(is_another_rate(&points(10_000, slow), 500.0));
        assert!(!is_another_rate(&points(5000, slow), 500.0), "ten seconds");
        assert!(!is_another_rate(&[], 500.0));
        let jumped = points(10_000, |at| slow(at) + if at < 6000 { 0.0 } else { 3.6e9 });
        assert!(!is_another_rate(&jumped, 500.0));
        let mut timeless = points(10_000, slow);
        timeless[3].time_us = 0;
        assert!(!is_another_rate(&timeless, 500.0));
    }

    #[test]
    fn packets_out_of_order_and_twice_are_no_jump() {
        let mut clock = DeviceClock::default();
        for at in [0, 250, 125, 125, 500, 375, 0, 625, 1000, 750] {
            assert_eq!(clock.observe(at, START_US + at * 2000, 500.0), Observed::Steady);
        }
        assert_eq!(
            clock.observe(5000, 0, 500.0),
            Observed::Steady,
            "a device without a clock"
        );
    }

    #[test]
    fn a_stray_packet_is_no_rate() {
        let mut clock = DeviceClock::default();
        run(&mut clock, 0..10_000, |at| at as f64 * 2000.0);
        // the time of sample 10,000 under another index
        clock.observe(10_625, START_US + 20_000_000, 500.0);
        let seen = run(&mut clock, 10_000..20_000, |at| at as f64 * 2000.0);
        assert!(!seen.iter().any(|seen| matches!(seen, Observed::Rate(_))), "{seen:?}");
        let jumps = seen.iter().filter(|seen| matches!(seen, Observed::Jump(_))).count();
        assert!(jumps <= 1, "{seen:?}");
    }

    #[test]
    fn any_times_are_survived() {
        let mut clock = DeviceClock::default();
        for (at, time_us) in [
            (0, i64::MIN),
            (1 << 44, i64::MAX),
            (-(1 << 44), 1),
            (5, i64::MIN),
            (1, -1),
        ] {
            clock.observe(at, time_us, 50.0);
        }
    }
}
