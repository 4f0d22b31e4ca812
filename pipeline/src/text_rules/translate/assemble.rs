//! Segments put together to English sentences.
//!
//! Place: after `segment`. Invariant: a sentence break comes only between two segments of which neither is glued to the
//! other; brackets are balanced.

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::pattern;
use super::segment::{Kind, Segment};

const REGION: &str = "(?:anterior|inferior|lateral|posterior|septal|anteroseptal|anterolateral|inferolateral|high lateral|inferoposterior)";

static OPEN_END: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r",? ?\b(?:probably|possibly|possibly new|consistent with|possibly caused by|in|with|before|consider|consider recent)$",
    )
});
static HEADING: LazyLock<Regex> = LazyLock::new(|| pattern(r"abnormality, (?:probably|possibly)(?: new)?$"));
static LISTED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^(?:new |recent )?(?:anterior|inferior|lateral|posterior|septal|antero|infero|high lateral|apical)")
});
static SPACES: LazyLock<Regex> = LazyLock::new(|| pattern(r"\s+"));
static EMPTY_BRACKETS: LazyLock<Regex> = LazyLock::new(|| pattern(r"\(\s*\)"));
static IN_LEADS: LazyLock<Regex> = LazyLock::new(|| pattern(r"^in (?:[a-z]+ )+leads$"));
static ENDS_IN: LazyLock<Regex> = LazyLock::new(|| pattern(r"\bin$"));

/// Sentences of a text's segments.
pub(super) fn assemble(segments: &[Segment]) -> Vec<String> {
    let mut assembly = Assembly::default();
    for segment in segments {
        assembly.take(segment);
    }
    assembly.close();
    assembly.sentences
}

#[derive(Default)]
struct Assembly {
    sentences: Vec<String>,
    /// Pieces of the open sentence, and whether each wants its neighbour to the right.
    pieces: Vec<(String, bool)>,
    /// True while the last piece wants a neighbour.
    opened: bool,
    depth: usize,
    previous: Option<Kind>,
}

fn has_letter(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_lowercase())
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', ',', ':'])
}

impl Assembly {
    fn take(&mut self, segment: &Segment) {
        match segment.kind {
            Kind::Missing => {}
            Kind::Punctuation => self.punctuation(&segment.text),
            Kind::Lead => self.leads(&segment.text),
            Kind::Number => self.number(&segment.text),
            Kind::Phrase | Kind::English => self.phrase(segment),
        }
    }

    fn last(&self) -> &str {
        self.pieces.last().map_or("", |(text, _)| text)
    }

    fn push(&mut self, text: impl Into<String>, open: bool) {
        self.pieces.push((text.into(), open));
    }

    /// A space, unless a bracket has just opened.
    fn space(&self) -> &'static str {
        if self.last() == " (" { "" } else { " " }
    }

    fn close(&mut self) {
        while let Some((text, open)) = self.pieces.last() {
            if [":", " (", "(", ","].contains(&text.as_str()) {
                self.pieces.pop();
            } else if *open {
                let cut = OPEN_END.replace_all(text, "").into_owned();
                let changed = cut != *text;
                self.pieces.pop();
                if changed && !trim(&cut).is_empty() {
                    self.push(cut.trim_end_matches([' ', ',', ':']), false);
                }
            } else {
                break;
            }
        }
        let whole: String = self.pieces.drain(..).map(|(text, _)| text).collect();
        let mut text = trim(&SPACES.replace_all(&whole, " ")).to_owned();
        let count = |text: &str, c: char| text.matches(c).count();
        let (opening, closing) = (count(&text, '('), count(&text, ')'));
        if opening == closing + 1 {
            text.push(')');
        } else if opening != closing {
            text = text.replace(['(', ')'], "");
        }
        text = trim(&EMPTY_BRACKETS.replace_all(&text, "")).to_owned();
        if has_letter(&text) {
            self.sentences.push(text);
        }
        self.opened = false;
    }

    fn punctuation(&mut self, sign: &str) {
        let some = !self.pieces.is_empty();
        match sign {
            "(" if some => {
                self.push(" (", false);
                self.opened = true;
                self.depth += 1;
            }
            ")" if self.depth > 0 => {
                while self.pieces.last().is_some_and(|(text, open)| *open && text != " (") {
                    self.pieces.pop();
                }
                if self.last() == " (" {
                    self.pieces.pop();
                } else {
                    self.push(")", false);
                }
                self.depth -= 1;
                self.opened = false;
            }
            ":" if some && !self.opened => {
                self.push(":", false);
                self.opened = true;
            }
            "<" | ">" | "=" | "+" if some => {
                let text = if sign == "+" {
                    " and".to_owned()
                } else {
                    format!(" {sign}")
                };
                self.push(text, true);
                self.opened = true;
            }
            "?" if some && !self.opened => self.push(" (?)", false),
            _ => {}
        }
    }

    fn leads(&mut self, leads: &str) {
        let text = if self.pieces.is_empty() {
            format!("in {leads}")
        } else if self.opened {
            format!("{}{leads}", self.space())
        } else if self.previous == Some(Kind::Lead) || self.last().ends_with(" leads") {
            format!(", {leads}")
        } else {
            format!(" in {leads}")
        };
        self.push(text, false);
        self.opened = false;
        self.previous = Some(Kind::Lead);
    }

    fn number(&mut self, number: &str) {
        let follows = matches!(self.previous, Some(Kind::Number | Kind::English));
        if !self.pieces.is_empty() && (self.opened || follows || number.contains('.')) {
            let text = format!("{}{number}", self.space());
            self.push(text, false);
            self.opened = false;
            self.previous = Some(Kind::Number);
        }
    }

    fn phrase(&mut self, segment: &Segment) {
        let (mut text, open) = (segment.text.as_str(), segment.glued_right);
        let some = !self.pieces.is_empty();
        if segment.glued_left && some {
            let mut glue = match self.space() {
                "" => "",
                _ if segment.comma && !self.opened => ", ",
                _ => " ",
            };
            if self.previous == Some(Kind::Lead) && IN_LEADS.is_match(text).unwrap_or(false) && !self.opened {
                (glue, text) = (", ", &text[3..]);
            }
            let after_in = ENDS_IN.is_match(self.last()).unwrap_or(false);
            if text.starts_with("in ") && self.opened && after_in {
                text = &text[3..];
            }
            if text == "in" && after_in {
                return;
            }
            self.push(format!("{glue}{text}"), open);
        } else if segment.glued_left {
            self.push(text, open);
        } else if some && self.opened && self.is_heading() && !LISTED.is_match(text).unwrap_or(false) {
            self.close();
            self.push(
                if text == "normal ecg" {
                    "probably normal ecg"
                } else {
                    text
                },
                open,
            );
        } else if some && self.opened {
            self.push(format!("{}{text}", self.space()), open);
        } else if some && self.depth > 0 {
            self.push(format!(", {text}"), open);
        } else {
            self.close();
            self.depth = 0;
            self.push(text, open);
        }
        self.opened = open;
        self.previous = Some(segment.kind);
    }

    fn is_heading(&self) -> bool {
        HEADING.is_match(self.last()).unwrap_or(false)
    }
}

