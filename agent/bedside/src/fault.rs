//! Faults on request: what goes wrong between a patient and the broker, put into a replay at a chosen moment.
//!
//! Place: between `monitor` and the topic; `--fault` of meit-bedside and meit demo, and the tests of every fault in
//! docs/faults.md. Invariant: pure; the records are a function of packets, faults and nothing else, and a bed without a
//! fault sends its packets' own bytes.

mod kind;
mod signal;
mod stream;

use std::ops::Range;
use std::str::FromStr;

use ecg::packet::Packet;
use ecg::wire::WaveformPacket;
use ecg::{SAMPLE_RATE_HZ, SEGMENT_SAMPLES};
use prost::Message as _;

pub use kind::FaultKind;

/// Latest moment of a fault, seconds of stream time.
const AT_S_MAX: f64 = 1e6;

/// One fault, from a moment of the stream on.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// When, seconds of stream time.
    pub at_s: f64,
    /// On which stream; `None` is every one.
    pub stream_id: Option<String>,
}

impl Fault {
    /// True when samples of the stream have another index from then on, so that they are no longer where the plan says.
    pub fn moves_index(&self, stream_id: &str) -> bool {
        use FaultKind::{IndexRestart, Reboot, Takeover};
        self.concerns(stream_id) && matches!(self.kind, IndexRestart | Reboot | Takeover)
    }

    fn concerns(&self, stream_id: &str) -> bool {
        self.stream_id.as_deref().is_none_or(|id| id == stream_id)
    }
}

/// Text that is no fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fault {text:?} is not KIND@SECONDSs or KIND@SECONDSs/STREAM: {why}")]
pub struct FaultError {
    text: String,
    why: String,
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let refuse = |why: String| FaultError {
            text: text.to_owned(),
            why,
        };
        let (kind, rest) = text.split_once('@').ok_or_else(|| refuse("no @".to_owned()))?;
        let (at, stream_id) = match rest.split_once('/') {
            Some((at, stream)) => (at, Some(stream.to_owned())),
            None => (rest, None),
        };
        let at_s: f64 = at
            .strip_suffix('s')
            .unwrap_or(at)
            .parse()
            .map_err(|_| refuse(format!("{at:?} is no number of seconds")))?;
        if !(0.0..=AT_S_MAX).contains(&at_s) {
            return Err(refuse(format!("{at_s} s is outside of 0..={AT_S_MAX}")));
        }
        let kind = FaultKind::ALL
            .into_iter()
            .find(|known| known.name() == kind)
            .ok_or_else(|| refuse(format!("{kind:?} is none of {}", FaultKind::names())))?;
        Ok(Self { kind, at_s, stream_id })
    }
}

impl<'de> serde::Deserialize<'de> for Fault {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The faults and what each does, for `--help`.
pub fn help() -> String {
    let mut text = String::from(
        "Injects a fault, repeatable: KIND@SECONDSs for every bed, KIND@SECONDSs/bed-02 for one. Seconds are stream time. \
         Kinds (number in docs/faults.md):\n",
    );
    for kind in FaultKind::ALL {
        text += &format!("  {:<16} {:>2}  {}\n", kind.name(), kind.number(), kind.effect());
    }
    text
}

/// What is sent: a record's key and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Key, the stream id unless the fault is about keys.
    pub key: Vec<u8>,
    /// Value.
    pub payload: Vec<u8>,
}

/// The faults of one bed.
#[derive(Debug, Default)]
pub struct Injector {
    faults: Vec<Active>,
}

/// A fault and what it keeps.
#[derive(Debug)]
struct Active {
    kind: FaultKind,
    /// The ten seconds, or the moment at their start, of the fault, on the stream's 500 Hz grid.
    span: Range<i64>,
    /// Packets that it holds back or may send again.
    held: Vec<WaveformPacket>,
    /// It happened already; for faults that happen once.
    done: bool,
}

impl Injector {
    /// Those of `faults` that are for this stream.
    pub fn new(faults: &[Fault], stream_id: &str) -> Self {
        let mine = faults.iter().filter(|fault| fault.concerns(stream_id));
        let active = |fault: &Fault| {
            let start = (fault.at_s * SAMPLE_RATE_HZ).round() as i64;
            Active {
                kind: fault.kind,
                span: start..start + SEGMENT_SAMPLES as i64,
                held: Vec::new(),
                done: false,
            }
        };
        Self {
            faults: mine.map(active).collect(),
        }
    }

