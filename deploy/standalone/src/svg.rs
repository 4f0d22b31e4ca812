//! The printout: twelve leads on ECG paper with measurements and the draft, as SVG.
//!
//! Place: the end of `meit report --svg`, around the sheet of `review::paper`. All lengths are millimetres of paper; the page
//! is A4 landscape and grows only downwards with a long draft. Invariant: the paper is true to scale when printed at 100 %,
//! and the draft is marked as not reviewed.

use std::fmt::Write as _;

use ecg::LEADS;
use ecg::segment::Decision;
use review::paper::{self, MM_PER_MV, MM_PER_SECOND, SHEET_HEIGHT, SHEET_WIDTH, Samples};
use review::words::{measured, reasons};

use crate::report::{DRAFT_HEADING, Reading, wrap};

const PAGE_WIDTH: f64 = 297.0;
const PAGE_HEIGHT_MIN: f64 = 210.0;
/// Left edge of paper and text.
const LEFT: f64 = 11.0;
const HEADER_HEIGHT_MIN: f64 = 62.0;
const FOOTER_HEIGHT: f64 = 14.0;

/// Left edges of the header's second and third column.
const DECISION_LEFT: f64 = 74.0;
const DRAFT_LEFT: f64 = 136.0;
const LINE_HEIGHT: f64 = 5.0;
/// First line under the header's heading.
const TEXT_TOP: f64 = 22.0;
/// Characters that fit a column at the header's font size in the widest of the usual sans-serif fonts.
const DRAFT_CHARACTERS: usize = 76;
const DECISION_CHARACTERS: usize = 27;

const STYLE: &str = "text{font-size:3.5px}.title{font-size:5px;font-weight:bold}.label{fill:#666}\
.small{font-size:2.6px;fill:#555}.draft{font-weight:bold;fill:#b00020}";

/// Draws the printout of a reading.
pub fn draw(reading: &Reading) -> String {
    let draft = wrap(&reading.draft_or_why(), DRAFT_CHARACTERS);
    let header_height = HEADER_HEIGHT_MIN.max(TEXT_TOP + LINE_HEIGHT * draft.len() as f64 + 12.0);
    let height = PAGE_HEIGHT_MIN.max(header_height + SHEET_HEIGHT + FOOTER_HEIGHT);
    let mut out = String::with_capacity(512 * 1024);
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{PAGE_WIDTH}mm\" height=\"{height}mm\" \
         viewBox=\"0 0 {PAGE_WIDTH} {height}\">\n<title>ECG {}</title>\n<style>{}{STYLE}</style>\n\
         <rect width=\"{PAGE_WIDTH}\" height=\"{height}\" fill=\"#fff\"/>",
        escape(&reading.name),
        paper::STYLE
    );
    header(&mut out, reading, &draft, header_height);
    let _ = writeln!(out, "<g transform=\"translate({LEFT} {header_height})\">");
    paper::sheet(&mut out, &reading.segment, Samples::Filtered);
    out.push_str("</g>\n");
    footer(&mut out, reading, header_height + SHEET_HEIGHT + 5.0);
    out.push_str("</svg>\n");
    out
}

fn header(out: &mut String, reading: &Reading, draft: &[String], height: f64) {
    text(out, LEFT, 12.0, "title", &format!("12-lead ECG {}", reading.name));
    let mut y = TEXT_TOP;
    for (name, value) in measured(&reading.segment.measurements) {
        text(out, LEFT, y, "label", name);
        text(out, LEFT + 24.0, y, "value", &value);
        y += LINE_HEIGHT;
    }
    decision(out, reading);
    let _ = writeln!(
        out,
        "<rect x=\"{}\" y=\"6\" width=\"{}\" height=\"{}\" rx=\"1.5\" fill=\"#fffdfd\" stroke=\"#b00020\" \
         stroke-width=\".35\"/>",
        DRAFT_LEFT - 4.0,
        LEFT + SHEET_WIDTH - DRAFT_LEFT + 4.0,
        height - 10.0
    );
    text(out, DRAFT_LEFT, 13.0, "draft", DRAFT_HEADING);
    for (i, line) in draft.iter().enumerate() {
        text(out, DRAFT_LEFT, TEXT_TOP + LINE_HEIGHT * i as f64, "value", line);
    }
    text(out, DRAFT_LEFT, height - 7.0, "small", &reading.lineage());
}

fn decision(out: &mut String, reading: &Reading) {
    let segment = &reading.segment;
    let colour = match segment.decision {
        Decision::Accept => "#1b7f3b",
        Decision::Marginal => "#b26a00",
        Decision::Reject => "#b00020",
    };
    let _ = writeln!(
        out,
        "<text x=\"{DECISION_LEFT}\" y=\"{TEXT_TOP}\" style=\"fill:{colour};font-weight:bold\">Decision: {}</text>",
        segment.decision.as_str()
    );
    let usable = segment.quality.iter().filter(|q| q.usable).count();
    let mut lines = vec![format!("{usable} of {LEADS} leads readable")];
    lines.push(match median_snr_db(reading) {
        Some(db) => format!("median SNR {db:.0} dB"),
        None => "SNR unknown".to_owned(),
    });
    lines.extend(wrap(&reasons(&segment.reasons, "no remarks"), DECISION_CHARACTERS));
    for (i, line) in lines.iter().enumerate() {
        text(
            out,
            DECISION_LEFT,
            TEXT_TOP + LINE_HEIGHT * (i + 1) as f64,
            "value",
            line,
        );
    }
}

fn median_snr_db(reading: &Reading) -> Option<f32> {
    let mut known: Vec<f32> = reading.segment.quality.iter().filter_map(|q| q.snr_db).collect();
    known.sort_by(f32::total_cmp);
    known.get(known.len() / 2).copied()
}

fn footer(out: &mut String, reading: &Reading, y: f64) {
    let notch = match reading.segment.measurements.mains_hz {
        Some(hz) => format!("notch {hz:.0} Hz"),
        None => "no notch".to_owned(),
    };
    let scales = format!(
        "{MM_PER_SECOND} mm/s · {MM_PER_MV} mm/mV · {}-{} Hz zero phase · {notch}",
        reading.dsp.high_pass_hz, reading.dsp.low_pass_hz
    );
    text(out, LEFT, y, "small", &scales);
    let segment = &reading.segment;
    let source = format!(
        "sampled at {} Hz · chain {}/{} · segment {}",
        segment.source_rate_hz, segment.chain, segment.chain_version, segment.id
    );
    let _ = writeln!(
        out,
        "<text class=\"small\" x=\"{}\" y=\"{y}\" text-anchor=\"end\">{}</text>",
        LEFT + SHEET_WIDTH,
        escape(&source)
    );
}

fn text(out: &mut String, x: f64, y: f64, class: &str, content: &str) {
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>",
        escape(content)
    );
}

/// XML text: markup characters as entities, control characters dropped.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars().filter(|c| !c.is_control()) {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::reading;

    #[test]
    fn the_draft_is_marked_and_escaped() {
        let drawing = draw(&reading(Some("rate < 60 & regular"), Decision::Accept));
        assert!(drawing.contains("DRAFT - not reviewed by a clinician"));
        assert!(drawing.contains("rate &lt; 60 &amp; regular"));
    }

    #[test]
    fn a_long_draft_makes_the_page_longer_and_covers_nothing() {
        let long = "sinus rhythm. ".repeat(100);
        let drawing = draw(&reading(Some(&long), Decision::Accept));
        let height: f64 = drawing
            .split("height=\"")
            .nth(1)
            .unwrap()
            .split("mm")
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert!(height > PAGE_HEIGHT_MIN);
    }
}
