//! Lists of leads as German and Swedish readers write them: "v3-4-5", "II,III,F", "v 1 - v 3".
//!
//! Place: under `segment`. Invariant: chest leads are written "v1,2" or "v3-5", limb leads by their names.

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::pattern;

pub(super) static LEAD: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^(?:i{1,3}|av[rlf]|avlf|afl|v[1-6]?(?:-v?[1-6])*-?|i-iii|i-ii|ii-iii|lll|ll|l|f)$"));
pub(super) static NUMBER_LEAD: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[1-6](?:[-,][1-6])*$"));
static THREE_CHEST: LazyLock<Regex> = LazyLock::new(|| pattern(r"^v\d-\d-\d"));
static LAST_CHEST: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?:^v|,)(\d)$"));

/// The leads of a list, in English notation.
pub(super) fn format_leads(items: &[String]) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut after_chest = false;
    for item in items {
        let mut item = item.trim_matches('-').replace("-v", "-");
        if THREE_CHEST.is_match(&item).unwrap_or(false) {
            let digits: Vec<char> = item.chars().filter(char::is_ascii_digit).collect();
            item = format!("v{}-{}", digits[0], digits[digits.len() - 1]);
        }
        let named = item.starts_with('v') && item[1..].starts_with(|c: char| c.is_ascii_digit());
        if named || after_chest && NUMBER_LEAD.is_match(&item).unwrap_or(false) {
            push_chest(&mut out, &item, after_chest);
            after_chest = true;
        } else {
            if item != "v" && !item.is_empty() {
                out.push(limb(&item).to_owned());
            }
            after_chest = false;
        }
    }
    out.join(", ")
}

/// A chest lead joins the one before it where it goes on upwards.
fn push_chest(out: &mut Vec<String>, item: &str, after_chest: bool) {
    let own = item.starts_with('v');
    let number = item.trim_start_matches('v');
    if let Some(last) = out.last_mut().filter(|_| after_chest) {
        let captures = LAST_CHEST.captures(last).ok().flatten();
        let previous = captures.and_then(|c| c.get(1).map(|m| m.as_str().to_owned()));
        let rises = previous.is_some_and(|p| number.chars().count() == 1 && number > p.as_str());
        if !own || rises {
            last.push(',');
            last.push_str(number);
            return;
        }
    }
    out.push(format!("v{number}"));
}

fn limb(item: &str) -> &str {
    match item {
        "l" | "afl" => "avl",
        "f" => "avf",
        "r" => "avr",
        "lll" => "iii",
        "ll" => "ii",
        "avlf" => "avl, avf",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_the_english_way() {
        for (items, text) in [
            (vec!["v3-4-5"], "v3-5"),
            (vec!["v5", "6"], "v5,6"),
            (vec!["ii", "iii", "f"], "ii, iii, avf"),
            (vec!["v6", "v2"], "v6, v2"),
        ] {
            let items: Vec<String> = items.into_iter().map(str::to_owned).collect();
            assert_eq!(format_leads(&items), text);
        }
    }
}
