//! A store in a directory: keys are paths in it, logs are files of lines.
//!
//! Place: one of the two below [`crate::Store`]. Invariant: an object is linked or renamed into place whole, a folder renamed
//! into place whole; a reader takes no part of a write.

use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::{Store, disk};

/// A store in a directory, which is made with its first object.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Path of a key, with the folders above it.
    fn place(&self, key: &str) -> anyhow::Result<PathBuf> {
        let path = self.root.join(key);
        let folder = path.parent().context("a key has a folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(path)
    }
}

impl Store for Directory {
    fn get(&self, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let path = self.root.join(key);
        there(std::fs::read(&path)).with_context(|| format!("read {}", path.display()))
    }

    fn list(&self, folder: &str) -> anyhow::Result<Vec<String>> {
        let path = self.root.join(folder);
        let context = || format!("list {}", path.display());
        let mut names = Vec::new();
        for entry in there(std::fs::read_dir(&path))
            .with_context(context)?
            .into_iter()
            .flatten()
        {
            names.extend(entry.with_context(context)?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn create_new(&self, key: &str, bytes: &[u8]) -> anyhow::Result<bool> {
        disk::create_new(&self.place(key)?, bytes)
    }

    fn put(&self, key: &str, bytes: &[u8]) -> anyhow::Result<()> {
        disk::replace(&self.place(key)?, bytes)
    }

    fn append(&self, log: &str, line: &str) -> anyhow::Result<()> {
        let path = self.place(log)?;
        let file = std::fs::OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&path);
        let mut file = file.with_context(|| format!("open {}", path.display()))?;
        let mut bytes = Vec::new();
        let mut last = [b'\n'];
        if file.seek(SeekFrom::End(-1)).is_ok() {
            file.read_exact(&mut last)
                .with_context(|| format!("read {}", path.display()))?;
        }
        if last != [b'\n'] {
            bytes.push(b'\n'); // after a line that a crash cut off
        }
        bytes.extend(line.as_bytes());
        bytes.push(b'\n');
        file.write_all(&bytes)
            .with_context(|| format!("write {}", path.display()))?;
        file.sync_all().with_context(|| format!("flush {}", path.display()))
    }

    fn lines(&self, log: &str) -> anyhow::Result<Vec<String>> {
        let bytes = self.get(log)?.unwrap_or_default();
        let text = String::from_utf8(bytes).with_context(|| format!("read {}", self.root.join(log).display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn publish(&self, folder: &str, from: &Path, _last: &str, reserve_bytes: u64) -> anyhow::Result<()> {
        let to = self.place(folder)?;
        if to.exists() {
            return Ok(());
        }
        let partial = to.with_extension("partial");
        if partial.exists() {
            std::fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
        }
        std::fs::create_dir(&partial).with_context(|| format!("create {}", partial.display()))?;
        copy_whole(from, &partial, reserve_bytes)?;
        std::fs::rename(&partial, &to).with_context(|| format!("rename to {}", to.display()))
    }

    fn mirror(&self, folder: &str, _cache: &Path, _stop: &dyn Fn() -> bool) -> anyhow::Result<PathBuf> {
        let path = self.root.join(folder);
        ensure!(path.is_dir(), "{} is not there", path.display());
        Ok(path)
    }

    fn prune(&self, _cache: &Path, _keep: &[&str]) -> anyhow::Result<()> {
        Ok(())
    }
}

/// None for what is missing.
fn there<T>(read: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Copies a directory with its folders; each file is on the disk before the next.
fn copy_whole(from: &Path, to: &Path, reserve_bytes: u64) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let path = entry?.path();
        let copy = to.join(path.file_name().context("an entry has a name")?);
        if path.is_dir() {
            std::fs::create_dir(&copy).with_context(|| format!("create {}", copy.display()))?;
            copy_whole(&path, &copy, reserve_bytes)?;
            continue;
        }
        disk::ensure_room(to, path.metadata()?.len(), reserve_bytes)?;
        std::fs::copy(&path, &copy).with_context(|| format!("copy {}", path.display()))?;
        std::fs::File::open(&copy)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_survives_a_line_that_was_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let store = Directory::new(dir.path());
        store.append("log.txt", "one").unwrap();
        let file = std::fs::OpenOptions::new()
            .append(true)
            .open(dir.path().join("log.txt"));
        file.unwrap().write_all(b"tw").unwrap();
        store.append("log.txt", "three").unwrap();
        assert_eq!(store.lines("log.txt").unwrap(), ["one", "tw", "three"]);
    }
}
