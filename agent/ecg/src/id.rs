//! Identifiers: hashes of what a thing was made from, so that a replay makes the same thing again.
//!
//! Place: segments get theirs in `dsp::analyse`, drafts in the node.
//! Invariant: an id is a function of its inputs alone; two different inputs get two ids (fields are length-prefixed).

use sha2::{Digest, Sha256};

/// Bytes of the hash that an id keeps; 128 bits make a collision among 10^12 segments less likely than 10^-14.
const ID_BYTES: usize = 16;
/// Samples that are hashed at a time.
const HASHED_SAMPLES: usize = 1024;

/// Stream of the heartbeat: a known recording that is played without end, so that the way from packet to draft is seen to be
/// open. It is no bed: nobody reads its drafts.
pub const HEARTBEAT_STREAM: &str = "meit-heartbeat";

/// Id of the segment that `chain` version `version` makes of the window at `start_sample` of a stream.
///
/// The boot takes part because a device restarts its sample index when it boots, the device because two may have booted as often.
pub fn segment_id(
    stream_id: &str,
    (device_id, boot_id): (&str, u64),
    start_sample: i64,
    chain: &str,
    version: u32,
) -> String {
    hashed(&[
        b"segment",
        stream_id.as_bytes(),
        device_id.as_bytes(),
        &boot_id.to_le_bytes(),
        &start_sample.to_le_bytes(),
        chain.as_bytes(),
        &version.to_le_bytes(),
    ])
}

/// Id of the draft that the bundle `bundle_id` writes about a segment.
pub fn draft_id(segment_id: &str, bundle_id: &str) -> String {
    hashed(&[b"draft", segment_id.as_bytes(), bundle_id.as_bytes()])
}

/// SHA-256 of 16-bit samples, one part after another, as little-endian bytes, in lower-case hex.
pub fn samples_sha256(parts: &[&[i16]]) -> String {
    let mut hasher = Sha256::new();
    let mut bytes = [0u8; 2 * HASHED_SAMPLES];
    for block in parts.iter().flat_map(|part| part.chunks(HASHED_SAMPLES)) {
        for (two, sample) in bytes.chunks_exact_mut(2).zip(block) {
            two.copy_from_slice(&sample.to_le_bytes());
        }
        hasher.update(&bytes[..2 * block.len()]);
    }
    hex(&hasher.finalize())
}

fn hashed(fields: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for field in fields {
        hasher.update((field.len() as u64).to_le_bytes());
        hasher.update(field);
    }
    hex(&hasher.finalize()[..ID_BYTES])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_depends_on_every_field_and_on_nothing_else() {
        let base = segment_id("bed-01", ("monitor", 1), 5000, "meit-dsp", 1);
        assert_eq!(base.len(), 32);
        assert_eq!(base, segment_id("bed-01", ("monitor", 1), 5000, "meit-dsp", 1));
        for other in [
            segment_id("bed-02", ("monitor", 1), 5000, "meit-dsp", 1),
            segment_id("bed-01", ("monitor", 2), 5000, "meit-dsp", 1),
            segment_id("bed-01", ("monitos", 1), 5000, "meit-dsp", 1),
            segment_id("bed-01", ("monitor", 1), 10_000, "meit-dsp", 1),
            segment_id("bed-01", ("monitor", 1), 5000, "meit-dsq", 1),
            segment_id("bed-01", ("monitor", 1), 5000, "meit-dsp", 2),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        assert_ne!(draft_id("ab", "c"), draft_id("a", "bc"));
    }

    #[test]
    fn the_samples_hash_is_sha256_of_little_endian_bytes() {
        // `printf '\x01\x00\xff\xff' | sha256sum`
        assert_eq!(
            samples_sha256(&[&[1], &[-1]]),
            "16b8cb1fe734fbc60c6763c94c9e4cc55840ae966e7e508ba82f539d82702511"
        );
    }
}
