//! Samples as the steps between them: nothing is lost, and an ECG at 500 Hz takes half the bytes (1.03 a sample on PTB-XL).
//!
//! Place: under `codec`. Each lead starts from 0; a step is the difference to the sample before it, as a zigzag varint, which is
//! Protobuf's sint32. Invariant: [`decode`] gives the samples that [`append`] took; other bytes give an error, never a panic.

use prost::encoding::{WireType, encode_key, encode_varint};

use super::codec::SegmentError;
use crate::{LEADS, SEGMENT_SAMPLES};

/// Bytes before a field's value at most: its key and its length.
pub(super) const HEAD_MAX: usize = 15;
/// Longest step: 17 bits and a sign.
const STEP_MAX: usize = 3;
/// Set in every byte of a varint but its last.
const MORE: u8 = 0x80;

/// Steps of lead-major samples, zigzag.
fn steps(samples: &[i16]) -> impl Iterator<Item = u32> {
    samples.chunks(SEGMENT_SAMPLES).flat_map(|lead| {
        let before = std::iter::once(0).chain(lead.iter().copied());
        before.zip(lead).map(|(before, &sample)| {
            let step = i32::from(sample) - i32::from(before);
            ((step << 1) ^ (step >> 31)) as u32
        })
    })
}

/// Bytes that the samples take.
pub(super) fn length(samples: &[i16]) -> usize {
    let of = |step: u32| 1 + usize::from(step >= 1 << 7) + usize::from(step >= 1 << 14);
    steps(samples).map(of).sum()
}

/// Appends field `tag`, of type bytes, with lead-major samples of `length` bytes.
pub(super) fn append(message: &mut Vec<u8>, tag: u32, samples: &[i16], length: usize) {
    encode_key(tag, WireType::LengthDelimited, message);
    encode_varint(length as u64, message);
    for mut step in steps(samples) {
        while step >= u32::from(MORE) {
            message.push(step as u8 | MORE);
            step >>= 7;
        }
        message.push(step as u8);
    }
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
        append(&mut message, 1, samples, length(samples));
        message.split_off(message.len() - length(samples))
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn samples_come_back(samples in proptest::collection::vec(any::<i16>(), ALL)) {
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
