//! The review page as its users and other systems meet it: over HTTP, with a broker behind it.
//!
//! Place: one [`review::Server`] a test, on a free port. Invariant: what a page says was signed is on the topic, and what
//! could not be published still waits.

mod provider;
mod sso;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ecg::report::{DraftReport, SignAction, SignedReport};
use ecg::segment::Segment;
use ecg::topic;
use prometheus::Registry;
use review::settings::ReviewSettings;
use review::{Server, audit, auth};
use service::shutdown::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::rig::{Rig, root};

/// How often and how long a page is asked until it shows what it should.
const TRIES: usize = 200;
const TRY: Duration = Duration::from_millis(50);

/// An answer.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .next()
    }
}

/// A browser or a program: what it sends with every request.
#[derive(Clone, Default)]
struct Client {
    headers: Vec<(String, String)>,
}

impl Client {
    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    async fn send(&self, to: SocketAddr, method: &str, path: &str, kind: &str, body: &str) -> Answer {
        let host = self.headers.iter().find(|(name, _)| name == "Host");
        let host = host.map_or_else(|| to.to_string(), |(_, value)| value.clone());
        let own = self.headers.iter().filter(|(name, _)| name != "Host");
        let own: String = own.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAccept: text/html\r\n{own}\
             Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    async fn get(&self, to: SocketAddr, path: &str) -> Answer {
        self.send(to, "GET", path, "text/plain", "").await
    }

    async fn post(&self, to: SocketAddr, path: &str, form: &[(&str, &str)]) -> Answer {
        let pairs = form.iter().map(|(key, value)| format!("{key}={}", percent(value)));
        let body = pairs.collect::<Vec<_>>().join("&");
        self.send(to, "POST", path, "application/x-www-form-urlencoded", &body)
            .await
    }

    /// Keeps the cookie of an answer.
    fn remember(self, answer: &Answer) -> Self {
        let cookie = answer
            .header("set-cookie")
            .expect("a cookie")
            .split(';')
            .next()
            .unwrap()
            .to_owned();
        self.with("Cookie", &cookie)
    }
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The value of a hidden field.
fn hidden<'a>(page: &'a str, name: &str) -> &'a str {
    let from = page
        .split_once(&format!("name=\"{name}\" value=\""))
        .expect("the field is there")
        .1;
    from.split('"').next().unwrap()
}

struct Page {
    /// None once the broker is gone.
    rig: Option<Rig>,
    directory: tempfile::TempDir,
    stop: Shutdown,
    address: SocketAddr,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Page {
    /// A page whose tokens file has this text; none where nobody logs in.
    async fn open(tokens: Option<&str>) -> Self {
        let mut page = Self::new();
        if let Some(text) = tokens {
            std::fs::write(page.directory.path().join("tokens.toml"), text).unwrap();
        }
        page.start(tokens.is_some()).await;
        page
    }

    /// A page without tokens, with other settings changed.
    async fn open_with(change: impl FnOnce(&mut ReviewSettings)) -> Self {
        let mut page = Self::new();
        let mut settings = page.settings(false);
        change(&mut settings);
        page.serve(settings).await;
        page
    }

    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            rig: Some(Rig::start()),
            directory,
            stop: Shutdown::new(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            task: None,
        }
    }

    async fn start(&mut self, with_tokens: bool) {
        let settings = self.settings(with_tokens);
        self.serve(settings).await;
    }

    fn settings(&self, with_tokens: bool) -> ReviewSettings {
        let mut settings: ReviewSettings = service::settings::load("review", None).unwrap();
        settings.kafka = self.rig().kafka.clone();
        settings.review.address = "127.0.0.1:0".to_owned();
        settings.review.audit_file = self.audit();
        settings.review.sign_timeout_ms = 1000;
        if with_tokens {
            settings.review.tokens_file = self.directory.path().join("tokens.toml");
        }
        settings
    }

