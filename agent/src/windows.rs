//! All streams' windowers: bounded in number and bytes, flushed when idle, evicted when idle for long.
//!
//! Place: between `ingest` (packets) and `dispatch` (contexts to analyse); partitions come and go with the group.
//! Invariant: [`Windows::floor`] of a partition is the first record that any open window of its streams still needs, so a
//! restart from there makes the same segments. A live stream never gives way to a newcomer: one that is silent does, or the
//! newcomer is refused. Time is an argument; nothing here reads a clock.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use ecg::packet::{Packet, PacketError};
use ecg::window::{Context, PushOutcome, Rebase, Settled, Skipped, Windower, WindowerConfig};

/// Time without a refused stream after which the next one is news.
const CROWDED: Duration = Duration::from_secs(600);

/// Bounds of [`Windows`].
#[derive(Clone, Copy, Debug)]
pub struct WindowsConfig {
    /// How each stream is cut.
    pub windower: WindowerConfig,
    /// Streams at most; one more takes the place of the one that has been silent longest, or is refused where none is.
    pub streams_max: usize,
    /// Bytes of samples at most, over all streams; more evicts the one that has been silent longest, or else the youngest.
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
    /// What became of packets that were held, by partition; their tags are offsets.
    pub settled: Vec<(i32, Settled)>,
    /// Streams whose index was rebased, to be remembered.
    pub rebased: Vec<(String, Rebase)>,
    /// A stream was refused for want of room, the first for a while.
    pub crowded: bool,
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
    /// Counts streams as they came.
    number: u64,
}

/// The windowers of every stream that this agent reads.
pub struct Windows {
    cfg: WindowsConfig,
    streams: HashMap<String, Stream>,
    /// Sum of the streams' bytes.
    bytes: usize,
    /// Streams that came so far.
    came: u64,
    /// When a stream was refused last.
    refused: Option<Instant>,
    /// How the index of the stream that comes next was rebased before.
    remembered: Option<(String, Vec<Rebase>)>,
    /// [`Windower::push`]; tests put one here that panics.
    take: Take,
}

/// How a windower takes a packet with its offset.
type Take = fn(&mut Windower, Packet, u64) -> Result<PushOutcome, PacketError>;

impl Windows {
    /// No streams yet.
    pub fn new(cfg: WindowsConfig) -> Self {
        Self {
            cfg,
            streams: HashMap::new(),
            bytes: 0,
            came: 0,
            refused: None,
            remembered: None,
            take: Windower::push,
        }
    }

    /// True when the stream has state.
    pub fn holds(&self, stream_id: &str) -> bool {
        self.streams.contains_key(stream_id)
    }

    /// Says how the index of a stream was rebased before, oldest first; the next push takes it.
    pub fn remember(&mut self, stream_id: &str, rebases: Vec<Rebase>) {
        self.remembered = Some((stream_id.to_owned(), rebases));
    }

    /// Takes a packet that was read at `offset` of `partition`, and adds what it closes to `closings`.
    ///
    /// # Errors
    /// As [`Windower::push`], [`PacketError::NoRoom`] for a new stream, or [`PacketError::Poison`] when it panics; the stream then
    /// starts anew.
    pub fn push(
        &mut self,
        packet: Packet,
        (partition, offset): (i32, u64),
        now: Instant,
        closings: &mut Closings,
    ) -> Result<PushOutcome, PacketError> {
        let remembered = self.remembered.take();
        if !self.holds(&packet.stream_id) {
            self.make_room(now, closings)?;
            let remembered = remembered.filter(|(stream_id, _)| *stream_id == packet.stream_id);
            let rebases = remembered.map(|(_, rebases)| rebases).unwrap_or_default();
            self.open(&packet.stream_id, partition, now, rebases);
        }
        let stream_id = packet.stream_id.clone();
        let stream = self
            .streams
            .get_mut(&stream_id)
            .expect("it was there or opened a line ago");
        (stream.partition, stream.last_seen, stream.flushed) = (partition, now, false);
        let take = self.take;
        let pushed = contained(|| take(&mut stream.windower, packet, offset));
        let Some(pushed) = pushed else {
            if let Some(mut stream) = self.forget(&stream_id) {
                poison(&mut stream, closings);
            }
            return Err(PacketError::Poison);
        };
        // a refused packet may close windows too: a wrong rate label gives them up
        drain(stream, closings);
        let bytes = stream.windower.bytes();
        self.bytes = self.bytes - std::mem::replace(&mut stream.bytes, bytes) + bytes;
        while self.bytes > self.cfg.bytes_max && self.streams.len() > 1 {
            // the youngest gives way where none is silent, so that those before it go on undisturbed
            let evicted = self.longest_silent().or_else(|| self.youngest());
            self.evict(&evicted.expect("there is more than one stream"), closings);
        }
        pushed
    }

