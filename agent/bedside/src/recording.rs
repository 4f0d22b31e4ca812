//! A recording to replay: ten seconds of named leads at 500 Hz, centred.
//!
//! Place: read once at start; `plan` deals the recordings out to the beds, `replay` plays them.
//! Invariant: exactly 5000 samples a lead. Recordings are played one after another with no fade; instead each lead's
//! median is subtracted, so that the joint is no step of the electrode offset. What remains is honest: at a joint one
//! patient's heart stops in mid-beat and another's begins, and context that reaches over a joint shows it.

use std::path::{Path, PathBuf};

use ecg::SEGMENT_SAMPLES;
use ecg::lead::Lead;
use ecg::limb;
use ecg::segment::LeadOrigin;

use crate::BedsideError;

/// A recording, ready to be played.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The record's name, from its header.
    pub name: String,
    /// The header's path.
    pub header: PathBuf,
    /// The header's comments.
    pub comments: Vec<String>,
    /// The leads that the recording itself has, in the standard order: 5000 samples at 500 Hz, microvolts, centred,
    /// NaN where invalid.
    pub leads: Vec<(Lead, Vec<f32>)>,
}

impl Recording {
    /// Reads the first ten seconds of a WFDB recording of any rate.
    ///
    /// # Errors
    /// [`BedsideError::Recording`] when it cannot be read, [`BedsideError::TooShort`] when it is shorter than 10 s.
    pub fn load(header: &Path) -> Result<Self, BedsideError> {
        let of_file = |source| BedsideError::Recording {
            header: header.to_owned(),
            source,
        };
        let record = ecg::wfdb::read(header).map_err(of_file)?;
        let context = record.context().map_err(of_file)?;
        let window = context.before..context.before + SEGMENT_SAMPLES;
        let mut leads = Vec::new();
        for lead in Lead::ALL {
            if context.origin[lead.index()] != LeadOrigin::Measured {
                continue;
            }
            let samples = context.samples_uv[lead.index()].get(window.clone());
            let samples = samples.ok_or_else(|| BedsideError::TooShort {
                header: header.to_owned(),
            })?;
            leads.push((lead, samples.to_vec()));
        }
        centre(&mut leads);
        Ok(Self {
            name: record.name,
            header: header.to_owned(),
            comments: record.comments,
            leads,
        })
    }
}

/// Headers named by `paths`: a header itself, or every header under a directory, sorted.
///
/// # Errors
/// [`BedsideError::Read`] when a directory cannot be read, [`BedsideError::NoRecordings`] when nothing is found.
pub fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, BedsideError> {
    let mut headers = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut inside = Vec::new();
            walk(path, &mut inside)?;
            inside.sort();
            headers.extend(inside);
        } else {
            headers.push(path.clone());
        }
    }
    if headers.is_empty() {
        return Err(BedsideError::NoRecordings { paths: paths.to_vec() });
    }
    Ok(headers)
}

fn walk(directory: &Path, headers: &mut Vec<PathBuf>) -> Result<(), BedsideError> {
    let of_directory = |source| BedsideError::Read {
        path: directory.to_owned(),
        source,
    };
    for entry in std::fs::read_dir(directory).map_err(of_directory)? {
        let path = entry.map_err(of_directory)?.path();
        if path.is_dir() {
            walk(&path, headers)?;
        } else if path.extension().is_some_and(|extension| extension == "hea") {
            headers.push(path);
        }
    }
    Ok(())
}

/// Subtracts each lead's median. Where I and II are there, the offsets of the other limb leads follow from theirs, so
/// Einthoven's and Goldberger's identities survive.
fn centre(leads: &mut [(Lead, Vec<f32>)]) {
    let mut offsets = vec![vec![f32::NAN]; ecg::LEADS];
    let mut origin = [LeadOrigin::Missing; ecg::LEADS];
    let both = [Lead::I, Lead::II]
        .iter()
        .all(|limb| leads.iter().any(|(lead, _)| lead == limb));
    for (lead, samples) in leads.iter() {
        if !both || is_independent(*lead) {
            offsets[lead.index()] = vec![median(samples)];
            origin[lead.index()] = LeadOrigin::Measured;
        }
    }
    if both {
        limb::derive(&mut offsets, &mut origin);
    }
    for (lead, samples) in leads {
        let offset = offsets[lead.index()][0];
        samples.iter_mut().for_each(|sample| *sample -= offset);
    }
}

/// True for the eight leads from which the other four follow.
pub(crate) fn is_independent(lead: Lead) -> bool {
    !matches!(lead, Lead::III | Lead::AVR | Lead::AVL | Lead::AVF)
}

/// Median of the finite samples; 0 when there are none.
fn median(samples: &[f32]) -> f32 {
    let mut finite: Vec<f32> = samples.iter().copied().filter(|sample| sample.is_finite()).collect();
    finite.sort_by(f32::total_cmp);
    finite.get(finite.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn centring_removes_the_offset_and_keeps_the_identities() {
        let i: Vec<f32> = (0..100).map(|at| 300.0 + (at % 7) as f32).collect();
        let ii: Vec<f32> = (0..100).map(|at| -50.0 + (at % 11) as f32).collect();
        let iii = i.iter().zip(&ii).map(|(i, ii)| ii - i).collect();
        let v1 = vec![f32::NAN, 5.0, 5.0, 6.0];
        let mut leads = vec![(Lead::I, i), (Lead::II, ii), (Lead::III, iii), (Lead::V1, v1)];
        centre(&mut leads);
        assert_eq!(median(&leads[0].1), 0.0);
        assert_eq!(leads[3].1[1..], [0.0, 0.0, 1.0]);
        for at in 0..100 {
            assert_eq!(leads[2].1[at], leads[1].1[at] - leads[0].1[at]);
        }
    }

    #[test]
    fn headers_are_found_sorted_and_an_empty_directory_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(
            find(&[directory.path().into()]),
            Err(BedsideError::NoRecordings { .. })
        ));
        std::fs::create_dir(directory.path().join("b")).unwrap();
        for name in ["z.hea", "a.hea", "a.dat", "b/c.hea"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let found = find(&[directory.path().into(), "named.hea".into()]).unwrap();
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, ["a.hea", "c.hea", "z.hea", "named.hea"]);
    }
}
