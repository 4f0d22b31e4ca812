//! A server of S3's protocol on a loopback port, in this process: what a registry asks of one, and faults to order.
//!
//! Place: tests of `store`, `pipeline` and `node` only. Invariant: a conditional put is decided under one lock, so of two that
//! are sent at once one wins, as on S3; listings come in small pages, so whoever lists must follow them.
//! Source: Amazon S3 API reference: PutObject, GetObject, ListObjectsV2, CreateMultipartUpload, UploadPart,
//! CompleteMultipartUpload, AbortMultipartUpload.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

/// Keys a page of a listing; S3 has 1000.
const PAGE: usize = 3;
const LAST_MODIFIED: &str = "Sat, 28 Nov 2026 00:00:00 GMT";
const ACCESS_KEY: &str = "tests";

/// What the server does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// Nobody is let in.
    Forbids,
    /// `If-None-Match` is not looked at, as on servers of before 2024.
    Overwrites,
    /// The next creation is done, and answered with an error.
    LosesAnAnswer,
    /// A download ends with an error after this many.
    FailsDownloadsAfter(u32),
}

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    fault: Fault,
    requests: Vec<String>,
}

/// A server with one bucket; it ends when it is dropped.
pub struct Server {
    address: SocketAddr,
    bucket: Arc<Mutex<Bucket>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// # Panics
    /// Where no loopback port can be had.
    pub fn start() -> Self {
        let bucket = Arc::<Mutex<Bucket>>::default();
        let router = Router::new()
            .fallback(answer)
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(&bucket));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        listener.set_nonblocking(true).expect("a socket may be polled");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (stop, stopped) = oneshot::channel();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime takes sockets");
            tokio::select! {
                served = axum::serve(listener, router).into_future() => served.expect("loopback serves"),
                _ = stopped => {}
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        Self {
            address,
            bucket,
            stop: Some(stop),
            thread: Some(std::thread::spawn(move || runtime.block_on(serve))),
        }
    }

