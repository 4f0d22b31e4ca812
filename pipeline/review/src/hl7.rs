//! A report as HL7 v2.5.1 ORU^R01, out and in.
//!
//! Place: out at `/api/drafts/{id}/hl7`; in at `/api/hl7`, where a hospital's report system sends what a clinician signed
//! there. Invariant: OBX-11 and OBR-25 of a draft are `R` (not verified); `F`, `C` and `X` come from a signature alone. A
//! message that is not wholly understood is refused with `AE` and changes nothing. No patient: no PID segment goes out, and
//! none that comes in is read.
//!
//! Source: HL7 v2.5.1 chapter 2 (encoding, acknowledgement), chapter 7 (ORU, OBR, OBX; tables 0085 and 0123).

use ecg::report::{SignAction, SignedReport};

use service::time::iso_8601;

use crate::fhir::measured;
use crate::signing::Verdict;
use crate::worklist::Entry;

/// Largest message that is read, bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
const VERSION: &str = "2.5.1";
/// OBX-3 of the report's text.
const IMPRESSION: &str = "18844-1";

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Hl7Error {
    /// It does not begin as a message does.
    #[error("message does not begin with MSH and its separators")]
    Header,
    /// A segment is not there.
    #[error("message has no {0} segment")]
    Segment(&'static str),
    /// A field has no value, or one that is not understood.
    #[error("{field} is {value:?}, {want}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it has to be.
        want: &'static str,
    },
}

/// What a report system says about a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// OBR-3: the draft.
    pub draft_id: String,
    /// What was decided there.
    pub verdict: Verdict,
    /// True when OBR-25 says that it corrects an earlier signature.
    pub corrects: bool,
    /// MSH-3, the system that sent it.
    pub sender: String,
    /// MSH-10, its number there.
    pub control_id: String,
}

/// The message of a draft or a signed report; `now_us` is when it is made, microseconds since the Unix epoch.
pub fn message(entry: &Entry, now_us: i64) -> String {
    let draft = &entry.draft;
    let signed = entry.signed.as_deref();
    let status = status(signed);
    let end_us = draft.start_time_us.saturating_add(10_000_000);
    let version = signed.map_or(0, |report| report.version);
    let issued = signed.map(|report| timestamp(report.signed_at_us)).unwrap_or_default();
    let signer = signed.map(|report| escape(&report.signer)).unwrap_or_default();
    let mut segments = vec![
        format!(
            "MSH|^~\\&|MEIT||||{}||ORU^R01^ORU_R01|{}-{version}|P|{VERSION}||||||UNICODE UTF-8",
            timestamp(now_us),
            draft.draft_id.get(..16).unwrap_or(&draft.draft_id)
        ),
        // OBR-22 issued, 24 section, 25 status, 32 interpreter
        format!(
            "OBR|1||{}^MEIT|11524-6^EKG study^LN|||{}|{}||||||||||||||{issued}||EC|{status}|||||||{signer}",
            escape(&draft.draft_id),
            timestamp(draft.start_time_us),
            timestamp(end_us)
        ),
    ];
    let text = match signed {
        Some(report) if report.action == SignAction::Rejected => None,
        Some(report) => Some(report.text.as_str()),
        None => draft.text.as_deref(),
    };
    let device = escape(&draft.stream_id);
    let mut obx = |kind: &str, code: &str, name: &str, value: &str, unit: &str| {
        let number = segments.len() - 1;
        let unit = if unit.is_empty() {
            String::new()
        } else {
            format!("{unit}^{unit}^UCUM")
        };
        segments.push(format!(
            "OBX|{number}|{kind}|{code}^{name}^LN||{value}|{unit}|||||{status}|||{}||||{device}",
            timestamp(draft.start_time_us)
        ));
    };
    if let Some(text) = text {
        obx("TX", IMPRESSION, "EKG impression", &escape(text), "");
    }
    for (code, name, unit, value) in measured(&draft.measurements) {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            obx("NM", code, name, &format!("{value:.0}"), unit);
        }
    }
    segments.join("\r") + "\r"
}

/// Table 0085, a part of table 0123: not verified, final, corrected, cancelled.
fn status(signed: Option<&SignedReport>) -> &'static str {
    match signed {
        None => "R",
        Some(report) if report.action == SignAction::Rejected => "X",
        Some(report) if report.version > 1 => "C",
        Some(_) => "F",
    }
}

