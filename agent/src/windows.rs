//! All streams' windowers: bounded in number, flushed when idle, evicted when idle for long.
//!
//! Place: between `ingest` (packets) and `dispatch` (contexts to analyse); partitions come and go with the group.
//! Invariant: [`Windows::floor`] of a partition is the first record that any open window of its streams still needs, so a
//! restart from there makes the same segments. Time is an argument; nothing here reads a clock.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use ecg::packet::{Packet, PacketError};
use ecg::window::{Context, PushOutcome, Skipped, Windower, WindowerConfig};

/// Bounds of [`Windows`].
#[derive(Clone, Copy, Debug)]
pub struct WindowsConfig {
    /// How each stream is cut.
    pub windower: WindowerConfig,
    /// Streams at most; one more evicts the one that has been silent longest.
    pub streams_max: usize,
    /// Bytes of samples at most, over all streams; more evicts the stream that has been silent longest.
    pub bytes_max: usize,
    /// Silence after which a stream's whole windows are emitted without their full after-context.
    pub idle_flush: Duration,
    /// Silence after which a stream's samples are given up.
    pub idle_evict: Duration,
}

/// A closed window, with the record that it holds back until it is dispatched.
#[derive(Debug)]
pub struct Closed {
    /// The window's partition.
    pub partition: i32,
    /// First offset that the window needs.
    pub tag: u64,
    /// The window.
    pub context: Context,
}

/// What a call closed and skipped.
#[derive(Debug, Default)]
pub struct Closings {
    /// Closed windows, in order within a stream.
    pub closed: Vec<Closed>,
    /// Windows of which nothing was made.
    pub skipped: Skipped,
    /// Streams whose state was given up.
    pub evicted: u64,
}

impl Closings {
    /// Streams with an urgent window come first; a stream's own windows keep their order.
    pub fn put_urgent_first(&mut self) {
        let urgent: HashSet<String> = self
            .closed
            .iter()
            .filter(|closed| closed.context.stat)
            .map(|closed| closed.context.stream_id.clone())
            .collect();
        if !urgent.is_empty() {
            self.closed
                .sort_by_key(|closed| !urgent.contains(&closed.context.stream_id));
        }
    }
}

struct Stream {
    windower: Windower,
    partition: i32,
    last_seen: Instant,
    flushed: bool,
    /// Bytes of samples after the last packet.
    bytes: usize,
}

/// The windowers of every stream that this agent reads.
pub struct Windows {
    cfg: WindowsConfig,
    streams: HashMap<String, Stream>,
    /// Sum of the streams' bytes.
    bytes: usize,
}

impl Windows {
    /// No streams yet.
    pub fn new(cfg: WindowsConfig) -> Self {
        Self {
            cfg,
            streams: HashMap::new(),
            bytes: 0,
        }
    }

    /// Takes a packet that was read at `offset` of `partition`, and adds what it closes to `closings`.
    ///
    /// # Errors
    /// As [`Windower::push`], or [`PacketError::Poison`] when that panics; the stream then starts anew.
    pub fn push(
        &mut self,
        packet: Packet,
        (partition, offset): (i32, u64),
        now: Instant,
        closings: &mut Closings,
    ) -> Result<PushOutcome, PacketError> {
        if !self.streams.contains_key(&packet.stream_id) && self.streams.len() >= self.cfg.streams_max {
            self.evict_longest_silent(closings);
        }
        let windower = self.cfg.windower;
        let stream = self
            .streams
            .entry(packet.stream_id.clone())
            .or_insert_with_key(|stream_id| Stream {
                windower: Windower::new(stream_id.clone(), windower),
                partition,
                last_seen: now,
                flushed: false,
                bytes: 0,
            });
        (stream.partition, stream.last_seen, stream.flushed) = (partition, now, false);
        let stream_id = packet.stream_id.clone();
        let pushed = contained(|| stream.windower.push(packet, offset));
        let Some(pushed) = pushed else {
            self.forget(&stream_id);
            return Err(PacketError::Poison);
        };
        // a refused packet may close windows too: a wrong rate label gives them up
        drain(stream, closings);
        let bytes = stream.windower.bytes();
        self.bytes = self.bytes - std::mem::replace(&mut stream.bytes, bytes) + bytes;
        while self.bytes > self.cfg.bytes_max && self.streams.len() > 1 {
            self.evict_longest_silent(closings);
        }
        pushed
    }

