//! How much of a draft a clinician changed.
//!
//! Place: behind the metrics. Invariant: pure; 0 for the same words, 1 for none in common.

/// Most words of a text that are compared; a report of [`crate::signing::TEXT_MAX`] characters has fewer.
const WORDS_MAX: usize = 2000;

/// Words that have to be put in, taken out or replaced to make one text of the other (Levenshtein), of the longer text's words.
pub fn changed_words(before: &str, after: &str) -> f64 {
    let words = |text: &str| -> Vec<String> {
        let words = text.split_whitespace().take(WORDS_MAX);
        words.map(str::to_lowercase).collect()
    };
    let (before, after) = (words(before), words(after));
    let longest = before.len().max(after.len());
    if longest == 0 {
        return 0.0;
    }
    // edits from the words of `before` so far to each beginning of `after`
    let mut edits: Vec<usize> = (0..=after.len()).collect();
    for (row, word) in before.iter().enumerate() {
        let mut diagonal = row;
        edits[0] = row + 1;
        for (column, other) in after.iter().enumerate() {
            let replaced = diagonal + usize::from(word != other);
            diagonal = edits[column + 1];
            edits[column + 1] = replaced.min(diagonal + 1).min(edits[column] + 1);
        }
    }
    edits[after.len()] as f64 / longest as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_changed_words_is_that_of_the_longer_text() {
        for (before, after, changed) in [
            ("", "", 0.0),
            ("sinus rhythm", "Sinus  rhythm\n", 0.0),
            ("sinus rhythm", "", 1.0),
            ("", "paced", 1.0),
            ("sinus rhythm normal ecg", "sinus rhythm borderline ecg", 0.25),
            ("sinus rhythm", "sinus rhythm left bundle branch block", 4.0 / 6.0),
            ("a b c d", "b c d a", 0.5),
        ] {
            assert_eq!(changed_words(before, after), changed, "{before:?} to {after:?}");
        }
    }
}
