//! Numbers and reasons as people read them.
//!
//! Place: beside the tracing, on the review page and in `meit report`.
//! Invariant: what is not known is a dash, never a number.

use ecg::segment::{LeadOrigin, Measurements, Reason};

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

/// A time in microseconds since the Unix epoch as "2026-01-31T23:59:59.000Z"; years 0 to 9999, others are cut to these.
pub fn iso_8601(time_us: i64) -> String {
    const DAY_MS: i64 = 86_400_000;
    let ms = time_us.div_euclid(1000).clamp(-62_167_219_200_000, 253_402_300_799_999);
    let (days, ms) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    // civil date of a day number: Howard Hinnant, chrono-compatible low-level date algorithms, days_from_civil inverted
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z", ms % 1000)
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
    fn times_are_read_as_dates() {
        // `date -u -d @1709210096 +%FT%T`
        assert_eq!(iso_8601(1_709_210_096_789_000), "2024-02-29T12:34:56.789Z");
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(iso_8601(-1000), "1969-12-31T23:59:59.999Z");
        assert_eq!(iso_8601(i64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(iso_8601(i64::MIN), "0000-01-01T00:00:00.000Z");
    }
}
