//! DICOM ECG waveforms as recordings.
//!
//! Place: one of the formats of [`super::read`]. Invariant: leads are placed by their codes, never by position; only an
//! original tracing is read, never a derived median beat; of the rest of the file nothing is looked at.
//!
//! Source: DICOM PS3.3 C.10.9 (waveform module), PS3.16 CID 3001 (ECG leads, in MDC and SCP-ECG codes).

use std::path::Path;

use ecg::lead::Lead;
use ecg::wfdb::{Record, Signal};

use super::elements::{DataSet, Encoding, Tag};
use super::{ImportError, Place, RATES_BOUND, RATES_HZ, name_of, whole};

const TRANSFER_SYNTAX: Tag = (0x0002, 0x0010);
const CODE_VALUE: Tag = (0x0008, 0x0100);
const ORIGINALITY: Tag = (0x003A, 0x0004);
const CHANNELS: Tag = (0x003A, 0x0005);
const SAMPLES: Tag = (0x003A, 0x0010);
const FREQUENCY: Tag = (0x003A, 0x001A);
const CHANNEL_DEFINITIONS: Tag = (0x003A, 0x0200);
const CHANNEL_SOURCE: Tag = (0x003A, 0x0208);
const SENSITIVITY: Tag = (0x003A, 0x0210);
const SENSITIVITY_UNITS: Tag = (0x003A, 0x0211);
const SENSITIVITY_CORRECTION: Tag = (0x003A, 0x0212);
const BASELINE: Tag = (0x003A, 0x0213);
const WAVEFORMS: Tag = (0x5400, 0x0100);
const BITS_ALLOCATED: Tag = (0x5400, 0x1004);
const INTERPRETATION: Tag = (0x5400, 0x1006);
const PADDING: Tag = (0x5400, 0x100A);
const DATA: Tag = (0x5400, 0x1010);
/// MDC code of lead I less its term code 1: "2:1" in MDC and "5.6.3-9-1" in SCP-ECG are both 131328 + 1.
const MDC_LEADS: u32 = 131_328;
/// Most channels of a group.
const CHANNELS_MAX: usize = 256;
/// Most samples of a lead: two hours at 1000 Hz. The standard's 12-lead object ends at 16,384.
const SAMPLES_MAX: usize = 1 << 23;

/// Bytes before the first element: the preamble and "DICM".
const START: usize = 132;

/// True for the first bytes of a DICOM file.
pub fn is_dicom(start: &[u8]) -> bool {
    start.get(START - 4..START) == Some(b"DICM")
}

/// Reads the first original ECG of a DICOM file.
///
/// # Errors
/// [`ImportError`].
pub fn read(path: &Path) -> Result<Record, ImportError> {
    let place = Place(path);
    let bytes = whole(path)?;
    let data = data_set(place, bytes.get(START..).unwrap_or_default())?;
    let group = original(place, &data)?;
    let whole_number = |tag, field, max: usize, bound| {
        let found = group.whole(tag).unwrap_or(0);
        let fits = (1..=max).contains(&(found as usize));
        if fits {
            Ok(found as usize)
        } else {
            Err(place.wrong(field, found, bound))
        }
    };
    let channels = whole_number(CHANNELS, "Number of Waveform Channels", CHANNELS_MAX, "1 to 256")?;
    let count = whole_number(SAMPLES, "Number of Waveform Samples", SAMPLES_MAX, "1 to 8,388,608")?;
    let rate_hz = group.decimal(FREQUENCY).unwrap_or(f64::NAN);
    if !RATES_HZ.contains(&rate_hz) {
        return Err(place.wrong("Sampling Frequency", rate_hz, RATES_BOUND));
    }
    let samples = group.bytes(DATA).unwrap_or_default();
    if samples.len() / 2 < channels * count {
        return Err(place.wrong(
            "Waveform Data",
            samples.len(),
            "bytes, two for each sample of each channel are needed",
        ));
    }
    let signals = signals(place, &group, samples, channels, count)?;
    Ok(Record {
        name: name_of(path),
        rate_hz,
        signals,
        comments: vec![],
    })
}

