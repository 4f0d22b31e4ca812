//! Where generations are kept: a directory, or a bucket of S3.
//!
//! Place: below the pipeline's registry, which writes, and the node's watcher, which reads; the rules are theirs. Invariant: a
//! reader sees an object whole, as it was or as it is; of two that create the same object one wins; a folder that was published
//! is there whole or not at all.

pub mod directory;
pub mod disk;
pub mod location;
pub mod registry;
pub mod s3;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use crate::location::Location;

/// Objects by key; parts of a key are separated by slashes.
pub trait Store: Debug + Send + Sync {
    /// The bytes of an object; none where it is missing.
    ///
    /// # Errors
    /// A store that cannot be reached or read.
    fn get(&self, key: &str) -> anyhow::Result<Option<Vec<u8>>>;

    /// Names of the objects directly in a folder, sorted; none where it is missing.
    ///
    /// # Errors
    /// As [`Store::get`].
    fn list(&self, folder: &str) -> anyhow::Result<Vec<String>>;

    /// Writes an object that must not exist; of two writers one wins. False when the key is taken. Bytes must tell who writes:
    /// a writer whose request was answered twice knows its object by them.
    ///
    /// # Errors
    /// A store that cannot be reached or refuses.
    fn create_new(&self, key: &str, bytes: &[u8]) -> anyhow::Result<bool>;

    /// Writes an object, over the one that is there.
    ///
    /// # Errors
    /// As [`Store::create_new`].
    fn put(&self, key: &str, bytes: &[u8]) -> anyhow::Result<()>;

    /// Adds a line to a log; what is in it stays.
    ///
    /// # Errors
    /// As [`Store::create_new`].
    fn append(&self, log: &str, line: &str) -> anyhow::Result<()>;

    /// Lines of a log, oldest first; none where it is missing. After a crash there may be one that was cut off.
    ///
    /// # Errors
    /// As [`Store::get`].
    fn lines(&self, log: &str) -> anyhow::Result<Vec<String>>;

    /// Copies a directory to a folder; a folder that is there stays as it is. It counts as there when its file `last` is.
    /// `reserve_bytes` stay free on a disk.
    ///
    /// # Errors
    /// Too little room; a file that cannot be read; a store that cannot be reached or refuses.
    fn publish(&self, folder: &str, from: &Path, last: &str, reserve_bytes: u64) -> anyhow::Result<()>;

    /// A directory that holds a published folder: the store's own, or a copy in `cache` by the folder's name. `stop` is asked
    /// between two pieces of a copy.
    ///
    /// # Errors
    /// A folder that was not published; too little room; a store that cannot be reached; `stop`.
    fn mirror(&self, folder: &str, cache: &Path, stop: &dyn Fn() -> bool) -> anyhow::Result<PathBuf>;

    /// Removes the copies in `cache` other than those named; nothing where [`Store::mirror`] makes none.
    ///
    /// # Errors
    /// A copy that cannot be removed.
    fn prune(&self, cache: &Path, keep: &[&str]) -> anyhow::Result<()>;
}

/// Opens a store. One on S3 takes credentials, region and endpoint from the usual AWS_ variables of the environment.
///
/// # Errors
/// Variables that make no client. Nothing is asked of the store yet.
pub fn open(location: &Location) -> anyhow::Result<Arc<dyn Store>> {
    match location {
        Location::Directory(root) => Ok(Arc::new(directory::Directory::new(root))),
        Location::S3 { bucket, prefix } => Ok(Arc::new(s3::S3::new(bucket, prefix, std::env::vars())?)),
    }
}
