//! The audit log: who did what, append-only, each line bound to the one before it.
//!
//! Place: written before and after every signature, at every login and whenever a draft is opened.
//! Invariant: a line is on the disk before what it tells of goes on; a line that was changed, removed or put in breaks the
//! chain of hashes, and a process does not start on a broken chain. No text of a report and no patient in it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Longest line that is read.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// What the first line follows.
const GENESIS: &str = "";

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened, read or written.
    #[error("{action} audit log {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Another process writes to it.
    #[error("audit log {path} is in use by another process")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A line is not what was written there.
    #[error("audit log {path} is broken at line {line}: {what}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The process started.
    Started,
    /// An incomplete last line was cut off: the process before ended while it wrote.
    Recovered,
    /// Somebody logged in.
    Login,
    /// A token was refused.
    LoginRefused,
    /// Somebody logged out.
    Logout,
    /// A draft was opened.
    Opened,
    /// A draft was given out in a format of other systems.
    Exported,
    /// A signature is about to be published.
    SignRequested,
    /// Kafka has the signature.
    Signed,
    /// Kafka does not have the signature, as far as is known.
    SignFailed,
    /// A report of another system was taken in.
    Imported,
}

/// What is to be written; what does not apply stays empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What happened.
    pub event: Event,
    /// Pseudonym of who did it.
    pub signer: String,
    /// The draft.
    pub draft_id: String,
    /// Version of the signed report.
    pub version: u32,
    /// What was done with the draft.
    pub action: String,
    /// What the signature says of the text.
    pub meaning: String,
    /// SHA-256 of the published record.
    pub record_sha256: String,
}

impl Entry {
    /// An entry about a person alone.
    pub fn of(event: Event, signer: &str) -> Self {
        Self {
            event,
            signer: signer.to_owned(),
            draft_id: String::new(),
            version: 0,
            action: String::new(),
            meaning: String::new(),
            record_sha256: String::new(),
        }
    }

    /// An entry about a person and a draft.
    pub fn about(event: Event, signer: &str, draft_id: &str) -> Self {
        Self {
            draft_id: draft_id.to_owned(),
            ..Self::of(event, signer)
        }
    }
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Number, from 1.
    pub sequence: u64,
    /// Microseconds since the Unix epoch.
    pub time_us: i64,
    /// What is told.
    #[serde(flatten)]
    pub entry: Entry,
    /// Hash of the line before; empty for the first.
    pub previous: String,
    /// SHA-256 of this line's JSON with an empty hash.
    pub hash: String,
}

impl Line {
    fn hashed(mut self) -> Self {
        self.hash.clear();
        let json = serde_json::to_vec(&self).expect("a line has only strings and numbers");
        self.hash = hex(&Sha256::digest(json));
        self
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An open log; clones share it.
#[derive(Clone)]
pub struct Audit {
    state: Arc<Mutex<State>>,
}

struct State {
    path: PathBuf,
    file: File,
    sequence: u64,
    last: String,
    /// After a failed write the end of the file is unknown, so nothing more is written.
    failed: bool,
}

/// What a whole log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Lines.
    pub lines: u64,
    /// Hash of the last line.
    pub last: String,
    /// Drafts that were signed, in order.
    pub signed: Vec<String>,
    /// Bytes of whole lines; what follows them is an incomplete line.
    pub bytes: u64,
}

/// Reads a log and checks every line.
///
/// # Errors
/// [`AuditError::Broken`] names the first line that is not what was written there.
pub fn check(path: &Path) -> Result<Checked, AuditError> {
    let failed = |source| AuditError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let mut checked = Checked::default();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        reader.read_until(b'\n', &mut bytes).map_err(failed)?;
        if bytes.last() != Some(&b'\n') {
            return Ok(checked);
        }
        let broken = |what| AuditError::Broken {
            path: path.to_owned(),
            line: checked.lines + 1,
            what,
        };
        if bytes.len() > LINE_BYTES_MAX {
            return Err(broken("it is too long"));
        }
        let line: Line = serde_json::from_slice(&bytes).map_err(|_| broken("it is not JSON of a line"))?;
        if line.sequence != checked.lines + 1 {
            return Err(broken("its number does not follow"));
        }
        if line.previous != checked.last {
            return Err(broken("it does not name the hash of the line before"));
        }
        if line.clone().hashed().hash != line.hash {
            return Err(broken("its content does not give its hash"));
        }
        if line.entry.event == Event::Signed {
            checked.signed.push(line.entry.draft_id);
        }
        checked.lines += 1;
        checked.bytes += bytes.len() as u64;
        checked.last = line.hash;
    }
}

