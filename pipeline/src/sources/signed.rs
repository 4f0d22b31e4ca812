//! Signed reports joined with the segments that they are about.
//!
//! Place: under `sources`; `topics` reads the same from Kafka. Layout of a directory: signed.jsonl (one signed report a
//! line, as on `ecg.signed-reports.v1`) and segments/ID.pb (Protobuf, as on `ecg.segments.v1`).
//! Invariant: of a segment's reports the latest version decides alone; only an accepted or edited one with consent, about a
//! segment that the gate accepted and whose samples are those that were reported on, is a candidate.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use ecg::report::{SignAction, SignedReport};
use ecg::segment::{Decision, Segment};

use super::wfdb::lines;
use super::{Candidate, Origin, Sourced, Waveform, patient_hash};
use crate::text_rules::{self, Drop};

const REPORTS: &str = "signed.jsonl";
const SEGMENTS: &str = "segments";

/// The latest version of each segment's report.
#[derive(Default)]
pub(super) struct Latest {
    reports: BTreeMap<String, SignedReport>,
    superseded: usize,
    /// Segments of which an earlier version was signed.
    once_signed: std::collections::BTreeSet<String>,
}

impl Latest {
    pub fn take(&mut self, report: SignedReport) {
        let id = report.segment_id.clone();
        if report.action != SignAction::Rejected {
            self.once_signed.insert(id.clone());
        }
        let order = |r: &SignedReport| (r.version, r.signed_at_us);
        match self.reports.get(&id) {
            Some(held) if order(held) > order(&report) => self.superseded += 1,
            held => {
                self.superseded += usize::from(held.is_some());
                self.reports.insert(id, report);
            }
        }
    }

    /// Reports that may be used, by segment; every other one is counted.
    pub fn usable(self, sourced: &mut Sourced) -> BTreeMap<String, SignedReport> {
        for _ in 0..self.superseded {
            sourced.drop(Drop::Superseded);
        }
        let mut usable = BTreeMap::new();
        for (id, report) in self.reports {
            if report.action == SignAction::Rejected {
                let withdrawn = self.once_signed.contains(&id);
                sourced.drop(if withdrawn { Drop::Withdrawn } else { Drop::Rejected });
            } else if !report.training_consent {
                sourced.drop(Drop::NoConsent);
            } else {
                usable.insert(id, report);
            }
        }
        usable
    }
}

pub(super) fn read(dir: &Path) -> anyhow::Result<Sourced> {
    let mut latest = Latest::default();
    lines::<SignedReport>(&dir.join(REPORTS))?
        .into_iter()
        .for_each(|r| latest.take(r));
    let mut sourced = Sourced::default();
    for (id, report) in latest.usable(&mut sourced) {
        let path = dir.join(SEGMENTS).join(format!("{id}.pb"));
        if !path.is_file() {
            sourced.drop(Drop::NoRecording);
            continue;
        }
        let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let segment = Segment::decode(&bytes).map_err(|_| Drop::Unreadable);
        sourced.add(segment.and_then(|segment| candidate(report, segment)));
    }
    Ok(sourced)
}

/// A signed report with its segment.
pub(super) fn candidate(report: SignedReport, mut segment: Segment) -> Result<Candidate, Drop> {
    if segment.decision != Decision::Accept {
        return Err(Drop::Gate);
    }
    let sha256 = ecg::id::samples_sha256(&[&segment.raw, &segment.filtered]);
    let stated = [&segment.samples_sha256, &report.segment_sha256];
    if segment.id != report.segment_id || stated.iter().any(|s| !s.is_empty() && **s != sha256) {
        return Err(Drop::HashMismatch);
    }
    // only the filtered samples are needed from here on
    segment.raw = Vec::new();
    Ok(Candidate {
        id: format!("segment/{}", segment.id),
        // a bed's stream stands in for an unknown patient, so that neighbouring windows stay in one split
        patient_hash: match &report.patient {
            Some(pseudonym) => patient_hash("signed", pseudonym),
            None => patient_hash("stream", &segment.stream_id),
        },
        origin: match report.action {
            SignAction::Edited => Origin::Edited,
            _ => Origin::Accepted,
        },
        split: None,
        report: text_rules::report([report.text.as_str()])?,
        labels: Default::default(),
        strata: Vec::new(),
        waveform: Waveform::Segment(Box::new(segment)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(stream: &str, decision: Decision) -> Segment {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/ptbxl/records500/00000/00020_hr.hea");
        let mut context = ecg::wfdb::read(&shipped).unwrap().context().unwrap();
        context.stream_id = stream.to_owned();
        let segment = ecg::dsp::analyse(&context, &ecg::dsp::DspConfig::default());
        Segment { decision, ..segment }
    }

    fn line(segment: &Segment, action: &str, version: u32, extra: &str) -> String {
        format!(
            r#"{{"draft_id":"d","segment_id":"{}","text":"Sinus rhythm, normal ECG.","action":"{action}","signer":"dr-1","role":"r","signed_at_us":{version},"training_consent":true,"version":{version}{extra}}}"#,
            segment.id
        )
    }

    #[test]
    fn only_the_latest_signed_consented_and_accepted_is_a_candidate() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(SEGMENTS)).unwrap();
        let beds: Vec<Segment> = (0..6).map(|i| segment(&format!("bed-{i}"), Decision::Accept)).collect();
        let marginal = segment("bed-9", Decision::Marginal);
        for s in beds[..5].iter().chain([&marginal]) {
            std::fs::write(dir.path().join(SEGMENTS).join(format!("{}.pb", s.id)), s.encode()).unwrap();
        }
        let lines = [
            line(&beds[0], "edited", 2, r#","patient":"p""#),
            line(&beds[0], "accepted", 1, ""),
            line(&beds[1], "accepted", 1, ""),
            line(&beds[1], "rejected", 2, ""),
            line(&beds[2], "rejected", 1, ""),
            line(&beds[3], "accepted", 1, "").replace("\"training_consent\":true", "\"training_consent\":false"),
            line(&beds[4], "accepted", 1, r#","segment_sha256":"00""#),
            line(&beds[5], "accepted", 1, ""),
            line(&marginal, "accepted", 1, ""),
        ];
        std::fs::write(dir.path().join(REPORTS), lines.join("\n")).unwrap();
        let sourced = read(dir.path()).unwrap();
        let [only] = &sourced.candidates[..] else {
            panic!("{} candidates", sourced.candidates.len())
        };
        assert_eq!(only.origin, Origin::Edited);
        assert_eq!(only.patient_hash, patient_hash("signed", "p"));
        assert_eq!(only.id, format!("segment/{}", beds[0].id));
        let dropped: Vec<_> = sourced.dropped.into_iter().collect();
        let one = |why| (why, 1);
        assert_eq!(
            dropped,
            [
                one(Drop::NoRecording),
                one(Drop::Gate),
                one(Drop::Rejected),
                one(Drop::Withdrawn),
                (Drop::Superseded, 2),
                one(Drop::NoConsent),
                one(Drop::HashMismatch)
            ]
        );
    }
}
