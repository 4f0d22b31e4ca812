//! The settings of single sign-on.
//!
//! Place: section `review.oidc`, checked with the other settings before anything starts. Invariant: neither codes nor tokens
//! cross a network in the clear: addresses are https, a loopback address apart.

use std::path::PathBuf;

use serde::Deserialize;
use service::settings::{OutOfBounds, Secret};

/// Section `review.oidc`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcSection {
    /// The provider's issuer address; empty for no single sign-on.
    pub issuer: String,
    /// Name of this page at the provider.
    pub client_id: String,
    /// Its secret; empty for a public client, which PKCE alone protects.
    pub client_secret: Secret,
    /// Address of /login/callback as browsers reach it.
    pub redirect_url: String,
    /// Certificates (PEM) of the authorities that sign the provider's; empty for the well-known ones.
    pub ca_file: PathBuf,
    /// What is asked for besides openid.
    pub scopes: Vec<String>,
    /// Claim that holds the roles, a list or words; a dot leads into an object.
    pub role_claim: String,
    /// Role that may sign.
    pub signer_role: String,
    /// Role that may look.
    pub viewer_role: String,
    /// Claim that names the person in signatures; a pseudonym that nobody can change for themselves.
    pub signer_claim: String,
    /// Claim that holds the profession; empty for none.
    pub title_claim: String,
    /// The profession where the claim is missing.
    pub title: String,
}

impl OidcSection {
    /// True where single sign-on is set up.
    pub fn is_on(&self) -> bool {
        !self.issuer.is_empty()
    }

    /// Checks what the provider and browsers will be told.
    ///
    /// # Errors
    /// [`OutOfBounds`] for an address that is not https (loopback apart), or a name that is missing.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        if !self.is_on() {
            return Ok(());
        }
        for (key, value) in [
            ("review.oidc.issuer", &self.issuer),
            ("review.oidc.redirect_url", &self.redirect_url),
        ] {
            if !is_safe_url(value) {
                return Err(OutOfBounds {
                    key,
                    value: format!("{value:?}"),
                    bound: "must be an https address (http for a loopback address alone)".to_owned(),
                });
            }
        }
        let callback = self.redirect_url.ends_with("/login/callback");
        for (key, value, fits) in [
            ("review.oidc.redirect_url", &self.redirect_url, callback),
            ("review.oidc.client_id", &self.client_id, !self.client_id.is_empty()),
            ("review.oidc.role_claim", &self.role_claim, !self.role_claim.is_empty()),
            (
                "review.oidc.signer_role",
                &self.signer_role,
                !self.signer_role.is_empty(),
            ),
            (
                "review.oidc.viewer_role",
                &self.viewer_role,
                !self.viewer_role.is_empty(),
            ),
            (
                "review.oidc.signer_claim",
                &self.signer_claim,
                !self.signer_claim.is_empty(),
            ),
        ] {
            if !fits {
                return Err(OutOfBounds {
                    key,
                    value: format!("{value:?}"),
                    bound: "must be there where review.oidc.issuer is, and redirect_url ends with /login/callback"
                        .to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// True for https, and for http to this machine itself.
fn is_safe_url(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() || authority.contains('@') {
        return false;
    }
    let loopback = authority
        .parse::<std::net::SocketAddr>()
        .is_ok_and(|at| at.ip().is_loopback());
    scheme == "https" || (scheme == "http" && (loopback || authority.starts_with("localhost:")))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A section that holds.
    pub(crate) fn section() -> OidcSection {
        let settings: crate::settings::ReviewSettings = service::settings::load("review", None).unwrap();
        OidcSection {
            issuer: "https://sso.example/realms/ward".to_owned(),
            client_id: "meit".to_owned(),
            redirect_url: "https://review.example/login/callback".to_owned(),
            ..settings.review.oidc
        }
    }

    #[test]
    fn only_https_and_loopback_addresses_are_spoken_to() {
        for (url, safe) in [
            ("https://sso.example/realms/a", true),
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080/a", true),
            ("http://localhost:8080/a", true),
            ("http://sso.example", false),
            ("http://127.0.0.1:80@evil.example", false),
            ("http://localhost.evil.example:80", false),
            ("https://user@sso.example", false),
            ("ftp://sso.example", false),
            ("sso.example", false),
        ] {
            assert_eq!(is_safe_url(url), safe, "{url}");
        }
    }

    #[test]
    fn half_a_setup_is_refused_by_the_key_that_is_missing() {
        section().check().unwrap();
        for (change, key) in [
            (
                (|s| s.client_id.clear()) as fn(&mut OidcSection),
                "review.oidc.client_id",
            ),
            (
                |s| s.redirect_url = "https://review.example/".to_owned(),
                "review.oidc.redirect_url",
            ),
            (|s| s.issuer = "http://sso.example".to_owned(), "review.oidc.issuer"),
            (|s| s.signer_claim.clear(), "review.oidc.signer_claim"),
        ] {
            let mut section = section();
            change(&mut section);
            assert_eq!(section.check().unwrap_err().key, key);
        }
    }
}
