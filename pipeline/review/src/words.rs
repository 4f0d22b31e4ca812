//! Numbers and reasons as people read them.
//!
//! Place: beside the tracing, on the review page and in `meit report`.
//! Invariant: what is not known is a dash, never a number.

use ecg::segment::{LeadOrigin, Measurements, Reason};
use service::time::iso_8601;

/// Names and values of the measurements, as they are printed.
pub fn measured(m: &Measurements) -> [(&'static str, String); 7] {
    let number = |value: Option<f32>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.0}"));
    let with = |value: Option<f32>, unit: &str| match value {
        Some(_) => format!("{} {unit}", number(value)),
        None => "-".to_owned(),
    };
    [
        ("Heart rate", with(m.heart_rate_bpm, "bpm")),
        ("PR", with(m.pr_ms, "ms")),
        ("QRS", with(m.qrs_ms, "ms")),
        ("QT / QTc", format!("{} / {}", number(m.qt_ms), with(m.qtc_ms, "ms"))),
        (
            "QRS axis",
            m.axis_degrees.map_or_else(|| "-".to_owned(), |v| format!("{v:.0}°")),
        ),
        ("RR spread", with(m.rr_sd_ms, "ms")),
        ("Beats", m.beats.to_string()),
    ]
}

/// Reasons as words, or `none` when there are none.
pub fn reasons(reasons: &[Reason], none: &str) -> String {
    if reasons.is_empty() {
        return none.to_owned();
    }
    let words: Vec<String> = reasons.iter().map(|r| r.as_str().replace('_', " ")).collect();
    words.join(", ")
}

/// Where a lead comes from, in a word.
pub fn origin(origin: LeadOrigin) -> &'static str {
    match origin {
        LeadOrigin::Measured => "measured",
        LeadOrigin::Derived => "derived",
        LeadOrigin::Reconstructed => "reconstructed",
        LeadOrigin::Missing => "missing",
    }
}

/// A time in microseconds since the Unix epoch as "2026-01-31 23:59:59 UTC".
pub fn utc(time_us: i64) -> String {
    let iso = iso_8601(time_us);
    format!("{} {} UTC", &iso[..10], &iso[11..19])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_measurable_is_a_dash() {
        let values = measured(&Measurements::default());
        assert!(values[..3].iter().all(|(_, value)| value == "-"));
        assert_eq!(values[3].1, "- / -");
    }

    #[test]
    fn a_time_is_read_as_a_date_and_a_time_of_day() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
    }
}
