//! The page of one draft: its tracing, what was measured, its editor and the quality of its leads.
//!
//! Place: the largest of `pages`. Invariant: as there.

use ecg::lead::Lead;
use maud::{Markup, html};

use super::{decision, link, page, signature};
use crate::auth::Role;
use crate::guard::Caller;
use crate::paper::{SHEET_HEIGHT, SHEET_WIDTH};
use crate::signing::{MEANING_REJECTED, MEANING_SIGNED, TEXT_MAX, tidy};
use crate::words::{measured, origin, reasons, utc};
use crate::worklist::{Counts, Entry};

/// What the page of a draft shows beside it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown<'a> {
    /// Why the last try failed.
    pub error: Option<&'a str>,
    /// The text of that try, so that it is not lost.
    pub text: Option<&'a str>,
    /// Its reason for a rejection.
    pub reason: Option<&'a str>,
}

/// The page of one draft.
pub fn draft(caller: &Caller, counts: Counts, entry: &Entry, shown: Shown<'_>) -> Markup {
    let draft = &entry.draft;
    let content = html! {
        div .case {
            h1 {
                @if entry.is_stat() { strong .badge .badge-stat { "STAT" } " " }
                (draft.stream_id)
                span .when { (utc(draft.start_time_us)) }
            }
            @if entry.signed.is_some() { p .notice { (signature(entry)) } }
            @if let Some(error) = shown.error { p #error .error role="alert" tabindex="-1" { (error) } }
            (contradictions(&draft.contradictions))
            div .upper {
                (tracing(entry))
                (measurements(entry))
            }
            div .lower {
                (editor(caller, entry, shown))
                (quality(entry))
            }
        }
    };
    page(&draft.stream_id, Some(caller), Some(counts), &content)
}

fn contradictions(lines: &[String]) -> Markup {
    html! {
        @if !lines.is_empty() {
            section #contradictions .warning aria-label="Contradictions" {
                strong { "The draft contradicts what was measured:" }
                ul { @for line in lines { li { mark { (line) } } } }
            }
        }
    }
}

fn tracing(entry: &Entry) -> Markup {
    let Some(segment) = &entry.segment else {
        return html! {
            p .error role="alert" {
                "The tracing of this draft is not here. A report cannot be signed without it; the draft can be rejected."
            }
        };
    };
    let base = format!("{}/ecg.svg?samples=", link(entry));
    let chain = format!("{} v{}", segment.chain, segment.chain_version);
    let described = format!(
        "Tracing of 12 leads and a rhythm strip, 10 s; heart rate {}",
        measured(&segment.measurements)[0].1
    );
    html! {
        section .tracing aria-label="Tracing" {
            div .tools role="toolbar" aria-label="Tracing tools" {
                button #samples type="button" aria-pressed="true" data-key="r" { "Filtered " kbd { "r" } }
                button #zoom-out type="button" aria-label="Zoom out (-)" { kbd { "-" } }
                output #zoom-level aria-label="Zoom" { "fit" }
                button #zoom-in type="button" aria-label="Zoom in (+)" { kbd { "+" } }
                button #zoom-fit type="button" { "Fit " kbd { "0" } }
                button #caliper-button type="button" aria-pressed="false" { "Caliper " kbd { "c" } }
                output #caliper-read aria-live="polite" { "drag on the tracing to measure" }
                span .scale { "25 mm/s · 10 mm/mV · filter " span #chain data-filtered=(chain) { (chain) } }
            }
            div #sheet-scroll tabindex="0" role="region" aria-label="ECG paper" {
                div #sheet {
                    img #ecg src=(format!("{base}filtered")) data-filtered=(format!("{base}filtered"))
                        data-raw=(format!("{base}raw")) alt=(described) draggable="false";
                    svg #caliper viewBox=(format!("0 0 {SHEET_WIDTH} {SHEET_HEIGHT}")) aria-hidden="true" {
                        g #caliper-marks visibility="hidden" {
                            rect #caliper-box x="0" y="0" width="0" height="0" {}
                            line #caliper-start x1="0" y1="0" x2="0" y2=(SHEET_HEIGHT) {}
                            line #caliper-end x1="0" y1="0" x2="0" y2=(SHEET_HEIGHT) {}
                        }
                    }
                }
            }
        }
    }
}

