//! Stamps, dates and broken characters of PTB-XL's source reports.
//!
//! Place: before language detection. Invariant: the result is lower case with single spaces; every pattern here was seen in
//! PTB-XL's `report` column.

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::pattern;

/// Source texts are cut at 255 characters; one this long lost its end unless it closes with the device's stamp.
const CUT: usize = 250;
/// A text this long that ends in "4" or "4.4" lost the end of the stamp "4.46 unconfirmed report".
const STAMP_CUT: usize = 240;

const DATE: &str = r"\d{1,2}[:./]\d{1,2}[:.,/]\d{2,4}";

/// A cleaned source text.
pub(super) struct Clean {
    pub text: String,
    /// True when the end was cut off.
    pub cut: bool,
}

static STAMPS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        r"\b4\.4\d?\s+unbest[a-zäöü]*(?:\s+b[a-z]*)?",
        r"\b4\.4\d?\s+unconf[a-z]*(?:\s+r[a-z]*)?",
        r"\b4\.46\s+u[a-zäöü]*\b",
        r"\b4\.46\b",
        r"unconfirmed report",
        r"unbestätigter bericht",
        r"trace only requested",
        r"please ignore this\b",
        r"\bnr:.*?\bmed:",
        r"\bnan\b",
        r"\*\*\*",
        r"=-",
        r"\bversion \d[\d.]*",
        r"\bips-ekg vom (?=\d)",
    ]
    .map(pattern)
    .into()
});

static DATES: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    let dates = format!(r"(?:(?:\d{{1,2}}(?:[:./]\d{{1,2}})?(?:[:.,/]\d{{2}})? ?(?:&|and) ?)?{DATE})");
    let tracing = r"\b(tracings?|traces?|ecgs?)(,? dated| of| submitted,? dated)? +(?:the )?";
    vec![
        (pattern(&format!("{tracing}{dates}")), "previous $1"),
        (pattern(&format!(r"\b(submitted tracing) dated {dates}")), "$1"),
        (
            pattern(&format!(r"\b(?:that )?submitted,? dated {dates}")),
            "that submitted",
        ),
        (
            pattern(&format!(r"\b(similar to|since|than on)(?: that of)? {dates}")),
            "$1 previous tracing",
        ),
        (
            pattern(&format!(r"\b(tracings of) \d{{1,2}}:\d and {DATE}")),
            "previous tracings",
        ),
        (pattern(&format!(r"(?:\b(?:on|dated|of|vom)\s+)?\b{DATE}:?")), " "),
    ]
});

static EDIT: LazyLock<Regex> = LazyLock::new(|| pattern(r"\bedit\s*:"));
static STAMPED: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b4\.4\d?\s+u[a-zäöü]*|\b4\.46\b"));
static SPACES: LazyLock<Regex> = LazyLock::new(|| pattern(r"\s+"));
static SIX_DIGITS: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b9[0-9][01]\d[0-3]\d\b"));
static STAMP_TAIL: LazyLock<Regex> = LazyLock::new(|| pattern(r" 4(\.4?)?$"));
static MOJIBAKE: LazyLock<Regex> = LazyLock::new(|| pattern(r"ó[½¬¿©]"));
static SPLITS: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    vec![
        (
            pattern(r"(?<=[a-zäöü])- (?!(?:und|bis|oder|eller|och|u)\b)(?=[a-zäöü])"),
            "-",
        ),
        (pattern(r"\b(i{1,3})(av[rlf])\b"), "$1, $2"),
        (pattern(r"\binv (?=\d)"), "in v"),
        (pattern(r"\bin(?=v\d|i{1,2}\b)"), "in "),
    ]
});

/// Lower case, without stamps and dates.
pub(super) fn clean(report: &str) -> Clean {
    let lower = report.to_lowercase();
    let before_edit: &str = match EDIT.find(&lower) {
        Ok(Some(found)) => &lower[..found.start()],
        _ => &lower,
    };
    let mut text = before_edit
        .split("consensus label derived")
        .next()
        .unwrap_or_default()
        .to_owned();
    let length = text.trim_end().chars().count();
    let mut stamped = STAMPED.is_match(&text).unwrap_or(false);
    text = squeeze(&text);
    for stamp in STAMPS.iter() {
        text = stamp.replace_all(&text, " ").into_owned();
    }
    for (date, with) in DATES.iter() {
        text = date.replace_all(&text, *with).into_owned();
    }
    text = squeeze(&SIX_DIGITS.replace_all(&text, " "));
    if length >= STAMP_CUT && !stamped && STAMP_TAIL.is_match(&text).unwrap_or(false) {
        text = STAMP_TAIL.replace_all(&text, "").into_owned();
        stamped = true;
    }
    text = MOJIBAKE.replace_all(&text, "¤").replace("säó¬ning", "sänkning");
    text = text
        .replace("sä¤ning", "sänkning")
        .replace("elle¤vänster", "eller vänster");
    text = text.replace('¤', " ");
    for (split, with) in SPLITS.iter() {
        text = split.replace_all(&text, *with).into_owned();
    }
    Clean {
        text: squeeze(&text),
        cut: length >= CUT && !stamped,
    }
}

/// Runs of white space as one space, none at the ends.
pub(super) fn squeeze(text: &str) -> String {
    SPACES.replace_all(text, " ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, cleaned: &str) {
        assert_eq!(clean(source).text, cleaned);
    }

    #[test]
    fn stamps_dates_and_edits_go() {
        check("Sinusrhythmus. 4.46 unbestätigter Bericht", "sinusrhythmus.");
        check("Sinus rhythm. Edit: checked twice", "sinus rhythm.");
        check("no change since 12.3.91", "no change since previous tracing");
        check("trace only requested", "");
        check("inv5,6", "in v5,6");
    }

    #[test]
    fn only_a_long_text_without_a_stamp_was_cut() {
        let long = "sinusrhythmus ".repeat(18);
        assert!(clean(&long).cut);
        assert!(!clean(&format!("{long} 4.46 unbestätigter")).cut);
        assert!(!clean("sinusrhythmus").cut);
    }
}
