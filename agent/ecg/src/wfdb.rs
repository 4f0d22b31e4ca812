//! WFDB recordings: header, formats 16, 80 and 212, and the MATLAB v4 files of the PhysioNet challenges.
//!
//! Place: files come in here for replay, training and one-shot reports; the stream never reads files. Invariant: signals are
//! placed by name, never by position; a file that is shorter than its header says is an error, not a short signal.
//! Source: PhysioNet's header(5) and signal(5) manual pages.

mod format;
mod header;

use std::path::{Path, PathBuf};

use crate::dsp::resample::{Grid, Resampler};
use crate::lead::Lead;
use crate::segment::LeadOrigin;
use crate::stretch::{self, Stretches};
use crate::window::Context;
use crate::{CONTEXT_SAMPLES, LEADS, SAMPLE_RATE_HZ, SEGMENT_SAMPLES, limb};

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WfdbError {
    #[error("read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} line {line}: {field} is {value:?}: {bound}")]
    Header {
        path: PathBuf,
        line: usize,
        field: &'static str,
        value: String,
        bound: &'static str,
    },
    #[error("{path} has signal format {format}: this reader knows 16, 80 and 212, and 16 in MATLAB v4 files")]
    Format { path: PathBuf, format: String },
    #[error("{path} has {got} bytes, its header asks for {expected}")]
    Short { path: PathBuf, got: usize, expected: usize },
    #[error("{path} is no MATLAB v4 matrix of 16-bit samples: {detail}")]
    Matlab { path: PathBuf, detail: String },
    #[error("recording {name} has signal {lead} twice")]
    LeadDuplicate { name: String, lead: &'static str },
    #[error("recording {name} has {got} standard ECG leads, at least {bound} are needed")]
    LeadCount { name: String, got: usize, bound: usize },
    #[error("recording {name} has {seconds:.2} s at {rate_hz} Hz, a segment needs 10 s")]
    TooShort { name: String, seconds: f64, rate_hz: f64 },
}

/// One signal of a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// Its description in the header, such as "AVR".
    pub name: String,
    /// Physical unit, "mV" where the header says nothing.
    pub units: String,
    /// Converter units per physical unit.
    pub gain: f64,
    /// Converter value of physical zero.
    pub baseline: i32,
    /// Converter values; `None` where the format marks the sample invalid.
    pub samples: Vec<Option<i32>>,
}

/// A recording with all its signals.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub name: String,
    pub rate_hz: f64,
    pub signals: Vec<Signal>,
    /// Header lines that start with `#`, without it.
    pub comments: Vec<String>,
}

/// Reads the recording of a header; signal files lie beside it.
///
/// # Errors
/// A file that cannot be read, a header field out of its bounds, a format this reader does not know.
pub fn read(header_path: &Path) -> Result<Record, WfdbError> {
    let text = std::fs::read(header_path).map_err(|source| WfdbError::Read {
        path: header_path.to_owned(),
        source,
    })?;
    let header = header::parse(header_path, &String::from_utf8_lossy(&text))?;
    let samples = format::read_signals(header_path, &header)?;
    let signals = header.signals.into_iter().zip(samples).map(|(s, samples)| Signal {
        name: s.name,
        units: s.units,
        gain: s.gain,
        baseline: s.baseline,
        samples,
    });
    Ok(Record {
        name: header.name,
        rate_hz: header.rate_hz,
        signals: signals.collect(),
        comments: header.comments,
    })
}

impl Record {
    /// Samples of one signal in microvolts, NaN where invalid, at the recording's own rate.
    pub fn signal_uv(&self, index: usize) -> Vec<f32> {
        let signal = &self.signals[index];
        let uv_per_unit = match signal.units.to_ascii_lowercase().as_str() {
            "uv" | "µv" => 1.0,
            "v" => 1e6,
            _ => 1e3,
        } / signal.gain;
        let uv = |sample: &Option<i32>| {
            sample.map_or(f32::NAN, |v| {
                ((f64::from(v) - f64::from(signal.baseline)) * uv_per_unit) as f32
            })
        };
        signal.samples.iter().map(uv).collect()
    }

    /// The first ten seconds as a window with what follows as context, at 500 Hz; limb leads derived where two are there.
    ///
    /// # Errors
    /// Those of [`Record::leads`].
    pub fn context(&self) -> Result<Context, WfdbError> {
        let leads = self.leads()?;
        Ok(leads.context(0).expect("leads() has made sure of ten seconds"))
    }

