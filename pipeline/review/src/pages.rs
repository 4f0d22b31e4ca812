//! The pages, as HTML.
//!
//! Place: what the routes answer to browsers. Invariant: every text goes through the template's escaping; pages work without
//! script, except for live updates, zoom, caliper, diff and single keys; no inline script and no inline style.

use ecg::lead::Lead;
use ecg::report::SignAction;
use ecg::segment::Decision;
use maud::{DOCTYPE, Markup, html};

use crate::auth::Role;
use crate::guard::Caller;
use crate::paper::{SHEET_HEIGHT, SHEET_WIDTH};
use crate::signing::{MEANING_REJECTED, MEANING_SIGNED, TEXT_MAX, tidy};
use crate::words::{measured, origin, reasons, utc};
use crate::worklist::{Counts, Entry};

/// What stands under every page.
const FOOTER: &str =
    "Drafts are written by a machine and are not final until a clinician has signed them. Not an alarm.";

/// Every page around its content.
fn page(title: &str, caller: Option<&Caller>, counts: Option<Counts>, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · MEIT review" }
                link rel="stylesheet" href="/static/review.css";
                link rel="icon" href="/static/icon.svg";
                script src="/static/review.js" defer {}
            }
            body {
                a .skip href="#main" { "Skip to content" }
                header .top {
                    a .brand href="/" { "MEIT review" }
                    @if let Some(counts) = counts {
                        p #counts .counts role="status" aria-live="polite" { (counts_line(counts)) }
                    }
                    span #live .live hidden { "not live" }
                    @if let Some(caller) = caller {
                        span .who { (caller.identity.signer) " · " (caller.identity.title) }
                        button #help-button type="button" .quiet { "Keys " kbd { "?" } }
                        @if caller.logged_in {
                            form method="post" action="/logout" .inline {
                                input type="hidden" name="csrf" value=(caller.csrf());
                                button .quiet { "Log out" }
                            }
                        }
                    }
                }
                main #main tabindex="-1" { (content) }
                footer .bottom { (FOOTER) }
                @if caller.is_some() { (help()) }
            }
        }
    }
}

/// "12 waiting, 2 STAT".
pub fn counts_line(counts: Counts) -> Markup {
    html! {
        strong { (counts.waiting) } " waiting"
        @if counts.stat > 0 { ", " strong .stat-text { (counts.stat) " STAT" } }
        @if counts.pushed_out > 0 { " · " (counts.pushed_out) " older ones dropped from this list, unread" }
    }
}

fn help() -> Markup {
    let rows = [
        ("j / k, ↓ / ↑", "next, previous draft of the list"),
        ("Enter", "open it"),
        ("e", "edit the draft; Esc leaves the editor"),
        ("s", "sign; Enter confirms, Esc goes back"),
        ("x", "reject"),
        ("n", "skip to the next waiting draft"),
        ("r", "raw or filtered samples"),
        ("+ / - / 0", "zoom in, out, to the width"),
        (
            "c",
            "caliper; arrows move its end, Shift + arrows all of it, Esc removes it",
        ),
        ("l", "back to the list"),
        ("?", "this help"),
    ];
    html! {
        dialog #help aria-labelledby="help-title" {
            h2 #help-title { "Keys" }
            table .keys {
                tbody {
                    @for (key, what) in rows { tr { th scope="row" { kbd { (key) } } td { (what) } } }
                }
            }
            label .check { input #single-keys type="checkbox" checked; " single keys are on" }
            form method="dialog" { button { "Close" } }
        }
    }
}

/// The list of waiting drafts and of those signed last.
pub fn list(caller: &Caller, counts: Counts, waiting: &[Entry], recent: &[Entry], notice: Option<&str>) -> Markup {
    let content = html! {
        @if let Some(notice) = notice { p .notice role="status" { (notice) } }
        h1 { "Waiting drafts" }
        div #waiting data-revision=(counts.revision) { (rows(waiting)) }
        @if !recent.is_empty() {
            h2 { "Signed last" }
            div .scroll tabindex="0" role="region" aria-label="Signed last" {
                table .list {
                    thead { tr {
                        th scope="col" { "Stream" } th scope="col" { "Recorded" }
                        th scope="col" { "Report" } th scope="col" { "Signature" }
                    } }
                    tbody { @for entry in recent { (signed_row(entry)) } }
                }
            }
        }
    };
    page("Waiting drafts", Some(caller), Some(counts), &content)
}

/// The table of waiting drafts; replaced as a whole when the list changes.
pub fn rows(waiting: &[Entry]) -> Markup {
    html! {
        @if waiting.is_empty() {
            p .empty { "No draft waits. New ones appear here by themselves." }
        } @else {
            table .list {
                thead { tr {
                    th scope="col" { "Priority" } th scope="col" { "Stream" } th scope="col" { "Recorded" }
                    th scope="col" { "Draft" } th scope="col" { "Rate" } th scope="col" { "Quality" }
                } }
                tbody { @for entry in waiting { (row(entry)) } }
            }
        }
    }
}

fn link(entry: &Entry) -> String {
    format!("/drafts/{}", entry.draft.draft_id)
}

fn row(entry: &Entry) -> Markup {
    let draft = &entry.draft;
    html! {
        tr .stat[entry.is_stat()] {
            td { @if entry.is_stat() { strong .badge .badge-stat { "STAT" } } @else { span .badge { "routine" } } }
            td .time { (draft.stream_id) }
            td .time { (utc(draft.start_time_us)) }
            td {
                a .open href=(link(entry)) { (excerpt(draft.text.as_deref().unwrap_or("No draft: the node abstained"))) }
                @if !draft.contradictions.is_empty() { " " strong .badge .badge-warn { "contradiction" } }
                @if let Some(why) = &draft.abstain { " " span .badge { (why.replace('_', " ")) } }
            }
            td .number { (draft.measurements.heart_rate_bpm.map_or_else(|| "-".to_owned(), |bpm| format!("{bpm:.0}"))) }
            td { (decision(draft.decision)) }
        }
    }
}

