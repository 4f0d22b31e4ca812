//! One draft as the demo shows it, for people or for machines.
//!
//! Place: between a draft report and the terminal. Invariant: shows the recording's own report beside the draft, never in it.

use std::collections::BTreeMap;

use bedside::recording::Recording;
use ecg::report::DraftReport;
use serde::Serialize;

/// A draft with the report of the recording that played.
pub struct Seen<'a> {
    draft: &'a DraftReport,
    record: Option<String>,
    reference: Option<&'a str>,
}

impl<'a> Seen<'a> {
    /// `references` maps record names to their reports.
    pub fn new(
        draft: &'a DraftReport,
        recording: Option<&Recording>,
        references: &'a BTreeMap<String, String>,
    ) -> Self {
        let record = recording.map(|r| r.name.clone());
        let reference = record
            .as_ref()
            .and_then(|name| references.get(name))
            .map(String::as_str);
        Self {
            draft,
            record,
            reference,
        }
    }

    /// From the last packet's gateway time to the draft, milliseconds.
    pub fn latency_ms(&self) -> f64 {
        self.draft.latencies_ms.last_sample_to_draft
    }

    fn median_snr_db(&self) -> Option<f32> {
        let mut known: Vec<f32> = self.draft.snr_db.iter().flatten().copied().collect();
        known.sort_by(f32::total_cmp);
        known.get(known.len() / 2).copied()
    }

    fn reasons(&self) -> Vec<&'static str> {
        self.draft.reasons.iter().map(|reason| reason.as_str()).collect()
    }
}

/// The JSON object of one draft.
#[derive(Serialize)]
pub struct Line<'a> {
    stream_id: &'a str,
    segment_id: &'a str,
    start_sample: i64,
    decision: &'static str,
    reasons: Vec<&'static str>,
    heart_rate_bpm: Option<f32>,
    snr_db: [Option<f32>; ecg::LEADS],
    text: Option<&'a str>,
    abstain: Option<&'a str>,
    contradictions: &'a [String],
    record: Option<&'a str>,
    reference: Option<&'a str>,
    bundle_id: &'a str,
    latency_ms: f64,
}

/// The draft for machines.
pub fn json<'a>(seen: &'a Seen<'a>) -> Line<'a> {
    let draft = seen.draft;
    Line {
        stream_id: &draft.stream_id,
        segment_id: &draft.segment_id,
        start_sample: draft.start_sample,
        decision: draft.decision.as_str(),
        reasons: seen.reasons(),
        heart_rate_bpm: draft.measurements.heart_rate_bpm,
        snr_db: draft.snr_db,
        text: draft.text.as_deref(),
        abstain: draft.abstain.as_deref(),
        contradictions: &draft.contradictions,
        record: seen.record.as_deref(),
        reference: seen.reference,
        bundle_id: &draft.bundle.bundle_id,
        latency_ms: seen.latency_ms(),
    }
}

/// The draft for people: bed, stream time, heart rate, SNR and decision; the draft; the recording's own report under it.
pub fn text(seen: &Seen) -> String {
    let draft = seen.draft;
    let seconds = draft.start_sample as f64 / ecg::SAMPLE_RATE_HZ;
    let number = |value: Option<f32>, unit: &str| value.map_or(format!("- {unit}"), |v| format!("{v:.0} {unit}"));
    let mut head = format!(
        "{} {:02}:{:02} · {} · SNR {} · {}",
        draft.stream_id,
        (seconds / 60.0) as u64,
        (seconds % 60.0) as u64,
        number(draft.measurements.heart_rate_bpm, "bpm"),
        number(seen.median_snr_db(), "dB"),
        draft.decision.as_str()
    );
    if !draft.reasons.is_empty() {
        head += &format!(" ({})", seen.reasons().join(", "));
    }
    let body = match (&draft.text, &draft.abstain) {
        (Some(text), _) => text.clone(),
        (None, Some(reason)) => format!("abstained: {reason}"),
        (None, None) => "no text".to_owned(),
    };
    let mut lines = format!("{head}\n  draft      {body}");
    for contradiction in &draft.contradictions {
        lines += &format!("\n  check      {contradiction}");
    }
    let record = seen.record.as_deref().unwrap_or("-");
    lines
        + &format!(
            "\n  report     {} [{record}]",
            seen.reference.unwrap_or("no report of this recording is shipped")
        )
}
