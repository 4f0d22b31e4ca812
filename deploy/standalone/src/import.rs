//! Recordings of other formats for `meit report`: EDF and EDF+, and DICOM ECG waveforms; WFDB where a file is neither.
//!
//! Place: before `ecg::wfdb`'s [`Record`], which every format becomes. Invariant: the format is known by a file's first bytes,
//! never by its name; signals are placed by their names or codes, never by position; no patient and no date is read; what is
//! missing or out of its bounds is an error that names the file, the field and the bound, never a guess and never a panic.

mod dicom;
mod edf;
mod elements;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ecg::wfdb::Record;

/// Sampling rates that an ECG can have; beyond them a header is damaged.
const RATES_HZ: std::ops::RangeInclusive<f64> = 50.0..=20_000.0;
const RATES_BOUND: &str = "50 to 20,000 Hz";
/// Largest file of these formats that is read.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Why a file is no recording that can be read.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is too large.
    #[error("{path} has {bytes} bytes, at most {FILE_BYTES_MAX} are read")]
    Size {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// A field is missing or out of its bounds.
    #[error("{path}: {field} is {value}: {bound}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What was there.
        value: String,
        /// What is allowed.
        bound: &'static str,
    },
}

/// What reading one file needs to say what is wrong with it.
#[derive(Clone, Copy)]
struct Place<'a>(&'a Path);

impl Place<'_> {
    fn wrong(self, field: &'static str, value: impl ToString, bound: &'static str) -> ImportError {
        ImportError::Field {
            path: self.0.to_owned(),
            field,
            value: value.to_string().chars().take(80).collect(),
            bound,
        }
    }
}

/// Reads a recording of any known format. WFDB tools name a recording by its header without the extension; both are taken.
///
/// # Errors
/// What cannot be read, with the file, the field and the bound.
pub fn read(path: &Path) -> anyhow::Result<Record> {
    let start = beginning(path).unwrap_or_default();
    if dicom::is_dicom(&start) {
        return Ok(dicom::read(path)?);
    }
    if edf::is_edf(&start) {
        return Ok(edf::read(path)?);
    }
    let header = header_path(path);
    ecg::wfdb::read(&header).with_context(|| format!("read recording {}", header.display()))
}

/// The first bytes of a file, as many as the formats are known by.
fn beginning(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path)?.take(256).read_to_end(&mut start)?;
    Ok(start)
}

/// All bytes of a file that is not too large.
fn whole(path: &Path) -> Result<Vec<u8>, ImportError> {
    let failed = |source| ImportError::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        let path = path.to_owned();
        return Err(ImportError::Size { path, bytes });
    }
    std::fs::read(path).map_err(failed)
}

fn header_path(record: &Path) -> PathBuf {
    let is_header = record.extension().is_some_and(|e| e.eq_ignore_ascii_case("hea"));
    if is_header {
        return record.to_owned();
    }
    let mut name = record.as_os_str().to_owned();
    name.push(".hea");
    PathBuf::from(name)
}

/// The file's name without folders and extension; that is all a recording is called.
fn name_of(path: &Path) -> String {
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn shipped(file: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/data")
            .join(file)
    }

    #[test]
    fn a_recording_is_named_with_or_without_its_extension() {
        assert_eq!(header_path(Path::new("a/00009_hr")), Path::new("a/00009_hr.hea"));
        assert_eq!(header_path(Path::new("a/00009_hr.hea")), Path::new("a/00009_hr.hea"));
    }

    #[test]
    fn one_recording_is_the_same_ecg_as_wfdb_and_as_edf() {
        let wfdb = read(&shipped("ptbxl/records500/00000/00020_hr")).unwrap();
        let edf = read(&shipped("edf/00020_hr.edf")).unwrap();
        assert_eq!((edf.rate_hz, edf.signals.len()), (500.0, 12));
        for (index, (one, other)) in wfdb.signals.iter().zip(&edf.signals).enumerate() {
            assert_eq!(format!("ECG {}", one.name), other.name);
            for (a, b) in wfdb.signal_uv(index).iter().zip(edf.signal_uv(index)) {
                assert!((a - b).abs() < 1e-3, "{}: {a} and {b} uV", one.name);
            }
        }
        let analysed = |record: &Record| {
            let segment = ecg::dsp::analyse(&record.context().unwrap(), &ecg::dsp::DspConfig::default());
            (segment.decision, segment.measurements.heart_rate_bpm)
        };
        assert_eq!(analysed(&wfdb), analysed(&edf));
    }

    #[test]
    fn what_is_no_recording_is_an_error_and_no_panic() {
        for path in ["/nonexistent", "Cargo.toml", env!("CARGO_MANIFEST_DIR")] {
            assert!(read(Path::new(path)).is_err(), "{path}");
        }
    }

    /// Cut off anywhere, with bytes changed anywhere: read or refused, without a panic and without much memory.
    #[test]
    fn damaged_files_are_read_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        for (file, header) in [("edf/00020_hr.edf", 3584), ("dicom/waveform_ecg.dcm", 4200)] {
            let whole = std::fs::read(shipped(file)).unwrap();
            let path = directory.path().join("damaged");
            let mut refused = 0;
            for round in 0..300 {
                let mut bytes = whole.clone();
                if round % 3 == 0 {
                    bytes.truncate(rng.random_range(0..bytes.len()));
                }
                let reach = header.min(bytes.len());
                for _ in 0..rng.random_range(0..6) {
                    if reach > 0 {
                        bytes[rng.random_range(0..reach)] = rng.random();
                    }
                }
                std::fs::write(&path, &bytes).unwrap();
                match read(&path) {
                    Ok(record) => {
                        assert!(record.rate_hz.is_finite() && record.rate_hz > 0.0);
                        for index in 0..record.signals.len() {
                            assert!(
                                record.signal_uv(index).iter().all(|uv| !uv.is_infinite()),
                                "{file} {round}"
                            );
                        }
                        // fewer leads or seconds than needed is an error there, not a panic
                        if round % 10 == 0 {
                            drop(record.context());
                        }
                    }
                    Err(error) => {
                        refused += 1;
                        assert!(!format!("{error:#}").is_empty());
                    }
                }
            }
            assert!(refused > 75, "{file}: only {refused} of 300 were refused");
        }
    }
}