    async fn serve(&mut self, settings: ReviewSettings) {
        self.stop = Shutdown::new();
        let metrics = review::metrics::Metrics::new(&Registry::new()).unwrap();
        let server = Server::bind(settings, metrics, self.stop.clone()).await.unwrap();
        self.address = server.address();
        self.task = Some(tokio::spawn(server.run()));
    }

    fn rig(&self) -> &Rig {
        self.rig.as_ref().expect("the broker is there")
    }

    fn audit(&self) -> std::path::PathBuf {
        self.directory.path().join("audit.jsonl")
    }

    /// Puts a segment and its draft on their topics, and waits until the page has both.
    async fn draft(&self, client: &Client, bed: &str, text: &str) -> DraftReport {
        let (segment, draft) = case(bed, text);
        let key = Some(segment.id.as_bytes());
        let json = serde_json::to_vec(&draft).unwrap();
        self.rig().sink.send(topic::REPORTS, key, &json, &[]).await.unwrap();
        let stream = Some(bed.as_bytes());
        self.rig()
            .sink
            .send(topic::SEGMENTS, stream, &segment.encode(), &[])
            .await
            .unwrap();
        let path = format!("/drafts/{}/ecg.svg", draft.draft_id);
        for _ in 0..TRIES {
            if client.get(self.address, &path).await.status == 200 {
                return draft;
            }
            tokio::time::sleep(TRY).await;
        }
        panic!("the draft does not come to the page");
    }

    async fn signed(&self) -> Vec<SignedReport> {
        let records = self.rig().all(topic::SIGNED_REPORTS).await;
        records
            .iter()
            .map(|record| serde_json::from_slice(&record.payload).unwrap())
            .collect()
    }

    async fn close(&mut self) {
        self.stop.trigger();
        self.task.take().unwrap().await.unwrap().unwrap();
    }
}

/// A shipped recording as a segment, and a draft on it.
fn case(bed: &str, text: &str) -> (Segment, DraftReport) {
    let header = root().join("tests/data/ptbxl/records500/00000/00020_hr.hea");
    let mut context = ecg::wfdb::read(&header).unwrap().context().unwrap();
    context.stream_id = bed.to_owned();
    let segment = ecg::dsp::analyse(&context, &ecg::dsp::DspConfig::default());
    let author = node::draft::Author {
        bundle: ecg::report::BundleLineage {
            bundle_id: "bundle-1".to_owned(),
            ..Default::default()
        },
        decode: Default::default(),
    };
    let written = node::drafter::DraftText {
        text: text.to_owned(),
        tokens: 3,
        prompt_tokens: 0,
        steps: vec![],
        logprob_mean: -0.1,
        logprob_min: -0.2,
        finish: model::generate::Finish::Stop,
    };
    let draft = node::draft::drafted(&segment, &written, &author, &Default::default());
    (segment, draft)
}

fn token_line(signer: &str, role: &str) -> (String, String) {
    let (token, sha256) = auth::new_token();
    let line = format!(
        "[[token]]\nsha256 = \"{sha256}\"\nsigner = \"{signer}\"\ntitle = \"cardiologist\"\nrole = \"{role}\"\n"
    );
    (token, line)
}