    /// The standard leads of the whole recording at 500 Hz; limb leads derived where two are there.
    ///
    /// # Errors
    /// Fewer than two ECG leads, a lead that is there twice, less than ten seconds.
    pub fn leads(&self) -> Result<Leads, WfdbError> {
        let mut samples_uv = vec![Vec::new(); LEADS];
        let mut origin = [LeadOrigin::Missing; LEADS];
        let mut at_rail: [Stretches; LEADS] = Default::default();
        let resampler = Resampler::new(self.rate_hz);
        for (index, signal) in self.signals.iter().enumerate() {
            let Ok(lead) = Lead::parse(&signal.name) else { continue };
            if origin[lead.index()] != LeadOrigin::Missing {
                return Err(WfdbError::LeadDuplicate {
                    name: self.name.clone(),
                    lead: lead.name(),
                });
            }
            origin[lead.index()] = LeadOrigin::Measured;
            let uv = self.signal_uv(index);
            samples_uv[lead.index()] = resampler.whole(&uv);
            if self.rate_hz != SAMPLE_RATE_HZ {
                let whole = 0..samples_uv[lead.index()].len() as i64;
                at_rail[lead.index()] = stretch::at_500_hz(&stretch::at_rail(&uv), 0, &Grid::new(self.rate_hz), &whole);
            }
        }
        let got = origin.iter().filter(|&&o| o == LeadOrigin::Measured).count();
        if got < 2 {
            return Err(WfdbError::LeadCount {
                name: self.name.clone(),
                got,
                bound: 2,
            });
        }
        let length = samples_uv.iter().map(Vec::len).max().unwrap_or(0);
        if length < SEGMENT_SAMPLES {
            let seconds = length as f64 / SAMPLE_RATE_HZ;
            return Err(WfdbError::TooShort {
                name: self.name.clone(),
                seconds,
                rate_hz: self.rate_hz,
            });
        }
        samples_uv.iter_mut().for_each(|lead| lead.resize(length, f32::NAN));
        limb::derive(&mut samples_uv, &mut origin);
        Ok(Leads {
            name: self.name.clone(),
            rate_hz: self.rate_hz,
            samples_uv,
            origin,
            at_rail,
        })
    }
}

/// The standard leads of a whole recording at 500 Hz.
#[derive(Clone, Debug, PartialEq)]
pub struct Leads {
    pub name: String,
    /// The recording's own rate.
    pub rate_hz: f64,
    /// 12 x N samples, microvolts, NaN where missing.
    pub samples_uv: Vec<Vec<f32>>,
    pub origin: [LeadOrigin; LEADS],
    /// Stretches in which the recording's own samples stay at the lead's largest or smallest value; resampling hides them.
    pub at_rail: [Stretches; LEADS],
}

