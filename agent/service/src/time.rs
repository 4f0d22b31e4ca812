//! The clock, and times as text.
//!
//! Place: wherever a process says or compares when something was. Invariant: times are microseconds since the Unix epoch;
//! only the functions named `now` read a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, microseconds since the Unix epoch; 0 before it.
pub fn now_us() -> i64 {
    now().as_micros() as i64
}

/// Now, seconds since the Unix epoch; 0 before it.
pub fn now_seconds() -> f64 {
    now().as_secs_f64()
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
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

/// The UTC day of a time, "2026-01-31"; years as of [`iso_8601`].
pub fn day(time_us: i64) -> String {
    let mut iso = iso_8601(time_us);
    iso.truncate(10);
    iso
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_dates() {
        // `date -u -d @1709210096 +%FT%T`
        assert_eq!(iso_8601(1_709_210_096_789_000), "2024-02-29T12:34:56.789Z");
        assert_eq!(iso_8601(-1000), "1969-12-31T23:59:59.999Z");
        assert_eq!(iso_8601(i64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(iso_8601(i64::MIN), "0000-01-01T00:00:00.000Z");
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        // date -u -d @SECONDS +%F
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_795_521_600, "2026-11-24"),
            (4_102_444_799, "2099-12-31"),
        ] {
            assert_eq!(day(seconds * 1_000_000), expected);
        }
    }
}
