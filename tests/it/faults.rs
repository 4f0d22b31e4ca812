//! The faults of docs/faults.md, injected as `meit-bedside --fault` injects them, through the agent's own steps.
//!
//! Place: everything of the agent but the broker: bytes are decoded, cut into windows, admitted, analysed, routed.
//! Invariant: a test's name begins with the number of its fault; [`table`] holds tests and table against each other.

mod agent;
mod bytes;
mod signal;
mod stream;
mod table;

use std::time::Instant;

use ::agent::policy::{Changes, Choice, Findings, Omitted, Policy};
use ::agent::route::{Route, route};
use ::agent::windows::{Closings, Windows, WindowsConfig};
use bedside::fault::{Fault, Injector, Record};
use ecg::dsp::DspConfig;
use ecg::packet::{Packet, PacketError, RejectReason};
use ecg::segment::{Decision, Reason, Segment};
use ecg::window::{ClockJump, PushOutcome, Skipped, WindowerConfig};
use ecg::{SAMPLE_RATE_HZ, SEGMENT_SAMPLES};

use crate::rig::{packets, recordings};

/// When the streams of these tests begin, microseconds since the Unix epoch.
pub const START_US: i64 = 1_700_000_000_000_000;
/// 250 ms at 500 Hz, as the bedside sends.
pub const PACKET_SAMPLES: usize = 125;
/// Windows of the undisturbed stream: three recordings, twice.
pub const WINDOWS: usize = 6;

/// What the agent made of a stream.
#[derive(Debug, Default)]
pub struct Played {
    pub segments: Vec<Segment>,
    pub refused: Vec<RejectReason>,
    pub omitted: Vec<Omitted>,
    /// Instants of accepted packets by fate.
    pub fresh: usize,
    pub duplicate: usize,
    pub late: usize,
    pub jumps: Vec<ClockJump>,
    pub takeovers: usize,
    pub rebases: usize,
    /// Packets that were held for a while.
    pub held: usize,
    pub skipped: Skipped,
    /// Records that came.
    pub received: usize,
    pub accepted: usize,
    pub drift_ppm: f64,
    pub bytes_max: usize,
}

impl Played {
    /// Windows' starts, in the order in which they closed.
    pub fn starts(&self) -> Vec<i64> {
        self.segments.iter().map(|segment| segment.start_sample).collect()
    }

    /// The segment of window number `number`.
    #[track_caller]
    pub fn window(&self, number: i64) -> &Segment {
        let mut found = self
            .segments
            .iter()
            .filter(|segment| segment.start_sample == number * 5000);
        let segment = found
            .next()
            .unwrap_or_else(|| panic!("no window {number} in {:?}", self.starts()));
        assert!(found.next().is_none(), "two windows {number}");
        segment
    }

    /// Window `number` is rejected, and `reason` is among the reasons; the windows around it are read.
    #[track_caller]
    pub fn rejects_only(&self, number: i64, reason: Reason) {
        let segment = self.window(number);
        assert_eq!(route(segment), Route::Reject, "{:?}", segment.reasons);
        assert!(segment.reasons.contains(&reason), "{:?}", segment.reasons);
        self.reads_all_but(&[number]);
    }

    /// All windows but some are there and accepted or marginal.
    #[track_caller]
    pub fn reads_all_but(&self, numbers: &[i64]) {
        for number in (0..WINDOWS as i64).filter(|number| !numbers.contains(number)) {
            let segment = self.window(number);
            assert_ne!(
                segment.decision,
                Decision::Reject,
                "window {number}: {:?}",
                segment.reasons
            );
        }
    }

    /// Ids, samples and verdicts, which must not depend on how the samples travelled.
    pub fn essence(&self) -> Vec<(&str, &str, Decision)> {
        let segments = self.segments.iter();
        segments
            .map(|segment| (&*segment.id, &*segment.samples_sha256, segment.decision))
            .collect()
    }

    fn give_fate(&mut self, fate: Result<PushOutcome, PacketError>) {
        match fate {
            Ok(outcome) => {
                self.accepted += 1;
                self.fresh += outcome.fresh;
                self.duplicate += outcome.duplicate;
                self.late += outcome.late;
                self.jumps.extend(outcome.jump);
                self.takeovers += usize::from(outcome.takeover);
            }
            Err(error) => self.refused.push(error.reason()),
        }
    }

    #[track_caller]
    pub fn same_segments_as_undisturbed(&self) {
        assert_eq!(self.essence(), undisturbed().essence());
    }
}

/// Packets of a minute, with the times of a real device and gateway.
pub fn stream() -> Vec<Packet> {
    let three = recordings();
    let six: Vec<_> = three.iter().chain(&three).cloned().collect();
    let mut packets = packets(&six, PACKET_SAMPLES);
    for packet in &mut packets {
        packet.device_time_us = START_US + packet.first_sample * 2000;
        packet.gateway_time_us = packet.device_time_us + 290_000;
    }
    packets
}

