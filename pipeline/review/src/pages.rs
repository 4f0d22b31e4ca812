//! The pages, as HTML.
//!
//! Place: what the routes answer to browsers. Invariant: every text goes through the template's escaping; pages work without
//! script, except for live updates, zoom, caliper, diff and single keys; no inline script and no inline style.

mod draft;

use ecg::report::SignAction;
use ecg::segment::Decision;
use maud::{DOCTYPE, Markup, html};

pub use self::draft::{Shown, draft};
use crate::guard::Caller;
use crate::words::utc;
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

/// The login.
///
/// `issuer` is the provider of single sign-on, where there is one.
pub fn login(error: Option<&str>, by_token: bool, issuer: Option<&str>) -> Markup {
    let content = html! {
        section .login {
            h1 { "Log in" }
            @if let Some(error) = error { p .error role="alert" { (error) } }
            @if let Some(issuer) = issuer {
                p { a .button .primary href="/login/oidc" { "Single sign-on" } }
                p .hint { "by " (issuer) }
            }
            @if by_token {
                form method="post" action="/login" {
                    label for="token" { "Access token" }
                    input #token name="token" type="password" autocomplete="current-password" required
                        autofocus[issuer.is_none()];
                    button .primary { "Log in" }
                }
            }
        }
    };
    page("Log in", None, None, &content)
}

/// What follows single sign-on: the browser goes to the list by itself, as this page's own step.
pub fn logged_in() -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="refresh" content="0; url=/";
                title { "Logged in · MEIT review" }
            }
            body { main { h1 { "Logged in" } p { a href="/" { "To the list" } } } }
        }
    }
}

/// A page that says why there is none.
pub fn message(caller: &Caller, counts: Counts, title: &str, text: &str) -> Markup {
    let content = html! { h1 { (title) } p { (text) } p { a href="/" { "Back to the list" } } };
    page(title, Some(caller), Some(counts), &content)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ecg::lead::Lead;

    use super::*;
    use crate::auth::Role;
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
