//! Who may look and who may sign: bearer tokens, and the sessions that browsers have.
//!
//! Place: asked by the guard before every request. Invariant: tokens lie in the file and in memory as SHA-256 only; a session
//! is a random number that ends after a time without requests; both tables are bounded.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::TryRngCore as _;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::audit::hex;

/// Random bytes of a token, a session or a CSRF token.
const SECRET_BYTES: usize = 32;

/// Why tokens cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The file cannot be read.
    #[error("read tokens from {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what `[[token]]` tables look like.
    #[error("read tokens from {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<toml::de::Error>,
    },
    /// There is nobody in it, or a value is wrong.
    #[error("tokens in {path}: {what}")]
    Value {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look at drafts.
    Viewer,
    /// Look and sign.
    Signer,
}

/// Somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Pseudonym, as in signatures.
    pub signer: String,
    /// Profession, as in signatures, such as "cardiologist".
    pub title: String,
    /// What they may do.
    pub role: Role,
}

/// One `[[token]]` of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenLine {
    sha256: String,
    signer: String,
    title: String,
    role: Role,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensFile {
    token: Vec<TokenLine>,
}

/// Who has a token; without a file, everybody is the same local signer.
#[derive(Clone, Debug)]
pub enum Tokens {
    /// Nobody logs in.
    Open(Identity),
    /// By SHA-256 of the token, lower-case hex.
    Listed(Arc<HashMap<String, Identity>>),
}

impl Tokens {
    /// The local signer of an installation without logins.
    pub fn open() -> Self {
        Self::Open(Identity {
            signer: "local".to_owned(),
            title: "not authenticated".to_owned(),
            role: Role::Signer,
        })
    }

    /// Nobody has a token: single sign-on alone lets people in.
    pub fn none() -> Self {
        Self::Listed(Arc::default())
    }

    /// True when somebody has a token.
    pub fn has_any(&self) -> bool {
        matches!(self, Self::Listed(tokens) if !tokens.is_empty())
    }

    /// Reads a file of `[[token]]` tables with sha256, signer, title and role.
    ///
    /// # Errors
    /// [`TokensError`].
    pub fn read(path: &Path) -> Result<Self, TokensError> {
        let path = || path.to_owned();
        let text = std::fs::read_to_string(path()).map_err(|source| TokensError::Read { path: path(), source })?;
        let file: TokensFile = toml::from_str(&text).map_err(|source| TokensError::Parse {
            path: path(),
            source: Box::new(source),
        })?;
        let mut tokens = HashMap::new();
        for line in file.token {
            let value = |what: String| TokensError::Value { path: path(), what };
            let hash = line.sha256.to_lowercase();
            if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(value(format!("sha256 of {} is not 64 hexadecimal digits", line.signer)));
            }
            if line.signer.trim().is_empty() {
                return Err(value("a signer is empty".to_owned()));
            }
            let identity = Identity {
                signer: line.signer,
                title: line.title,
                role: line.role,
            };
            if let Some(other) = tokens.insert(hash, identity) {
                return Err(value(format!("the token of {} is there twice", other.signer)));
            }
        }
        if tokens.is_empty() {
            let what = "there is none, so nobody could log in".to_owned();
            return Err(TokensError::Value { path: path(), what });
        }
        Ok(Self::Listed(Arc::new(tokens)))
    }

    /// Who has a token.
    pub fn identify(&self, token: &str) -> Option<Identity> {
        match self {
            Self::Open(_) => None,
            // the map is searched by a hash that a caller cannot steer, so its timing tells nothing of the tokens
            Self::Listed(tokens) => tokens.get(&sha256(token)).cloned(),
        }
    }
}

/// A new random token and its SHA-256, both in hex.
///
/// # Panics
/// When the operating system has no randomness.
pub fn new_token() -> (String, String) {
    let token = secret();
    let hash = sha256(&token);
    (token, hash)
}

/// Random bytes in hex.
pub(crate) fn secret() -> String {
    let mut bytes = [0; SECRET_BYTES];
    rand::rngs::OsRng
        .try_fill_bytes(&mut bytes)
        .expect("the operating system has randomness");
    hex(&bytes)
}

/// SHA-256 of a text in hex.
pub(crate) fn sha256(text: &str) -> String {
    hex(&Sha256::digest(text))
}

/// A browser's session.
#[derive(Clone, Debug)]
pub struct Session {
    /// Whose it is.
    pub identity: Identity,
    /// What every form of this session carries.
    pub csrf: String,
    /// SHA-256 of the cookie's value; the session's key.
    key: String,
    began: Instant,
    last_request: Instant,
}

/// The sessions; clones share them.
#[derive(Clone)]
pub struct Sessions {
    sessions: Arc<Mutex<HashMap<String, Session>>>,
    idle_max: Duration,
    age_max: Duration,
    sessions_max: usize,
}

