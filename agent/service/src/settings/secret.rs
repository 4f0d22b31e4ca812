//! A setting that nobody reads over a shoulder.
//!
//! Place: passwords in any section. Invariant: neither Debug nor what is hashed or logged of the settings shows it.

use serde::Deserialize;

/// A password or the like; empty for none.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for whoever it is meant for.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True for none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(if self.is_empty() { "\"\"" } else { "\"***\"" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_given_out_on_request_only() {
        let secret = Secret::from("hunter2");
        assert_eq!(
            (secret.expose(), format!("{secret:?}").as_str()),
            ("hunter2", "\"***\"")
        );
        assert_eq!(format!("{:?}", Secret::default()), "\"\"");
    }
}
