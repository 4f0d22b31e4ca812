//! Single sign-on: who a provider of OpenID Connect says that somebody is.
//!
//! Place: behind /login/oidc and /login/callback, beside the tokens. Invariant: a login ends in the browser in which it
//! began, once, within ten minutes; nothing is believed but an id token whose signature, issuer, audience, times and nonce
//! hold; whoever has neither role in the role claim is nobody here.
//!
//! Source: OpenID Connect Core 1.0 (authorization code flow), RFC 7636 (PKCE, S256).

mod provider;
mod section;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use openidconnect::core::CoreAuthenticationFlow;
use openidconnect::{CsrfToken, Nonce, PkceCodeChallenge, PkceCodeVerifier, Scope};
use serde_json::Value;

use self::provider::Provider;
pub use self::section::OidcSection;
use crate::auth::{Identity, Role, secret, sha256};

/// How long somebody may take at the provider.
const LOGIN_MAX: Duration = Duration::from_secs(600);
/// Logins that are under way; one more gives the oldest up.
const LOGINS_MAX: usize = 1024;
/// Longest pseudonym and profession, characters.
const NAME_MAX: usize = 128;

/// Why nobody was let in.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// The provider does not answer, or not as one.
    #[error("the provider of single sign-on does not answer: {0}")]
    Provider(String),
    /// No login of this browser is under way, or it took too long.
    #[error("this login is not under way in this browser, or took too long; begin again")]
    Unknown,
    /// The provider said no.
    #[error("the provider refused the login: {0}")]
    Refused(String),
    /// The id token does not hold.
    #[error("the provider's token does not hold: {0}")]
    Token(String),
    /// A claim is missing or cannot be used.
    #[error("the provider's token has no usable claim {0:?}")]
    Claim(String),
    /// Known to the provider, but not for this page.
    #[error("your account has no role for this page; ask for {viewer:?} or {signer:?}")]
    NoRole {
        /// The role that may look.
        viewer: String,
        /// The role that may sign.
        signer: String,
    },
}

/// A login that began.
struct Begun {
    /// SHA-256 of the browser's cookie.
    cookie: String,
    nonce: Nonce,
    verifier: PkceCodeVerifier,
    at: Instant,
}

/// Where the browser goes, and what it keeps until it comes back.
pub struct Start {
    /// The provider's page.
    pub url: String,
    /// Value of the login's cookie.
    pub cookie: String,
}

/// Single sign-on with one provider; clones share it.
#[derive(Clone)]
pub struct Oidc {
    section: Arc<OidcSection>,
    provider: Arc<Provider>,
    begun: Arc<Mutex<HashMap<String, Begun>>>,
}

impl Oidc {
    /// Single sign-on as the section says; the provider is first asked at the first login, so it may come up later.
    ///
    /// # Errors
    /// [`OidcError::Provider`] when the file of authorities cannot be read.
    pub fn new(section: &OidcSection) -> Result<Self, OidcError> {
        Ok(Self {
            section: Arc::new(section.clone()),
            provider: Arc::new(Provider::new(section)?),
            begun: Arc::default(),
        })
    }

    /// The issuer, for people.
    pub fn issuer(&self) -> &str {
        &self.section.issuer
    }

    /// Begins a login.
    ///
    /// # Errors
    /// [`OidcError::Provider`] when it does not say where its page is.
    pub async fn begin(&self) -> Result<Start, OidcError> {
        let this = self.clone();
        blocking(move || {
            let client = this.provider.client(false)?;
            let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
            let flow = CoreAuthenticationFlow::AuthorizationCode;
            let mut request = client.authorize_url(flow, CsrfToken::new_random, Nonce::new_random);
            for scope in &this.section.scopes {
                request = request.add_scope(Scope::new(scope.clone()));
            }
            let (url, state, nonce) = request.set_pkce_challenge(challenge).url();
            let cookie = secret();
            let begun = Begun {
                cookie: sha256(&cookie),
                nonce,
                verifier,
                at: Instant::now(),
            };
            this.keep(sha256(state.secret()), begun);
            let url = url.to_string();
            Ok(Start { url, cookie })
        })
        .await
    }

    /// Ends a login: who came back with this code.
    ///
    /// # Errors
    /// [`OidcError`] says why nobody is let in.
    pub async fn finish(&self, cookie: &str, state: &str, code: String) -> Result<Identity, OidcError> {
        let begun = self.take(state, cookie).ok_or(OidcError::Unknown)?;
        let this = self.clone();
        blocking(move || {
            let claims = this.provider.claims(code, begun.verifier, &begun.nonce)?;
            identity(&this.section, &claims)
        })
        .await
    }

    fn keep(&self, state: String, login: Begun) {
        let mut begun = self.lock();
        begun.retain(|_, other| login.at.duration_since(other.at) < LOGIN_MAX);
        if begun.len() >= LOGINS_MAX {
            let oldest = begun.iter().min_by_key(|(_, other)| other.at);
            let oldest = oldest.map(|(state, _)| state.clone());
            oldest.and_then(|state| begun.remove(&state));
        }
        begun.insert(state, login);
    }