fn editor(caller: &Caller, entry: &Entry, shown: Shown<'_>) -> Markup {
    let draft = &entry.draft;
    let drafted = draft.text.as_deref().map(tidy).unwrap_or_default();
    let signed = entry.signed.as_ref();
    let version = signed.map_or(1, |report| report.version + 1);
    let text = shown
        .text
        .or(signed.map(|report| report.text.as_str()))
        .unwrap_or(&drafted);
    let may_sign = caller.identity.role == Role::Signer;
    html! {
        section .editor aria-labelledby="draft-title" {
            h2 #draft-title { @if version == 1 { "Draft " } @else { "Amend report " } span .draft-mark { "not final" } }
            @if let Some(why) = &draft.abstain {
                p { "The node wrote no draft: " strong { (why.replace('_', " ")) } ". You may write the report." }
            }
            form #sign-form method="post" action=(link(entry)) {
                input type="hidden" name="csrf" value=(caller.csrf());
                input type="hidden" name="version" value=(version);
                label for="text" { "Report " kbd { "e" } }
                textarea #text name="text" rows="4" maxlength=(TEXT_MAX) spellcheck="true" readonly[!may_sign]
                    data-drafted=(drafted) aria-describedby="diff-title" { (text) }
                div .diff {
                    h3 #diff-title { "Changes to the draft" }
                    p #diff { @if text == drafted { "none" } @else { "shown where scripts run" } }
                }
                @if may_sign {
                    label .check {
                        input #consent type="checkbox" name="consent" value="yes"; " may be used for training, without identity"
                    }
                    label for="reason" { "Reason, for a rejection" }
                    input #reason name="reason" maxlength="500" value=(shown.reason.unwrap_or_default());
                    div .actions .sticky {
                        button #sign .primary name="action" value="sign" {
                            @if version == 1 { "Sign " } @else { "Sign amendment " } kbd { "s" }
                        }
                        button #reject name="action" value="reject" { "Reject " kbd { "x" } }
                        a #next .button href=(format!("/next?after={}", draft.draft_id)) { "Skip " kbd { "n" } }
                    }
                } @else {
                    p { "You may read this draft; signing needs the role of a signer." }
                }
            }
            p .lineage {
                "bundle " code { (draft.bundle.bundle_id.get(..12).unwrap_or(&draft.bundle.bundle_id)) }
                " · mean token log-probability " (format!("{:.2}", draft.token_logprobs.mean))
                " · draft " code { (draft.draft_id.get(..12).unwrap_or(&draft.draft_id)) }
            }
            dialog #confirm aria-labelledby="confirm-title" {
                h2 #confirm-title { "Sign this report?" }
                p #confirm-text {}
                p {
                    "Signed as " strong { (caller.identity.signer) } ": "
                    q #confirm-meaning data-sign=(MEANING_SIGNED) data-reject=(MEANING_REJECTED) { (MEANING_SIGNED) }
                }
                div .actions {
                    button #confirm-yes type="button" .primary { "Sign" }
                    button #confirm-no type="button" { "Back " kbd { "Esc" } }
                }
            }
        }
    }
}

fn measurements(entry: &Entry) -> Markup {
    let draft = &entry.draft;
    html! {
        section .measured aria-labelledby="measured-title" {
            h2 #measured-title { "Measured" }
            table .facts {
                tbody {
                    @for (name, value) in measured(&draft.measurements) { tr { th scope="row" { (name) } td { (value) } } }
                }
            }
            p { "Gate: " (decision(draft.decision)) @if !draft.reasons.is_empty() { " " (reasons(&draft.reasons, "")) } }
        }
    }
}

fn quality(entry: &Entry) -> Markup {
    let Some(segment) = &entry.segment else {
        return html! {};
    };
    html! {
        section aria-labelledby="quality-title" {
            h2 #quality-title { "Leads" }
            table .facts .quality {
                thead { tr {
                    th scope="col" { "Lead" } th scope="col" { "SNR" } th scope="col" { "ST" } th scope="col" { "Remarks" }
                } }
                tbody {
                    @for (lead, quality) in Lead::ALL.into_iter().zip(&segment.quality) {
                        tr .unusable[!quality.usable] {
                            th scope="row" { (lead.name()) }
                            td .number { (quality.snr_db.map_or_else(|| "-".to_owned(), |db| format!("{db:.0} dB"))) }
                            td .number { (st_segment(entry, lead)) }
                            td {
                                @if !quality.usable { strong { "do not read" } " " }
                                (reasons(&quality.flags, ""))
                                @if quality.origin != ecg::segment::LeadOrigin::Measured { " " (origin(quality.origin)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The ST level of a lead that can be read.
fn st_segment(entry: &Entry, lead: Lead) -> String {
    let amplitudes = entry.draft.measurements.leads.get(lead.index());
    let st_mv = amplitudes.and_then(|amplitudes| amplitudes.st_mv);
    // adding zero turns a negative zero into zero
    let hundredths = |mv: f32| (mv * 100.0).round() / 100.0 + 0.0;
    st_mv.map_or_else(|| "-".to_owned(), |mv| format!("{:+.2} mV", hundredths(mv)))
}