static QUALIFIED_AFTER: LazyLock<Regex> = LazyLock::new(|| pattern(r"^([^,(:]+), (possible|probable|definite)$"));
static QUALIFIED: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(?:possibl|probabl|definit|suspect)"));
static REGION_LEADS: LazyLock<Regex> = LazyLock::new(|| pattern(&format!("^({REGION}) leads$")));
static ENDS_WITH_LEAD: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b(?:v\d[\d,-]*|av[rlf]|i{1,3})$"));
/// A listed item, and the heading whose qualifier it takes.
static CARRIED: LazyLock<[(Regex, Regex); 3]> = LazyLock::new(|| {
    let damage = "(?:subendocardial|myocardial)(?: or pericardial)? damage";
    [
        (
            format!("^{REGION} ischaemia or left ventricular strain$"),
            "(probably|consistent with) (?:.* )?ischaemia or left ventricular strain$".to_owned(),
        ),
        (
            format!("^{REGION} (?:subendocardial damage|myocardial damage|myocardial or pericardial damage)$"),
            format!("(probably|possibly|possibly new) (?:{REGION}) {damage}$"),
        ),
        (
            format!("^{REGION} (?:subendocardial )?myocardial involvement$"),
            format!("(consistent with|possibly caused by) (?:{REGION}) (?:subendocardial )?myocardial involvement$"),
        ),
    ]
    .map(|(item, heading)| (pattern(&item), pattern(&heading)))
});

/// Splits joined sentences, moves qualifiers to the front, carries a heading's qualifier to its items, drops repeats.
pub(super) fn tidy(sentences: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for part in sentences.iter().flat_map(|s| s.split(". ")) {
        let mut part = part.trim_matches([' ', ',', ';', ':', '.']).to_owned();
        if !has_letter(&part) {
            continue;
        }
        let captures = QUALIFIED_AFTER.captures(&part).ok().flatten();
        let unqualified = captures.filter(|c| !QUALIFIED.is_match(&c[1]).unwrap_or(false));
        if let Some(moved) = unqualified.map(|c| format!("{} {}", &c[2], &c[1])) {
            part = moved;
        }
        let last = out.last().cloned().unwrap_or_default();
        if REGION_LEADS.is_match(&part).unwrap_or(false) && !last.is_empty() {
            let joint = match () {
                () if last.ends_with(" leads") => Some(" and "),
                () if ENDS_WITH_LEAD.is_match(&last).unwrap_or(false) => Some(", "),
                () => None,
            };
            if let Some(joint) = joint {
                extend(&mut out, &format!("{joint}{part}"));
                continue;
            }
        }
        match carried(&part, &last) {
            Some((qualifier, 0)) if qualifier == "consistent with" => {
                extend(&mut out, &format!(", and with {part}"));
                continue;
            }
            Some((qualifier, 2)) => {
                let word = if qualifier == "consistent with" { "with" } else { "by" };
                extend(&mut out, &format!(", and {word} {part}"));
                continue;
            }
            Some((qualifier, _)) => part = format!("{qualifier} {part}"),
            None => {}
        }
        if part != last {
            out.push(part);
        }
    }
    out
}

fn extend(out: &mut [String], text: &str) {
    if let Some(last) = out.last_mut() {
        last.push_str(text);
    }
}

/// The qualifier of the heading `last` for the item `part`, with the kind of list.
fn carried(part: &str, last: &str) -> Option<(String, usize)> {
    let kind = CARRIED
        .iter()
        .position(|(item, _)| item.is_match(part).unwrap_or(false))?;
    let found = CARRIED[kind].1.captures(last).ok().flatten()?;
    Some((found[1].to_owned(), kind))
}
