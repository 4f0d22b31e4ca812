//! Any bytes as a waveform packet, and what it decodes to through a windower.
//!
//! Place: `Packet::decode`, the first thing that touches bytes of a monitor. Invariant: no panic; what decodes encodes to
//! bytes that decode to the same.

#![no_main]

use ecg::packet::Packet;
use ecg::window::{Windower, WindowerConfig};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(packet) = Packet::decode(bytes) else { return };
    assert_eq!(Packet::decode(&packet.encode()).expect("a packet reads back"), packet);
    let mut windower = Windower::new(packet.stream_id.clone(), WindowerConfig::default());
    // a second packet that follows, so that there is something to agree or disagree with
    let next = Packet {
        first_sample: packet.first_sample + packet.len() as i64,
        sequence: packet.sequence.wrapping_add(1),
        ..packet.clone()
    };
    for (tag, packet) in [packet, next].into_iter().enumerate() {
        // a contradiction is an answer too
        let _ = windower.push(packet, tag as u64);
    }
    windower.finish();
});
