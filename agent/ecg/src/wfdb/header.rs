//! The text header of a WFDB recording.
//!
//! Place: read first; names the signal files and how to decode them. Source: PhysioNet's header(5).

use std::path::Path;

use super::WfdbError;

/// Gain where the header gives none, in converter units a millivolt (header(5)).
const GAIN_DEFAULT: f64 = 200.0;
/// Signals and samples beyond which a header is taken for damaged.
const SIGNALS_MAX: usize = 256;
const SAMPLES_MAX: usize = 1 << 31;
/// Rates that can be put on the 500 Hz grid without a kernel or a signal of absurd length; carts reach 10 kHz.
const RATE_HZ: std::ops::RangeInclusive<f64> = 10.0..=20_000.0;

pub(super) struct Header {
    pub name: String,
    pub rate_hz: f64,
    pub samples: Option<usize>,
    pub signals: Vec<SignalSpec>,
    pub comments: Vec<String>,
}

pub(super) struct SignalSpec {
    pub file: String,
    /// The number of the sample format, such as "16".
    pub format: String,
    /// Bytes of the file before its first sample.
    pub offset: usize,
    pub gain: f64,
    pub baseline: i32,
    pub units: String,
    pub name: String,
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Header, WfdbError> {
    let comments = text
        .lines()
        .filter_map(|l| l.trim_start().strip_prefix('#'))
        .map(|c| c.trim().to_owned())
        .collect();
    let mut lines = text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty() && !l.trim_start().starts_with('#'));
    let at = |line: usize| Place { path, line: line + 1 };
    let (number, record) = lines
        .next()
        .ok_or_else(|| at(0).fail("record line", "", "must be there"))?;
    let mut fields = record.split_whitespace();
    let name = fields.next().unwrap_or_default();
    let place = at(number);
    if name.contains('/') {
        return Err(place.fail("record name", name, "a single segment (read the segments' own headers)"));
    }
    let count: usize = place.number("number of signals", fields.next().unwrap_or(""), "1..=256")?;
    if count == 0 || count > SIGNALS_MAX {
        return Err(place.fail("number of signals", &count.to_string(), "1..=256"));
    }
    let rate = fields
        .next()
        .unwrap_or("250")
        .split(['/', '('])
        .next()
        .unwrap_or_default();
    let rate_hz: f64 = place.number("sampling rate", rate, "10 to 20000 hertz")?;
    if !RATE_HZ.contains(&rate_hz) {
        return Err(place.fail("sampling rate", rate, "10 to 20000 hertz"));
    }
    let samples: Option<usize> = fields
        .next()
        .map(|f| place.number("number of samples", f, "below 2^31"))
        .transpose()?;
    if samples.is_some_and(|n| n >= SAMPLES_MAX) {
        return Err(place.fail("number of samples", &samples.unwrap_or(0).to_string(), "below 2^31"));
    }
    let signals = (0..count)
        .map(|_| {
            let (number, line) = lines
                .next()
                .ok_or_else(|| at(number).fail("signal line", "", "one for each signal"))?;
            signal(&at(number), line)
        })
        .collect::<Result<_, _>>()?;
    Ok(Header {
        name: name.to_owned(),
        rate_hz,
        samples: samples.filter(|&n| n > 0),
        signals,
        comments,
    })
}

/// `file format gain(baseline)/units resolution zero initial checksum block description`.
fn signal(place: &Place, line: &str) -> Result<SignalSpec, WfdbError> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let field = |index: usize| fields.get(index).copied().unwrap_or("");
    let (gain_text, units) = field(2).split_once('/').unwrap_or((field(2), "mV"));
    let (gain_text, baseline) = match gain_text.split_once('(') {
        Some((gain, rest)) => (gain, Some(rest.trim_end_matches(')'))),
        None => (gain_text, None),
    };
    let gain: f64 = if gain_text.is_empty() {
        0.0
    } else {
        place.number("gain", gain_text, "a number")?
    };
    if !gain.is_finite() {
        return Err(place.fail("gain", gain_text, "a finite number"));
    }
    let zero = if field(4).is_empty() {
        0
    } else {
        place.number("converter zero", field(4), "a 32-bit integer")?
    };
    let baseline = baseline
        .map(|b| place.number("baseline", b, "a 32-bit integer"))
        .transpose()?
        .unwrap_or(zero);
    if field(1).is_empty() {
        return Err(place.fail("signal line", line, "file and format"));
    }
    // a header from anywhere names files beside itself and no others
    if field(0).contains(['/', '\\']) || field(0).starts_with('.') {
        return Err(place.fail("signal file", field(0), "a file beside the header"));
    }
    let (format, offset) = format(place, field(1))?;
    Ok(SignalSpec {
        file: field(0).to_owned(),
        format,
        offset,
        gain: if gain == 0.0 { GAIN_DEFAULT } else { gain },
        baseline,
        units: units.to_owned(),
        name: fields.get(8..).unwrap_or_default().join(" "),
    })
}

/// `format[xSAMPLES][:SKEW][+OFFSET]`: one sample a frame and no skew are what this reader can place on one grid.
fn format(place: &Place, text: &str) -> Result<(String, usize), WfdbError> {
    let (rest, offset) = text.split_once('+').unwrap_or((text, "0"));
    let (rest, skew) = rest.split_once(':').unwrap_or((rest, "0"));
    let (format, frame) = rest.split_once('x').unwrap_or((rest, "1"));
    if frame != "1" {
        return Err(place.fail("samples per frame", frame, "1"));
    }
    if skew != "0" {
        return Err(place.fail("skew", skew, "0"));
    }
    Ok((
        format.to_owned(),
        place.number("byte offset", offset, "a number of bytes")?,
    ))
}

struct Place<'a> {
    path: &'a Path,
    line: usize,
}

impl Place<'_> {
    fn fail(&self, field: &'static str, value: &str, bound: &'static str) -> WfdbError {
        WfdbError::Header {
            path: self.path.to_owned(),
            line: self.line,
            field,
            value: value.to_owned(),
            bound,
        }
    }

    fn number<T: std::str::FromStr>(
        &self,
        field: &'static str,
        value: &str,
        bound: &'static str,
    ) -> Result<T, WfdbError> {
        value.parse().map_err(|_| self.fail(field, value, bound))
    }
}