fn audited(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draft_is_read_edited_and_signed_and_the_signature_is_on_the_topic() {
    let mut page = Page::open(None).await;
    let first = Client::default().get(page.address, "/").await;
    let client = Client::default().remember(&first);
    let draft = page.draft(&client, "bed-01", "sinus rhythm. normal ecg.").await;
    let list = client.get(page.address, "/").await.body;
    assert!(list.contains(&draft.draft_id) && list.contains("sinus rhythm. normal ecg."));
    let path = format!("/drafts/{}", draft.draft_id);
    let open = client.get(page.address, &path).await;
    let policy = open.header("content-security-policy").unwrap();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    let csrf = hidden(&open.body, "csrf").to_owned();
    let form = |text: &'static str| {
        let csrf = csrf.clone();
        move |client: Client, to: SocketAddr, path: String| async move {
            let form = [
                ("csrf", csrf.as_str()),
                ("version", "1"),
                ("action", "sign"),
                ("text", text),
            ];
            client.post(to, &path, &form).await
        }
    };
    let signed = form("sinus rhythm.\r\nborderline ecg.")(client.clone(), page.address, path.clone()).await;
    assert_eq!((signed.status, signed.header("location")), (303, Some("/?done=edited")));
    let again = form("something else")(client.clone(), page.address, path.clone()).await;
    assert_eq!(again.status, 409, "the page is older than the signature");
    let rows = client.get(page.address, "/rows").await.body;
    assert!(!rows.contains(&draft.draft_id), "a signed draft does not wait");
    assert_eq!(page.rig().events(topic::SIGNED_REPORTS, &["/meit/review"]).await, 1);
    let reports = page.signed().await;
    assert_eq!(reports.len(), 1);
    let report = &reports[0];
    assert_eq!(
        (report.action, report.text.as_str()),
        (SignAction::Edited, "sinus rhythm.\nborderline ecg.")
    );
    assert_eq!(report.segment_sha256, draft.segment_sha256);
    page.close().await;
    let checked = audit::check(&page.audit()).unwrap();
    assert_eq!(checked.signed, std::slice::from_ref(&draft.draft_id));
    assert!(
        !audited(&page.audit()).contains("borderline"),
        "no text in the audit log"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_kafka_the_draft_and_the_text_are_kept_and_a_restart_shows_it_again() {
    let mut page = Page::open(None).await;
    let first = Client::default().get(page.address, "/").await;
    let client = Client::default().remember(&first);
    let draft = page.draft(&client, "bed-01", "sinus rhythm. normal ecg.").await;
    page.close().await;
    page.start(false).await;
    let client = Client::default().remember(&Client::default().get(page.address, "/").await);
    let path = format!("/drafts/{}", draft.draft_id);
    let mut open = client.get(page.address, &path).await;
    for _ in 0..TRIES {
        if open.body.contains("name=\"csrf\"") && open.status == 200 && open.body.contains("id=\"ecg\"") {
            break;
        }
        tokio::time::sleep(TRY).await;
        open = client.get(page.address, &path).await;
    }
    assert_eq!(open.status, 200, "what waits is read again after a restart");
    drop(page.rig.take());
    let csrf = hidden(&open.body, "csrf");
    let form = [
        ("csrf", csrf),
        ("version", "1"),
        ("action", "sign"),
        ("text", "my own words"),
    ];
    let failed = client.post(page.address, &path, &form).await;
    assert_eq!(failed.status, 503);
    assert!(failed.body.contains("Kafka does not answer") && failed.body.contains(">my own words</textarea>"));
    assert!(client.get(page.address, "/rows").await.body.contains(&draft.draft_id));
    let again = client.post(page.address, &path, &form).await;
    assert_eq!(again.status, 503, "it can be tried again");
    let log = audited(&page.audit());
    assert!(
        log.contains("sign_requested") && log.contains("sign_failed") && !log.contains("\"signed\""),
        "{log}"
    );
    page.stop.trigger();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_unknown_sees_nothing_and_a_viewer_signs_nothing() {
    let ((signer, first), (viewer, second)) = (token_line("dr-1", "signer"), token_line("n-1", "viewer"));
    let mut page = Page::open(Some(&format!("{first}{second}"))).await;
    let to = page.address;
    let bearer = |token: &str| Client::default().with("Authorization", &format!("Bearer {token}"));
    let draft = page.draft(&bearer(&signer), "bed-01", "sinus rhythm.").await;
    let path = format!("/drafts/{}", draft.draft_id);
    for closed in ["/", "/rows", "/events", "/api/drafts", path.as_str()] {
        let answer = Client::default().get(to, closed).await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (303, Some("/login")),
            "{closed}"
        );
        assert!(!answer.body.contains("sinus"));
    }
    assert_eq!(bearer("wrong").get(to, "/").await.status, 401);
    assert_eq!(
        Client::default().post(to, "/login", &[("token", "wrong")]).await.status,
        401
    );

    let login = Client::default().post(to, "/login", &[("token", &viewer)]).await;
    let cookie = login.header("set-cookie").unwrap();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
        "{cookie}"
    );
    let reader = Client::default().remember(&login);
    let open = reader.get(to, &path).await.body;
    assert!(open.contains("sinus rhythm.") && !open.contains("id=\"sign\""));
    let csrf = hidden(&open, "csrf").to_owned();
    let form = [
        ("csrf", csrf.as_str()),
        ("version", "1"),
        ("action", "sign"),
        ("text", "x"),
    ];
    assert_eq!(
        reader.post(to, &path, &form).await.status,
        403,
        "a viewer signs nothing"
    );

    let login = Client::default().post(to, "/login", &[("token", &signer)]).await;
    let client = Client::default().remember(&login);
    assert_eq!(
        client.post(to, &path, &form).await.status,
        403,
        "the token of another session"
    );
    let forged = client.clone().with("Origin", "https://evil.example");
    assert_eq!(forged.post(to, &path, &form).await.status, 403, "another site");
    let csrf = hidden(&client.get(to, &path).await.body, "csrf").to_owned();
    let form = [
        ("csrf", csrf.as_str()),
        ("version", "1"),
        ("action", "sign"),
        ("text", "sinus rhythm."),
    ];
    assert_eq!(client.post(to, &path, &form).await.status, 303);
    assert_eq!(page.signed().await[0].signer, "dr-1");
    assert_eq!(client.post(to, "/logout", &[("csrf", &csrf)]).await.status, 303);
    assert_eq!(client.get(to, "/").await.header("location"), Some("/login"));
    page.close().await;
    assert!(audited(&page.audit()).contains("login_refused"));
    audit::check(&page.audit()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_logins_other_host_names_are_refused() {
    let mut page = Page::open(None).await;
    let rebound = Client::default().with("Host", "evil.example");
    assert_eq!(rebound.get(page.address, "/").await.status, 403);
    assert_eq!(Client::default().get(page.address, "/").await.status, 200);
    page.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_systems_read_fhir_and_hl7_and_sign_by_hl7_once() {
    let (token, line) = token_line("ehr", "signer");
    let mut page = Page::open(Some(&line)).await;
    let client = Client::default().with("Authorization", &format!("Bearer {token}"));
    let draft = page.draft(&client, "bed-01", "sinus rhythm.").await;
    let path = format!("/api/drafts/{}", draft.draft_id);
    let status = |fhir: &Answer| {
        let bundle: serde_json::Value = serde_json::from_str(&fhir.body).unwrap();
        bundle["entry"][0]["resource"]["status"].as_str().unwrap().to_owned()
    };
    let fhir = client.get(page.address, &format!("{path}/fhir?samples=raw")).await;
    assert!(
        fhir.header("content-type")
            .unwrap()
            .starts_with("application/fhir+json")
    );
    assert_eq!(status(&fhir), "partial");
    let out = client.get(page.address, &format!("{path}/hl7")).await.body;
    assert!(out.contains("|R|"), "{out}");
    let signed = out.replace("|R|", "|F|");
    for (message, code) in [(&out, "AE"), (&signed, "AA"), (&signed, "AA")] {
        let answer = client
            .send(page.address, "POST", "/api/hl7", "application/hl7-v2+er7", message)
            .await;
        assert!(answer.body.contains(&format!("\rMSA|{code}|")), "{}", answer.body);
    }
    let reports = page.signed().await;
    assert_eq!(reports.len(), 1, "the same message twice is one signature");
    assert_eq!(
        (reports[0].signer.as_str(), reports[0].action),
        ("ehr", SignAction::Accepted)
    );
    assert!(reports[0].meaning.contains("MEIT"), "{}", reports[0].meaning);
    assert_eq!(
        status(&client.get(page.address, &format!("{path}/fhir")).await),
        "final"
    );
    page.close().await;
}