    /// The environment of a client.
    pub fn variables(&self) -> Vec<(String, String)> {
        let variables = [
            ("AWS_ENDPOINT", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
            ("AWS_REGION", "eu-central-1".to_owned()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// From now on.
    pub fn fault(&self, fault: Fault) {
        self.lock().fault = fault;
    }

    /// Keys of the bucket, sorted, each with its bucket's name before it.
    pub fn keys(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    /// Changes an object behind everybody's back.
    ///
    /// # Panics
    /// Without the object.
    pub fn change(&self, key: &str, with: impl FnOnce(&mut Vec<u8>)) {
        let mut bucket = self.lock();
        let mut bytes = bucket.objects[key].to_vec();
        with(&mut bytes);
        bucket.objects.insert(key.to_owned(), bytes.into());
    }

    /// Method and key of every request so far, and forgets them.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().requests)
    }

    fn lock(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().expect("no request panics")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

type Parameters = BTreeMap<String, String>;

async fn answer(
    State(bucket): State<Arc<Mutex<Bucket>>>,
    method: Method,
    uri: Uri,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut bucket = bucket.lock().expect("no request panics");
    let key = uri.path().trim_matches('/').to_owned();
    bucket.requests.push(format!("{method} {key}"));
    let signature = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let signed = format!("AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/");
    if bucket.fault == Fault::Forbids || !signature.is_some_and(|s| s.starts_with(&signed)) {
        return error(StatusCode::FORBIDDEN, "AccessDenied");
    }
    let part = parameters
        .get("partNumber")
        .map_or(0, |number| number.parse().unwrap_or(0));
    match (
        method.as_str(),
        parameters.get("uploadId"),
        parameters.contains_key("uploads"),
    ) {
        ("GET", _, _) if parameters.contains_key("list-type") => list(&bucket.objects, &key, &parameters),
        ("GET", _, _) => get(&mut bucket, &key, &headers),
        ("PUT", Some(id), _) => {
            let tag = tag(&body);
            bucket.uploads.entry(id.clone()).or_default().insert(part, body);
            [(header::ETAG, tag)].into_response()
        }
        ("PUT", None, _) => put(&mut bucket, &key, &headers, body),
        ("POST", _, true) => {
            let id = bucket.uploads.len().to_string();
            bucket.uploads.insert(id.clone(), BTreeMap::new());
            xml(&format!(
                "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            ))
        }
        ("POST", Some(id), _) => {
            let parts = bucket.uploads.remove(id).unwrap_or_default();
            let whole: Vec<u8> = parts.into_values().flatten().collect();
            bucket.objects.insert(key, whole.into());
            xml("<CompleteMultipartUploadResult><ETag>\"whole\"</ETag></CompleteMultipartUploadResult>")
        }
        ("DELETE", Some(id), _) => {
            bucket.uploads.remove(id);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => error(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
    }
}

fn put(bucket: &mut Bucket, key: &str, headers: &HeaderMap, body: Bytes) -> Response {
    let is_creation = headers.get(header::IF_NONE_MATCH).is_some_and(|value| value == "*");
    if is_creation && bucket.fault != Fault::Overwrites && bucket.objects.contains_key(key) {
        return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
    }
    let tag = tag(&body);
    bucket.objects.insert(key.to_owned(), body);
    if is_creation && bucket.fault == Fault::LosesAnAnswer {
        bucket.fault = Fault::None;
        return error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
    }
    [(header::ETAG, tag)].into_response()
}

fn get(bucket: &mut Bucket, key: &str, headers: &HeaderMap) -> Response {
    let Some(bytes) = bucket.objects.get(key).cloned() else {
        return error(StatusCode::NOT_FOUND, "NoSuchKey");
    };
    let all = [
        (header::ETAG, tag(&bytes)),
        (header::LAST_MODIFIED, LAST_MODIFIED.to_owned()),
    ];
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let Some(range) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else {
        return (all, bytes).into_response();
    };
    match &mut bucket.fault {
        Fault::FailsDownloadsAfter(0) => return error(StatusCode::FORBIDDEN, "AccessDenied"),
        Fault::FailsDownloadsAfter(left) => *left -= 1,
        _ => {}
    }
    let (Ok(first), Ok(last)) = (range.0.parse::<usize>(), range.1.parse::<usize>()) else {
        return error(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
    };
    if first > last || last >= bytes.len() {
        return error(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
    }
    let content = [(header::CONTENT_RANGE, format!("bytes {first}-{last}/{}", bytes.len()))];
    let piece = bytes.slice(first..=last);
    (StatusCode::PARTIAL_CONTENT, all, content, piece).into_response()
}

fn list(objects: &BTreeMap<String, Bytes>, bucket: &str, parameters: &Parameters) -> Response {
    let parameter = |name: &str| parameters.get(name).map(String::as_str).unwrap_or_default();
    let (prefix, delimiter, token) = (
        parameter("prefix"),
        parameter("delimiter"),
        parameter("continuation-token"),
    );
    let start = format!("{bucket}/");
    let mut entries: BTreeMap<String, String> = BTreeMap::new();
    for (key, bytes) in objects {
        let Some(key) = key.strip_prefix(&start).filter(|key| key.starts_with(prefix)) else {
            continue;
        };
        let rest = &key[prefix.len()..];
        let folder = (!delimiter.is_empty()).then(|| rest.find(delimiter)).flatten();
        let (name, entry) = match folder {
            Some(at) => {
                let folder = &key[..prefix.len() + at + delimiter.len()];
                (
                    folder,
                    format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"),
                )
            }
            None => {
                let size = bytes.len();
                (
                    key,
                    format!(
                        "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>2026-11-28T00:00:00.000Z</LastModified></Contents>"
                    ),
                )
            }
        };
        entries.insert(name.to_owned(), entry);
    }
    let mut left = entries.into_iter().filter(|(name, _)| name.as_str() > token);
    let page: Vec<(String, String)> = left.by_ref().take(PAGE).collect();
    let more = match page.last() {
        Some((last, _)) if left.next().is_some() => {
            format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{last}</NextContinuationToken>")
        }
        _ => "<IsTruncated>false</IsTruncated>".to_owned(),
    };
    let entries: String = page.into_iter().map(|(_, entry)| entry).collect();
    xml(&format!("<ListBucketResult>{more}{entries}</ListBucketResult>"))
}

fn tag(bytes: &[u8]) -> String {
    let hash: String = Sha256::digest(bytes)
        .iter()
        .take(8)
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("\"{hash}\"")
}

fn xml(body: &str) -> Response {
    let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{body}");
    ([(header::CONTENT_TYPE, "application/xml")], body).into_response()
}

fn error(status: StatusCode, code: &str) -> Response {
    (
        status,
        xml(&format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>")),
    )
        .into_response()
}