impl Leads {
    /// The ten seconds from `start` with up to 5 s around them; None where the recording ends before.
    pub fn context(&self, start: usize) -> Option<Context> {
        let length = self.samples_uv.first()?.len();
        let end = start.checked_add(SEGMENT_SAMPLES).filter(|&end| end <= length)?;
        let (before, after) = (start.min(CONTEXT_SAMPLES), (length - end).min(CONTEXT_SAMPLES));
        let span = start - before..end + after;
        let around = |lead: &Vec<f32>| lead[span.clone()].to_vec();
        Some(Context {
            start_sample: start as i64,
            source_rate_hz: self.rate_hz,
            before,
            after,
            origin: self.origin,
            at_rail: self
                .at_rail
                .each_ref()
                .map(|lead| stretch::within(lead, &span).collect()),
            ..Context::of(&self.name, self.samples_uv.iter().map(around).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(dir: &Path, name: &str, bytes: &[u8]) {
        std::fs::write(dir.join(name), bytes).unwrap();
    }

    #[test]
    fn format_212_unpacks_pairs_of_twelve_bits() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            "r.hea",
            b"r 2 360 2\nr.dat 212 200 11 1024 0 0 0 MLII\nr.dat 212 200(1000)/mV 12 0 0 0 0 V5\n# note\n",
        );
        // frames (995, 1011) and (-2048 = invalid, -1)
        write(dir.path(), "r.dat", &[0xE3, 0x33, 0xF3, 0x00, 0xF8, 0xFF]);
        let record = read(&dir.path().join("r.hea")).unwrap();
        assert_eq!(record.signals[0].samples, [Some(995), None]);
        assert_eq!(record.signals[1].samples, [Some(1011), Some(-1)]);
        assert_eq!(
            record.signals[0].baseline, 1024,
            "the converter's zero stands in for a missing baseline"
        );
        assert_eq!(record.signals[1].baseline, 1000);
        assert_eq!(record.comments, ["note"]);
        assert!((record.signal_uv(1)[0] - 55.0).abs() < 1e-3);
    }

    #[test]
    fn a_header_that_asks_for_other_files_absurd_rates_or_offsets_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "r.dat", &[1, 2, 3, 4]);
        for header in [
            "r 1 500 2\n/etc/passwd 16 200 16 0 0 0 0 I\n",
            "r 1 500 2\n../r.dat 16 200 16 0 0 0 0 I\n",
            "r 1 1e300 2\nr.dat 16 200 16 0 0 0 0 I\n",
            "r 1 1e-9 2\nr.dat 16 200 16 0 0 0 0 I\n",
            "r 1 NaN 2\nr.dat 16 200 16 0 0 0 0 I\n",
            "r 1 500 2\nr.dat 16+18446744073709551615 200 16 0 0 0 0 I\n",
        ] {
            write(dir.path(), "r.hea", header.as_bytes());
            assert!(read(&dir.path().join("r.hea")).is_err(), "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_damaged_files_are_read_or_refused(
            template in prop::sample::select(vec![
                "r 2 360 6\nr.dat 212 200(10)/mV 11 1024 1 2 0 MLII\nr.dat 212 200 11 1024 1 2 0 V5\n# a\n",
                "r 3 500 4\nr.dat 16 200/mV 16 0 1 2 0 I\nr.dat 16 200 16 0 1 2 0 II\nr.dat 16 1/uV 16 0 1 2 0 V1\n",
                "r 2 500\nr.mat 16+24 1000/mV 16 0 1 2 0 I\nr.mat 16+24 1000/mV 16 0 1 2 0 II\n",
                "r 1 100 8\nr.dat 80 100 8 0 1 2 0 V2\n",
            ]),
            edits in prop::collection::vec((0usize..120, any::<u8>()), 0..6),
            signals in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut header = template.as_bytes().to_vec();
            for (at, byte) in edits {
                let at = at % header.len();
                header[at] = byte;
            }
            write(dir.path(), "r.hea", &header);
            for name in ["r.dat", "r.mat"] {
                write(dir.path(), name, &signals);
            }
            if let Ok(record) = read(&dir.path().join("r.hea")) {
                let samples = record.signals.iter().map(|signal| signal.samples.len()).max();
                prop_assert!(samples.is_none_or(|samples| samples <= signals.len()));
                // too few leads or too short is an answer too
                let _ = record.context();
            }
        }
    }

    #[test]
    fn format_80_is_offset_binary() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "r.hea", b"r 1 250 3\nr.dat 80 10/mV 8 0 0 0 0 II\n");
        write(dir.path(), "r.dat", &[128, 138, 0]);
        let record = read(&dir.path().join("r.hea")).unwrap();
        assert_eq!(record.signals[0].samples, [Some(0), Some(10), None]);
        assert!((record.signal_uv(0)[1] - 1000.0).abs() < 1e-3);
    }

    #[test]
    fn a_matlab_v4_matrix_is_read_lead_by_lead() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            "A1.hea",
            b"A1 2 500 3\nA1.mat 16+24 1000/mV 16 0 0 0 0 I\nA1.mat 16+24 1000/mV 16 0 0 0 0 II\n#Age: 70\n",
        );
        let mut bytes: Vec<u8> = [30i32, 2, 3, 0, 4].iter().flat_map(|v| v.to_le_bytes()).collect();
        bytes.extend_from_slice(b"val\0");
        bytes.extend([1i16, -1, 2, -2, 3, -3].iter().flat_map(|v| v.to_le_bytes()));
        write(dir.path(), "A1.mat", &bytes);
        let record = read(&dir.path().join("A1.hea")).unwrap();
        assert_eq!(record.signals[0].samples, [Some(1), Some(2), Some(3)]);
        assert_eq!(record.signals[1].samples, [Some(-1), Some(-2), Some(-3)]);
    }

    #[test]
    fn bytes_before_the_samples_are_skipped_and_files_may_be_several() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            "r.hea",
            b"r 2 500 2\na.dat 16x1:0+3 1000/mV 16 0 0 0 0 I\nb.dat 16 1000/uV 16 0 0 0 0 II\n",
        );
        write(dir.path(), "a.dat", &[9, 9, 9, 1, 0, 2, 0]);
        write(dir.path(), "b.dat", &[0, 128, 255, 255]);
        let record = read(&dir.path().join("r.hea")).unwrap();
        assert_eq!(record.signals[0].samples, [Some(1), Some(2)]);
        assert_eq!(record.signals[1].samples, [None, Some(-1)]);
        assert!((record.signal_uv(1)[1] + 0.001).abs() < 1e-9);
    }

    #[test]
    fn leads_are_placed_by_name_and_the_limb_leads_derived() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            "r.hea",
            b"r 2 500 5000\nr.dat 16 1000/mV 16 0 0 0 0 ii\nr.dat 16 1000/mV 16 0 0 0 0 I\n",
        );
        let bytes: Vec<u8> = (0..5000i16)
            .flat_map(|i| [(i % 100).to_le_bytes(), (i % 7).to_le_bytes()].concat())
            .collect();
        write(dir.path(), "r.dat", &bytes);
        let context = read(&dir.path().join("r.hea")).unwrap().context().unwrap();
        assert_eq!(context.samples_uv[Lead::II.index()][99], 99.0);
        assert_eq!(context.samples_uv[Lead::I.index()][99], 1.0);
        assert_eq!(context.samples_uv[Lead::III.index()][99], 98.0);
        assert_eq!(context.origin[Lead::III.index()], LeadOrigin::Derived);
        assert_eq!(context.origin[Lead::V1.index()], LeadOrigin::Missing);
    }

    #[test]
    fn windows_of_a_long_recording_have_their_context_and_end_with_it() {
        let lead: Vec<f32> = (0..12_000).map(|i| i as f32).collect();
        let leads = Leads {
            name: "long".into(),
            rate_hz: 360.0,
            samples_uv: vec![lead; LEADS],
            origin: [LeadOrigin::Measured; LEADS],
            at_rail: Default::default(),
        };
        let middle = leads.context(5000).unwrap();
        assert_eq!((middle.before, middle.after), (2500, 2000));
        assert_eq!(middle.samples_uv[3][middle.before], 5000.0);
        assert_eq!(middle.samples_uv[3].len(), 2500 + SEGMENT_SAMPLES + 2000);
        assert!(leads.context(7000).is_some() && leads.context(7001).is_none());
    }

    #[test]
    fn errors_name_the_file_and_the_value() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "r.hea", b"r 1 500 10\nr.dat 16 1000/mV 16 0 0 0 0 I\n");
        write(dir.path(), "r.dat", &[0; 6]);
        let short = read(&dir.path().join("r.hea")).unwrap_err().to_string();
        assert!(
            short.contains("r.dat") && short.contains('6') && short.contains("20"),
            "{short}"
        );
        write(dir.path(), "x.hea", b"x 1 fast 10\nx.dat 16 1000/mV 16 0 0 0 0 I\n");
        let rate = read(&dir.path().join("x.hea")).unwrap_err().to_string();
        assert!(rate.contains("fast") && rate.contains("line 1"), "{rate}");
        write(dir.path(), "y.hea", b"y 1 500 10\ny.dat 310 1000/mV 16 0 0 0 0 I\n");
        write(dir.path(), "y.dat", &[0; 20]);
        assert!(read(&dir.path().join("y.hea")).unwrap_err().to_string().contains("310"));
        write(dir.path(), "z.hea", b"z 1 500 10\nz.dat 16x4 1000/mV 16 0 0 0 0 I\n");
        let frames = read(&dir.path().join("z.hea")).unwrap_err().to_string();
        assert!(
            frames.contains("samples per frame") && frames.contains("line 2"),
            "{frames}"
        );
        write(dir.path(), "m.hea", b"m/2 1 500 10\nm1 5\nm2 5\n");
        assert!(read(&dir.path().join("m.hea")).unwrap_err().to_string().contains("m/2"));
    }
}