    /// Sees to it that a stream more may come: one that has been silent gives way.
    fn make_room(&mut self, now: Instant, closings: &mut Closings) -> Result<(), PacketError> {
        // a stream that comes grows to about the bytes of one that is there
        let is_full = |windows: &Self| {
            let largest = windows.streams.values().map(|stream| stream.bytes).max();
            let bytes = windows.bytes + largest.unwrap_or(0);
            windows.streams.len() >= windows.cfg.streams_max || (bytes > windows.cfg.bytes_max && bytes > windows.bytes)
        };
        while is_full(self) {
            let Some(silent) = self.longest_silent() else {
                let since = self.refused.replace(now);
                closings.crowded = since.is_none_or(|since| now.duration_since(since) >= CROWDED);
                return Err(PacketError::NoRoom {
                    streams: self.streams.len(),
                    streams_max: self.cfg.streams_max,
                    bytes: self.bytes,
                    bytes_max: self.cfg.bytes_max,
                });
            };
            self.evict(&silent, closings);
        }
        Ok(())
    }

    fn open(&mut self, stream_id: &str, partition: i32, now: Instant, rebases: Vec<Rebase>) {
        let stream = Stream {
            windower: Windower::rebased(stream_id, self.cfg.windower, rebases),
            partition,
            last_seen: now,
            flushed: false,
            bytes: 0,
            number: self.came,
        };
        self.came += 1;
        self.streams.insert(stream_id.to_owned(), stream);
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

    /// The stream that has been silent longest, of those that were for `idle_flush`, each by the clock of its partition.
    fn longest_silent(&self) -> Option<String> {
        let silent = self.streams.iter().filter(|(_, stream)| stream.flushed);
        let longest = silent.min_by_key(|(id, stream)| (stream.last_seen, *id));
        longest.map(|(id, _)| id.clone())
    }

    /// The stream that came last.
    fn youngest(&self) -> Option<String> {
        let youngest = self.streams.iter().max_by_key(|(_, stream)| stream.number);
        youngest.map(|(id, _)| id.clone())
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
        take_told(&mut stream, closings);
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
    take_told(stream, closings);
}

/// Moves out what a windower tells beside its windows.
fn take_told(stream: &mut Stream, closings: &mut Closings) {
    let Stream {
        windower, partition, ..
    } = stream;
    add_skipped(&mut closings.skipped, windower.take_skipped());
    let settled = windower.take_settled().into_iter();
    closings.settled.extend(settled.map(|settled| (*partition, settled)));
    let rebased = windower.take_rebased().into_iter();
    let of_stream = |rebase| (windower.stream_id().to_owned(), rebase);
    closings.rebased.extend(rebased.map(of_stream));
}

/// What a stream whose processing panicked held is as lost as the packet that did it.
fn poison(stream: &mut Stream, closings: &mut Closings) {
    let held = stream.windower.held();
    take_told(stream, closings);
    let lost = held.into_iter().map(|tag| Settled {
        tag,
        fate: Err(PacketError::Poison),
    });
    closings.settled.extend(lost.map(|settled| (stream.partition, settled)));
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
    fn a_stream_too_many_takes_the_place_of_the_longest_silent_one() {
        let (mut windows, start) = (Windows::new(CFG), Instant::now());
        let mut closings = Closings::default();
        for (second, stream_id) in (0..).zip(["a", "b", "a", "c"]) {
            let now = start + Duration::from_secs(second);
            // b has been silent for as long as idle_flush
            let tick = windows.tick(|_| now);
            assert_eq!((tick.evicted, tick.closed.len()), (0, 0));
            let packet = packet(stream_id, 100 * second as i64, 100);
            windows.push(packet, (0, second), now, &mut closings).unwrap();
        }
        assert_eq!((windows.len(), closings.evicted), (2, 1));
        assert_eq!(windows.floor(0), Some(0), "the stream that stayed began at offset 0");
    }

    #[test]
    fn of_nine_live_streams_on_eight_places_eight_make_every_window_and_the_ninth_comes_when_one_falls_silent() {
        let cfg = WindowsConfig { streams_max: 8, ..CFG };
        let (mut windows, start) = (Windows::new(cfg), Instant::now());
        let (mut made, mut refused, mut crowded) = (HashMap::<String, u64>::new(), 0, 0);
        // quarters of a second; bed-3 falls silent after a minute
        for quarter in 0..480u64 {
            let now = start + Duration::from_millis(250 * quarter);
            let mut closings = windows.tick(|_| now);
            for bed in (0..9).filter(|bed| *bed != 3 || quarter < 240) {
                let stream_id = format!("bed-{bed}");
                let mut of_push = Closings::default();
                let pushed = windows.push(
                    packet(&stream_id, 125 * quarter as i64, 125),
                    (0, quarter),
                    now,
                    &mut of_push,
                );
                if let Err(error) = pushed {
                    assert_eq!((bed, error.reason()), (8, ecg::packet::RejectReason::NoRoom));
                    refused += 1;
                }
                crowded += u64::from(of_push.crowded);
                closings.closed.extend(of_push.closed);
                closings.evicted += of_push.evicted;
            }
            for closed in closings.closed {
                *made.entry(closed.context.stream_id).or_default() += 1;
            }
        }
        // a minute, and 2 s of silence after the last packet of bed-3
        assert_eq!((refused, crowded, windows.len()), (240 + 7, 1, 8));
        for bed in [0, 1, 2, 4, 5, 6, 7] {
            assert_eq!(made[&format!("bed-{bed}")], 11, "bed-{bed}: all but the open one");
        }
        assert_eq!((made["bed-3"], made["bed-8"]), (6, 4));
    }

    #[test]
    fn memory_over_the_bound_refuses_newcomers_and_leaves_the_live_streams_alone() {
        let cfg = WindowsConfig {
            bytes_max: 2 << 20,
            streams_max: 100,
            ..CFG
        };
        let (mut windows, start) = (Windows::new(cfg), Instant::now());
        let mut closings = Closings::default();
        // a stream of 7000 samples holds 7 blocks of 12 leads, 420 kB
        for bed in 0..10 {
            let packet = packet(&format!("bed-{bed}"), 0, 7000);
            let pushed = windows.push(packet, (0, bed), start, &mut closings);
            assert_eq!(pushed.is_ok(), bed < 4, "{pushed:?}");
            assert!(windows.bytes() <= 2 << 20, "{} bytes", windows.bytes());
        }
        assert_eq!((windows.len(), closings.evicted, windows.floor(0)), (4, 0, Some(0)));
        // silent ones give way
        windows.tick(|_| start + CFG.idle_flush);
        for bed in 10..12 {
            let packet = packet(&format!("bed-{bed}"), 0, 7000);
            windows
                .push(packet, (0, bed), start + CFG.idle_flush, &mut closings)
                .unwrap();
        }
        assert_eq!((windows.len(), closings.evicted, windows.floor(0)), (4, 2, Some(2)));
        windows.drop_partition(0);
        assert_eq!(windows.bytes(), 0);
    }

    #[test]
    fn streams_that_grow_over_the_bound_give_up_the_youngest_and_not_the_first() {
        let cfg = WindowsConfig {
            bytes_max: 2 << 20,
            streams_max: 100,
            ..CFG
        };
        let (mut windows, start) = (Windows::new(cfg), Instant::now());
        let (mut made, mut refused) = (HashMap::<String, u64>::new(), 0);
        // all begin at once, when there is room for all
        for second in 0..30 {
            for bed in 0..6u64 {
                let mut closings = Closings::default();
                let stream_id = format!("bed-{bed}");
                let packet = packet(&stream_id, 500 * second as i64, 500);
                refused += usize::from(windows.push(packet, (0, second), start, &mut closings).is_err());
                for closed in closings.closed {
                    *made.entry(closed.context.stream_id).or_default() += 1;
                }
                assert!(windows.bytes() <= 2 << 20, "{} bytes", windows.bytes());
            }
        }
        assert_eq!((made["bed-0"], made["bed-1"], made["bed-2"]), (2, 2, 2));
        // what was whole when the youngest was given up is made
        assert!(refused > 0 && made["bed-5"] == 1, "{made:?}");
    }

    #[test]
    fn a_stream_that_comes_again_is_told_how_its_index_was_rebased() {
        let (mut windows, now) = (Windows::new(CFG), Instant::now());
        let (mut closings, mut rebases) = (Closings::default(), Vec::new());
        // at sample 10,000 the index begins at 0 again
        let first = |number: i64| 500 * (number % 20);
        for number in 0..30 {
            windows
                .push(packet("a", first(number), 500), (0, number as u64), now, &mut closings)
                .unwrap();
        }
        rebases.extend(closings.rebased.drain(..).map(|(stream_id, rebase)| {
            assert_eq!(stream_id, "a");
            rebase
        }));
        assert_eq!((rebases.len(), rebases[0].from_tag), (1, 21));
        windows.drop_partition(0);
        for number in 30..60 {
            assert_eq!(windows.holds("a"), number > 30);
            windows.remember("a", rebases.clone());
            let packet = packet("a", 500 * (number - 20), 500);
            windows.push(packet, (0, number as u64), now, &mut closings).unwrap();
        }
        let last = closings.closed.last().unwrap().context.start_sample;
        assert!(last > ecg::window::EPOCH, "{last}");
        assert!(closings.rebased.is_empty());
    }

    /// A step that panics at the packet of sequence number 31.
    fn panics_at_31(windower: &mut Windower, packet: Packet, tag: u64) -> Result<PushOutcome, PacketError> {
        assert!(packet.sequence != 31, "poison");
        windower.push(packet, tag)
    }

    #[test]
    fn fault_31_a_packet_that_makes_its_processing_panic_is_dead_lettered_and_its_stream_starts_anew() {
        let (mut windows, now) = (Windows::new(CFG), Instant::now());
        windows.take = panics_at_31;
        let mut made = Vec::new();
        // a second a packet, of two streams; number 7 of the first is poison
        for offset in 0..60 {
            let (stream_id, number) = (["a", "b"][offset % 2], offset as i64 / 2);
            let is_poison = (stream_id, number) == ("a", 7);
            let packet = Packet {
                sequence: if is_poison { 31 } else { 0 },
                ..packet(stream_id, 500 * number, 500)
            };
            let record = service::kafka::source::Record {
                topic: ecg::topic::WAVEFORMS.into(),
                partition: 0,
                offset: offset as i64,
                key: Some(stream_id.into()),
                payload: packet.encode(),
                timestamp_ms: None,
            };
            let mut closings = Closings::default();
            let pushed = windows.push(packet, (0, offset as u64), now, &mut closings);
            assert_eq!(pushed.is_err(), is_poison, "{pushed:?}");
            if let Err(error) = pushed {
                assert_eq!(
                    (windows.holds("a"), windows.floor(0)),
                    (false, Some(1)),
                    "the other stream is as it was"
                );
                let owner = service::kafka::source::Owner {
                    partition: (ecg::topic::WAVEFORMS.into(), 0),
                    epoch: 1,
                };
                let bytes = record.payload.clone();
                let letter = crate::dispatch::dead_letters(record, &error, &owner).next().unwrap();
                assert!(
                    letter.headers.contains(&("reason", "poison".to_owned())),
                    "{:?}",
                    letter.headers
                );
                assert_eq!((letter.topic, letter.payload), (ecg::topic::DEAD_LETTERS, bytes));
            }
            let contexts = closings.closed.into_iter().map(|closed| closed.context);
            made.extend(contexts.map(|context| (context.stream_id, context.start_sample, context.before)));
        }
        let of = |stream_id: &str| -> Vec<(i64, usize)> {
            let own = made.iter().filter(|(id, ..)| id == stream_id);
            own.map(|(_, start, before)| (*start, *before)).collect()
        };
        assert_eq!(of("b"), [(0, 0), (5000, 2500)]);
        // what was held of the first window is given up; the next begins behind the packet
        assert_eq!(of("a"), [(5000, 1000)]);
    }

    #[test]
    fn packets_on_trial_share_the_fate_of_the_one_that_panics() {
        let (mut windows, now) = (Windows::new(CFG), Instant::now());
        windows.take = panics_at_31;
        let mut closings = Closings::default();
        let mut push = |offset: u64, boot_id, sequence| {
            let packet = Packet {
                boot_id,
                sequence,
                ..packet("a", 100 * offset as i64, 100)
            };
            windows
                .push(packet, (0, offset), now, &mut closings)
                .map(|outcome| outcome.held)
        };
        assert!(!push(0, 0, 0).unwrap() && push(1, 9, 0).unwrap() && push(2, 9, 1).unwrap());
        assert!(push(3, 9, 31).is_err());
        let settled = closings
            .settled
            .iter()
            .map(|(partition, settled)| (*partition, settled.tag, settled.fate.is_err()));
        assert_eq!(settled.collect::<Vec<_>>(), [(0, 1, true), (0, 2, true)]);
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