    /// The login of a state, once, for the browser in which it began.
    fn take(&self, state: &str, cookie: &str) -> Option<Begun> {
        let login = self.lock().remove(&sha256(state))?;
        let fits = login.cookie == sha256(cookie) && login.at.elapsed() < LOGIN_MAX;
        fits.then_some(login)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Begun>> {
        self.begun.lock().expect("no code panics while it holds this lock")
    }
}

/// The provider is asked on a thread that may wait.
async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, OidcError> + Send + 'static,
) -> Result<T, OidcError> {
    let asked = tokio::task::spawn_blocking(ask).await;
    asked.unwrap_or_else(|panic| Err(OidcError::Provider(panic.to_string())))
}

/// Who the claims speak of.
fn identity(section: &OidcSection, claims: &Value) -> Result<Identity, OidcError> {
    let text = |claim: &str| -> Option<String> {
        let text = claim_of(claims, claim)?.as_str()?.trim();
        let usable = !text.is_empty() && text.chars().count() <= NAME_MAX && !text.chars().any(char::is_control);
        usable.then(|| text.to_owned())
    };
    let roles: Vec<&str> = match claim_of(claims, &section.role_claim) {
        Some(Value::Array(roles)) => roles.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(roles)) => roles.split_whitespace().collect(),
        _ => vec![],
    };
    let role = if roles.contains(&section.signer_role.as_str()) {
        Role::Signer
    } else if roles.contains(&section.viewer_role.as_str()) {
        Role::Viewer
    } else {
        return Err(OidcError::NoRole {
            viewer: section.viewer_role.clone(),
            signer: section.signer_role.clone(),
        });
    };
    Ok(Identity {
        signer: text(&section.signer_claim).ok_or_else(|| OidcError::Claim(section.signer_claim.clone()))?,
        title: text(&section.title_claim).unwrap_or_else(|| section.title.clone()),
        role,
    })
}

/// A claim by its own name, or else by the way that its dots describe.
fn claim_of<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    let by_way = || name.split('.').try_fold(claims, |value, part| value.get(part));
    claims.get(name).or_else(by_way)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::section::tests::section;
    use super::*;

    #[test]
    fn roles_come_from_lists_words_and_from_within_objects() {
        let mut keycloak = section();
        keycloak.role_claim = "realm_access.roles".to_owned();
        for (section, claims, role) in [
            (
                section(),
                json!({"sub": "p-1", "roles": ["a", "meit-signer"]}),
                Some(Role::Signer),
            ),
            (
                section(),
                json!({"sub": "p-1", "roles": "meit-viewer other"}),
                Some(Role::Viewer),
            ),
            (
                keycloak.clone(),
                json!({"sub": "p-1", "realm_access": {"roles": ["meit-viewer"]}}),
                Some(Role::Viewer),
            ),
            (section(), json!({"sub": "p-1", "roles": ["meit-signers"]}), None),
            (section(), json!({"sub": "p-1", "roles": {"meit-signer": true}}), None),
            (section(), json!({"sub": "p-1"}), None),
        ] {
            let found = identity(&section, &claims).map(|identity| identity.role);
            assert_eq!(found.ok(), role, "{claims}");
        }
    }

    #[test]
    fn a_signer_without_a_usable_name_is_not_let_in() {
        let mut section = section();
        section.title_claim = "job".to_owned();
        for name in [
            json!(null),
            json!(""),
            json!(7),
            json!("a\nb"),
            json!("x".repeat(NAME_MAX + 1)),
        ] {
            let claims = json!({"sub": name, "roles": ["meit-signer"]});
            assert!(
                matches!(identity(&section, &claims), Err(OidcError::Claim(_))),
                "{claims}"
            );
        }
        let named = json!({"sub": " p-1 ", "roles": ["meit-signer"], "job": "cardiologist"});
        let identity = identity(&section, &named).unwrap();
        assert_eq!(
            (identity.signer.as_str(), identity.title.as_str()),
            ("p-1", "cardiologist")
        );
    }

    #[test]
    fn a_login_is_taken_once_and_by_its_own_browser() {
        let oidc = Oidc::new(&section()).unwrap();
        let login = |at| Begun {
            cookie: sha256("cookie"),
            nonce: Nonce::new_random(),
            verifier: PkceCodeChallenge::new_random_sha256().1,
            at,
        };
        oidc.keep(sha256("a"), login(Instant::now()));
        assert!(oidc.take("b", "cookie").is_none());
        assert!(oidc.take("a", "cookie").is_some());
        assert!(oidc.take("a", "cookie").is_none());
        oidc.keep(sha256("a"), login(Instant::now()));
        assert!(oidc.take("a", "another").is_none());
        assert!(oidc.take("a", "cookie").is_none(), "a wrong browser spoils the login");
        for state in 0..=LOGINS_MAX {
            oidc.keep(sha256(&state.to_string()), login(Instant::now()));
        }
        assert_eq!(oidc.lock().len(), LOGINS_MAX);
    }
}
