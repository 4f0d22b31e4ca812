//! Which windows of each stream were made, so that a window is made once also when its samples are read again.
//!
//! Place: restored when a partition comes, asked when a window closes, written with each window that is delivered, in the
//! same transaction. A restart reads from the first record that any open window needs, and so reads windows of other
//! streams again that were delivered before; their marks keep them from being delivered twice.
//! Invariant: within one boot of a device windows are made in the order of their starts, so the last one stands for all
//! before it. A few boots are remembered, because records of an earlier boot may be read again after a restart. Boots count
//! by device: another device that takes over may have booted as often. A mark also keeps how the stream's sample index was
//! rebased, without which a restart would read what comes after under the ids of what came before; those are kept without
//! transactions too.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ecg::window::Rebase;
use serde::{Deserialize, Serialize};

/// Boots of a stream that are remembered.
const BOOTS: usize = 4;
/// Rebases of a stream that are remembered.
const REBASES: usize = 16;
/// A mark that was not used for so long is forgotten here; the broker keeps it for a restart. Far longer than a silent
/// stream keeps samples, so what a later packet can make is new.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The last window made in each of a stream's latest boots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Value", into = "Value")]
pub(crate) struct Mark {
    /// Oldest boot first.
    boots: Vec<Last>,
    /// Oldest first.
    rebases: Vec<Rebase>,
}

/// The last window of one boot.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Last {
    /// Whose boot; `None` in a mark of before devices were named, which holds for every device until its boot goes on.
    device_id: Option<String>,
    boot_id: u64,
    start_sample: i64,
}

/// A mark as it is written; versions of before `devices` read `boots` alone.
#[derive(Serialize, Deserialize)]
struct Value {
    /// (boot, first sample).
    boots: Vec<(u64, i64)>,
    #[serde(default)]
    devices: Vec<Option<String>>,
    /// (device, boot, first offset, shift); versions of before do not read them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rebases: Vec<(String, u64, u64, i64)>,
}

impl From<Value> for Mark {
    fn from(value: Value) -> Self {
        let devices = value.devices.into_iter().chain(std::iter::repeat(None));
        let last = |((boot_id, start_sample), device_id)| Last {
            device_id,
            boot_id,
            start_sample,
        };
        let rebase = |(device_id, boot_id, from_tag, shift)| Rebase {
            device_id,
            boot_id,
            from_tag,
            shift,
        };
        Self {
            boots: value.boots.into_iter().zip(devices).map(last).collect(),
            rebases: value.rebases.into_iter().map(rebase).collect(),
        }
    }
}

impl From<Mark> for Value {
    fn from(mark: Mark) -> Self {
        let parts = mark.boots.into_iter();
        let (boots, devices) = parts
            .map(|last| ((last.boot_id, last.start_sample), last.device_id))
            .unzip();
        let rebases = mark.rebases.into_iter();
        let rebases = rebases.map(|rebase| (rebase.device_id, rebase.boot_id, rebase.from_tag, rebase.shift));
        Self {
            boots,
            devices,
            rebases: rebases.collect(),
        }
    }
}

impl Last {
    fn is_of(&self, (device_id, boot_id): (&str, u64)) -> bool {
        self.boot_id == boot_id && self.device_id.as_deref().is_none_or(|own| own == device_id)
    }
}

impl Mark {
    fn has(&self, boot: (&str, u64), start_sample: i64) -> bool {
        let mut lasts = self.boots.iter().filter(|last| last.is_of(boot));
        lasts.any(|last| start_sample <= last.start_sample)
    }

    fn add(&mut self, boot: (&str, u64), start_sample: i64) {
        let device_id = Some(boot.0.to_owned());
        match self.boots.iter_mut().find(|last| last.is_of(boot)) {
            Some(last) => (last.device_id, last.start_sample) = (device_id, start_sample.max(last.start_sample)),
            None => self.boots.push(Last {
                device_id,
                boot_id: boot.1,
                start_sample,
            }),
        }
        let surplus = self.boots.len().saturating_sub(BOOTS);
        self.boots.drain(..surplus);
    }

    fn rebase(&mut self, rebase: Rebase) {
        self.rebases.push(rebase);
        let surplus = self.rebases.len().saturating_sub(REBASES);
        self.rebases.drain(..surplus);
    }
}

/// The marks of one partition's streams.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    streams: HashMap<String, (Instant, Mark)>,
}

impl Marks {
    /// Takes a mark from the broker; a later one of a stream replaces the earlier.
    ///
    /// # Errors
    /// When it is no mark.
    pub(crate) fn restore(&mut self, stream_id: &[u8], value: &[u8], now: Instant) -> Result<(), serde_json::Error> {
        let stream_id = String::from_utf8_lossy(stream_id).into_owned();
        self.streams.insert(stream_id, (now, serde_json::from_slice(value)?));
        Ok(())
    }

    /// True when the window was made.
    pub(crate) fn has(&self, stream_id: &str, boot: (&str, u64), start_sample: i64) -> bool {
        let mark = self.streams.get(stream_id);
        mark.is_some_and(|(_, mark)| mark.has(boot, start_sample))
    }

    /// Notes a window of a device's boot; gives the stream's new mark.
    pub(crate) fn add(&mut self, stream_id: &str, boot: (&str, u64), start_sample: i64, now: Instant) -> &Mark {
        let mark = self.of(stream_id, now);
        mark.add(boot, start_sample);
        mark
    }