impl Sessions {
    /// No sessions yet; one ends after `idle_max` without a request, and after `age_max` in any case.
    pub fn new(idle_max: Duration, age_max: Duration, sessions_max: usize) -> Self {
        Self {
            sessions: Arc::default(),
            idle_max,
            age_max,
            sessions_max,
        }
    }

    /// Begins a session; returns the value of its cookie. The session that is idle longest ends when there are too many.
    pub fn begin(&self, identity: Identity, now: Instant) -> (String, Session) {
        let cookie = secret();
        let session = Session {
            identity,
            csrf: secret(),
            key: sha256(&cookie),
            began: now,
            last_request: now,
        };
        let mut sessions = self.lock();
        sessions.retain(|_, session| self.holds(session, now));
        if sessions.len() >= self.sessions_max {
            let idle = sessions.values().min_by_key(|session| session.last_request);
            if let Some(key) = idle.map(|session| session.key.clone()) {
                sessions.remove(&key);
            }
        }
        sessions.insert(session.key.clone(), session.clone());
        (cookie, session)
    }

    /// The session of a cookie, unless it has ended; it lasts longer by this request.
    pub fn find(&self, cookie: &str, now: Instant) -> Option<Session> {
        let mut sessions = self.lock();
        let session = sessions.get_mut(&sha256(cookie))?;
        if !self.holds(session, now) {
            let key = session.key.clone();
            sessions.remove(&key);
            return None;
        }
        session.last_request = now;
        Some(session.clone())
    }

    fn holds(&self, session: &Session, now: Instant) -> bool {
        now.duration_since(session.last_request) < self.idle_max && now.duration_since(session.began) < self.age_max
    }

    /// Ends a session.
    pub fn end(&self, session: &Session) {
        self.lock().remove(&session.key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Session>> {
        self.sessions.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(signer: &str) -> Identity {
        Identity {
            signer: signer.to_owned(),
            title: "nurse".to_owned(),
            role: Role::Viewer,
        }
    }

    fn tokens(text: &str) -> Result<Tokens, TokensError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.toml");
        std::fs::write(&path, text).unwrap();
        Tokens::read(&path)
    }

    #[test]
    fn a_token_is_known_by_its_hash() {
        let (token, hash) = new_token();
        let line = format!("[[token]]\nsha256 = \"{hash}\"\nsigner = \"n-1\"\ntitle = \"nurse\"\nrole = \"viewer\"\n");
        let listed = tokens(&line).unwrap();
        assert_eq!(listed.identify(&token), Some(identity("n-1")));
        assert_eq!(listed.identify(&hash), None);
        assert_eq!(Tokens::open().identify(&token), None);
        let twice = tokens(&format!("{line}{line}")).unwrap_err().to_string();
        assert!(twice.contains("n-1") && !twice.contains(&hash), "{twice}");
    }

    #[test]
    fn a_file_that_lets_nobody_in_or_has_unknown_words_is_refused() {
        for text in [
            "token = []",
            "[[token]]\nsha256 = \"00\"\nsigner = \"a\"\ntitle = \"\"\nrole = \"viewer\"",
            "[[token]]\nsha256 = \"00\"\nsigner = \"a\"\ntitle = \"\"\nrole = \"admin\"",
            "[[tokens]]",
        ] {
            assert!(tokens(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_session_ends_after_a_time_without_requests() {
        let sessions = Sessions::new(Duration::from_secs(60), Duration::from_secs(3600), 4);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (cookie, session) = sessions.begin(identity("a"), start);
        assert_eq!(sessions.find(&cookie, at(59)).unwrap().csrf, session.csrf);
        assert!(sessions.find(&cookie, at(118)).is_some());
        assert!(sessions.find(&cookie, at(178)).is_none());
        assert!(sessions.find(&cookie, at(178)).is_none());
        assert!(sessions.find("other", start).is_none());
    }

    #[test]
    fn a_session_that_is_used_all_the_time_ends_too() {
        let sessions = Sessions::new(Duration::from_secs(60), Duration::from_secs(200), 4);
        let start = Instant::now();
        let (cookie, _) = sessions.begin(identity("a"), start);
        for seconds in [50, 100, 150, 199] {
            assert!(
                sessions.find(&cookie, start + Duration::from_secs(seconds)).is_some(),
                "{seconds}"
            );
        }
        assert!(sessions.find(&cookie, start + Duration::from_secs(200)).is_none());
    }

    #[test]
    fn one_session_too_many_ends_the_one_that_is_idle_longest() {
        let sessions = Sessions::new(Duration::from_secs(600), Duration::from_secs(3600), 2);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (first, _) = sessions.begin(identity("a"), at(0));
        let (second, _) = sessions.begin(identity("b"), at(1));
        sessions.find(&first, at(2));
        let (third, ended) = sessions.begin(identity("c"), at(3));
        assert!(sessions.find(&second, at(4)).is_none());
        assert!(sessions.find(&first, at(4)).is_some());
        sessions.end(&ended);
        assert!(sessions.find(&third, at(4)).is_none());
    }
}