    /// Flushes the streams that have been silent for `idle_flush` and evicts those silent for `idle_evict`, each by the clock
    /// of its partition.
    pub fn tick(&mut self, clock: impl Fn(i32) -> Instant) -> Closings {
        let mut closings = Closings::default();
        let cfg = self.cfg;
        let silence = |stream: &Stream| clock(stream.partition).duration_since(stream.last_seen);
        for stream in self.streams.values_mut() {
            if !stream.flushed && silence(stream) >= cfg.idle_flush {
                stream.windower.flush();
                stream.flushed = true;
                drain(stream, &mut closings);
            }
        }
        let evicted: Vec<String> = self
            .streams
            .iter()
            .filter(|(_, stream)| silence(stream) >= cfg.idle_evict)
            .map(|(id, _)| id.clone())
            .collect();
        for stream_id in evicted {
            self.evict(&stream_id, &mut closings);
        }
        closings.closed.sort_by(|a, b| {
            (&a.context.stream_id, a.context.start_sample).cmp(&(&b.context.stream_id, b.context.start_sample))
        });
        closings
    }

    /// Forgets the streams of a partition that went to another agent, which starts again from the commit floor.
    pub fn drop_partition(&mut self, partition: i32) {
        self.streams.retain(|_, stream| stream.partition != partition);
        self.bytes = self.streams.values().map(|stream| stream.bytes).sum();
    }

    /// First offset of `partition` that an open window needs.
    pub fn floor(&self, partition: i32) -> Option<u64> {
        let of_partition = self.streams.values().filter(|stream| stream.partition == partition);
        of_partition.filter_map(|stream| stream.windower.floor()).min()
    }

    /// Bytes of samples that are held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Largest drift of a device's clock against its sample index, either way, parts per million; 0 where none is known.
    pub fn drift_ppm_max(&self) -> f64 {
        let drifts = self.streams.values().filter_map(|stream| stream.windower.drift_ppm());
        drifts.map(f64::abs).fold(0.0, f64::max)
    }

    /// Streams with state.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// True when no stream has state.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    fn evict_longest_silent(&mut self, closings: &mut Closings) {
        let silent = self
            .streams
            .iter()
            .min_by_key(|(id, stream)| (stream.last_seen, (*id).clone()));
        if let Some(stream_id) = silent.map(|(id, _)| id.clone()) {
            self.evict(&stream_id, closings);
        }
    }

    fn forget(&mut self, stream_id: &str) -> Option<Stream> {
        let stream = self.streams.remove(stream_id)?;
        self.bytes -= stream.bytes;
        Some(stream)
    }

    fn evict(&mut self, stream_id: &str, closings: &mut Closings) {
        let Some(mut stream) = self.forget(stream_id) else {
            return;
        };
        let tag = stream.windower.floor();
        let contexts = stream.windower.finish();
        closings.evicted += 1;
        add_skipped(&mut closings.skipped, stream.windower.take_skipped());
        let partition = stream.partition;
        for context in contexts {
            let tag = tag.expect("a windower that still made a window held its samples");
            closings.closed.push(Closed {
                partition,
                tag,
                context,
            });
        }
    }
}

/// What `work` returns, or `None` when it panics: one poisonous record must not stop the records after it.
fn contained<T>(work: impl FnOnce() -> T) -> Option<T> {
    // the only state that it can leave half-changed is the stream's, and that is dropped
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
}

