//! A provider of OpenID Connect that misbehaves on request.
//!
//! Place: under the single sign-on tests, on a loopback port. Invariant: it checks what a real one checks (redirect address,
//! client secret, PKCE), so that a page which leaves one of these out gets no token.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use openidconnect::core::{
    CoreGenderClaim, CoreJsonWebKeySet, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm,
    CoreRsaPrivateSigningKey,
};
use openidconnect::{
    AdditionalClaims, Audience, EndUserUsername, IdToken, IdTokenClaims, IssuerUrl, JsonWebKeyId, Nonce,
    PkceCodeChallenge, PkceCodeVerifier, PrivateSigningKey as _, StandardClaims, SubjectIdentifier,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::rig::root;

pub const CLIENT: &str = "meit-review";
/// "meit-review:hush" in base 64.
pub const SECRET: &str = "hush";
const BASIC: &str = "Basic bWVpdC1yZXZpZXc6aHVzaA==";

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Roles {
    roles: Vec<String>,
}

impl AdditionalClaims for Roles {}

/// What the next tokens are like.
#[derive(Clone)]
pub struct Behaviour {
    pub roles: Vec<&'static str>,
    /// The key that signs: one of the two.
    pub signs_with: &'static str,
    /// The key that is published.
    pub publishes: &'static str,
    pub audience: &'static str,
    /// Another nonce than the page's.
    pub forged_nonce: bool,
    /// Seconds until the token expires; negative for one that has.
    pub expires_in: i64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            roles: vec!["staff", "meit-signer"],
            signs_with: "first",
            publishes: "first",
            audience: CLIENT,
            forged_nonce: false,
            expires_in: 300,
        }
    }
}

/// What was asked for at the provider's page, by code.
struct Asked {
    nonce: String,
    challenge: String,
    redirect_uri: String,
}

#[derive(Clone)]
pub struct Provider {
    pub address: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
    asked: Arc<Mutex<HashMap<String, Asked>>>,
}

impl Provider {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Self {
            address: listener.local_addr().unwrap(),
            behaviour: Arc::default(),
            asked: Arc::default(),
        };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(configuration))
            .route("/keys", get(keys))
            .route("/authorize", get(authorize))
            .route("/token", post(token))
            .with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        provider
    }

    pub fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    fn behaviour(&self) -> Behaviour {
        self.behaviour.lock().unwrap().clone()
    }
}

fn key(name: &str) -> CoreRsaPrivateSigningKey {
    let pem = std::fs::read_to_string(root().join(format!("tests/data/oidc/{name}.pem"))).unwrap();
    CoreRsaPrivateSigningKey::from_pem(&pem, Some(JsonWebKeyId::new(name.to_owned()))).unwrap()
}

async fn configuration(State(provider): State<Provider>) -> impl IntoResponse {
    let at = |path: &str| format!("{}{path}", provider.issuer());
    Json(json!({
        "issuer": provider.issuer(),
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "jwks_uri": at("/keys"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }))
}

async fn keys(State(provider): State<Provider>) -> impl IntoResponse {
    let published = key(provider.behaviour().publishes).as_verification_key();
    Json(CoreJsonWebKeySet::new(vec![published]))
}

#[derive(Deserialize)]
struct AuthorizeQuery {
    client_id: String,
    redirect_uri: String,
    response_type: String,
    scope: String,
    state: String,
    nonce: String,
    code_challenge: String,
    code_challenge_method: String,
}

async fn authorize(State(provider): State<Provider>, Query(query): Query<AuthorizeQuery>) -> Response {
    let fits = query.client_id == CLIENT
        && query.response_type == "code"
        && query.code_challenge_method == "S256"
        && query.scope.split(' ').any(|scope| scope == "openid");
    if !fits {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let back = format!("{}?code=code-{}&state={}", query.redirect_uri, query.nonce, query.state);
    let asked = Asked {
        challenge: query.code_challenge,
        redirect_uri: query.redirect_uri,
        nonce: query.nonce.clone(),
    };
    let code = format!("code-{}", query.nonce);
    provider.asked.lock().unwrap().insert(code, asked);
    Redirect::to(&back).into_response()
}

#[derive(Deserialize)]
struct TokenForm {
    grant_type: String,
    code: String,
    redirect_uri: String,
    code_verifier: String,
}

async fn token(State(provider): State<Provider>, headers: HeaderMap, Form(form): Form<TokenForm>) -> Response {
    let no = |error: &str| (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response();
    if headers.get(header::AUTHORIZATION).is_none_or(|value| value != BASIC) {
        return no("invalid_client");
    }
    let Some(asked) = provider.asked.lock().unwrap().remove(&form.code) else {
        return no("invalid_grant");
    };
    let challenge = PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(form.code_verifier));
    let fits = form.grant_type == "authorization_code"
        && form.redirect_uri == asked.redirect_uri
        && challenge.as_str() == asked.challenge;
    if !fits {
        return no("invalid_grant");
    }
    let behaviour = provider.behaviour();
    let nonce = if behaviour.forged_nonce {
        "forged".to_owned()
    } else {
        asked.nonce
    };
    let now = std::time::SystemTime::now();
    let lasts = std::time::Duration::from_secs(behaviour.expires_in.unsigned_abs());
    let expires = if behaviour.expires_in < 0 {
        now - lasts
    } else {
        now + lasts
    };
    let roles = behaviour.roles.iter().map(|&role| role.to_owned()).collect();
    let claims = IdTokenClaims::<Roles, CoreGenderClaim>::new(
        IssuerUrl::new(provider.issuer()).unwrap(),
        vec![Audience::new(behaviour.audience.to_owned())],
        expires.into(),
        now.into(),
        StandardClaims::new(SubjectIdentifier::new("p-4711".to_owned()))
            .set_preferred_username(Some(EndUserUsername::new("a.name".to_owned()))),
        Roles { roles },
    )
    .set_nonce(Some(Nonce::new(nonce)));
    let signed = IdToken::<Roles, _, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm>::new(
        claims,
        &key(behaviour.signs_with),
        CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
        None,
        None,
    );
    let body = json!({"access_token": "unused", "token_type": "Bearer", "id_token": signed.unwrap().to_string()});
    Json(body).into_response()
}