fn signed_row(entry: &Entry) -> Markup {
    html! {
        tr {
            td .time { (entry.draft.stream_id) }
            td .time { (utc(entry.draft.start_time_us)) }
            td { a href=(link(entry)) { (excerpt(entry.signed.as_ref().map_or("", |report| report.text.as_str()))) } }
            td { (signature(entry)) }
        }
    }
}

fn signature(entry: &Entry) -> Markup {
    html! {
        @if let Some(report) = &entry.signed {
            strong { (action(report.action)) }
            " by " (report.signer) " at " (utc(report.signed_at_us))
            @if report.version > 1 { ", version " (report.version) }
            @if let Some(reason) = &report.reason { ": " (reason) }
        }
    }
}

fn action(action: SignAction) -> &'static str {
    match action {
        SignAction::Accepted => "Signed as drafted",
        SignAction::Edited => "Signed with changes",
        SignAction::Rejected => "Rejected",
    }
}

fn excerpt(text: &str) -> String {
    const CHARACTERS: usize = 90;
    let mut cut: String = text.chars().take(CHARACTERS).collect();
    if text.chars().nth(CHARACTERS).is_some() {
        cut.push('…');
    }
    cut
}

fn decision(decision: Decision) -> Markup {
    let (class, word) = match decision {
        Decision::Accept => ("badge badge-good", "accepted"),
        Decision::Marginal => ("badge badge-warn", "marginal"),
        Decision::Reject => ("badge badge-stat", "rejected"),
    };
    html! { span class=(class) { (word) } }
}

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

/// The login.
pub fn login(error: Option<&str>) -> Markup {
    let content = html! {
        section .login {
            h1 { "Log in" }
            @if let Some(error) = error { p .error role="alert" { (error) } }
            form method="post" action="/login" {
                label for="token" { "Access token" }
                input #token name="token" type="password" autocomplete="current-password" required autofocus;
                button .primary { "Log in" }
            }
        }
    };
    page("Log in", None, None, &content)
}

/// A page that says why there is none.
pub fn message(caller: &Caller, counts: Counts, title: &str, text: &str) -> Markup {
    let content = html! { h1 { (title) } p { (text) } p { a href="/" { "Back to the list" } } };
    page(title, Some(caller), Some(counts), &content)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::Tokens;
    use crate::testing;

    fn caller(role: Role) -> Caller {
        let Tokens::Open(mut identity) = Tokens::open() else {
            panic!("open tokens have an identity")
        };
        identity.role = role;
        Caller {
            identity,
            session: None,
            logged_in: false,
        }
    }

    fn entry(text: &str) -> Entry {
        let mut entry = testing::entry("bed-<1>", Some(text));
        let mut draft = (*entry.draft).clone();
        draft.contradictions = vec!["text says bradycardia".to_owned()];
        entry.draft = Arc::new(draft);
        entry
    }

    #[test]
    fn texts_are_escaped_wherever_they_stand() {
        let entry = entry("</textarea><script>alert(1)</script>\" onfocus=\"x");
        let caller = caller(Role::Signer);
        for page in [
            draft(&caller, Counts::default(), &entry, Shown::default()),
            list(&caller, Counts::default(), std::slice::from_ref(&entry), &[], None),
        ] {
            let page = page.into_string();
            assert!(
                !page.contains("<script>alert") && !page.contains("\" onfocus"),
                "{page}"
            );
            assert!(page.contains("bed-&lt;1&gt;"));
        }
    }

    #[test]
    fn contradictions_and_every_lead_are_on_the_page_and_the_draft_is_marked() {
        let page = draft(
            &caller(Role::Signer),
            Counts::default(),
            &entry("sinus rhythm"),
            Shown::default(),
        )
        .into_string();
        for word in ["<mark>text says bradycardia</mark>", "not final", "92 ms", "75 bpm"] {
            assert!(page.contains(word), "{word}");
        }
        for lead in Lead::ALL {
            assert!(
                page.contains(&format!("<th scope=\"row\">{}</th>", lead.name())),
                "{lead}"
            );
        }
    }

    #[test]
    fn a_viewer_has_no_buttons_to_sign() {
        let entry = entry("sinus rhythm");
        let page = |role| draft(&caller(role), Counts::default(), &entry, Shown::default()).into_string();
        assert!(page(Role::Signer).contains("id=\"sign\""));
        assert!(!page(Role::Viewer).contains("id=\"sign\"") && page(Role::Viewer).contains("readonly"));
    }

    #[test]
    fn no_page_has_inline_scripts_or_styles() {
        let page = draft(&caller(Role::Signer), Counts::default(), &entry("x"), Shown::default()).into_string();
        for forbidden in [" style=", "<style", " onclick", "javascript:"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert_eq!(page.matches("<script").count(), 1);
    }

    #[test]
    fn the_text_of_a_failed_try_is_not_lost() {
        let shown = Shown {
            error: Some("Kafka does not answer"),
            text: Some("my own words"),
            reason: None,
        };
        let page = draft(&caller(Role::Signer), Counts::default(), &entry("sinus rhythm"), shown).into_string();
        assert!(page.contains(">my own words</textarea>") && page.contains("Kafka does not answer"));
    }
}
