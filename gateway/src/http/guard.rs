//! Who may call the API: a client with the key; in development mode, any program on this machine.
//!
//! Must never show the key, nor tell by its timing how much of a guess was right.

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;

use crate::ingress::origin::Origins;

/// The rule by which a call is let in.
#[derive(Clone)]
pub enum Guard {
    /// With this key.
    Key(String),
    /// Development mode (`--dev`) without a key: every call that no page of a foreign origin makes.
    Development,
    /// No key is configured: no call.
    Closed,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key(***)",
            Self::Development => "Development",
            Self::Closed => "Closed",
        })
    }
}

/// Why a call is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No key, or a wrong one.
    #[error("unauthorized: send the API key as X-API-Key, or as Authorization: apikey …")]
    Key,
    /// No key is configured.
    #[error(
        "forbidden: no API key is configured: set EARSHOT_API_KEY (or `key` in [api]), or start `earshot serve --dev` \
         on your own machine"
    )]
    NoKey,
    /// The call comes from a page of a foreign origin.
    #[error(
        "forbidden: without an API key, pages of local origins alone may call the API: set EARSHOT_API_KEY (or `key` \
         in [api])"
    )]
    Origin,
}

impl Guard {
    /// Checks a call.
    ///
    /// # Errors
    /// See [`Denied`].
    pub fn admit(&self, headers: &HeaderMap, origins: &Origins) -> Result<(), Denied> {
        match self {
            Self::Key(key) => {
                let given = presented(headers).unwrap_or_default();
                let right = bool::from(given.as_bytes().ct_eq(key.as_bytes()));
                if right { Ok(()) } else { Err(Denied::Key) }
            }
            Self::Development if origins.allow(headers) => Ok(()),
            Self::Development => Err(Denied::Origin),
            Self::Closed => Err(Denied::NoKey),
        }
    }
}

fn presented(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().ok();
    }
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("apikey").then(|| key.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(guard: &Guard, headers: &[(&'static str, &str)]) -> Result<(), Denied> {
        let headers = headers
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        guard.admit(&headers, &Origins::development(Vec::new()))
    }

    #[test]
    fn without_a_key_no_call_is_let_in() {
        for headers in [vec![("host", "localhost:8000")], vec![("x-api-key", "")], vec![("x-api-key", "a")]] {
            assert_eq!(call(&Guard::Closed, &headers), Err(Denied::NoKey), "{headers:?}");
        }
    }

    #[test]
    fn in_development_mode_programs_and_local_pages_may_call() {
        let host = ("host", "localhost:8000");
        for headers in [vec![], vec![host], vec![host, ("origin", "http://localhost:3000")]] {
            assert_eq!(call(&Guard::Development, &headers), Ok(()), "{headers:?}");
        }
        for foreign in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
            assert_eq!(call(&Guard::Development, &[host, foreign]), Err(Denied::Origin), "{foreign:?}");
        }
    }

    #[test]
    fn with_a_key_every_call_needs_it() {
        let guard = Guard::Key("secret".to_owned());
        assert_eq!(call(&guard, &[("x-api-key", "secret")]), Ok(()));
        assert_eq!(call(&guard, &[("authorization", "apikey secret")]), Ok(()));
        for headers in [vec![], vec![("x-api-key", "secre")], vec![("authorization", "bearer secret")]] {
            assert_eq!(call(&guard, &headers), Err(Denied::Key), "{headers:?}");
        }
    }
}