/// "20260131235959.000+0000".
fn timestamp(time_us: i64) -> String {
    let iso = iso_8601(time_us);
    let digits: String = iso.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
    digits + "+0000"
}

/// Text as a field's value: separators as escapes, line ends as `\.br\`.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' => out.push_str("\\F\\"),
            '^' => out.push_str("\\S\\"),
            '~' => out.push_str("\\R\\"),
            '\\' => out.push_str("\\E\\"),
            '&' => out.push_str("\\T\\"),
            '\n' => out.push_str("\\.br\\"),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// The inverse of [`escape`]; an escape that is not known is left out.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let Some((code, behind)) = after.split_once('\\') else {
            return out;
        };
        match code {
            "F" => out.push('|'),
            "S" => out.push('^'),
            "R" => out.push('~'),
            "E" => out.push('\\'),
            "T" => out.push('&'),
            ".br" => out.push('\n'),
            _ => {}
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// Fields of one segment; `field(1)` is the first behind the name.
struct Fields<'a>(Vec<&'a str>);

impl<'a> Fields<'a> {
    fn field(&self, number: usize) -> &'a str {
        self.0.get(number).copied().unwrap_or_default()
    }

    /// The first component of a field.
    fn first(&self, number: usize) -> &'a str {
        self.field(number).split('^').next().unwrap_or_default()
    }
}

/// Segments of a message, in order. MSH-1 is the separator itself, so MSH is shifted to keep the numbers of the standard.
fn segments(message: &str) -> Result<Vec<Fields<'_>>, Hl7Error> {
    if !message.starts_with("MSH|^~\\&") {
        return Err(Hl7Error::Header);
    }
    let lines = message.split(['\r', '\n']).filter(|line| !line.is_empty());
    Ok(lines
        .map(|line| {
            let mut parts: Vec<&str> = line.split('|').collect();
            if parts[0] == "MSH" {
                parts.insert(1, "|");
            }
            Fields(parts)
        })
        .collect())
}

/// Reads an ORU^R01 about one of our drafts.
///
/// # Errors
/// [`Hl7Error`] names the first thing that is missing or not understood.
pub fn read(message: &str) -> Result<Received, Hl7Error> {
    let segments = segments(message)?;
    let find = |name: &'static str| {
        let found = segments.iter().find(|segment| segment.0[0] == name);
        found.ok_or(Hl7Error::Segment(name))
    };
    let wrong = |field, value: &str, want| Hl7Error::Field {
        field,
        value: value.chars().take(80).collect(),
        want,
    };
    let msh = find("MSH")?;
    if !msh.field(9).starts_with("ORU^R01") {
        return Err(wrong("MSH-9", msh.field(9), "only ORU^R01 is read"));
    }
    let control_id = msh.field(10);
    if control_id.is_empty() {
        return Err(wrong("MSH-10", "", "a message needs a control id"));
    }
    if segments.iter().filter(|segment| segment.0[0] == "OBR").count() > 1 {
        return Err(wrong("OBR-1", "2", "one report a message is read"));
    }
    let obr = find("OBR")?;
    let draft_id = unescape(obr.first(3));
    if draft_id.is_empty() {
        return Err(wrong("OBR-3", "", "it has to be the id of a draft"));
    }
    let status = obr.field(25);
    let text = segments
        .iter()
        .filter(|segment| segment.0[0] == "OBX" && segment.first(3) == IMPRESSION)
        .flat_map(|segment| segment.field(5).split('~').map(unescape))
        .collect::<Vec<_>>()
        .join("\n");
    let verdict = match status {
        "F" | "C" if text.trim().is_empty() => {
            return Err(wrong(
                "OBX-5",
                "",
                "a final report needs the text of its impression (18844-1)",
            ));
        }
        "F" | "C" => Verdict::Sign { text },
        "X" => Verdict::Reject {
            reason: if text.trim().is_empty() {
                "cancelled in the report system".to_owned()
            } else {
                text
            },
        },
        _ => return Err(wrong("OBR-25", status, "only F, C and X are read")),
    };
    Ok(Received {
        draft_id,
        verdict,
        corrects: status == "C",
        sender: unescape(msh.first(3)),
        control_id: unescape(control_id),
    })
}

