//! Authentication of API requests: an API key, or, in development mode, any program on this machine.
//!
//! A key is never displayed. The key of a request is compared with the secrets of all keys, in constant time.
//!
//! - [`ApiMethod`]: the methods, with the scope that each requires; [`Scope`].
//! - [`ApiPermissions`]: the permissions of a key.

mod error;
mod method;
mod permissions;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use ring::digest::{self, SHA256, SHA256_OUTPUT_LEN};
use subtle::ConstantTimeEq;

use super::origin::OriginPolicy;

pub use error::ApiAuthError;
pub use method::{ApiMethod, Reach, Scope};
pub use permissions::ApiPermissions;

/// How API requests are authenticated.
#[derive(Debug, Default)]
pub enum ApiAuth {
    /// Requests must contain one of these keys.
    Keys(Vec<ApiKey>),
    /// Development mode (`--dev`) without a key: all requests except cross-origin ones.
    Development(Arc<ApiPermissions>),
    /// No key is configured: no requests.
    #[default]
    Disabled,
}

/// A key with its valid secrets.
pub struct ApiKey {
    permissions: Arc<ApiPermissions>,
    secrets: Box<dyn Fn() -> Arc<ApiSecrets> + Send + Sync>,
}

/// The valid secrets of a key, as digests. `Debug` shows none.
#[derive(Clone)]
pub struct ApiSecrets(Vec<[u8; SHA256_OUTPUT_LEN]>);

impl ApiSecrets {
    /// These secrets, all of which are valid.
    pub fn new<S: AsRef<str>>(secrets: impl IntoIterator<Item = S>) -> Self {
        Self(secrets.into_iter().map(|secret| digest_of(secret.as_ref())).collect())
    }

    /// Whether one of the secrets has this digest.
    fn contain(&self, presented: &[u8; SHA256_OUTPUT_LEN]) -> bool {
        self.0.iter().fold(false, |found, secret| found | bool::from(secret.ct_eq(presented)))
    }
}

impl ApiKey {
    /// Creates a key whose secrets may change: `secrets` returns the ones that are currently valid.
    pub fn new(
        permissions: ApiPermissions,
        secrets: impl Fn() -> Arc<ApiSecrets> + Send + Sync + 'static,
    ) -> Self {
        Self { permissions: Arc::new(permissions), secrets: Box::new(secrets) }
    }
}

impl ApiAuth {
    /// Authenticates a request, and returns its permissions. As in Centrifugo, the query may contain the key
    /// (`api_key`).
    ///
    /// # Errors
    /// See [`ApiAuthError`].
    pub fn check(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        origins: &OriginPolicy,
    ) -> Result<Arc<ApiPermissions>, ApiAuthError> {
        match self {
            Self::Keys(keys) => header_key(headers)
                .and_then(|presented| find(keys, presented))
                .or_else(|| find(keys, &query_key(query.unwrap_or_default())?))
                .ok_or(ApiAuthError::InvalidKey),
            Self::Development(permissions) if origins.is_allowed(headers) => Ok(Arc::clone(permissions)),
            Self::Development(_) => Err(ApiAuthError::ForbiddenOrigin),
            Self::Disabled => Err(ApiAuthError::KeyNotConfigured),
        }
    }
}

/// Returns the permissions of the key with this secret. Compares the secret with those of all keys.
fn find(keys: &[ApiKey], presented: &str) -> Option<Arc<ApiPermissions>> {
    let presented = digest_of(presented);
    let found = keys.iter().fold(None, |found, key| {
        let matches = (key.secrets)().contain(&presented);
        found.or(matches.then_some(&key.permissions))
    });
    found.map(Arc::clone)
}

fn digest_of(secret: &str) -> [u8; SHA256_OUTPUT_LEN] {
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    bytes.copy_from_slice(digest::digest(&SHA256, secret.as_bytes()).as_ref());
    bytes
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("permissions", &self.permissions).finish_non_exhaustive()
    }
}

impl fmt::Debug for ApiSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiSecrets({})", self.0.len())
    }
}

fn header_key(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().ok();
    }
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("apikey").then(|| key.trim())
}

fn query_key(query: &str) -> Option<Cow<'_, str>> {
    form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "api_key").map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, secrets: &[&str]) -> ApiKey {
        let secrets = Arc::new(ApiSecrets::new(secrets));
        ApiKey::new(ApiPermissions::all(name), move || Arc::clone(&secrets))
    }

    /// The name of the key, or why the request is rejected.
    fn call(auth: &ApiAuth, headers: &[(&'static str, &str)]) -> Result<String, ApiAuthError> {
        let headers = headers
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        let checked = auth.check(&headers, None, &OriginPolicy::development(Vec::new()));
        checked.map(|permissions| permissions.name().to_owned())
    }

    #[test]
    fn rejects_all_requests_without_a_configured_key() {
        for headers in [vec![("host", "localhost:8000")], vec![("x-api-key", "")], vec![("x-api-key", "a")]] {
            assert_eq!(
                call(&ApiAuth::Disabled, &headers),
                Err(ApiAuthError::KeyNotConfigured),
                "{headers:?}"
            );
        }
    }

    #[test]
    fn development_mode_allows_programs_and_local_pages() {
        let host = ("host", "localhost:8000");
        let development = ApiAuth::Development(Arc::new(ApiPermissions::all("development")));
        for headers in [vec![], vec![host], vec![host, ("origin", "http://localhost:3000")]] {
            assert_eq!(call(&development, &headers), Ok("development".to_owned()), "{headers:?}");
        }
        for foreign in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
            assert_eq!(
                call(&development, &[host, foreign]),
                Err(ApiAuthError::ForbiddenOrigin),
                "{foreign:?}"
            );
        }
    }

    #[test]
    fn requires_a_configured_key() {
        let auth = ApiAuth::Keys(vec![key("a", &["secret", "older"]), key("b", &["other"])]);
        let is = |name: &str| Ok(name.to_owned());
        assert_eq!(call(&auth, &[("x-api-key", "secret")]), is("a"));
        assert_eq!(call(&auth, &[("x-api-key", "older")]), is("a"));
        assert_eq!(call(&auth, &[("authorization", "apikey other")]), is("b"));
        let query = |query| {
            let checked = auth.check(&HeaderMap::new(), Some(query), &OriginPolicy::default());
            checked.map(|permissions| permissions.name().to_owned())
        };
        assert_eq!(query("a=b&api_key=secret"), is("a"));
        assert_eq!(query("api_key=secre"), Err(ApiAuthError::InvalidKey));
        for headers in [vec![], vec![("x-api-key", "secre")], vec![("authorization", "bearer secret")]] {
            assert_eq!(call(&auth, &headers), Err(ApiAuthError::InvalidKey), "{headers:?}");
        }
        assert!(!format!("{auth:?}").contains("secret"));
    }

    #[test]
    fn a_removed_secret_is_rejected() {
        let current = Arc::new(std::sync::Mutex::new(Arc::new(ApiSecrets::new(["new", "old"]))));
        let read = Arc::clone(&current);
        let key = ApiKey::new(ApiPermissions::all("a"), move || Arc::clone(&read.lock().unwrap()));
        let auth = ApiAuth::Keys(vec![key]);
        assert!(call(&auth, &[("x-api-key", "old")]).is_ok());
        *current.lock().unwrap() = Arc::new(ApiSecrets::new(["new"]));
        assert!(call(&auth, &[("x-api-key", "new")]).is_ok());
        assert_eq!(call(&auth, &[("x-api-key", "old")]), Err(ApiAuthError::InvalidKey));
    }
}
