//! EDF and continuous EDF+ as recordings.
//!
//! Place: one of the formats of [`super::read`]. Invariant: only signals whose label is a standard lead are read, and they share
//! one rate; annotations, patient and date are passed over; a file with gaps (EDF+D) is refused, because its samples have no
//! common clock.
//!
//! Source: Kemp et al. 1992 and Kemp, Olivan 2003 (edfplus.info): header of ASCII fields, records of 16-bit samples.

use std::path::Path;

use ecg::lead::Lead;
use ecg::wfdb::{Record, Signal};

use super::{ImportError, Place, RATES_BOUND, RATES_HZ, name_of, whole};

/// Bytes of the part of the header that all signals share, and of each signal's part.
const HEADER_BYTES: usize = 256;
/// Version, and blanks to the eighth byte.
const MAGIC: &[u8] = b"0       ";
const SIGNALS_MAX: usize = 512;

/// Widths of a signal's fields in the header's order: label, transducer, unit, physical and digital bounds, filters, samples
/// a record, reserved.
const WIDTHS: [usize; 10] = [16, 80, 8, 8, 8, 8, 8, 80, 8, 32];
const LABEL: usize = 0;
const UNIT: usize = 2;
const PHYSICAL_MIN: usize = 3;
const PHYSICAL_MAX: usize = 4;
const DIGITAL_MIN: usize = 5;
const DIGITAL_MAX: usize = 6;
const SAMPLES: usize = 8;

/// True for the first bytes of an EDF file.
pub fn is_edf(start: &[u8]) -> bool {
    start.starts_with(MAGIC) && start.len() >= HEADER_BYTES && start[..HEADER_BYTES].is_ascii()
}

/// One signal's part of the header.
struct Channel {
    label: String,
    unit: String,
    /// Digital units a physical one, and the digital value of physical zero.
    gain: f64,
    baseline: i32,
    /// Samples in each record.
    samples: usize,
}

/// Reads the ECG leads of a file.
///
/// # Errors
/// [`ImportError`].
pub fn read(path: &Path) -> Result<Record, ImportError> {
    let place = Place(path);
    let bytes = whole(path)?;
    let short = || place.wrong("length", bytes.len(), "is less than its header asks for");
    let shared = bytes.get(..HEADER_BYTES).ok_or_else(short)?;
    let reserved = text(&shared[192..236]);
    if reserved.starts_with("EDF+D") {
        return Err(place.wrong("reserved", reserved, "a recording with gaps (EDF+D) is not read"));
    }
    let count: usize = number(place, "number of signals", &shared[252..256])? as usize;
    if !(1..=SIGNALS_MAX).contains(&count) {
        return Err(place.wrong("number of signals", count, "1 to 512"));
    }
    let seconds = number(place, "duration of a record", &shared[244..252])?;
    if !(seconds > 0.0 && seconds <= 86_400.0) {
        return Err(place.wrong("duration of a record", seconds, "above 0 and at most a day"));
    }
    let header = bytes.get(HEADER_BYTES..HEADER_BYTES * (count + 1)).ok_or_else(short)?;
    let channels = (0..count)
        .map(|at| channel(place, header, count, at))
        .collect::<Result<Vec<_>, _>>()?;
    let data = &bytes[HEADER_BYTES * (count + 1)..];
    let per_record: usize = channels.iter().map(|channel| channel.samples).sum();
    let there = data.len() / 2 / per_record.max(1);
    let told = number(place, "number of records", &shared[236..244])?;
    // -1: the recording was not finished, so the file's length decides
    let records = if told < 0.0 { there } else { told as usize };
    if records > there {
        return Err(short());
    }
    let leads = || channels.iter().filter(|channel| lead_of(&channel.label).is_some());
    let samples = leads().map(|channel| channel.samples).next().unwrap_or(0);
    if samples == 0 || leads().any(|channel| channel.samples != samples) {
        let labels: Vec<&str> = channels.iter().map(|channel| channel.label.as_str()).collect();
        return Err(place.wrong("labels", labels.join(", "), "must name ECG leads that share one rate"));
    }
    let rate_hz = samples as f64 / seconds;
    if !RATES_HZ.contains(&rate_hz) {
        return Err(place.wrong("sampling rate", rate_hz, RATES_BOUND));
    }
    Ok(Record {
        name: name_of(path),
        rate_hz,
        signals: signals(&channels, data, records, per_record),
        comments: vec![],
    })
}

/// The leads' samples, in the order of the file.
fn signals(channels: &[Channel], data: &[u8], records: usize, per_record: usize) -> Vec<Signal> {
    let mut signals = Vec::new();
    let mut from = 0;
    for channel in channels {
        let of_record = |record: usize| {
            let start = 2 * (record * per_record + from);
            data[start..start + 2 * channel.samples].chunks_exact(2)
        };
        let sample = |pair: &[u8]| Some(i32::from(i16::from_le_bytes([pair[0], pair[1]])));
        if lead_of(&channel.label).is_some() {
            signals.push(Signal {
                name: channel.label.clone(),
                units: channel.unit.clone(),
                gain: channel.gain,
                baseline: channel.baseline,
                samples: (0..records).flat_map(of_record).map(sample).collect(),
            });
        }
        from += channel.samples;
    }
    signals
}