/// The acknowledgement of a message: `AA` when it was taken, `AE` with the reason when not.
pub fn acknowledgement(message: &str, result: Result<(), &str>, now_us: i64) -> String {
    let header = segments(message).ok();
    let msh = header.as_ref().and_then(|segments| segments.first());
    let field = |number| msh.map(|msh| msh.field(number)).unwrap_or_default();
    let (code, text) = match result {
        Ok(()) => ("AA", ""),
        Err(text) => ("AE", text),
    };
    let (sender, facility, control) = (field(3), field(4), field(10));
    let now = timestamp(now_us);
    let own = format!("{}{code}", now_us.unsigned_abs());
    format!(
        "MSH|^~\\&|MEIT||{sender}|{facility}|{now}||ACK^R01^ACK|{own}|P|{VERSION}||||||UNICODE UTF-8\r\
         MSA|{code}|{control}|{}\r",
        escape(text)
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::{entry, signed};

    fn field(message: &str, segment: &str, number: usize) -> String {
        let segments = segments(message).unwrap();
        let found = segments.iter().find(|fields| fields.0[0] == segment).unwrap();
        found.field(number).to_owned()
    }

    #[test]
    fn a_draft_is_not_verified_and_a_signature_changes_that() {
        let mut entry = entry("bed-01", Some("sinus rhythm"));
        let draft = message(&entry, 0);
        assert_eq!(
            (field(&draft, "OBR", 25), field(&draft, "OBX", 11)),
            ("R".into(), "R".into())
        );
        assert_eq!(field(&draft, "OBR", 22), "");
        assert_eq!(field(&draft, "OBR", 7), "20231114221320.000+0000");
        assert_eq!(field(&draft, "OBX", 18), "bed-01");
        assert!(!draft.contains("PID|"));
        for (version, action, status) in [
            (1, SignAction::Accepted, "F"),
            (2, SignAction::Edited, "C"),
            (1, SignAction::Rejected, "X"),
        ] {
            let mut report = signed(&entry.draft, version);
            report.action = action;
            entry.signed = Some(Arc::new(report));
            let message = message(&entry, 0);
            assert_eq!(
                (field(&message, "OBR", 25), field(&message, "OBX", 11)),
                (status.into(), status.into())
            );
            assert_eq!(field(&message, "OBR", 32), "dr-1");
            assert_eq!(message.contains(IMPRESSION), action != SignAction::Rejected);
        }
    }

    #[test]
    fn a_signed_report_reads_back_from_its_message() {
        let mut entry = entry("bed-01", Some("sinus rhythm"));
        let mut report = signed(&entry.draft, 1);
        report.text = "rate | 60 ^ & ~ \\ end\nsecond line µ".to_owned();
        entry.signed = Some(Arc::new(report.clone()));
        let received = read(&message(&entry, 0)).unwrap();
        assert_eq!(received.verdict, Verdict::Sign { text: report.text });
        assert_eq!(
            (received.draft_id, received.corrects),
            (entry.draft.draft_id.clone(), false)
        );
        assert_eq!(received.sender, "MEIT");
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let good = message(&entry("bed-01", Some("sinus rhythm")), 0);
        let cases = [
            ("PID|1", "MSH and its separators"),
            (&good, "OBR-25 is \"R\""),
            (&good.replace("ORU^R01", "ADT^A01"), "MSH-9"),
            (&good.replace("|R|", "|F|").replace("sinus rhythm", ""), "OBX-5"),
            (&good.replace("OBR|", "OBQ|"), "no OBR"),
            (&format!("{good}OBR|2\r"), "one report a message"),
        ];
        for (message, words) in cases {
            let error = read(message).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            let answer = acknowledgement(message, Err(&error), 0);
            assert!(answer.contains("\rMSA|AE|"), "{answer}");
        }
    }

    #[test]
    fn an_acknowledgement_names_the_message() {
        let message = "MSH|^~\\&|EPIC|SITE|MEIT||20260101||ORU^R01^ORU_R01|c-17|P|2.5.1\rOBR|1||d^MEIT\r";
        let answer = acknowledgement(message, Ok(()), 5);
        assert_eq!(field(&answer, "MSA", 1), "AA");
        assert_eq!(field(&answer, "MSA", 2), "c-17");
        assert_eq!(field(&answer, "MSH", 5), "EPIC");
    }
}
