//! ECG paper: twelve leads true to scale, as SVG.
//!
//! Place: the tracing of the review page and of `meit report --svg`. All lengths are millimetres of paper.
//! Invariant: the paper is true to scale (25 mm/s, 10 mm/mV); a lead that must not be read is grey, a missing one is named
//! and not drawn. Layout: the usual 3 x 4 columns of 2.5 s that run on in time, and a rhythm strip of 10 s, each row behind
//! a calibration pulse of 1 mV for 200 ms.

use std::fmt::Write as _;
use std::ops::Range;

use ecg::lead::Lead;
use ecg::segment::{LeadOrigin, Segment};
use ecg::{LEADS, SAMPLE_RATE_HZ, SEGMENT_SAMPLES};

/// Millimetres of paper a second.
pub const MM_PER_SECOND: f64 = 25.0;
/// Millimetres of paper a millivolt.
pub const MM_PER_MV: f64 = 10.0;
const MM_PER_SAMPLE: f64 = MM_PER_SECOND / SAMPLE_RATE_HZ;

/// Width of a sheet, millimetres: 55 bold squares.
pub const SHEET_WIDTH: f64 = 275.0;
/// Height of a sheet, millimetres.
pub const SHEET_HEIGHT: f64 = 130.0;
/// The traces begin three bold squares in, right of the calibration pulse.
const TRACE_LEFT: f64 = 15.0;
const ROW_PITCH: f64 = 30.0;
const FIRST_BASELINE: f64 = 20.0;
const COLUMNS: usize = 4;
const ROWS: usize = LEADS / COLUMNS;
const COLUMN_SAMPLES: usize = SEGMENT_SAMPLES / COLUMNS;

const INK: &str = "#14141c";
const UNREADABLE_INK: &str = "#9a8f96";
/// Style sheet of the text on a sheet.
pub const STYLE: &str = "text{font-family:Helvetica,Arial,'Liberation Sans','DejaVu Sans',sans-serif;fill:#14141c}\
.lead{font-size:3.6px;font-weight:bold;paint-order:stroke;stroke:#fffafa;stroke-width:.9px}\
.snr{font-size:2.4px;font-weight:normal;fill:#555}";

/// Which samples of a segment are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Samples {
    /// As they came.
    Raw,
    /// After the filter chain.
    Filtered,
}

/// A document that is one sheet.
pub fn document(segment: &Segment, samples: Samples) -> String {
    let mut out = String::with_capacity(512 * 1024);
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{SHEET_WIDTH}mm\" height=\"{SHEET_HEIGHT}mm\" \
         viewBox=\"0 0 {SHEET_WIDTH} {SHEET_HEIGHT}\">\n<title>12-lead ECG</title>\n<style>{STYLE}</style>"
    );
    sheet(&mut out, segment, samples);
    out.push_str("</svg>\n");
    out
}

/// Draws a sheet of [`SHEET_WIDTH`] x [`SHEET_HEIGHT`] millimetres with its corner at the origin.
pub fn sheet(out: &mut String, segment: &Segment, samples: Samples) {
    grid(out);
    traces(out, segment, samples);
}

/// Paper of 1 mm and 5 mm squares; every line is one move and one stroke of a path.
fn grid(out: &mut String) {
    let _ = writeln!(
        out,
        "<rect width=\"{SHEET_WIDTH}\" height=\"{SHEET_HEIGHT}\" fill=\"#fffafa\"/>"
    );
    for (step, colour, width) in [(1, "#f7cfcf", 0.1), (5, "#eda3a3", 0.2)] {
        let mut lines = String::new();
        for x in (0..=SHEET_WIDTH as usize).step_by(step) {
            let _ = write!(lines, "M{x} 0v{SHEET_HEIGHT}");
        }
        for y in (0..=SHEET_HEIGHT as usize).step_by(step) {
            let _ = write!(lines, "M0 {y}h{SHEET_WIDTH}");
        }
        let _ = writeln!(
            out,
            "<path d=\"{lines}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
        );
    }
    let _ = writeln!(
        out,
        "<clipPath id=\"paper\"><rect width=\"{SHEET_WIDTH}\" height=\"{SHEET_HEIGHT}\"/></clipPath>"
    );
}

fn baseline(row: usize) -> f64 {
    FIRST_BASELINE + ROW_PITCH * row as f64
}

