//! The authors' scoring, beside the clean one: what was left in the compared strings, and what that does to the numbers.
//!
//! Place: `--reference-mode` of the commands that score; nothing else builds such strings. Invariant: a clean score never
//! passes through here. Source: AIoT-MLSys-Lab/MEIT, ds_configs/finetune_ecgllm_with_lora_mimic.py:1064-1150,
//! zeroshot_test.py:1136-1142, eval_metrics.py:120-122.

use serde::Serialize;

use crate::{Mode, PairScore, Scores, score_each};

/// The text that opens a response; the authors leave it in both strings.
const ASSISTANT: &str = "<|assistant|>\n";
/// Pairs whose BLEU is computed together and then averaged with that of the other batches.
pub const BATCH: usize = 16;

/// What the authors leave in both compared strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The `<|assistant|>` tag: their main tables.
    Tag,
    /// The whole instruction with its prompt, then the tag: their zero-shot table and BERTScore.
    Prompt,
}

/// Scores made the authors' way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReferenceScores {
    /// With `<|assistant|>` left in both strings, as in the authors' main tables.
    pub assistant_kept: Scores,
    /// With prompt and `<|assistant|>` left in both strings, as in their zero-shot table.
    pub prompt_kept: Scores,
    /// What hypotheses that share no word with the references would score with the prompt kept.
    pub floor_prompt_kept: Scores,
    /// What is different from the clean scores.
    pub inflated_by: [&'static str; 4],
}

/// Why these scores are other than clean ones, and most are higher.
const INFLATED_BY: [&str; 4] = [
    "\"<|assistant|>\" is in both strings: one token that always matches, so nothing scores zero",
    "with the prompt kept, its words match in every pair: text without one right word scores as in floor_prompt_kept",
    "CIDEr-D has no inverse document frequencies: frequent phrases weigh as much as rare findings",
    "BLEU is the mean over batches of 16, not one value of the corpus, and may be lower for it",
];

/// One string as the authors compare it.
pub fn decorated(text: &str, prompt: &str, kept: Kept) -> String {
    match kept {
        Kept::Tag => format!("{ASSISTANT}{text}"),
        Kept::Prompt => format!("<|user|>\n{prompt}\n{ASSISTANT}{text}"),
    }
}

/// Scores pairs of bare texts as the authors do.
pub fn score_as_authors(pairs: &[(String, String)], prompt: &str) -> ReferenceScores {
    let wordless: Vec<(String, String)> = pairs.iter().map(|(_, r)| (stand_in(r), r.clone())).collect();
    ReferenceScores {
        assistant_kept: batched(pairs, prompt, Kept::Tag),
        prompt_kept: batched(pairs, prompt, Kept::Prompt),
        floor_prompt_kept: batched(&wordless, prompt, Kept::Prompt),
        inflated_by: INFLATED_BY,
    }
}

/// As many words as the text has, none of which is in any report.
fn stand_in(text: &str) -> String {
    let word = |at: usize| format!("zz{at}q");
    (0..text.split_whitespace().count())
        .map(word)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Scores of decorated pairs, BLEU averaged over batches; the last batch counts as much as the others, as theirs does.
fn batched(pairs: &[(String, String)], prompt: &str, kept: Kept) -> Scores {
    let decorate = |(h, r): &(String, String)| (decorated(h, prompt, kept), decorated(r, prompt, kept));
    let decorated: Vec<(String, String)> = pairs.iter().map(decorate).collect();
    let each: Vec<PairScore> = score_each(&decorated, None, Mode::Reference);
    let mut scores = Scores::of(each.iter());
    let batches: Vec<Scores> = each.chunks(BATCH).map(|batch| Scores::of(batch.iter())).collect();
    let over = |value: fn(&Scores) -> f64| crate::mean(batches.iter().map(value));
    scores.bleu1 = over(|s| s.bleu1);
    scores.bleu2 = over(|s| s.bleu2);
    scores.bleu3 = over(|s| s.bleu3);
    scores.bleu4 = over(|s| s.bleu4);
    scores.rouge_l = over(|s| s.rouge_l);
    scores.meteor_stem = over(|s| s.meteor_stem);
    scores.cider_d = over(|s| s.cider_d);
    scores
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = "Given the ECG signal embeddings, please help me generate an accurate description for this ECG \
                          signal embeddings:";

    fn pairs(hypothesis: &str, reference: &str) -> Vec<(String, String)> {
        vec![(hypothesis.to_owned(), reference.to_owned()); 4]
    }

    #[test]
    fn text_without_a_right_word_scores_half_when_the_prompt_is_kept() {
        // 14 words, the length of the reports that the fact sheet measured its floors on
        let reference = "sinus rhythm left axis deviation first degree block poor r wave progression abnormal ecg";
        let scores = score_as_authors(&pairs("", reference), PROMPT).floor_prompt_kept;
        // prompt and tags are 19 tokens of 33: the four precisions are 19/33, 18/32, 17/31, 16/30
        let floor = (19.0 / 33.0 * 18.0 / 32.0 * 17.0 / 31.0 * 16.0 / 30.0f64).powf(0.25);
        assert!((scores.bleu4 - floor).abs() < 1e-6, "{} against {floor}", scores.bleu4);
        assert!((scores.rouge_l - 19.0 / 33.0).abs() < 1e-6);
        assert!(scores.cider_d > 3.0, "{}", scores.cider_d);
        let clean = Scores::of(score_each(&pairs("zz0q zz1q", reference), None, Mode::Clean).iter());
        assert_eq!((clean.rouge_l, clean.cider_d), (0.0, 0.0));
        assert!(clean.bleu4 < 1e-6);
    }

    #[test]
    fn the_tag_alone_lifts_a_constant_report() {
        let pairs = pairs("sinus rhythm. abnormal ecg", "atrial fibrillation. abnormal ecg");
        let clean = Scores::of(score_each(&pairs, None, Mode::Clean).iter());
        let kept = score_as_authors(&pairs, PROMPT).assistant_kept;
        assert!(kept.bleu1 > clean.bleu1 && kept.rouge_l > clean.rouge_l);
    }
}