/// The first group of samples that is an original ECG of two leads or more, in the one kind of samples that is read.
fn original<'a>(place: Place, data: &DataSet<'a>) -> Result<DataSet<'a>, ImportError> {
    let groups = data.items(WAVEFORMS);
    let count = groups.len();
    let original = groups.into_iter().find(|group| {
        group.text(ORIGINALITY) == Some("ORIGINAL")
            && group.items(CHANNEL_DEFINITIONS).iter().filter_map(lead).count() >= 2
    });
    let group =
        original.ok_or_else(|| place.wrong("Waveform Sequence", count, "groups, none an original ECG of two leads"))?;
    let kind = (group.whole(BITS_ALLOCATED), group.text(INTERPRETATION));
    if kind != (Some(16), Some("SS")) {
        let bound = "16-bit signed samples are read";
        return Err(place.wrong("Waveform Sample Interpretation", format!("{kind:?}"), bound));
    }
    Ok(group)
}

/// The leads' samples; those of one instant lie together.
fn signals(
    place: Place,
    group: &DataSet,
    samples: &[u8],
    channels: usize,
    count: usize,
) -> Result<Vec<Signal>, ImportError> {
    let padding = group
        .bytes(PADDING)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i16::from_le_bytes);
    let mut signals = Vec::new();
    for (channel, definition) in group.items(CHANNEL_DEFINITIONS).iter().enumerate().take(channels) {
        let Some(lead) = lead(definition) else { continue };
        let of_channel = samples.chunks_exact(2).skip(channel).step_by(channels).take(count);
        let valid = |pair: &[u8]| {
            let sample = i16::from_le_bytes([pair[0], pair[1]]);
            (Some(sample) != padding).then(|| i32::from(sample))
        };
        let (gain, baseline) = scale(definition).ok_or_else(|| {
            place.wrong(
                "Channel Sensitivity",
                lead.name(),
                "a positive number in uV or mV is needed",
            )
        })?;
        signals.push(Signal {
            name: lead.name().to_owned(),
            units: "uV".to_owned(),
            gain,
            baseline,
            samples: of_channel.map(valid).collect(),
        });
    }
    Ok(signals)
}

/// The data set after the file's own group, written as that group says.
fn data_set<'a>(place: Place, bytes: &'a [u8]) -> Result<DataSet<'a>, ImportError> {
    let damaged = || place.wrong("length of an element", bytes.len(), "bytes are fewer than it asks for");
    let (group, data) = DataSet::of_group(bytes, TRANSFER_SYNTAX.0).ok_or_else(damaged)?;
    let encoding = match group.text(TRANSFER_SYNTAX) {
        Some("1.2.840.10008.1.2.1") => Encoding::Explicit,
        Some("1.2.840.10008.1.2") => Encoding::Implicit,
        other => {
            let value = other.unwrap_or("missing").to_owned();
            return Err(place.wrong(
                "Transfer Syntax UID",
                value,
                "little endian without compression is read",
            ));
        }
    };
    DataSet::of(data, encoding).ok_or_else(damaged)
}

/// The lead that a channel's code names.
fn lead(definition: &DataSet) -> Option<Lead> {
    let source = definition.items(CHANNEL_SOURCE);
    let code = source.first()?.text(CODE_VALUE)?;
    let term: u32 = code.rsplit([':', '-']).next()?.parse().ok()?;
    Lead::parse(&MDC_LEADS.checked_add(term)?.to_string()).ok()
}