    /// What is sent instead of `packet`, in this order: nothing, itself, or more. A heartbeat ends what is held back.
    pub fn records(&mut self, packet: &Packet) -> Vec<Record> {
        let mut packets = vec![packet.encode()];
        for fault in &mut self.faults {
            let decoded = packets.iter().map(|bytes| WaveformPacket::decode(bytes.as_slice()));
            let mut next = Vec::new();
            for (bytes, wire) in packets.iter().zip(decoded) {
                match wire {
                    Ok(wire) => next.extend(fault.bytes(wire)),
                    // another fault made it unreadable, so it goes as it is
                    Err(_) => next.push(bytes.clone()),
                }
            }
            packets = next;
        }
        let wrong_key = |start: i64| {
            let hit = |fault: &Active| fault.kind == FaultKind::WrongKey && fault.span.contains(&start);
            self.faults.iter().any(hit)
        };
        let key = if wrong_key(packet.first_sample) && !packet.heartbeat {
            "another-stream"
        } else {
            packet.stream_id.as_str()
        };
        let record = |payload| Record {
            key: key.as_bytes().to_vec(),
            payload,
        };
        packets.into_iter().map(record).collect()
    }
}

impl Active {
    /// The values sent instead of one packet.
    fn bytes(&mut self, packet: WaveformPacket) -> Vec<Vec<u8>> {
        if let Some(bytes) = self.damaged(&packet) {
            return bytes;
        }
        let mut packets = self.stream(packet);
        packets.iter_mut().for_each(|packet| self.signal(packet));
        packets.iter().map(|packet| packet.encode_to_vec()).collect()
    }

    /// True for packets that begin in the fault's ten seconds; a heartbeat never does.
    fn hits(&self, packet: &WaveformPacket) -> bool {
        !packet.heartbeat && self.span.contains(&packet.first_sample)
    }

    /// True for the first packet at or after the fault's moment, once.
    fn strikes(&mut self, packet: &WaveformPacket) -> bool {
        let now = !self.done && self.hits(packet);
        self.done |= now;
        now
    }

    /// True from the fault's moment on, heartbeats too.
    fn since(&self, packet: &WaveformPacket) -> bool {
        packet.first_sample >= self.span.start
    }

    /// Bytes that are no packet any more.
    fn damaged(&mut self, packet: &WaveformPacket) -> Option<Vec<Vec<u8>>> {
        use FaultKind as K;
        if !matches!(self.kind, K::Truncated | K::Garbage | K::TooLarge) || !self.strikes(packet) {
            return None;
        }
        let mut bytes = packet.encode_to_vec();
        match self.kind {
            K::Truncated => bytes.truncate(bytes.len() / 2),
            K::Garbage => bytes
                .iter_mut()
                .enumerate()
                .for_each(|(at, byte)| *byte ^= 0xa5 ^ at as u8),
            // what a broker takes at most is about a mebibyte
            _ => {
                let mut big = packet.clone();
                big.leads.iter_mut().for_each(|lead| lead.samples.resize(41_000, 0));
                bytes = big.encode_to_vec();
            }
        }
        Some(vec![bytes])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_with_its_moment_and_its_stream() {
        let fault: Fault = "clock-back@30s".parse().unwrap();
        assert_eq!(
            (fault.kind, fault.at_s, fault.stream_id),
            (FaultKind::ClockBack, 30.0, None)
        );
        let fault: Fault = "flat@2.5/bed-02".parse().unwrap();
        assert_eq!((fault.at_s, fault.stream_id.as_deref()), (2.5, Some("bed-02")));
    }

    #[test]
    fn what_is_no_fault_is_named_with_what_would_be() {
        for (text, why) in [
            ("flat", "no @"),
            ("flat@soon", "is no number of seconds"),
            ("flat@-1s", "-1 s is outside of 0..=1000000"),
            ("flat@NaNs", "NaN s is outside"),
            ("flood@1s", "is none of non-finite, "),
        ] {
            let error = text.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn every_kind_has_a_name_of_its_own_and_is_in_the_help() {
        let text = help();
        let mut names: Vec<&str> = FaultKind::ALL.iter().map(|kind| kind.name()).collect();
        assert!(names.iter().all(|name| text.contains(&format!("\n  {name} "))));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FaultKind::ALL.len());
    }
}