/// Moves a stream's closed windows out; each holds back what the stream needed before they were taken.
fn drain(stream: &mut Stream, closings: &mut Closings) {
    let tag = stream.windower.floor();
    while let Some(context) = stream.windower.ready() {
        let tag = tag.expect("a windower with a closed window has a floor");
        closings.closed.push(Closed {
            partition: stream.partition,
            tag,
            context,
        });
    }
    add_skipped(&mut closings.skipped, stream.windower.take_skipped());
}

fn add_skipped(sum: &mut Skipped, more: Skipped) {
    sum.partial += more.partial;
    sum.missing += more.missing;
}

#[cfg(test)]
mod tests {
    use ecg::lead::Lead;
    use ecg::packet::PacketLead;
    use proptest::prelude::*;

    use super::*;

    const CFG: WindowsConfig = WindowsConfig {
        windower: WindowerConfig {
            lateness_samples: 1000,
            gap_repair_samples: 10,
            stride: 5000,
            advance_samples: 30_000,
        },
        streams_max: 2,
        bytes_max: 64 << 20,
        idle_flush: Duration::from_secs(2),
        idle_evict: Duration::from_secs(60),
    };

    fn packet(stream_id: &str, first_sample: i64, samples: usize) -> Packet {
        let lead = |lead| PacketLead::of(lead, vec![5; samples], 1.0);
        Packet {
            stream_id: stream_id.into(),
            device_id: "monitor".into(),
            boot_id: 0,
            sequence: 0,
            first_sample,
            device_time_us: 0,
            gateway_time_us: 0,
            rate_hz: 500.0,
            leads: Lead::ALL.into_iter().map(lead).collect(),
            stat: false,
            filter_class: ecg::segment::FilterClass::Unspecified,
            heartbeat: false,
        }
    }

    #[test]
    fn the_floor_of_a_partition_is_the_oldest_record_of_its_streams() {
        let (mut windows, now) = (Windows::new(CFG), Instant::now());
        let mut closings = Closings::default();
        windows.push(packet("a", 0, 100), (0, 10), now, &mut closings).unwrap();
        windows.push(packet("b", 0, 100), (1, 3), now, &mut closings).unwrap();
        windows
            .push(packet("a", 100, 100), (0, 11), now, &mut closings)
            .unwrap();
        assert_eq!(
            (windows.floor(0), windows.floor(1), windows.floor(2)),
            (Some(10), Some(3), None)
        );
        windows.drop_partition(0);
        assert_eq!((windows.floor(0), windows.len()), (None, 1));
        assert!(closings.closed.is_empty());
    }

    #[test]
    fn a_closed_window_holds_back_the_first_record_that_it_needs() {
        let (mut windows, now) = (Windows::new(CFG), Instant::now());
        let mut closings = Closings::default();
        windows.push(packet("a", 0, 4000), (0, 10), now, &mut closings).unwrap();
        windows
            .push(packet("a", 4000, 4000), (0, 11), now, &mut closings)
            .unwrap();
        let closed: Vec<_> = closings
            .closed
            .iter()
            .map(|closed| (closed.tag, closed.context.after))
            .collect();
        assert_eq!(closed, [(10, 2500)]);
    }

    #[test]
    fn a_silent_stream_is_flushed_once_and_evicted_later() {
        let (mut windows, start) = (Windows::new(CFG), Instant::now());
        windows
            .push(packet("a", 0, 6000), (0, 10), start, &mut Closings::default())
            .unwrap();
        let at = |seconds| move |_| start + Duration::from_secs(seconds);
        assert!(windows.tick(at(1)).closed.is_empty());
        let flushed = windows.tick(at(3));
        assert_eq!(
            flushed
                .closed
                .iter()
                .map(|closed| closed.context.after)
                .collect::<Vec<_>>(),
            [1000]
        );
        assert!(windows.tick(at(4)).closed.is_empty());
        assert_eq!(windows.len(), 1);
        let evicted = windows.tick(at(61));
        assert_eq!(
            (evicted.evicted, evicted.skipped.partial, windows.is_empty()),
            (1, 1, true)
        );
    }

