//! Sample formats of WFDB signal files.
//!
//! Place: after the header. Signals of one file are interleaved frame by frame. Invariant: the values of a frame are those
//! that the converter gave; each format's own marker of an invalid sample becomes `None`. Source: PhysioNet's signal(5).

use std::path::Path;

use super::WfdbError;
use super::header::Header;

/// Bytes of the MATLAB v4 header with a name of three letters and its zero: type, rows, columns, imaginary, name length, name.
const MATLAB_HEADER: usize = 24;
/// MATLAB v4 type code of little-endian 16-bit integers.
const MATLAB_INT16: i32 = 30;

/// Samples of every signal, in header order.
pub(super) fn read_signals(header_path: &Path, header: &Header) -> Result<Vec<Vec<Option<i32>>>, WfdbError> {
    let mut signals = Vec::new();
    let mut rest = &header.signals[..];
    while let Some(first) = rest.first() {
        let count = rest.iter().take_while(|s| s.file == first.file).count();
        let path = header_path.with_file_name(&first.file);
        let bytes = std::fs::read(&path).map_err(|source| WfdbError::Read {
            path: path.clone(),
            source,
        })?;
        if rest[..count]
            .iter()
            .any(|s| s.format != first.format || s.offset != first.offset)
        {
            return Err(WfdbError::Format {
                path,
                format: "mixed in one file".to_owned(),
            });
        }
        if path.extension().is_some_and(|extension| extension == "mat") {
            check_matlab(&path, &bytes, count)?;
        }
        let data = bytes.get(first.offset..).unwrap_or_default();
        let values = match first.format.as_str() {
            "16" => words(data),
            "80" => data
                .iter()
                .map(|&b| if b == 0 { None } else { Some(i32::from(b) - 128) })
                .collect(),
            "212" => twelve_bits(data),
            other => {
                return Err(WfdbError::Format {
                    path,
                    format: other.to_owned(),
                });
            }
        };
        let frames = header.samples.unwrap_or(values.len() / count);
        if values.len() < frames * count {
            let expected = (frames * count * bits(&first.format))
                .div_ceil(8)
                .saturating_add(first.offset);
            return Err(WfdbError::Short {
                path,
                got: bytes.len(),
                expected,
            });
        }
        signals.extend((0..count).map(|s| (0..frames).map(|f| values[f * count + s]).collect()));
        rest = &rest[count..];
    }
    Ok(signals)
}

fn bits(format: &str) -> usize {
    match format {
        "80" => 8,
        "212" => 12,
        _ => 16,
    }
}

/// Little-endian 16-bit two's complement; the smallest value marks an invalid sample.
fn words(bytes: &[u8]) -> Vec<Option<i32>> {
    let word = |pair: &[u8]| i16::from_le_bytes([pair[0], pair[1]]);
    bytes
        .chunks_exact(2)
        .map(word)
        .map(|v| (v != i16::MIN).then_some(i32::from(v)))
        .collect()
}

/// Pairs of 12-bit two's complement values in three bytes; -2048 marks an invalid sample.
fn twelve_bits(bytes: &[u8]) -> Vec<Option<i32>> {
    let extend = |v: i32| if v >= 2048 { v - 4096 } else { v };
    let valid = |v: i32| (v != -2048).then_some(v);
    let mut values = Vec::with_capacity(bytes.len() * 2 / 3);
    for group in bytes.chunks(3).filter(|group| group.len() >= 2) {
        let (low, middle) = (i32::from(group[0]), i32::from(group[1]));
        values.push(valid(extend(low | ((middle & 0x0F) << 8))));
        if let Some(&high) = group.get(2) {
            values.push(valid(extend(i32::from(high) | ((middle & 0xF0) << 4))));
        }
    }
    values
}

/// A MATLAB v4 file holds one 16-bit matrix with a row a signal, stored column by column, which is frame by frame.
fn check_matlab(path: &Path, bytes: &[u8], rows: usize) -> Result<(), WfdbError> {
    let fail = |detail: String| WfdbError::Matlab {
        path: path.to_owned(),
        detail,
    };
    if bytes.len() < MATLAB_HEADER {
        return Err(fail(format!("{} bytes", bytes.len())));
    }
    let word = |i: usize| i32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]);
    if word(0) != MATLAB_INT16 {
        return Err(fail(format!("type {}, expected {MATLAB_INT16}", word(0))));
    }
    if usize::try_from(word(1)) != Ok(rows) {
        return Err(fail(format!("{} rows, the header has {rows} signals", word(1))));
    }
    if word(4) != 4 {
        return Err(fail(format!("name of {} bytes, expected 4", word(4))));
    }
    Ok(())
}
