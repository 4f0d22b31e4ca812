//! The printout: twelve leads on ECG paper with measurements and the draft, as SVG.
//!
//! Place: the end of `meit report --svg`. All lengths are millimetres of paper; the page is A4 landscape and grows only
//! downwards with a long draft. Invariant: the paper is true to scale (25 mm/s, 10 mm/mV, printed at 100 %), and the draft is
//! marked as not reviewed. Layout: the usual 3 x 4 columns of 2.5 s that run on in time, and a rhythm strip of 10 s.

use std::fmt::Write as _;
use std::ops::Range;

use ecg::lead::Lead;
use ecg::segment::{Decision, LeadOrigin};
use ecg::{LEADS, SAMPLE_RATE_HZ, SEGMENT_SAMPLES};

use crate::report::{DRAFT_HEADING, Reading, measured, reasons, wrap};

const MM_PER_SECOND: f64 = 25.0;
const MM_PER_MV: f64 = 10.0;
const MM_PER_SAMPLE: f64 = MM_PER_SECOND / SAMPLE_RATE_HZ;

const PAGE_WIDTH: f64 = 297.0;
const PAGE_HEIGHT_MIN: f64 = 210.0;
/// Left edge of paper and text; the paper is 55 bold squares wide.
const LEFT: f64 = 11.0;
const GRID_WIDTH: f64 = 275.0;
const GRID_HEIGHT: f64 = 130.0;
/// The traces begin three bold squares in, right of the calibration pulse.
const TRACE_LEFT: f64 = LEFT + 15.0;
const ROW_PITCH: f64 = 30.0;
const FIRST_BASELINE: f64 = 20.0;
const COLUMNS: usize = 4;
const COLUMN_SAMPLES: usize = SEGMENT_SAMPLES / COLUMNS;
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

const INK: &str = "#14141c";
const UNREADABLE_INK: &str = "#9a8f96";
const STYLE: &str = "text{font-family:Helvetica,Arial,'Liberation Sans','DejaVu Sans',sans-serif;font-size:3.5px;fill:#14141c}\
.title{font-size:5px;font-weight:bold}.label{fill:#666}.small{font-size:2.6px;fill:#555}\
.lead{font-size:3.6px;font-weight:bold;paint-order:stroke;stroke:#fffafa;stroke-width:.9px}\
.snr{font-size:2.4px;font-weight:normal;fill:#555}\
.draft{font-weight:bold;fill:#b00020}";

/// Draws the printout of a reading.
pub fn draw(reading: &Reading) -> String {
    let draft = wrap(&reading.draft_or_why(), DRAFT_CHARACTERS);
    let header_height = HEADER_HEIGHT_MIN.max(TEXT_TOP + LINE_HEIGHT * draft.len() as f64 + 12.0);
    let height = PAGE_HEIGHT_MIN.max(header_height + GRID_HEIGHT + FOOTER_HEIGHT);
    let mut out = String::with_capacity(512 * 1024);
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{PAGE_WIDTH}mm\" height=\"{height}mm\" \
         viewBox=\"0 0 {PAGE_WIDTH} {height}\">\n<title>ECG {}</title>\n<style>{STYLE}</style>\n\
         <rect width=\"{PAGE_WIDTH}\" height=\"{height}\" fill=\"#fff\"/>",
        escape(&reading.name)
    );
    header(&mut out, reading, &draft, header_height);
    grid(&mut out, header_height);
    traces(&mut out, reading, header_height);
    footer(&mut out, reading, header_height + GRID_HEIGHT + 5.0);
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
        LEFT + GRID_WIDTH - DRAFT_LEFT + 4.0,
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

/// Paper of 1 mm and 5 mm squares; every line is one move and one stroke of a path.
fn grid(out: &mut String, top: f64) {
    let _ = writeln!(
        out,
        "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{GRID_WIDTH}\" height=\"{GRID_HEIGHT}\" fill=\"#fffafa\"/>"
    );
    for (step, colour, width) in [(1, "#f7cfcf", 0.1), (5, "#eda3a3", 0.2)] {
        let mut lines = String::new();
        for x in (0..=GRID_WIDTH as usize).step_by(step) {
            let _ = write!(lines, "M{} {top}v{GRID_HEIGHT}", LEFT + x as f64);
        }
        for y in (0..=GRID_HEIGHT as usize).step_by(step) {
            let _ = write!(lines, "M{LEFT} {}h{GRID_WIDTH}", top + y as f64);
        }
        let _ = writeln!(
            out,
            "<path d=\"{lines}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
        );
    }
    let _ = writeln!(
        out,
        "<clipPath id=\"paper\"><rect x=\"{LEFT}\" y=\"{top}\" width=\"{GRID_WIDTH}\" height=\"{GRID_HEIGHT}\"/></clipPath>"
    );
}

