//! Samples as the steps between them: nothing is lost, and an ECG at 500 Hz takes half the bytes (1.03 a sample on PTB-XL).
//!
//! Place: under `codec`. Each lead starts from 0; a step is the difference to the sample before it, as a zigzag varint, which is
//! Protobuf's sint32. Invariant: [`decode`] gives the samples that [`append`] took; other bytes give an error, never a panic.

use prost::encoding::{WireType, encode_key};

use super::codec::SegmentError;
use crate::wide::wide;
use crate::{LEADS, SEGMENT_SAMPLES};

/// Bytes that a field takes at most.
pub(super) const FIELD_MAX: usize = 8 + STEP_MAX * LEADS * SEGMENT_SAMPLES;
/// Longest step: 17 bits and a sign.
const STEP_MAX: usize = 3;
/// Set in every byte of a varint but its last.
const MORE: u8 = 0x80;

/// Bytes of the length that is written: enough for 180,000.
const LENGTH: usize = 3;
/// Steps that are looked at together; most are of one byte each.
const LANES: usize = 16;

/// The step from one sample to the next, zigzag.
fn step(before: i16, sample: i16) -> u32 {
    let step = i32::from(sample) - i32::from(before);
    ((step << 1) ^ (step >> 31)) as u32
}

/// Appends field `tag`, of type bytes, with lead-major samples, 12 x 5000 at most.
pub(super) fn append(message: &mut Vec<u8>, tag: u32, samples: &[i16]) {
    encode_key(tag, WireType::LengthDelimited, message);
    let head = message.len();
    message.resize(head + LENGTH, 0);
    for lead in samples.chunks(SEGMENT_SAMPLES) {
        append_lead(message, lead);
    }
    // a varint may have more bytes than it needs
    let length = message.len() - head - LENGTH;
    for at in 0..LENGTH {
        let more = if at + 1 < LENGTH { MORE } else { 0 };
        message[head + at] = (length >> (7 * at)) as u8 & !MORE | more;
    }
}

wide! {
    fn append_lead(message: &mut Vec<u8>, lead: &[i16]) {
        let Some(&first) = lead.first() else { return };
        let mut steps = [0; LANES];
        steps[0] = step(0, first);
        append_steps(message, &steps, 1);
        for (before, samples) in lead.chunks(LANES).zip(lead[1..].chunks(LANES)) {
            for ((to, &before), &sample) in steps.iter_mut().zip(before).zip(samples) {
                *to = step(before, sample);
            }
            append_steps(message, &steps, samples.len());
        }
    }
}

/// Appends the first `count` steps.
#[inline(always)]
fn append_steps(message: &mut Vec<u8>, steps: &[u32; LANES], count: usize) {
    if steps.iter().fold(0, |all, step| all | step) < u32::from(MORE) {
        message.extend_from_slice(&steps.map(|step| step as u8)[..count]);
        return;
    }
    let (mut bytes, mut end) = ([0; STEP_MAX * LANES], 0);
    for &step in &steps[..count] {
        // all bytes are written, and those that count are kept: how many is hard to guess for a branch
        let length = 1 + usize::from(step >= 1 << 7) + usize::from(step >= 1 << 14);
        for (at, byte) in bytes[end..end + STEP_MAX].iter_mut().enumerate() {
            let more = if at + 1 < length { MORE } else { 0 };
            *byte = (step >> (7 * at)) as u8 & !MORE | more;
        }
        end += length;
    }
    message.extend_from_slice(&bytes[..end]);
}

/// The lead-major samples of a field, 12 x 5000.
///
/// # Errors
/// [`SegmentError::Length`] for another number of samples, [`SegmentError::Value`] for one out of range.
pub(super) fn decode(field: &'static str, bytes: &[u8]) -> Result<Vec<i16>, SegmentError> {
    let want = LEADS * SEGMENT_SAMPLES;
    let mut samples = Vec::with_capacity(want);
    let mut rest = bytes;
    let mut before = 0;
    while samples.len() < want {
        if samples.len().is_multiple_of(SEGMENT_SAMPLES) {
            before = 0;
        }
        let Some((step, after)) = next(rest) else {
            let got = samples.len();
            return Err(SegmentError::Length { field, got, want });
        };
        let sample = before + ((step >> 1) as i32 ^ -((step & 1) as i32));
        let Ok(whole) = i16::try_from(sample) else {
            let value = f64::from(sample);
            return Err(SegmentError::Value { field, value });
        };
        samples.push(whole);
        (before, rest) = (sample, after);
    }
    if !rest.is_empty() {
        let got = want + rest.len();
        return Err(SegmentError::Length { field, got, want });
    }
    Ok(samples)
}

/// The first varint and what follows it; none where there is none of at most [`STEP_MAX`] bytes.
fn next(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut step = 0;
    for at in 0..STEP_MAX {
        let byte = *bytes.get(at)?;
        step |= u32::from(byte & !MORE) << (7 * at);
        if byte < MORE {
            return Some((step, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: usize = LEADS * SEGMENT_SAMPLES;

    /// The value of the field that [`append`] writes.
    fn value(samples: &[i16]) -> Vec<u8> {
        let mut message = Vec::new();
        append(&mut message, 1, samples);
        message.split_off(1 + LENGTH)
    }

    #[test]
    fn steps_are_written_as_protobuf_writes_sint32() {
        let mut samples = vec![0; ALL];
        samples[..4].copy_from_slice(&[1, 0, -64, 1000]);
        let step = |step: i32| {
            let mut bytes = Vec::new();
            prost::encoding::sint32::encode_packed(1, &[step], &mut bytes);
            bytes.split_off(2)
        };
        let expected = [1, -1, -64, 1064, -1000].map(step).concat();
        assert_eq!(value(&samples)[..expected.len()], expected);
        assert_eq!(expected.len(), 7);
    }

    #[test]
    fn a_field_that_is_not_of_twelve_leads_is_refused() {
        let whole = value(&[7; ALL]);
        let length_of = |bytes: &[u8]| match decode("raw", bytes) {
            Err(SegmentError::Length { got, .. }) => got,
            other => panic!("{other:?}"),
        };
        assert_eq!(length_of(&whole[..ALL - 1]), ALL - 1);
        assert_eq!(length_of(&[&whole[..], &[0]].concat()), ALL + 1);
        assert_eq!(length_of(&[MORE, MORE, MORE, 0]), 0);
        let mut far = whole;
        far.splice(1..1, value(&[i16::MAX])); // from 7 by another 32767
        assert!(matches!(
            decode("raw", &far),
            Err(SegmentError::Value { value: 32_774.0, .. })
        ));
    }

    #[test]
    fn the_length_is_that_of_the_steps() {
        let mut message = Vec::new();
        append(&mut message, 1, &[300; ALL]);
        let length = prost::encoding::decode_varint(&mut &message[1..]).unwrap();
        assert_eq!(
            length as usize,
            ALL + LEADS,
            "of each lead the first step takes two bytes"
        );
        assert_eq!(message.len(), 1 + LENGTH + ALL + LEADS);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn samples_come_back(mut samples in proptest::collection::vec(any::<i16>(), ALL), quiet in 0..ALL) {
            samples[..quiet].iter_mut().for_each(|sample| *sample %= 64);
            let bytes = value(&samples);
            prop_assert!(bytes.len() <= STEP_MAX * ALL);
            prop_assert_eq!(decode("raw", &bytes).unwrap(), samples);
        }

        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let _ = decode("raw", &bytes);
        }
    }
}
