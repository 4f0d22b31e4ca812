//! Names of stores in settings.
//!
//! Place: the settings `pipeline.registry` and `node.watch.registry`. Invariant: written as it was read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const S3: &str = "s3://";

/// A directory, or `s3://BUCKET/PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Location {
    Directory(PathBuf),
    S3 {
        bucket: String,
        /// Without slashes at its ends; may be empty.
        prefix: String,
    },
}

impl Location {
    /// True for the empty text, which settings have for none.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Directory(path) if path.as_os_str().is_empty())
    }
}

/// A text that names no store.
#[derive(Debug, PartialEq, Eq)]
pub struct Unknown(String);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store is {:?}: expected a directory or s3://BUCKET/PREFIX", self.0)
    }
}

impl std::error::Error for Unknown {}

impl FromStr for Location {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let unknown = || Unknown(text.to_owned());
        let Some(rest) = text.strip_prefix(S3) else {
            return if text.contains("://") {
                Err(unknown())
            } else {
                Ok(Self::Directory(text.into()))
            };
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let is_plain = prefix.is_empty() || prefix.split('/').all(|part| !["", ".", ".."].contains(&part));
        if bucket.is_empty() || !is_plain {
            return Err(unknown());
        }
        Ok(Self::S3 {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

impl TryFrom<String> for Location {
    type Error = Unknown;

    fn try_from(text: String) -> Result<Self, Unknown> {
        text.parse()
    }
}

impl From<Location> for String {
    fn from(location: Location) -> Self {
        location.to_string()
    }
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Self {
        Self::Directory(path)
    }
}

impl From<&Path> for Location {
    fn from(path: &Path) -> Self {
        Self::Directory(path.to_owned())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "{S3}{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "{S3}{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, written: &str) {
        let location: Location = text.parse().unwrap();
        assert_eq!(location.to_string(), written);
        assert_eq!(written.parse::<Location>().unwrap(), location);
    }

    #[test]
    fn a_location_is_written_as_it_was_read() {
        check("registry", "registry");
        check("/var/lib/meit/registry", "/var/lib/meit/registry");
        check("s3://bucket", "s3://bucket");
        check("s3://bucket/wards/icu/", "s3://bucket/wards/icu");
        assert!("".parse::<Location>().unwrap().is_none());
        assert!(!"s3://bucket".parse::<Location>().unwrap().is_none());
    }

    #[test]
    fn what_names_no_store_is_refused() {
        for text in [
            "gs://bucket/x",
            "s3://",
            "s3:///prefix",
            "s3://bucket/a//b",
            "s3://bucket/../b",
        ] {
            let error = text.parse::<Location>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("s3://BUCKET/PREFIX"), "{error}");
        }
    }
}