fn channel(place: Place, header: &[u8], count: usize, at: usize) -> Result<Channel, ImportError> {
    let field = |index: usize| {
        let before: usize = WIDTHS[..index].iter().sum();
        let start = before * count + at * WIDTHS[index];
        &header[start..start + WIDTHS[index]]
    };
    let label = text(field(LABEL));
    let samples = number(place, "samples in a record", field(SAMPLES))?;
    if !(0.0..=1e7).contains(&samples) || samples.fract() != 0.0 {
        return Err(place.wrong("samples in a record", samples, "a whole number up to ten million"));
    }
    let mut channel = Channel {
        unit: text(field(UNIT)),
        gain: 1.0,
        baseline: 0,
        samples: samples as usize,
        label,
    };
    if lead_of(&channel.label).is_none() {
        return Ok(channel);
    }
    if !["uv", "mv", "v"].contains(&channel.unit.to_ascii_lowercase().as_str()) {
        return Err(place.wrong("unit of a lead", &channel.unit, "uV, mV or V"));
    }
    let bound = |name, index| number(place, name, field(index));
    let physical = bound("physical maximum", PHYSICAL_MAX)? - bound("physical minimum", PHYSICAL_MIN)?;
    let lowest = bound("digital minimum", DIGITAL_MIN)?;
    let gain = (bound("digital maximum", DIGITAL_MAX)? - lowest) / physical;
    let baseline = lowest - bound("physical minimum", PHYSICAL_MIN)? * gain;
    // a falling scale is a lead that was turned round; a wild one is a damaged header
    if !(gain.is_finite() && (1e-6..=1e9).contains(&gain.abs()) && baseline.abs() <= f64::from(i32::MAX)) {
        return Err(place.wrong("scale of a lead", gain, "digital and physical bounds must differ"));
    }
    (channel.gain, channel.baseline) = (gain, baseline.round() as i32);
    Ok(channel)
}

/// The lead that a label names: "ECG V1", "EKG aVR", "II".
fn lead_of(label: &str) -> Option<Lead> {
    let name = label.strip_prefix("EKG").unwrap_or(label);
    Lead::parse(name).ok()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_matches([' ', '\0']).to_owned()
}

fn number(place: Place, field: &'static str, bytes: &[u8]) -> Result<f64, ImportError> {
    let text = text(bytes);
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| place.wrong(field, format!("{text:?}"), "a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with these signals (label, unit, samples a record) and one record of a second.
    fn file(signals: &[(&str, &str, usize)], reserved: &str, records: &str) -> Vec<u8> {
        let mut bytes = format!(
            "{:<8}{:<80}{:<80}{:<16}{:<8}{reserved:<44}{records:<8}{:<8}{:<4}",
            "0",
            "X",
            "X",
            "",
            "",
            "1",
            signals.len()
        );
        let mut add = |width: usize, of: &dyn Fn(&(&str, &str, usize)) -> String| {
            for signal in signals {
                bytes += &format!("{:<width$}", of(signal));
            }
        };
        add(16, &|signal| signal.0.to_owned());
        add(80, &|_| String::new());
        add(8, &|signal| signal.1.to_owned());
        for bound in ["-10", "10", "-1000", "1000"] {
            add(8, &|_| bound.to_owned());
        }
        add(80, &|_| String::new());
        add(8, &|signal| signal.2.to_string());
        add(32, &|_| String::new());
        let mut bytes = bytes.into_bytes();
        for (at, signal) in signals.iter().enumerate() {
            bytes.extend((0..signal.2).flat_map(|_| (100 * at as i16).to_le_bytes()));
        }
        bytes
    }

    fn read_bytes(bytes: &[u8]) -> Result<Record, ImportError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made.edf");
        std::fs::write(&path, bytes).unwrap();
        assert!(is_edf(bytes));
        read(&path)
    }

    #[test]
    fn leads_are_found_by_label_and_scaled_by_their_bounds() {
        let signals = [
            ("SpO2", "%", 1),
            ("EKG II", "mV", 250),
            ("EDF Annotations", "", 20),
            ("V1", "uV", 250),
        ];
        for (reserved, records) in [("", "1"), ("EDF+C", "-1")] {
            let record = read_bytes(&file(&signals, reserved, records)).unwrap();
            assert_eq!((record.rate_hz, record.signals.len()), (250.0, 2));
            assert_eq!((record.signal_uv(0)[0], record.signal_uv(1)[249]), (1000.0, 3.0));
        }
    }

    #[test]
    fn what_cannot_be_read_says_which_field() {
        let good = [("I", "uV", 250), ("II", "uV", 250)];
        let cases: [(&str, Vec<u8>); 7] = [
            ("reserved", file(&good, "EDF+D", "1")),
            ("length", file(&good, "", "2")),
            ("labels", file(&[("I", "uV", 250), ("II", "uV", 500)], "", "1")),
            ("labels", file(&[("SpO2", "%", 1)], "", "1")),
            ("unit of a lead", file(&[("I", "%", 250)], "", "1")),
            ("number of records", file(&good, "", "many")),
            ("number of signals", file(&[], "", "1")),
        ];
        for (field, bytes) in cases {
            let error = read_bytes(&bytes).unwrap_err().to_string();
            assert!(error.contains(&format!("made.edf: {field} is")), "{field}: {error}");
        }
    }
}