fn traces(out: &mut String, reading: &Reading, top: f64) {
    let baseline = |row: usize| top + FIRST_BASELINE + ROW_PITCH * row as f64;
    let rows = LEADS / COLUMNS;
    out.push_str("<g clip-path=\"url(#paper)\">\n");
    for row in 0..=rows {
        calibration(out, baseline(row));
    }
    for (position, lead) in Lead::ALL.into_iter().enumerate() {
        let (column, row) = (position / rows, position % rows);
        let from = column * COLUMN_SAMPLES;
        trace(out, reading, lead, from..from + COLUMN_SAMPLES, baseline(row));
        if column > 0 {
            let x = TRACE_LEFT + from as f64 * MM_PER_SAMPLE;
            let y = baseline(row);
            let _ = writeln!(
                out,
                "<path d=\"M{x} {}v3M{x} {}v3\" stroke=\"{INK}\" stroke-width=\".3\"/>",
                y - 7.5,
                y + 4.5
            );
        }
    }
    trace(out, reading, rhythm_lead(reading), 0..SEGMENT_SAMPLES, baseline(rows));
    out.push_str("</g>\n");
    for (position, lead) in Lead::ALL.into_iter().enumerate() {
        let x = TRACE_LEFT + (position / rows * COLUMN_SAMPLES) as f64 * MM_PER_SAMPLE;
        name(out, reading, lead, x, baseline(position % rows));
    }
    name(out, reading, rhythm_lead(reading), TRACE_LEFT, baseline(rows));
}

/// Lead II, or the first that is there.
fn rhythm_lead(reading: &Reading) -> Lead {
    let there = |lead: &Lead| reading.segment.quality[lead.index()].origin != LeadOrigin::Missing;
    [Lead::II].into_iter().chain(Lead::ALL).find(there).unwrap_or(Lead::II)
}

/// One millivolt for 200 ms.
fn calibration(out: &mut String, y: f64) {
    let _ = writeln!(
        out,
        "<path d=\"M{} {y}h2.5v-{MM_PER_MV}h5v{MM_PER_MV}h2.5\" fill=\"none\" stroke=\"{INK}\" stroke-width=\".3\"/>",
        LEFT + 2.5
    );
}

/// A stretch of a lead at its own place in time; a lead that must not be read is grey, a missing one is not drawn.
fn trace(out: &mut String, reading: &Reading, lead: Lead, samples: Range<usize>, y: f64) {
    let segment = &reading.segment;
    let quality = &segment.quality[lead.index()];
    if quality.origin == LeadOrigin::Missing {
        return;
    }
    let mm_per_unit = f64::from(segment.uv_per_unit) / 1000.0 * MM_PER_MV;
    let first = lead.index() * SEGMENT_SAMPLES;
    let mut points = String::with_capacity(samples.len() * 12);
    for sample in samples {
        let x = TRACE_LEFT + sample as f64 * MM_PER_SAMPLE;
        let value = f64::from(segment.filtered[first + sample]) * mm_per_unit;
        let _ = write!(points, "{x:.2},{:.2} ", y - value);
    }
    let ink = if quality.usable { INK } else { UNREADABLE_INK };
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{ink}\" stroke-width=\".28\" stroke-linejoin=\"round\"/>",
        points.trim_end()
    );
}

/// A lead's name with its signal-to-noise ratio.
fn name(out: &mut String, reading: &Reading, lead: Lead, x: f64, y: f64) {
    let quality = &reading.segment.quality[lead.index()];
    let snr = match (quality.origin, quality.snr_db) {
        (LeadOrigin::Missing, _) => "missing".to_owned(),
        (_, Some(db)) => format!("{db:.0} dB"),
        (_, None) => "SNR unknown".to_owned(),
    };
    let _ = writeln!(
        out,
        "<text class=\"lead\" x=\"{}\" y=\"{}\">{}<tspan class=\"snr\" dx=\"1.2\">{snr}</tspan></text>",
        x + 1.0,
        y - 8.5,
        lead.name()
    );
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
        LEFT + GRID_WIDTH,
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
    fn every_lead_and_the_rhythm_strip_are_drawn_to_scale() {
        let drawing = draw(&reading(Some("sinus rhythm."), Decision::Accept));
        let lines: Vec<&str> = drawing.lines().filter(|line| line.starts_with("<polyline")).collect();
        assert_eq!(lines.len(), LEADS + 1);
        let points = |line: &str| line.split('"').nth(1).unwrap().split(' ').count();
        assert!(lines[..LEADS].iter().all(|line| points(line) == COLUMN_SAMPLES));
        assert_eq!(points(lines[LEADS]), SEGMENT_SAMPLES);
        let ends: Vec<f64> = lines[LEADS]
            .split('"')
            .nth(1)
            .unwrap()
            .split(' ')
            .map(|point| point.split(',').next().unwrap().parse().unwrap())
            .collect();
        assert!(
            (ends[SEGMENT_SAMPLES - 1] - ends[0] - 249.95).abs() < 0.011,
            "10 s are 250 mm"
        );
    }

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

    #[test]
    fn a_missing_lead_is_named_and_not_drawn() {
        let mut reading = reading(None, Decision::Reject);
        reading.segment.quality[Lead::II.index()].origin = LeadOrigin::Missing;
        let drawing = draw(&reading);
        assert_eq!(
            drawing.matches("<polyline").count(),
            LEADS,
            "eleven leads and lead I as rhythm strip"
        );
        assert!(drawing.contains(">missing<"));
    }
}