    /// Notes that a stream's index was rebased; gives the stream's new mark.
    pub(crate) fn rebase(&mut self, stream_id: &str, rebase: Rebase, now: Instant) -> &Mark {
        let mark = self.of(stream_id, now);
        mark.rebase(rebase);
        mark
    }

    /// How a stream's index was rebased, oldest first.
    pub(crate) fn rebases(&self, stream_id: &str) -> &[Rebase] {
        self.streams.get(stream_id).map_or(&[], |(_, mark)| &mark.rebases)
    }

    /// A stream's mark, which is used now.
    fn of(&mut self, stream_id: &str, now: Instant) -> &mut Mark {
        let entry = self.streams.entry(stream_id.to_owned());
        let (used, mark) = entry.or_insert_with(|| (now, Mark::default()));
        *used = now;
        mark
    }

    /// Forgets what was not used for long.
    pub(crate) fn prune(&mut self, now: Instant) {
        self.streams
            .retain(|_, (used, _)| now.duration_since(*used) < FORGET_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "monitor-a";
    const B: &str = "monitor-b";

    #[test]
    fn a_window_is_made_when_it_or_a_later_one_of_its_boot_was() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        marks.add("a", (A, 1), 5000, now);
        marks.add("a", (A, 2), 0, now);
        for (stream_id, boot_id, start_sample, made) in [
            ("a", 1, 0, true),
            ("a", 1, 5000, true),
            ("a", 1, 10_000, false),
            ("a", 2, 0, true),
            ("a", 2, 5000, false),
            ("a", 3, 0, false),
            ("b", 1, 0, false),
        ] {
            assert_eq!(
                marks.has(stream_id, (A, boot_id), start_sample),
                made,
                "{stream_id} {boot_id} {start_sample}"
            );
        }
    }

    #[test]
    fn the_windows_of_another_device_are_not_made_because_its_boot_has_the_number_of_an_earlier_one() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        marks.add("a", (A, 1), 50_000, now);
        assert!(!marks.has("a", (B, 1), 0));
        marks.add("a", (B, 1), 0, now);
        assert!(marks.has("a", (B, 1), 0) && !marks.has("a", (B, 1), 5000) && marks.has("a", (A, 1), 50_000));
    }

    #[test]
    fn a_mark_comes_back_from_the_broker_as_it_went() {
        let (mut marks, mut restored, now) = (Marks::default(), Marks::default(), Instant::now());
        for boot_id in 1..=6 {
            let mark = marks.add("a", (A, boot_id), 5000 * boot_id as i64, now).clone();
            let value = serde_json::to_vec(&mark).unwrap();
            restored.restore(b"a", &value, now).unwrap();
        }
        assert!(restored.has("a", (A, 6), 30_000) && restored.has("a", (A, 3), 15_000));
        assert!(
            !restored.has("a", (A, 2), 10_000),
            "only the latest boots are remembered"
        );
        assert!(restored.restore(b"a", b"{}", now).is_err());
    }

    #[test]
    fn a_mark_of_before_devices_were_named_holds_until_its_boot_makes_another_window() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        marks.restore(b"a", br#"{"boots":[[1,5000],[2,0]]}"#, now).unwrap();
        assert!(marks.has("a", (A, 1), 5000) && marks.has("a", (B, 1), 0) && !marks.has("a", (A, 2), 5000));
        let mark = serde_json::to_string(marks.add("a", (A, 2), 5000, now)).unwrap();
        assert_eq!(mark, r#"{"boots":[[1,5000],[2,5000]],"devices":[null,"monitor-a"]}"#);
        assert!(marks.has("a", (A, 2), 0) && !marks.has("a", (B, 2), 0));
    }

    #[test]
    fn the_rebases_of_a_stream_come_back_from_the_broker_beside_its_boots() {
        let (mut marks, mut restored, now) = (Marks::default(), Marks::default(), Instant::now());
        assert!(marks.rebases("a").is_empty());
        for number in 1..=20 {
            let rebase = Rebase {
                device_id: A.into(),
                boot_id: 1,
                from_tag: 100 * number as u64,
                shift: number << 30,
            };
            let mark = marks.rebase("a", rebase, now).clone();
            restored
                .restore(b"a", &serde_json::to_vec(&mark).unwrap(), now)
                .unwrap();
        }
        assert_eq!(restored.rebases("a"), marks.rebases("a"));
        assert_eq!(
            (restored.rebases("a").len(), restored.rebases("a")[15].from_tag),
            (16, 2000)
        );
        let mark = serde_json::to_string(marks.add("a", (A, 1), 5000, now)).unwrap();
        assert!(
            mark.starts_with(r#"{"boots":[[1,5000]],"devices":["monitor-a"],"rebases":[["monitor-a",1,500,"#),
            "{mark}"
        );
    }

    #[test]
    fn a_mark_is_forgotten_when_it_was_not_used_for_long() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        marks.add("a", (A, 1), 0, now);
        marks.add("b", (A, 1), 0, now + FORGET_AFTER / 2);
        marks.prune(now + FORGET_AFTER);
        assert_eq!((marks.has("a", (A, 1), 0), marks.has("b", (A, 1), 0)), (false, true));
    }
}