/// Units a microvolt, and the unit of zero microvolts.
fn scale(definition: &DataSet) -> Option<(f64, i32)> {
    let units = definition.items(SENSITIVITY_UNITS);
    let uv_per_unit = match units.first()?.text(CODE_VALUE)? {
        "uV" => 1.0,
        "mV" => 1000.0,
        _ => return None,
    };
    let correction = definition.decimal(SENSITIVITY_CORRECTION).unwrap_or(1.0);
    let sensitivity = definition.decimal(SENSITIVITY)? * correction * uv_per_unit;
    let offset_uv = definition.decimal(BASELINE).unwrap_or(0.0) * uv_per_unit;
    let baseline = -(offset_uv / sensitivity).round();
    // a damaged header would otherwise give infinite or zero samples
    let sane = (1e-6..=1e6).contains(&sensitivity) && baseline.abs() <= f64::from(i32::MAX);
    sane.then(|| (1.0 / sensitivity, baseline as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/dicom/waveform_ecg.dcm")
    }

    /// Values of pydicom 3.0.2: `dcmread(path).waveform_array(0)[:3, :4]`, its minimum and maximum.
    #[test]
    fn a_dicom_ecg_reads_as_pydicom_reads_it() {
        let record = read(&shipped()).unwrap();
        assert_eq!(
            (record.rate_hz, record.signals.len(), record.name.as_str()),
            (1000.0, 12, "waveform_ecg")
        );
        let names: Vec<&str> = record.signals.iter().map(|signal| signal.name.as_str()).collect();
        assert_eq!(names, Lead::ALL.map(Lead::name));
        let uv: Vec<Vec<f32>> = (0..12).map(|lead| record.signal_uv(lead)).collect();
        let first: Vec<[f32; 3]> = uv[..4].iter().map(|lead| [lead[0], lead[1], lead[2]]).collect();
        assert_eq!(
            first,
            [
                [100.0, 81.25, 62.5],
                [112.5, 106.25, 100.0],
                [12.5, 25.0, 37.5],
                [-106.25, -93.75, -81.25]
            ]
        );
        let all = || uv.iter().flatten().copied();
        assert_eq!(
            (all().fold(0.0, f32::min), all().fold(0.0, f32::max)),
            (-1125.0, 1962.5)
        );
        record.context().unwrap();
    }

    /// The shipped file with some bytes replaced by as many others.
    fn changed(old: &[u8], new: &[u8]) -> Result<Record, ImportError> {
        assert_eq!(old.len(), new.len());
        let mut bytes = std::fs::read(shipped()).unwrap();
        let at = bytes
            .windows(old.len())
            .position(|part| part == old)
            .expect("the bytes are there");
        bytes[at..at + new.len()].copy_from_slice(new);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("changed.dcm");
        std::fs::write(&path, bytes).unwrap();
        read(&path)
    }

    #[test]
    fn an_attribute_that_is_wild_is_named() {
        for (old, new, field) in [
            (
                &b"\x3A\x00\x05\x00US\x02\x00\x0C\x00"[..],
                &b"\x3A\x00\x05\x00US\x02\x00\xFF\xFF"[..],
                "Number of Waveform Channels",
            ),
            (
                b"\x3A\x00\x10\x00UL\x04\x00\x10\x27\x00\x00",
                b"\x3A\x00\x10\x00UL\x04\x00\x00\x00\x00\x00",
                "Number of Waveform Samples",
            ),
            (
                b"\x3A\x00\x10\x00UL\x04\x00\x10\x27\x00\x00",
                b"\x3A\x00\x10\x00UL\x04\x00\x11\x27\x00\x00",
                "Waveform Data",
            ),
            (
                b"\x3A\x00\x1A\x00DS\x04\x001000",
                b"\x3A\x00\x1A\x00DS\x04\x001e99",
                "Sampling Frequency",
            ),
            (
                b"\x00\x54\x06\x10CS\x02\x00SS",
                b"\x00\x54\x06\x10CS\x02\x00MB",
                "Waveform Sample Interpretation",
            ),
            (b"ORIGINAL", b"DERIVED ", "Waveform Sequence"),
            (
                b"1.2.840.10008.1.2.1\x00",
                b"1.2.840.10008.1.2.2\x00",
                "Transfer Syntax UID",
            ),
        ] {
            let error = changed(old, new).unwrap_err().to_string();
            assert!(error.contains(&format!("changed.dcm: {field} is")), "{field}: {error}");
        }
    }
}
