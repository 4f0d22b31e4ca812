//! Faults of packets as wholes: their clock, index, order, number and labels.
//!
//! Place: under `fault`. Invariant: samples are left alone, except for the packet that contradicts another.

use ecg::wire::WaveformPacket;
use ecg::{SAMPLE_RATE_HZ, SEGMENT_SAMPLES};

use super::{Active, FaultKind};

const HOUR_US: i64 = 3_600_000_000;
/// Samples of a missing second, and of a day.
const SECOND: i64 = SAMPLE_RATE_HZ as i64;
const DAY: i64 = 86_400 * SECOND;
/// Packets that change places, or that are sent again together.
const GROUP: usize = 4;
/// How late the late packet is, samples: after its window has closed.
const LATE: i64 = 15 * SECOND;

impl Active {
    /// The packets sent instead of one.
    pub(super) fn stream(&mut self, mut packet: WaveformPacket) -> Vec<WaveformPacket> {
        use FaultKind as K;
        let (kind, into_the_fault) = (self.kind, packet.first_sample - self.span.start);
        match kind {
            K::ClockBack if self.since(&packet) => packet.device_time_us -= HOUR_US,
            K::ClockForward if self.since(&packet) => packet.device_time_us += HOUR_US,
            // 100 ppm of 2000 us a sample
            K::Drift if self.since(&packet) => packet.device_time_us += into_the_fault / 5,
            K::IndexForward if self.strikes(&packet) => packet.first_sample += DAY,
            K::IndexRestart if self.since(&packet) => packet.first_sample = into_the_fault,
            K::BootWild if self.strikes(&packet) => packet.boot_id += 1 << 40,
            K::RateLabel if self.hits(&packet) => packet.rate_hz = 250.0,
            // each sample takes 2.5 ms, so half a millisecond more than its label says
            K::RateWrong if self.since(&packet) => {
                packet.device_time_us += into_the_fault.min(SEGMENT_SAMPLES as i64) * 500;
            }
            // 1.5 % of 2000 us a sample
            K::RateOff if self.since(&packet) => packet.device_time_us += into_the_fault * 30,
            K::Schema if self.strikes(&packet) => packet.schema_version = 9,
            K::TwoDevices if self.hits(&packet) => {
                let mut other = packet.clone();
                other.device_id += "-other";
                return vec![packet, other];
            }
            K::Takeover if self.since(&packet) => {
                packet.device_id += "-other";
                packet.boot_id += 1;
                packet.first_sample = into_the_fault;
            }
            K::Reboot if self.since(&packet) => {
                packet.boot_id += 1;
                packet.first_sample = into_the_fault;
            }
            K::Gap if self.hits(&packet) && into_the_fault < SECOND => return vec![],
            K::Stat if self.hits(&packet) => packet.stat = true,
            K::Duplicate if self.hits(&packet) => return vec![packet.clone(), packet],
            K::Conflict if self.strikes(&packet) => {
                let mut other = packet.clone();
                other.leads.iter_mut().for_each(|lead| lead.samples[0] ^= 0x40);
                return vec![packet, other];
            }
            K::Reorder | K::Overlap | K::Late | K::Backlog => return self.later(packet),
            _ => {}
        }
        vec![packet]
    }

    /// Faults that keep packets for later.
    fn later(&mut self, packet: WaveformPacket) -> Vec<WaveformPacket> {
        use FaultKind as K;
        let hits = self.hits(&packet);
        match self.kind {
            K::Reorder if hits => {
                self.held.push(packet);
                if self.held.len() < GROUP {
                    return vec![];
                }
                self.held.drain(..).rev().collect()
            }
            K::Overlap if hits => {
                self.held.push(packet.clone());
                if self.held.len() < GROUP {
                    return vec![packet];
                }
                vec![joined(&std::mem::take(&mut self.held))]
            }
            K::Late => {
                if self.strikes(&packet) {
                    self.held.push(packet);
                    return vec![];
                }
                let due = packet.heartbeat || packet.first_sample >= self.span.start + LATE;
                let mut packets = if due { std::mem::take(&mut self.held) } else { vec![] };
                // before the heartbeat, which ends the stream
                packets.push(packet);
                packets
            }
            K::Backlog if hits => {
                // the gateway stamped them when they came, an hour before it could send them
                self.held.push(WaveformPacket {
                    gateway_time_us: packet.gateway_time_us - HOUR_US,
                    ..packet
                });
                vec![]
            }
            _ => {
                let mut packets = match self.kind {
                    K::Overlap => vec![],
                    _ => std::mem::take(&mut self.held),
                };
                packets.push(packet);
                packets
            }
        }
    }
}

/// One packet with the samples of several that follow one another; its number is a new one.
fn joined(packets: &[WaveformPacket]) -> WaveformPacket {
    let mut whole = packets[0].clone();
    for packet in &packets[1..] {
        for (lead, more) in whole.leads.iter_mut().zip(&packet.leads) {
            lead.samples.extend_from_slice(&more.samples);
        }
    }
    // numbers of packets that were sent are small
    whole.sequence |= 1 << 40;
    whole
}
