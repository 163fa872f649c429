//! Authentication of API requests: the API key, or, in development mode, any program on this machine.
//!
//! The key is never displayed, and it is compared in constant time.

use std::borrow::Cow;

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;

use super::origin::OriginPolicy;

/// How API requests are authenticated.
#[derive(Clone, Default)]
pub enum ApiAuth {
    /// Requests must contain this key.
    Key(String),
    /// Development mode (`--dev`) without a key: all requests except those of pages of other origins.
    Development,
    /// No key is configured: no requests.
    #[default]
    Disabled,
}

impl std::fmt::Debug for ApiAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key(***)",
            Self::Development => "Development",
            Self::Disabled => "Disabled",
        })
    }
}

/// Why an API request is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiAuthError {
    /// The key is missing or wrong.
    #[error("unauthorized: send the API key as X-API-Key, or as Authorization: apikey …")]
    InvalidKey,
    /// No key is configured.
    #[error(
        "forbidden: no API key is configured: set EARSHOT_API_KEY (or `key` in [api]), or start `earshot serve --dev` \
         on your own machine"
    )]
    KeyNotConfigured,
    /// The request comes from a page of another origin.
    #[error(
        "forbidden: without an API key, only pages of local origins may call the API: set EARSHOT_API_KEY (or `key` in \
         [api])"
    )]
    ForbiddenOrigin,
}

impl ApiAuth {
    /// Authenticates a request. Like in Centrifugo, the query may contain the key (`api_key`).
    ///
    /// # Errors
    /// See [`ApiAuthError`].
    pub fn check(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        origins: &OriginPolicy,
    ) -> Result<(), ApiAuthError> {
        match self {
            Self::Key(key) => {
                let is_key = |presented: &str| bool::from(presented.as_bytes().ct_eq(key.as_bytes()));
                let is_valid = header_key(headers).is_some_and(is_key)
                    || query_key(query.unwrap_or_default()).is_some_and(|presented| is_key(&presented));
                if is_valid { Ok(()) } else { Err(ApiAuthError::InvalidKey) }
            }
            Self::Development if origins.is_allowed(headers) => Ok(()),
            Self::Development => Err(ApiAuthError::ForbiddenOrigin),
            Self::Disabled => Err(ApiAuthError::KeyNotConfigured),
        }
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

    fn call(auth: &ApiAuth, headers: &[(&'static str, &str)]) -> Result<(), ApiAuthError> {
        let headers = headers
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        auth.check(&headers, None, &OriginPolicy::development(Vec::new()))
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
        for headers in [vec![], vec![host], vec![host, ("origin", "http://localhost:3000")]] {
            assert_eq!(call(&ApiAuth::Development, &headers), Ok(()), "{headers:?}");
        }
        for foreign in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
            assert_eq!(
                call(&ApiAuth::Development, &[host, foreign]),
                Err(ApiAuthError::ForbiddenOrigin),
                "{foreign:?}"
            );
        }
    }

    #[test]
    fn requires_the_configured_key() {
        let auth = ApiAuth::Key("secret".to_owned());
        assert_eq!(call(&auth, &[("x-api-key", "secret")]), Ok(()));
        assert_eq!(call(&auth, &[("authorization", "apikey secret")]), Ok(()));
        let query = |query| auth.check(&HeaderMap::new(), Some(query), &OriginPolicy::default());
        assert_eq!(query("a=b&api_key=secret"), Ok(()));
        assert_eq!(query("api_key=secre"), Err(ApiAuthError::InvalidKey));
        for headers in [vec![], vec![("x-api-key", "secre")], vec![("authorization", "bearer secret")]] {
            assert_eq!(call(&auth, &headers), Err(ApiAuthError::InvalidKey), "{headers:?}");
        }
    }
}