/// The policy of the defaults.
pub fn policy() -> Policy {
    Policy {
        choice: Choice::Every,
        kth: 3,
        stride: SEGMENT_SAMPLES as i64,
        rate_bpm: 10.0,
        rhythm_ms: 40.0,
        refresh_samples: 150_000,
        freshness_us: 900_000_000,
        streams_max: 1000,
    }
}

pub fn windows_config() -> WindowsConfig {
    WindowsConfig {
        windower: WindowerConfig::default(),
        streams_max: 1000,
        bytes_max: 2048 << 20,
        idle_flush: std::time::Duration::from_secs(10),
        idle_evict: std::time::Duration::from_secs(60),
    }
}

pub fn undisturbed() -> &'static Played {
    static UNDISTURBED: std::sync::OnceLock<Played> = std::sync::OnceLock::new();
    UNDISTURBED.get_or_init(|| play(&[]))
}

/// Plays the stream with faults, such as "flat@10s".
pub fn play(faults: &[&str]) -> Played {
    play_under(faults, policy())
}

pub fn play_under(faults: &[&str], policy: Policy) -> Played {
    play_to(Seen::new(policy), &stream(), faults)
}

/// Plays packets with faults to these steps.
pub fn play_to(mut seen: Seen, packets: &[Packet], faults: &[&str]) -> Played {
    let faults: Vec<Fault> = faults.iter().map(|fault| fault.parse().unwrap()).collect();
    let mut injector = Injector::new(&faults, &packets[0].stream_id);
    // gateways stamp what they get, so the clock of the agent follows the stream
    for packet in packets {
        seen.now_us = packet.gateway_time_us;
        for record in injector.records(packet) {
            seen.take(&record);
        }
    }
    seen.finish()
}

/// The agent's steps, one record after the other.
pub struct Seen {
    windows: Windows,
    policy: Policy,
    changes: Changes,
    dsp: DspConfig,
    pub now_us: i64,
    pub played: Played,
}

impl Seen {
    pub fn new(policy: Policy) -> Self {
        Self::cutting(policy, windows_config())
    }

    /// With windows of its own.
    pub fn cutting(policy: Policy, windows: WindowsConfig) -> Self {
        Self {
            windows: Windows::new(windows),
            policy,
            changes: Changes::new(policy),
            dsp: DspConfig::default(),
            now_us: START_US,
            played: Played::default(),
        }
    }

    pub fn take(&mut self, record: &Record) {
        let played = &mut self.played;
        let offset = played.received as u64;
        played.received += 1;
        let mut closings = Closings::default();
        let fate = ::agent::ingest::decode(Some(&record.key), &record.payload)
            .and_then(|packet| self.windows.push(packet, (0, offset), Instant::now(), &mut closings));
        match fate {
            Ok(outcome) if outcome.held => played.held += 1,
            fate => played.give_fate(fate),
        }
        for (_, settled) in std::mem::take(&mut closings.settled) {
            played.give_fate(settled.fate);
        }
        played.rebases += closings.rebased.len();
        played.bytes_max = played.bytes_max.max(self.windows.bytes());
        played.drift_ppm = self.windows.drift_ppm_max();
        self.close(closings);
    }

    fn close(&mut self, closings: Closings) {
        let played = &mut self.played;
        played.skipped.partial += closings.skipped.partial;
        played.skipped.missing += closings.skipped.missing;
        for closed in closings.closed {
            match self.policy.admits(&closed.context, self.now_us) {
                Ok(()) => {
                    let segment = ecg::dsp::analyse(&closed.context, &self.dsp);
                    if self.changes.reports(&Findings::of(&segment)) {
                        played.segments.push(segment);
                    } else {
                        played.omitted.push(Omitted::Policy);
                    }
                }
                Err(cause) => played.omitted.push(cause),
            }
        }
    }

    /// Every record has exactly one fate.
    pub fn finish(self) -> Played {
        let played = self.played;
        assert_eq!(played.received, played.accepted + played.refused.len());
        played
    }
}

#[test]
fn the_undisturbed_stream_is_read_whole() {
    let played = undisturbed();
    assert_eq!(played.starts(), [0, 5000, 10_000, 15_000, 20_000, 25_000]);
    played.reads_all_but(&[]);
    assert!(played.refused.is_empty() && played.jumps.is_empty() && played.omitted.is_empty());
    assert_eq!(
        (played.duplicate, played.late, played.fresh),
        (0, 0, WINDOWS * SEGMENT_SAMPLES)
    );
    assert_eq!(SAMPLE_RATE_HZ, 500.0);
}