fn traces(out: &mut String, segment: &Segment, samples: Samples) {
    out.push_str("<g clip-path=\"url(#paper)\">\n");
    for row in 0..=ROWS {
        calibration(out, baseline(row));
    }
    for (position, lead) in Lead::ALL.into_iter().enumerate() {
        let (column, y) = (position / ROWS, baseline(position % ROWS));
        let from = column * COLUMN_SAMPLES;
        trace(out, segment, samples, lead, from..from + COLUMN_SAMPLES, y);
        if column > 0 {
            let x = TRACE_LEFT + from as f64 * MM_PER_SAMPLE;
            let (above, below) = (y - 7.5, y + 4.5);
            let _ = writeln!(
                out,
                "<path d=\"M{x} {above}v3M{x} {below}v3\" stroke=\"{INK}\" stroke-width=\".3\"/>"
            );
        }
    }
    trace(
        out,
        segment,
        samples,
        rhythm_lead(segment),
        0..SEGMENT_SAMPLES,
        baseline(ROWS),
    );
    out.push_str("</g>\n");
    for (position, lead) in Lead::ALL.into_iter().enumerate() {
        let x = TRACE_LEFT + (position / ROWS * COLUMN_SAMPLES) as f64 * MM_PER_SAMPLE;
        name(out, segment, lead, x, baseline(position % ROWS));
    }
    name(out, segment, rhythm_lead(segment), TRACE_LEFT, baseline(ROWS));
}

/// Lead II, or the first that is there.
fn rhythm_lead(segment: &Segment) -> Lead {
    let there = |lead: &Lead| segment.quality[lead.index()].origin != LeadOrigin::Missing;
    [Lead::II].into_iter().chain(Lead::ALL).find(there).unwrap_or(Lead::II)
}

/// One millivolt for 200 ms.
fn calibration(out: &mut String, y: f64) {
    let _ = writeln!(
        out,
        "<path d=\"M2.5 {y}h2.5v-{MM_PER_MV}h5v{MM_PER_MV}h2.5\" fill=\"none\" stroke=\"{INK}\" stroke-width=\".3\"/>"
    );
}

/// A stretch of a lead at its own place in time; a lead that must not be read is grey, a missing one is not drawn.
fn trace(out: &mut String, segment: &Segment, samples: Samples, lead: Lead, stretch: Range<usize>, y: f64) {
    let quality = &segment.quality[lead.index()];
    if quality.origin == LeadOrigin::Missing {
        return;
    }
    let units = match samples {
        Samples::Raw => &segment.raw,
        Samples::Filtered => &segment.filtered,
    };
    let mm_per_unit = f64::from(segment.uv_per_unit) / 1000.0 * MM_PER_MV;
    let first = lead.index() * SEGMENT_SAMPLES;
    let mut points = String::with_capacity(stretch.len() * 12);
    for sample in stretch {
        let x = TRACE_LEFT + sample as f64 * MM_PER_SAMPLE;
        let value = f64::from(units[first + sample]) * mm_per_unit;
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
fn name(out: &mut String, segment: &Segment, lead: Lead, x: f64, y: f64) {
    let quality = &segment.quality[lead.index()];
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::segment;

    fn polylines(drawing: &str) -> Vec<Vec<(f64, f64)>> {
        let lines = drawing.lines().filter(|line| line.starts_with("<polyline"));
        let point = |point: &str| {
            let (x, y) = point.split_once(',').unwrap();
            (x.parse().unwrap(), y.parse().unwrap())
        };
        lines
            .map(|line| line.split('"').nth(1).unwrap().split(' ').map(point).collect())
            .collect()
    }

    #[test]
    fn every_lead_and_the_rhythm_strip_are_drawn_to_scale() {
        let mut segment = segment("bed-01", 0);
        segment.filtered[Lead::II.index() * SEGMENT_SAMPLES] = 1000;
        segment.uv_per_unit = 1.0;
        let drawn = polylines(&document(&segment, Samples::Filtered));
        assert_eq!(drawn.len(), LEADS + 1);
        assert!(drawn[..LEADS].iter().all(|points| points.len() == COLUMN_SAMPLES));
        let strip = &drawn[LEADS];
        let (first, last) = (strip[0], strip[SEGMENT_SAMPLES - 1]);
        assert!((last.0 - first.0 - 249.95).abs() < 0.011, "10 s are 250 mm");
        assert!((baseline(ROWS) - first.1 - 10.0).abs() < 0.011, "1 mV is 10 mm");
    }

    #[test]
    fn raw_and_filtered_samples_are_different_drawings() {
        let mut segment = segment("bed-01", 0);
        segment.raw[0] = 500;
        assert_ne!(document(&segment, Samples::Raw), document(&segment, Samples::Filtered));
    }

    #[test]
    fn a_missing_lead_is_named_and_not_drawn() {
        let mut segment = segment("bed-01", 0);
        segment.quality[Lead::II.index()].origin = LeadOrigin::Missing;
        let drawing = document(&segment, Samples::Filtered);
        let drawn = polylines(&drawing).len();
        assert_eq!(drawn, LEADS, "eleven leads and lead I as rhythm strip");
        assert!(drawing.contains(">missing<"));
    }
}
