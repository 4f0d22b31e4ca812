//! Did you mean: the known word nearest to an unknown one.
//!
//! Place: in the errors of settings. Invariant: a hint only, never a decision; far words give none.

/// " (did you mean `brokers`?)", or nothing when no word is near.
pub(super) fn hint<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> String {
    let near = known.map(|word| (distance(unknown, word), word)).min();
    match near {
        Some((edits, word)) if edits <= (unknown.len() / 3).max(1) => format!(" (did you mean `{word}`?)"),
        _ => String::new(),
    }
}

/// The hint for serde's "unknown field `a`, expected one of `b`, `c`"; nothing for other messages.
pub(super) fn hint_of_message(message: &str) -> String {
    if !message.contains("unknown field") && !message.contains("unknown variant") {
        return String::new();
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    quoted.next().map_or_else(String::new, |unknown| hint(unknown, quoted))
}

/// Insertions, deletions and changes of a character that make one word of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.chars().enumerate() {
            let change = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_named_and_a_far_one_is_not() {
        let known = || ["brokers", "group_prefix", "partitions"].into_iter();
        assert_eq!(hint("brokerz", known()), " (did you mean `brokers`?)");
        assert_eq!(hint("partition", known()), " (did you mean `partitions`?)");
        assert_eq!(hint("colour", known()), "");
    }

    #[test]
    fn the_unknown_field_of_a_message_gets_its_hint() {
        let message = "unknown field `batchmax`, expected one of `batch_max`, `batch_wait_ms` for key `node.batchmax`";
        assert_eq!(hint_of_message(message), " (did you mean `batch_max`?)");
        assert_eq!(hint_of_message("invalid type: string \"soon\", expected `u32`"), "");
    }

    #[test]
    fn a_distance_counts_edits() {
        for (a, b, edits) in [("", "abc", 3), ("kitten", "sitting", 3), ("same", "same", 0)] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }
}
