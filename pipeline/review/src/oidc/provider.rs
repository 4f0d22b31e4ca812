//! The provider of single sign-on, asked over HTTPS.
//!
//! Place: under [`super::Oidc`], on threads that may wait. Invariant: answers are bounded in time and size, no redirect is
//! followed, and what the provider says of itself is asked again after an hour, or when a key is new.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreProviderMetadata, CoreRevocableToken,
    CoreRevocationErrorResponse, CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AdditionalClaims, AuthorizationCode, Client, ClientId, ClientSecret, EmptyExtraTokenFields, EndpointMaybeSet,
    EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, IdTokenFields, IssuerUrl, Nonce, PkceCodeVerifier,
    RedirectUrl, StandardErrorResponse, StandardTokenResponse, TokenResponse as _,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::{OidcError, OidcSection};

/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Largest answer.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// How long what the provider says of itself is believed.
const KNOWN_FOR: Duration = Duration::from_secs(3600);

/// Claims that OpenID Connect does not name, roles among them.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct OtherClaims {
    #[serde(flatten)]
    all: serde_json::Map<String, Value>,
}

impl AdditionalClaims for OtherClaims {}

pub(super) type TokenAnswer = StandardTokenResponse<
    IdTokenFields<
        OtherClaims,
        EmptyExtraTokenFields,
        CoreGenderClaim,
        CoreJweContentEncryptionAlgorithm,
        CoreJwsSigningAlgorithm,
    >,
    CoreTokenType,
>;

/// What asks the provider.
pub(super) type OidcClient = Client<
    OtherClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    TokenAnswer,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// One provider.
pub(super) struct Provider {
    section: OidcSection,
    agent: ureq::Agent,
    known: Mutex<Option<(CoreProviderMetadata, Instant)>>,
}

impl Provider {
    /// A provider that was not asked yet.
    pub fn new(section: &OidcSection) -> Result<Self, OidcError> {
        let mut tls = TlsConfig::builder();
        if !section.ca_file.as_os_str().is_empty() {
            let authorities = authorities(section)?;
            tls = tls.root_certs(RootCerts::Specific(Arc::new(authorities)));
        }
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER_MAX))
            .max_redirects(0)
            .http_status_as_error(false)
            .tls_config(tls.build());
        Ok(Self {
            section: section.clone(),
            agent: config.build().into(),
            known: Mutex::default(),
        })
    }

    /// A client for what the provider says of itself; asked anew where that is wanted or was long ago.
    pub fn client(&self, anew: bool) -> Result<OidcClient, OidcError> {
        let failed = |error: &dyn std::error::Error| OidcError::Provider(with_causes(error));
        let section = &self.section;
        let lock = || self.known.lock().expect("no code panics while it holds this lock");
        let known = lock().clone();
        let known = known.filter(|(_, at)| !anew && at.elapsed() < KNOWN_FOR);
        let metadata = match known {
            Some((metadata, _)) => metadata,
            None => {
                let issuer = IssuerUrl::new(section.issuer.clone()).map_err(|error| failed(&error))?;
                let asked = CoreProviderMetadata::discover(&issuer, &|request| self.ask(request));
                let metadata = asked.map_err(|error| failed(&error))?;
                *lock() = Some((metadata.clone(), Instant::now()));
                metadata
            }
        };
        let secret = section.client_secret.expose();
        let secret = (!secret.is_empty()).then(|| ClientSecret::new(secret.to_owned()));
        let redirect = RedirectUrl::new(section.redirect_url.clone()).map_err(|error| failed(&error))?;
        let client = OidcClient::from_provider_metadata(metadata, ClientId::new(section.client_id.clone()), secret);
        Ok(client.set_redirect_uri(redirect))
    }

    /// Changes a code for an id token and returns its claims, once they hold.
    pub fn claims(&self, code: String, verifier: PkceCodeVerifier, nonce: &Nonce) -> Result<Value, OidcError> {
        let client = self.client(false)?;
        let request = client.exchange_code(AuthorizationCode::new(code));
        let request = request.map_err(|error| OidcError::Provider(error.to_string()))?;
        let answer = request
            .set_pkce_verifier(verifier)
            .request(&|request| self.ask(request));
        let answer = answer.map_err(|error| match &error {
            openidconnect::RequestTokenError::ServerResponse(answer) => OidcError::Refused(answer.error().to_string()),
            _ => OidcError::Provider(with_causes(&error)),
        })?;
        let token = answer.id_token();
        let token = token.ok_or_else(|| OidcError::Token("there is no id token".to_owned()))?;
        let checked = match token.claims(&client.id_token_verifier(), nonce) {
            // the provider may have a new key since it was asked
            Err(openidconnect::ClaimsVerificationError::SignatureVerification(_)) => {
                let client = self.client(true)?;
                token
                    .claims(&client.id_token_verifier(), nonce)
                    .map(serde_json::to_value)
            }
            checked => checked.map(serde_json::to_value),
        };
        let claims = checked.map_err(|error| OidcError::Token(with_causes(&error)))?;
        claims.map_err(|error| OidcError::Token(error.to_string()))
    }

    fn ask(&self, request: HttpRequest) -> Result<HttpResponse, ureq::Error> {
        let answer = if request.body().is_empty() {
            self.agent.run(request.map(|_| ()))
        } else {
            self.agent.run(request)
        };
        let (head, mut body) = answer?.into_parts();
        let bytes = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
        Ok(HttpResponse::from_parts(head, bytes))
    }
}

fn authorities(section: &OidcSection) -> Result<Vec<Certificate<'static>>, OidcError> {
    let path = &section.ca_file;
    let failed = |what: String| OidcError::Provider(format!("read authorities from {}: {what}", path.display()));
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| failed(error.to_string()))? {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        return Err(failed("no certificate in it".to_owned()));
    }
    Ok(found)
}

/// An error with what lies under it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(under) = cause {
        text = format!("{text}: {under}");
        cause = under.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use axum::serve::Listener as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::oidc::section::tests::section;
    use crate::tls::{TlsListener, acceptor};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn fault_52_a_provider_with_an_expired_certificate_is_not_spoken_to_and_the_error_says_why() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tls");
        let certificate = folder.join("expired.pem");
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let acceptor = acceptor(&certificate, &folder.join("key.pem")).unwrap();
        let mut listener = TlsListener::new(tcp, address, acceptor);
        tokio::spawn(async move {
            loop {
                drop(listener.accept().await);
            }
        });
        let section = OidcSection {
            issuer: format!("https://localhost:{}", address.port()),
            ca_file: certificate,
            ..section()
        };
        let provider = Provider::new(&section).unwrap();
        let asked = tokio::task::spawn_blocking(move || provider.client(true));
        let error = asked.await.unwrap().unwrap_err().to_string();
        assert!(error.to_lowercase().contains("expired"), "{error}");
    }
}
