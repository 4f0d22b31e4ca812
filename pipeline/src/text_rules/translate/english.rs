//! English source reports: sentence breaks that the writers left out, and ends that were cut off.
//!
//! Place: beside the glossary path. Invariant: words are never changed, only separated; a cut-off statement is completed
//! where nearly all of its known continuations agree, and dropped otherwise.

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::counts::Counts;
use super::pattern;

/// Share of the known continuations that must agree on a completion.
pub(super) const AGREEMENT: f64 = 0.95;

const STATEMENT: &str = "sinus rhythm|sinus tachycardia|sinus bradycardia|sinus arrhythmia|left axis deviation|borderline left axis deviation|\
abnormal left axis deviation|right axis deviation|leftward axis|rightward axis|left anterior fascicular block|left posterior fascicular block|\
bifascicular block|incomplete right bundle branch block|right bundle branch block|left bundle branch block|normal ecg|otherwise normal ecg|\
no definite pathology|otherwise no definite pathology|prolonged pr interval|first degree av block|low limb lead voltage|\
premature atrial contraction\\(s\\)|premature ventricular contraction\\(s\\)|atrial fibrillation|left ventricular hypertrophy|\
left atrial enlargement|possible left atrial enlargement";
const FOLLOWS: &str = "non[- ]specific|minor non|precordial|voltages?|borderline|possible|probable|old|qrs|minor st|ventricular premature|\
atrial premature|no change since|no significant change|intraventricular|t waves|st segments|st & t|st-t|widespread|diffuse|abnormal|poor|\
small|inferior|anterior|lateral|antero|rate|pr interval";

static RUN_ON: LazyLock<Regex> =
    LazyLock::new(|| pattern(&format!(r"^({STATEMENT})\s+(?=(?:{STATEMENT}|{FOLLOWS})\b)")));
static RATE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(?:rate)\b"));
static CLOSING: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^(.*[a-z0-9)])(?<!\bprobably)(?<!\ba)(?<!\botherwise)(?<!\bis)(?<!\bborderline)(?<!\bno definite)(?<!\bwithin)(?<!\bof) ((?:otherwise )?normal ecg)$",
    )
});
static BREAK: LazyLock<Regex> = LazyLock::new(|| pattern(r#"(?<=[a-z0-9)"%])\.(?:\s+|$)"#));
static FULL_STOP: LazyLock<Regex> = LazyLock::new(|| pattern(r"\.\s*$"));
static REPAIRS: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    [
        (r",\s*,+", ", "),
        (r",\s*\.+", "."),
        (r"(?<=[a-z0-9)][a-z0-9)])\.(?=[a-z])(?!\d)", ". "),
        (r"(?<=[a-z])\s*\.\s*\.+", "."),
        (r"\s+([.,;:])", "$1"),
        (r"^remature", "premature"),
        (r"\b(sec|approx|vs)\.\s", "$1 "),
    ]
    .map(|(from, to)| (pattern(from), to))
    .into()
});
static EMPTY_BRACKETS: LazyLock<Regex> = LazyLock::new(|| pattern(r"\(\s*\)"));

/// Sentences of a cleaned English report; `whole` counts the sentences of reports that were not cut.
pub(super) fn english(text: &str, cut: bool, whole: &Counts) -> Vec<String> {
    let mut t = EMPTY_BRACKETS.replace_all(text, " ").replace('\\', " ");
    for (from, to) in REPAIRS.iter() {
        t = from.replace_all(&t, *to).into_owned();
    }
    let mut parts: Vec<String> = split(&t);
    if cut && !FULL_STOP.is_match(text).unwrap_or(false) {
        mend_end(&mut parts, whole);
    }
    let mut out = Vec::new();
    for part in &parts {
        separate(part, &mut out);
    }
    out
}

fn split(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut start = 0;
    for stop in BREAK.find_iter(text).filter_map(Result::ok) {
        parts.push(&text[start..stop.start()]);
        start = stop.end();
    }
    parts.push(&text[start..]);
    let trimmed = parts.into_iter().map(|p| p.trim_matches([' ', ',', ';', '-']));
    trimmed.filter(|p| !p.is_empty()).map(str::to_owned).collect()
}

/// Completes the last statement with the shortest known sentence that nearly all continuations share, or drops it.
fn mend_end(parts: &mut Vec<String>, whole: &Counts) {
    let Some(fragment) = parts.last().cloned() else { return };
    let mut candidates: Vec<(&str, usize)> = whole
        .iter()
        .filter(|(s, _)| s.starts_with(&fragment) && *s != fragment)
        .collect();
    let mass: usize = candidates.iter().map(|(_, n)| n).sum();
    let all = candidates.clone();
    candidates.sort_by_key(|(s, _)| s.chars().count());
    let shared = |s: &str| {
        all.iter()
            .filter(|(x, _)| x.starts_with(s))
            .map(|(_, n)| n)
            .sum::<usize>()
    };
    let best = candidates
        .iter()
        .find(|(s, n)| *n >= 2 && shared(s) as f64 >= AGREEMENT * mass as f64);
    let last = parts.len() - 1;
    if let Some((sentence, _)) = best {
        parts[last] = (*sentence).to_owned();
    } else if whole.get(&fragment) < 2 && parts.len() > 1 {
        parts.pop();
    }
}

/// Cuts statements that run into each other apart.
fn separate(part: &str, out: &mut Vec<String>) {
    let mut rest = part;
    while let Ok(Some(found)) = RUN_ON.captures(rest) {
        let (whole, statement) = (found.get(0).expect("the match"), &found[1]);
        if RATE.is_match(&rest[whole.end()..]).unwrap_or(false) {
            break;
        }
        out.push(statement.to_owned());
        rest = &rest[whole.end()..];
    }
    let closing = CLOSING.captures(rest).ok().flatten();
    let (body, tail) = match &closing {
        Some(c) => (c.get(1).map_or(rest, |m| m.as_str()), c.get(2).map(|m| m.as_str())),
        None => (rest, None),
    };
    if body.bytes().any(|b| b.is_ascii_lowercase()) {
        out.push(body.to_owned());
    }
    out.extend(tail.map(str::to_owned));
}
