//! A store in a bucket of S3, or of a server that speaks its protocol.
//!
//! Place: one of the two below [`crate::Store`]. Layout: that of a directory, but a log NAME.EXT is a folder NAME with an
//! object a line, because objects cannot be added to. Invariant: creation is a conditional put (`If-None-Match: *`), and a
//! server that does not keep the condition is refused at the first; a folder's marker is uploaded last, so a folder that has it
//! is whole; a copy is renamed into place whole.
//! Source: Amazon S3 API reference, PutObject, conditional writes.

use std::future::Future;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::{Error, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, RetryConfig};
use service::time::now_us;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use tokio_stream::StreamExt as _;

use crate::{Store, disk};

/// Tries of a request after the first, and the time after which none is begun: a node asks again at its next look.
const RETRIES: usize = 3;
const RETRY_FOR: Duration = Duration::from_secs(10);
/// Bytes of one request of a large file; S3 takes parts from 5 MiB on, and 10,000 of them.
const PIECE_BYTES: usize = 16 << 20;
/// Looks at a key that is taken by a writer that is not done.
const CLAIMS: usize = 3;

/// A store in a bucket, below a prefix.
#[derive(Debug)]
pub struct S3 {
    client: AmazonS3,
    /// `s3://BUCKET/`, for messages.
    bucket: String,
    prefix: String,
    runtime: Background,
    piece_bytes: usize,
    /// Whether the server was seen to refuse an object that is there.
    keeps_conditions: AtomicBool,
}

