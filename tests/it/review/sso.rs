//! Single sign-on, with a provider that checks what real ones check and misbehaves on request.
//!
//! Place: the review page's login as a browser goes through it. Invariant: what is refused here has no session afterwards.

use ecg::topic;

use super::provider::{Behaviour, CLIENT, Provider, SECRET};
use super::{Answer, Client, Page, audited, hidden};

/// A page with single sign-on alone, and its provider.
async fn open() -> (Page, Provider) {
    let provider = Provider::start().await;
    let issuer = provider.issuer();
    // the page's own port is not known before it is bound; the provider sends the browser wherever it is told
    let page = Page::open_with(move |settings| {
        // a refused login costs fifty requests, and these tests try many
        settings.review.requests_per_second = 10_000;
        let oidc = &mut settings.review.oidc;
        oidc.issuer = issuer;
        oidc.client_id = CLIENT.to_owned();
        oidc.client_secret = SECRET.into();
        oidc.redirect_url = "http://127.0.0.1:9470/login/callback".to_owned();
    })
    .await;
    (page, provider)
}

/// Path and query of an address.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").unwrap().1;
    &rest[rest.find('/').unwrap()..]
}

/// Goes to the provider; the browser with its login cookie, and the way back.
async fn go(page: &Page, provider: &Provider) -> (Client, String) {
    let start = Client::default().get(page.address, "/login/oidc").await;
    assert_eq!(start.status, 303, "{}", start.body);
    let cookie = start.header("set-cookie").unwrap();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"),
        "{cookie}"
    );
    let browser = Client::default().remember(&start);
    let url = start.header("location").unwrap();
    assert!(url.starts_with(&provider.issuer()), "{url}");
    let back = Client::default().get(provider.address, path_of(url)).await;
    assert_eq!(back.status, 303, "the provider refuses {url}");
    let back = path_of(back.header("location").unwrap()).to_owned();
    (browser, back)
}

async fn login(page: &Page, provider: &Provider) -> Answer {
    let (browser, back) = go(page, provider).await;
    browser.get(page.address, &back).await
}

