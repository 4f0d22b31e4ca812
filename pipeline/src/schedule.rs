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
}