impl S3 {
    /// A client for a bucket. `variables` are those of the environment; the ones that begin with AWS_ count.
    ///
    /// # Errors
    /// Variables that make no client. Nothing is sent yet.
    pub fn new(
        bucket: &str,
        prefix: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> anyhow::Result<Self> {
        // reqwest has no TLS of its own here; an error says that the process has a provider already
        tokio_rustls::rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let mut builder = AmazonS3Builder::new().with_bucket_name(bucket).with_retry(RetryConfig {
            max_retries: RETRIES,
            retry_timeout: RETRY_FOR,
            ..RetryConfig::default()
        });
        for (name, value) in variables {
            if let Some(key) = name
                .starts_with("AWS_")
                .then(|| name.to_ascii_lowercase().parse().ok())
                .flatten()
            {
                builder = builder.with_config(key, value);
            }
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("s3")
            .enable_all()
            .build();
        Ok(Self {
            client: builder
                .build()
                .with_context(|| format!("open s3://{bucket}/{prefix}"))?,
            bucket: format!("s3://{bucket}/"),
            prefix: prefix.to_owned(),
            runtime: Background(Some(runtime.context("start runtime")?)),
            piece_bytes: PIECE_BYTES,
            keeps_conditions: AtomicBool::new(false),
        })
    }

    fn key(&self, key: &str) -> Key {
        Key::from_iter(
            self.prefix
                .split('/')
                .chain(key.split('/'))
                .filter(|part| !part.is_empty()),
        )
    }

    /// What is done, and to what, for an error.
    fn doing(&self, what: &str, key: &Key) -> String {
        format!("{what} {}{key}", self.bucket)
    }

    /// One conditional put; false when the key is taken, or is being taken.
    fn put_new(&self, key: &Key, bytes: &[u8]) -> Result<bool, Error> {
        let put = self.client.put_opts(key, bytes.to_vec().into(), PutMode::Create.into());
        match self.runtime.wait(put) {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts an object that is there once more, on the condition that it is not.
    fn ensure_conditions(&self, key: &Key, bytes: &[u8]) -> anyhow::Result<()> {
        if self.keeps_conditions.load(Ordering::Relaxed) {
            return Ok(());
        }
        let taken_twice = self.put_new(key, bytes).with_context(|| self.doing("create", key))?;
        ensure!(
            !taken_twice,
            "{} was created twice: the server does not keep If-None-Match, so two jobs could both win",
            self.doing("object", key)
        );
        self.keeps_conditions.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn get_key(&self, key: &Key) -> anyhow::Result<Option<Vec<u8>>> {
        let got = self.runtime.wait(async { self.client.get(key).await?.bytes().await });
        match got {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error).with_context(|| self.doing("read", key)),
        }
    }

    /// Uploads a file; a large one in parts, of which the server makes an object at the end.
    fn upload(&self, from: &Path, key: &Key) -> anyhow::Result<()> {
        let mut file = std::fs::File::open(from).with_context(|| format!("open {}", from.display()))?;
        let mut piece = || {
            let mut bytes = Vec::new();
            let read = file.by_ref().take(self.piece_bytes as u64).read_to_end(&mut bytes);
            read.with_context(|| format!("read {}", from.display()))?;
            anyhow::Ok(bytes)
        };
        let first = piece()?;
        if first.len() < self.piece_bytes {
            let put = self.runtime.wait(self.client.put(key, first.into()));
            return put.map(|_| ()).with_context(|| self.doing("write", key));
        }
        let begun = self.runtime.wait(self.client.put_multipart(key));
        let mut upload = begun.with_context(|| self.doing("write", key))?;
        let sent = self.upload_parts(&mut *upload, first, &mut piece);
        if sent.is_err() {
            // what was sent would stay and cost; the bucket's own rule for such rests is the second line
            self.runtime.wait(upload.abort()).ok();
        }
        sent.with_context(|| self.doing("write", key))
    }

    fn upload_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        first: Vec<u8>,
        next: &mut dyn FnMut() -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<()> {
        let mut part = first;
        while !part.is_empty() {
            self.runtime.wait(upload.put_part(part.into()))?;
            part = next()?;
        }
        self.runtime.wait(upload.complete())?;
        Ok(())
    }

    /// Downloads an object piece by piece.
    fn download(&self, from: &ObjectMeta, to: &Path, stop: &dyn Fn() -> bool) -> anyhow::Result<()> {
        use std::io::Write as _;
        let mut file = std::fs::File::create(to).with_context(|| format!("create {}", to.display()))?;
        let mut at = 0;
        while at < from.size {
            ensure!(!stop(), "stopped at byte {at} of {}", from.location);
            let end = from.size.min(at + self.piece_bytes as u64);
            let piece = self.runtime.wait(self.client.get_range(&from.location, at..end));
            let piece = piece.with_context(|| self.doing("read", &from.location))?;
            file.write_all(&piece)
                .with_context(|| format!("write {}", to.display()))?;
            at = end;
        }
        file.sync_all().with_context(|| format!("flush {}", to.display()))
    }

    /// Every object below a folder.
    fn tree(&self, folder: &Key) -> anyhow::Result<Vec<ObjectMeta>> {
        let list = self.client.list(Some(folder)).collect::<Result<Vec<_>, _>>();
        self.runtime.wait(list).with_context(|| self.doing("list", folder))
    }
}

impl Store for S3 {
    fn get(&self, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        self.get_key(&self.key(key))
    }

    fn list(&self, folder: &str) -> anyhow::Result<Vec<String>> {
        let folder = self.key(folder);
        let listed = self.runtime.wait(self.client.list_with_delimiter(Some(&folder)));
        let objects = listed.with_context(|| self.doing("list", &folder))?.objects;
        let names = objects.iter().filter_map(|object| object.location.filename());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    fn create_new(&self, key: &str, bytes: &[u8]) -> anyhow::Result<bool> {
        let key = self.key(key);
        for _ in 0..CLAIMS {
            let put = self.put_new(&key, bytes);
            if let Ok(true) = put {
                self.ensure_conditions(&key, bytes)?;
                return Ok(true);
            }
            // taken, or the answer was lost: what lies there says by whom
            if let Some(held) = self.get_key(&key)? {
                return Ok(held == bytes);
            }
            put.with_context(|| self.doing("create", &key))?;
        }
        bail!("{}: another writer is at it, and not done", self.doing("create", &key))
    }

    fn put(&self, key: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let key = self.key(key);
        let put = self.runtime.wait(self.client.put(&key, bytes.to_vec().into()));
        put.map(|_| ()).with_context(|| self.doing("write", &key))
    }

    fn append(&self, log: &str, line: &str) -> anyhow::Result<()> {
        // sorted by their names, lines are sorted by time; the same line at the same microsecond is one
        let hash: String = Sha256::digest(line)
            .iter()
            .take(4)
            .map(|b| format!("{b:02x}"))
            .collect();
        let key = format!("{}/{:016}-{hash}", folder_of(log), now_us());
        self.create_new(&key, line.as_bytes()).map(|_| ())
    }

    fn lines(&self, log: &str) -> anyhow::Result<Vec<String>> {
        let folder = folder_of(log);
        let mut lines = Vec::new();
        for name in self.list(folder)? {
            let key = format!("{folder}/{name}");
            let line = self.get(&key)?.map(String::from_utf8).transpose();
            lines.extend(line.with_context(|| format!("read {key}"))?);
        }
        Ok(lines)
    }

    fn publish(&self, folder: &str, from: &Path, last: &str, _reserve_bytes: u64) -> anyhow::Result<()> {
        if self.get(&format!("{folder}/{last}"))?.is_some() {
            return Ok(());
        }
        let (mut files, mut folders) = (Vec::new(), vec![from.to_owned()]);
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(&next).with_context(|| format!("list {}", next.display()))? {
                let path = entry?.path();
                if path.is_dir() { &mut folders } else { &mut files }.push(path);
            }
        }
        let marker = from.join(last);
        files.sort_by_key(|path| (*path == marker, path.clone()));
        ensure!(files.last() == Some(&marker), "{} is missing", marker.display());
        for path in files {
            let name = path.strip_prefix(from).context("a file lies in its directory")?;
            let name = name.to_str().context("a file's name is text")?;
            self.upload(&path, &self.key(&format!("{folder}/{name}")))?;
        }
        Ok(())
    }

    fn mirror(&self, folder: &str, cache: &Path, stop: &dyn Fn() -> bool) -> anyhow::Result<PathBuf> {
        let key = self.key(folder);
        let to = cache.join(key.filename().context("a folder has a name")?);
        if to.is_dir() {
            return Ok(to);
        }
        let objects = self.tree(&key)?;
        ensure!(!objects.is_empty(), "{} is not there", self.doing("folder", &key));
        let partial = to.with_extension(PARTIAL);
        if partial.exists() {
            std::fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
        }
        std::fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
        disk::ensure_room(cache, objects.iter().map(|object| object.size).sum(), 0)?;
        for object in &objects {
            let parts = object
                .location
                .prefix_match(&key)
                .context("a list is below its folder")?;
            let path = parts.fold(partial.clone(), |path, part| path.join(part.as_ref()));
            let parent = path.parent().context("a file has a folder")?;
            std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
            self.download(object, &path, stop)?;
        }
        std::fs::rename(&partial, &to).with_context(|| format!("rename to {}", to.display()))?;
        Ok(to)
    }

    fn prune(&self, cache: &Path, keep: &[&str]) -> anyhow::Result<()> {
        if !cache.exists() {
            return Ok(());
        }
        for entry in std::fs::read_dir(cache).with_context(|| format!("list {}", cache.display()))? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            // nothing but copies, whatever else lies there
            let stem = name.strip_suffix(&format!(".{PARTIAL}")).unwrap_or(&name);
            let is_copy = !stem.is_empty() && stem.bytes().all(|b| b.is_ascii_hexdigit()) && entry.path().is_dir();
            if is_copy && !keep.contains(&name.as_str()) {
                let path = entry.path();
                std::fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
        Ok(())
    }
}

const PARTIAL: &str = "partial";

/// Folder of a log's lines.
fn folder_of(log: &str) -> &str {
    log.rsplit_once('.').map_or(log, |(name, _)| name)
}

/// A runtime that callers without one wait on, and that may be dropped anywhere.
#[derive(Debug)]
struct Background(Option<Runtime>);

impl Background {
    fn wait<F: Future>(&self, future: F) -> F::Output {
        let runtime = self.0.as_ref().expect("it is taken when it is dropped");
        runtime.block_on(future)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // a runtime that is dropped in a task panics; nothing is under way here any more
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests;