impl Audit {
    /// Opens or makes a log, locks it, checks it, and says what was signed. An incomplete last line is cut off: its writer
    /// ended before it was on the disk, so nothing went on from it.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn open(path: &Path) -> Result<(Self, Checked), AuditError> {
        let failed = |action| {
            move |source| AuditError::Io {
                action,
                path: path.to_owned(),
                source,
            }
        };
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false);
        let mut file = file.open(path).map_err(failed("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(AuditError::InUse { path: path.to_owned() }),
            Err(std::fs::TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
        let checked = check(path)?;
        let cut = file.metadata().map_err(failed("read"))?.len() > checked.bytes;
        if cut {
            file.set_len(checked.bytes).map_err(failed("write"))?;
        }
        file.seek(SeekFrom::End(0)).map_err(failed("read"))?;
        let audit = Self {
            state: Arc::new(Mutex::new(State {
                path: path.to_owned(),
                file,
                sequence: checked.lines,
                last: if checked.last.is_empty() {
                    GENESIS.to_owned()
                } else {
                    checked.last.clone()
                },
                failed: false,
            })),
        };
        if cut {
            tracing::warn!(path = %path.display(), "an incomplete last line of the audit log was cut off");
            audit.write(Entry::of(Event::Recovered, ""))?;
        }
        Ok((audit, checked))
    }

    /// Appends a line and waits until it is on the disk.
    ///
    /// # Errors
    /// [`AuditError::Io`]; after one, every later call fails too.
    pub async fn append(&self, entry: Entry) -> Result<(), AuditError> {
        let audit = self.clone();
        let written = tokio::task::spawn_blocking(move || audit.write(entry)).await;
        written.expect("writing a line does not panic")
    }

    fn write(&self, entry: Entry) -> Result<(), AuditError> {
        let mut state = self.state.lock().expect("no code panics while it holds this lock");
        let failed = |path: &Path, source| AuditError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        };
        if state.failed {
            return Err(failed(&state.path, std::io::Error::other("an earlier write failed")));
        }
        let line = Line {
            sequence: state.sequence + 1,
            time_us: service::time::now_us(),
            entry,
            previous: state.last.clone(),
            hash: String::new(),
        }
        .hashed();
        let mut bytes = serde_json::to_vec(&line).expect("a line has only strings and numbers");
        bytes.push(b'\n');
        let written = state.file.write_all(&bytes).and_then(|()| state.file.sync_data());
        if let Err(source) = written {
            state.failed = true;
            return Err(failed(&state.path, source));
        }
        state.sequence = line.sequence;
        state.last = line.hash;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(directory: &Path) -> PathBuf {
        let path = directory.join("audit.jsonl");
        let (audit, checked) = Audit::open(&path).unwrap();
        assert_eq!(checked, Checked::default());
        audit.write(Entry::of(Event::Login, "dr-1")).unwrap();
        audit.write(Entry::about(Event::Signed, "dr-1", "draft-1")).unwrap();
        audit.write(Entry::about(Event::Signed, "dr-2", "draft-2")).unwrap();
        path
    }

    #[test]
    fn a_log_goes_on_where_it_ended_and_knows_what_was_signed() {
        let directory = tempfile::tempdir().unwrap();
        let path = written(directory.path());
        let (audit, checked) = Audit::open(&path).unwrap();
        assert_eq!(
            (checked.lines, checked.signed),
            (3, vec!["draft-1".to_owned(), "draft-2".to_owned()])
        );
        audit.write(Entry::of(Event::Logout, "dr-1")).unwrap();
        assert_eq!(check(&path).unwrap().lines, 4);
    }

    #[test]
    fn a_changed_removed_or_moved_line_breaks_the_chain() {
        let directory = tempfile::tempdir().unwrap();
        let path = written(directory.path());
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let forged = [
            (text.replace("dr-2", "dr-9"), 3),
            ([lines[0], lines[2], ""].join("\n"), 2),
            ([lines[1], lines[0], lines[2], ""].join("\n"), 1),
            (text.replacen("login", "signed", 1), 1),
        ];
        for (forged, at) in forged {
            std::fs::write(&path, forged).unwrap();
            let error = Audit::open(&path).err().unwrap();
            assert!(
                matches!(error, AuditError::Broken { line, .. } if line == at),
                "{error}"
            );
        }
    }

    #[test]
    fn an_incomplete_last_line_is_cut_off_and_told_of() {
        let directory = tempfile::tempdir().unwrap();
        let path = written(directory.path());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 10]).unwrap();
        let (_, checked) = Audit::open(&path).unwrap();
        assert_eq!(checked.lines, 2);
        let again = std::fs::read_to_string(&path).unwrap();
        assert!(again.lines().last().unwrap().contains("recovered"), "{again}");
        assert_eq!(check(&path).unwrap().lines, 3);
    }

    #[test]
    fn a_log_has_one_writer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let (_audit, _) = Audit::open(&path).unwrap();
        assert!(matches!(Audit::open(&path), Err(AuditError::InUse { .. })));
    }
}
