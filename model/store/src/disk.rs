//! Files that appear whole or not at all, and a disk that is never filled up.
//!
//! Place: under everything that the job writes. Invariant: a reader sees the old file or the new one; a write that would
//! leave less than the reserve stops before its first byte.

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};

/// Numbers the partial files of this process.
static WRITERS: AtomicU64 = AtomicU64::new(0);

/// Writes `bytes` beside `path`, flushes them to the disk and renames them into place.
///
/// # Errors
/// A disk that is full or refuses; the old file stays.
pub fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    let partial = Path::new(&name);
    let written = write_synced(partial, bytes);
    if written.is_err() {
        std::fs::remove_file(partial).ok();
    }
    written?;
    std::fs::rename(partial, path).with_context(|| format!("rename to {}", path.display()))
}

/// Writes `bytes` to a path that must not exist; of two writers one wins. False when the path is taken.
///
/// # Errors
/// A disk that is full or refuses.
pub fn create_new(path: &Path, bytes: &[u8]) -> anyhow::Result<bool> {
    // two threads of one process may want the same path
    let number = WRITERS.fetch_add(1, Ordering::Relaxed);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}-{number}.partial", std::process::id()));
    let partial = Path::new(&name);
    let written = write_synced(partial, bytes);
    let linked = written.map(|()| std::fs::hard_link(partial, path));
    std::fs::remove_file(partial).ok();
    match linked? {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).with_context(|| format!("create {}", path.display())),
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file = std::fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.write_all(bytes)
        .with_context(|| format!("write {} bytes to {}", bytes.len(), path.display()))?;
    file.sync_all().with_context(|| format!("flush {}", path.display()))
}

/// Stops where `bytes` more would leave less than `reserve` bytes free on the disk of `dir`.
///
/// # Errors
/// Too little room, with the numbers; a directory that cannot be asked.
pub fn ensure_room(dir: &Path, bytes: u64, reserve: u64) -> anyhow::Result<()> {
    let stat = rustix::fs::statvfs(dir).with_context(|| format!("ask for free space of {}", dir.display()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    ensure!(
        free >= bytes.saturating_add(reserve),
        "{} has {free} bytes free: {bytes} are needed and {reserve} stay in reserve",
        dir.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_creators_one_wins_and_the_file_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.json");
        assert!(create_new(&path, b"first").unwrap());
        assert!(!create_new(&path, b"second").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        replace(&path, b"third").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"third");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no partial file stays"
        );
    }

    #[test]
    fn a_full_disk_is_refused_with_its_numbers() {
        let dir = tempfile::tempdir().unwrap();
        ensure_room(dir.path(), 1, 0).unwrap();
        let error = ensure_room(dir.path(), 1, u64::MAX / 2).unwrap_err().to_string();
        assert!(error.contains("bytes free"), "{error}");
    }

    #[test]
    fn a_device_without_room_leaves_no_file() {
        // /dev/full answers every write as a full disk does
        if Path::new("/dev/full").exists() {
            let error = write_synced(Path::new("/dev/full"), b"x").unwrap_err();
            assert!(format!("{error:#}").contains("No space left"), "{error:#}");
        }
    }
}
