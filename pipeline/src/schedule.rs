//! When the job runs, in UTC.
//!
//! Place: `meit-pipeline daemon --at HH:MM`. Invariant: pure; a run is named by its UTC day, so a daemon that restarts goes on
//! with the same run.

use std::str::FromStr;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

const MINUTE_US: i64 = 60_000_000;
const DAY_US: i64 = 24 * 60 * MINUTE_US;

/// A time of day in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct At {
    minutes: i64,
}

impl At {
    /// The first such time after `now_us`, microseconds since the Unix epoch.
    pub fn after(self, now_us: i64) -> i64 {
        let today = now_us.div_euclid(DAY_US) * DAY_US + self.minutes * MINUTE_US;
        if today > now_us { today } else { today + DAY_US }
    }
}

impl FromStr for At {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let numbers = text.split_once(':').and_then(|(h, m)| {
            let digits = |s: &str| (s.len() == 2).then(|| s.parse::<i64>().ok()).flatten();
            Some((digits(h)?, digits(m)?))
        });
        let (hours, minutes) = numbers.with_context(|| format!("time is {text:?}: expected HH:MM in UTC"))?;
        ensure!(
            (0..24).contains(&hours) && (0..60).contains(&minutes),
            "time is {text:?}: expected 00:00 to 23:59"
        );
        Ok(Self {
            minutes: hours * 60 + minutes,
        })
    }
}

impl TryFrom<String> for At {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

impl From<At> for String {
    fn from(at: At) -> Self {
        format!("{:02}:{:02}", at.minutes / 60, at.minutes % 60)
    }
}

/// The UTC day of a time, "2026-11-24".
pub fn day(now_us: i64) -> String {
    // days to a date: Hinnant, "chrono-compatible low-level date algorithms", civil_from_days
    let z = now_us.div_euclid(DAY_US) + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Now, microseconds since the Unix epoch.
pub fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_micros() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_run_is_today_or_tomorrow() {
        let at: At = "02:30".parse().unwrap();
        let half_past_two = 150 * MINUTE_US;
        assert_eq!(at.after(0), half_past_two);
        assert_eq!(at.after(half_past_two), half_past_two + DAY_US);
        assert_eq!(at.after(half_past_two - 1), half_past_two);
        assert_eq!(String::from(at), "02:30");
    }

    #[test]
    fn a_wrong_time_is_named() {
        for text in ["2:30", "24:00", "02:60", "noon", ""] {
            let error = text.parse::<At>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
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
