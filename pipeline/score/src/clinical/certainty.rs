//! Whether a mention is affirmed, hedged or denied, from the words around it.
//!
//! Place: after the phrases. Invariant: a cue reaches over its clause only; "cannot be excluded" hedges and does not deny.
//! Source of the method: NegEx (Chapman et al. 2001): cues before and after, cues that only look like negations, a window.

use super::Certainty;
use super::words::COMMA;

/// Words a cue before a mention reaches over.
const BEFORE_REACH: usize = 8;
/// Words a cue after a mention may follow it by.
const AFTER_REACH: usize = 5;

/// What starts a new clause.
const CLAUSE_WORDS: [&str; 5] = [COMMA, "but", "however", "although", "otherwise"];

/// Cues before a mention. The first that fits at a word is used, so longer ones come first; `None` says nothing.
const BEFORE: [(&[&str], Option<Certainty>); 44] = [
    (&["no", "change"], None),
    (&["no", "significant", "change"], None),
    (&["no", "r", "wave"], None),
    (&["no", "p", "wave"], None),
    (&["no", "definite", "p", "wave"], None),
    (&["not", "significantly"], None),
    (&["not", "significant"], None),
    (&["not", "necessarily"], None),
    (&["not", "assessable"], None),
    (&["not", "only"], None),
    (&["not", "excluded"], None),
    (&["cannot", "exclude"], Some(Certainty::Hedged)),
    (&["not", "exclude"], Some(Certainty::Hedged)),
    (&["cannot", "rule", "out"], Some(Certainty::Hedged)),
    (&["rule", "out"], Some(Certainty::Hedged)),
    (&["exclude"], Some(Certainty::Hedged)),
    (&["no"], Some(Certainty::Denied)),
    (&["not"], Some(Certainty::Denied)),
    (&["without"], Some(Certainty::Denied)),
    (&["denies"], Some(Certainty::Denied)),
    (&["absence", "of"], Some(Certainty::Denied)),
    (&["free", "of"], Some(Certainty::Denied)),
    (&["negative", "for"], Some(Certainty::Denied)),
    (&["never"], Some(Certainty::Denied)),
    (&["previously"], Some(Certainty::Denied)),
    (&["rather", "than"], Some(Certainty::Denied)),
    (&["possible"], Some(Certainty::Hedged)),
    (&["possibly"], Some(Certainty::Hedged)),
    (&["possibility"], Some(Certainty::Hedged)),
    (&["probable"], Some(Certainty::Hedged)),
    (&["probably"], Some(Certainty::Hedged)),
    (&["likely"], Some(Certainty::Hedged)),
    (&["suspect"], Some(Certainty::Hedged)),
    (&["suspected"], Some(Certainty::Hedged)),
    (&["suspicious"], Some(Certainty::Hedged)),
    (&["suggest"], Some(Certainty::Hedged)),
    (&["suggesting"], Some(Certainty::Hedged)),
    (&["suggestive"], Some(Certainty::Hedged)),
    (&["consider"], Some(Certainty::Hedged)),
    (&["consistent", "with"], Some(Certainty::Hedged)),
    (&["compatible", "with"], Some(Certainty::Hedged)),
    (&["may"], Some(Certainty::Hedged)),
    (&["might"], Some(Certainty::Hedged)),
    (&["could"], Some(Certainty::Hedged)),
];

/// Cues after a mention, longer ones first.
const AFTER: [(&[&str], Certainty); 22] = [
    (&["cannot", "be", "excluded"], Certainty::Hedged),
    (&["cannot", "be", "entirely", "excluded"], Certainty::Hedged),
    (&["cannot", "be", "ruled", "out"], Certainty::Hedged),
    (&["not", "excluded"], Certainty::Hedged),
    (&["not", "entirely", "excluded"], Certainty::Hedged),
    (&["should", "be", "excluded"], Certainty::Hedged),
    (&["not", "definitely"], Certainty::Hedged),
    (&["no", "longer"], Certainty::Denied),
    (&["not", "seen"], Certainty::Denied),
    (&["not", "present"], Certainty::Denied),
    (&["not", "evident"], Certainty::Denied),
    (&["not", "identified"], Certainty::Denied),
    (&["excluded"], Certainty::Denied),
    (&["ruled", "out"], Certainty::Denied),
    (&["unlikely"], Certainty::Denied),
    (&["resolved"], Certainty::Denied),
    (&["disappeared"], Certainty::Denied),
    (&["absent"], Certainty::Denied),
    (&["possible"], Certainty::Hedged),
    (&["likely"], Certainty::Hedged),
    (&["suspected"], Certainty::Hedged),
    (&["probable"], Certainty::Hedged),
];

/// The certainty of the mention whose words run from `first` to `last`; a cue after it lies before word `end`.
pub fn certainty(sentence: &[String], first: usize, last: usize, end: usize) -> Certainty {
    let before = before(&sentence[..first]);
    let after = after(&sentence[last + 1..end]);
    // a denial with a hedge after it ("no longer likely") stays a denial; else the less sure counts
    before.min(after)
}

fn before(words: &[String]) -> Certainty {
    let start = words.len().saturating_sub(BEFORE_REACH);
    let clause = words.iter().rposition(|word| CLAUSE_WORDS.contains(&word.as_str()));
    let mut at = clause.map_or(start, |clause| start.max(clause + 1));
    let mut surest = Certainty::Affirmed;
    while at < words.len() {
        let Some((cue, meaning)) = BEFORE.iter().find(|(cue, _)| starts(&words[at..], cue)) else {
            at += 1;
            continue;
        };
        surest = meaning.unwrap_or(surest).min(surest);
        at += cue.len();
    }
    surest
}

fn after(words: &[String]) -> Certainty {
    let clause = words.iter().position(|word| CLAUSE_WORDS.contains(&word.as_str()));
    let clause = &words[..clause.unwrap_or(words.len())];
    (0..clause.len().min(AFTER_REACH))
        .find_map(|at| AFTER.iter().find(|(cue, _)| starts(&clause[at..], cue)))
        .map_or(Certainty::Affirmed, |(_, certainty)| *certainty)
}

fn starts(words: &[String], cue: &[&str]) -> bool {
    words.len() >= cue.len() && words.iter().zip(cue).all(|(word, cue)| word == cue)
}