fn session_of(answer: &Answer) -> Option<String> {
    let cookies = answer.head.lines().filter_map(|line| line.split_once(": "));
    let mut cookies = cookies.filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
    let session = cookies.find(|(_, value)| value.starts_with("meit-review="))?;
    Some(session.1.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signer_logs_in_and_signs_under_the_pseudonym_of_the_token() {
    let (mut page, provider) = open().await;
    let form = Client::default().get(page.address, "/login").await.body;
    assert!(form.contains("/login/oidc") && !form.contains("Access token"), "{form}");
    let back = login(&page, &provider).await;
    assert_eq!(back.status, 200, "{}", back.body);
    let session = session_of(&back).unwrap();
    assert!(
        session.contains("HttpOnly") && session.contains("SameSite=Strict"),
        "{session}"
    );
    assert!(
        back.body.contains("http-equiv=\"refresh\""),
        "a redirect would lose the strict cookie"
    );
    let client = Client::default().with("Cookie", session.split(';').next().unwrap());
    let list = client.get(page.address, "/").await.body;
    assert!(
        list.contains("p-4711") && !list.contains("a.name"),
        "the pseudonym, not the name"
    );
    let draft = page.draft(&client, "bed-01", "sinus rhythm.").await;
    let path = format!("/drafts/{}", draft.draft_id);
    let csrf = hidden(&client.get(page.address, &path).await.body, "csrf").to_owned();
    let form = [
        ("csrf", csrf.as_str()),
        ("version", "1"),
        ("action", "sign"),
        ("text", "sinus rhythm."),
    ];
    assert_eq!(client.post(page.address, &path, &form).await.status, 303);
    let signed = page.signed().await.remove(0);
    assert_eq!((signed.signer.as_str(), signed.role.as_str()), ("p-4711", "clinician"));
    assert_eq!(page.rig().events(topic::SIGNED_REPORTS, &["/meit/review"]).await, 1);
    page.close().await;
    let log = audited(&page.audit());
    assert!(
        log.contains("\"login\"") && log.contains("\"oidc\"") && !log.contains("a.name"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_reads_and_who_has_no_role_stays_out() {
    let (mut page, provider) = open().await;
    provider.behave(Behaviour {
        roles: vec!["meit-viewer"],
        ..Behaviour::default()
    });
    let session = session_of(&login(&page, &provider).await).unwrap();
    let client = Client::default().with("Cookie", session.split(';').next().unwrap());
    let draft = page.draft(&client, "bed-01", "sinus rhythm.").await;
    let path = format!("/drafts/{}", draft.draft_id);
    let open = client.get(page.address, &path).await.body;
    assert!(open.contains("sinus rhythm.") && !open.contains("id=\"sign\""));
    let form = [
        ("csrf", hidden(&open, "csrf")),
        ("version", "1"),
        ("action", "sign"),
        ("text", "x"),
    ];
    assert_eq!(client.post(page.address, &path, &form).await.status, 403);
    provider.behave(Behaviour {
        roles: vec!["staff"],
        ..Behaviour::default()
    });
    let nobody = login(&page, &provider).await;
    assert_eq!((nobody.status, session_of(&nobody)), (403, None));
    assert!(nobody.body.contains("meit-viewer"), "{}", nobody.body);
    page.close().await;
    assert!(audited(&page.audit()).contains("login_refused"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_ends_once_and_in_the_browser_in_which_it_began() {
    let (mut page, provider) = open().await;
    let (browser, back) = go(&page, &provider).await;
    let other = Client::default().get(page.address, &back).await;
    assert_eq!((other.status, session_of(&other)), (400, None), "another browser");
    let spoilt = browser.get(page.address, &back).await;
    assert_eq!(
        (spoilt.status, session_of(&spoilt)),
        (400, None),
        "what another browser tried is over"
    );
    let (browser, back) = go(&page, &provider).await;
    assert_eq!(browser.get(page.address, &back).await.status, 200);
    let again = browser.get(page.address, &back).await;
    assert_eq!((again.status, session_of(&again)), (400, None), "twice");
    let (browser, back) = go(&page, &provider).await;
    let forged = browser
        .get(page.address, &back.replace("code=code-", "code=other-"))
        .await;
    assert_eq!(
        (forged.status, session_of(&forged)),
        (403, None),
        "a code that the provider does not know"
    );
    let (browser, _) = go(&page, &provider).await;
    let denied = browser
        .get(page.address, "/login/callback?error=access_denied%3Cb%3E")
        .await;
    assert_eq!(denied.status, 403);
    assert!(
        denied.body.contains("access_denied") && !denied.body.contains("<b>"),
        "{}",
        denied.body
    );
    page.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_does_not_hold_lets_nobody_in_and_a_new_key_is_fetched() {
    let (mut page, provider) = open().await;
    assert_eq!(login(&page, &provider).await.status, 200);
    let forged = Behaviour {
        signs_with: "second",
        ..Behaviour::default()
    };
    let bad = [
        ("key", forged.clone()),
        (
            "nonce",
            Behaviour {
                forged_nonce: true,
                ..Behaviour::default()
            },
        ),
        (
            "audience",
            Behaviour {
                audience: "another page",
                ..Behaviour::default()
            },
        ),
        (
            "time",
            Behaviour {
                expires_in: -60,
                ..Behaviour::default()
            },
        ),
    ];
    for (what, behaviour) in bad {
        provider.behave(behaviour);
        let answer = login(&page, &provider).await;
        assert_eq!((answer.status, session_of(&answer)), (401, None), "{what}");
    }
    provider.behave(Behaviour {
        publishes: "second",
        ..forged
    });
    assert_eq!(
        login(&page, &provider).await.status,
        200,
        "the provider changed its key"
    );
    page.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_is_away_is_told_of_and_may_come_back() {
    let mut page = Page::open_with(|settings| {
        let oidc = &mut settings.review.oidc;
        // port 9 of this machine: nobody listens
        oidc.issuer = "http://127.0.0.1:9".to_owned();
        oidc.client_id = CLIENT.to_owned();
        oidc.redirect_url = "http://127.0.0.1:9470/login/callback".to_owned();
    })
    .await;
    let away = Client::default().get(page.address, "/login/oidc").await;
    assert_eq!(away.status, 502);
    assert!(away.body.contains("does not answer"), "{}", away.body);
    assert_eq!(
        Client::default().get(page.address, "/").await.header("location"),
        Some("/login")
    );
    page.close().await;
}