    #[test]
    fn a_stream_too_many_evicts_the_longest_silent_one() {
        let (mut windows, start) = (Windows::new(CFG), Instant::now());
        let mut closings = Closings::default();
        for (second, stream_id) in ["a", "b", "a", "c"].into_iter().enumerate() {
            let now = start + Duration::from_secs(second as u64);
            windows
                .push(
                    packet(stream_id, 100 * second as i64, 100),
                    (0, second as u64),
                    now,
                    &mut closings,
                )
                .unwrap();
        }
        assert_eq!((windows.len(), closings.evicted), (2, 1));
        assert_eq!(windows.floor(0), Some(0), "the stream that stayed began at offset 0");
    }

    #[test]
    fn memory_over_the_bound_evicts_the_longest_silent_stream() {
        let cfg = WindowsConfig {
            bytes_max: 2 << 20,
            streams_max: 100,
            ..CFG
        };
        let (mut windows, start) = (Windows::new(cfg), Instant::now());
        let mut closings = Closings::default();
        // a stream of 7000 samples holds 7 blocks of 12 leads, 420 kB
        for bed in 0..10 {
            let now = start + Duration::from_secs(bed);
            let packet = packet(&format!("bed-{bed}"), 0, 7000);
            windows.push(packet, (0, bed), now, &mut closings).unwrap();
            assert!(windows.bytes() <= 2 << 20, "{} bytes", windows.bytes());
        }
        assert_eq!((windows.len() as u64, closings.evicted), (4, 6));
        assert_eq!(windows.floor(0), Some(6));
        windows.drop_partition(0);
        assert_eq!(windows.bytes(), 0);
    }

    #[test]
    fn fault_31_a_packet_that_makes_its_processing_panic_is_contained() {
        assert_eq!(contained(|| 1), Some(1));
        assert_eq!(contained(|| -> u8 { panic!("poison") }), None);
    }

    /// Windows that come of the packets, whose places are their offsets, when the agent restarts from the commit floor after
    /// each offset in `crashes`. The floor is the slowest stream's, so a faster one may make a window again, with less
    /// context; what was made before is passed over, as the agent passes it over.
    fn made(packets: &[Packet], mut crashes: Vec<usize>) -> Vec<(String, i64, usize, usize)> {
        let (mut windows, now) = (Windows::new(CFG), Instant::now());
        let (mut made, mut offset): (Vec<(String, i64, usize, usize)>, usize) = (Vec::new(), 0);
        while offset < packets.len() {
            let mut closings = Closings::default();
            windows
                .push(packets[offset].clone(), (0, offset as u64), now, &mut closings)
                .unwrap();
            for context in closings.closed.into_iter().map(|closed| closed.context) {
                let window = (context.stream_id, context.start_sample, context.before, context.after);
                if !made
                    .iter()
                    .any(|(stream_id, start, ..)| (stream_id, *start) == (&window.0, window.1))
                {
                    made.push(window);
                }
            }
            offset += 1;
            if let Some(crash) = crashes.iter().position(|crash| *crash == offset) {
                crashes.swap_remove(crash);
                offset = windows.floor(0).map_or(offset, |floor| floor as usize);
                windows = Windows::new(CFG);
            }
        }
        made.sort();
        made
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn restarts_from_the_commit_floor_make_every_window_and_the_first_of_each_is_whole(
            turns in prop::collection::vec((any::<bool>(), 50usize..500), 20..120),
            crashes in prop::collection::vec(0usize..120, 0..8),
        ) {
            let mut next = [0i64, 2000];
            let packets: Vec<Packet> = turns
                .into_iter()
                .map(|(second, samples)| {
                    let stream = usize::from(second);
                    let first = next[stream];
                    next[stream] += samples as i64;
                    packet(["a", "b"][stream], first, samples)
                })
                .collect();
            prop_assert_eq!(made(&packets, crashes), made(&packets, vec![]));
        }
    }
}
