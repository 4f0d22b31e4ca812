//! Any bytes as a segment.
//!
//! Place: `Segment::decode`, what the node and the pipeline read from the broker. Invariant: no panic; what decodes encodes
//! to bytes that decode to the same bytes.

#![no_main]

use ecg::segment::Segment;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(segment) = Segment::decode(bytes) else { return };
    let encoded = segment.encode();
    // as bytes, since floats that are no number are not equal to themselves
    assert_eq!(Segment::decode(&encoded).expect("a segment reads back").encode(), encoded);
});
