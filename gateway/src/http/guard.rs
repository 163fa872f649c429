//! Who may call the API: whoever has the key, or, where no key is configured, programs on this machine.
//!
//! Must never show the key, nor tell by its timing how much of a guess was right.

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;

use crate::accept::carry::Peer;
use crate::accept::origin;

/// The rule by which a call is let in.
#[derive(Clone)]
pub enum Guard {
    /// With this key.
    Key(String),
    /// From this machine, and not through a browser or a proxy that stands for somebody else.
    Loopback,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key(***)",
            Self::Loopback => "Loopback",
        })
    }
}

/// Why a call is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No key, or a wrong one.
    #[error("unauthorized: send the API key as X-API-Key, or as Authorization: apikey …")]
    Key,
    /// No key is configured, and the call comes from elsewhere.
    #[error(
        "forbidden: without a configured key (api.key or EARSHOT_API_KEY) the API answers on loopback only"
    )]
    NotLocal,
}

impl Guard {
    /// Judges a call.
    ///
    /// # Errors
    /// See [`Denied`].
    pub fn admit(&self, headers: &HeaderMap, peer: Option<Peer>) -> Result<(), Denied> {
        match self {
            Self::Key(key) => {
                let given = presented(headers).unwrap_or_default();
                let right = bool::from(given.as_bytes().ct_eq(key.as_bytes()));
                if right { Ok(()) } else { Err(Denied::Key) }
            }
            Self::Loopback => {
                if peer.is_some_and(is_local) && is_direct(headers) {
                    Ok(())
                } else {
                    Err(Denied::NotLocal)
                }
            }
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

fn is_local(Peer(peer): Peer) -> bool {
    peer.ip().to_canonical().is_loopback()
}

/// No proxy stands in between, the page (if it is one) is our own, and the host is spelled as one of this machine, so
/// that a name which somebody else points here does not count.
fn is_direct(headers: &HeaderMap) -> bool {
    if ["forwarded", "via", "x-forwarded-for", "x-real-ip"].iter().any(|name| headers.contains_key(*name)) {
        return false;
    }
    let own_page = match headers.get(header::ORIGIN) {
        Some(origin) => origin.to_str().is_ok_and(|origin| origin::is_own(origin, headers)),
        None => true,
    };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    own_page && host.is_none_or(origin::is_local_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(guard: &Guard, peer: &str, headers: &[(&'static str, &str)]) -> Result<(), Denied> {
        let headers = headers
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        guard.admit(&headers, Some(Peer(peer.parse().unwrap())))
    }

    #[test]
    fn without_a_key_only_programs_on_this_machine_may_call() {
        let guard = Guard::Loopback;
        assert_eq!(call(&guard, "127.0.0.1:1", &[("host", "localhost:8000")]), Ok(()));
        assert_eq!(call(&guard, "[::1]:1", &[("host", "[::1]:8000")]), Ok(()));
        let own = [("host", "localhost:8000"), ("origin", "http://localhost:8000")];
        assert_eq!(call(&guard, "127.0.0.1:1", &own), Ok(()));
        for (peer, headers) in [
            ("192.0.2.1:1", vec![("host", "localhost:8000")]),
            ("127.0.0.1:1", vec![("host", "evil.example")]),
            ("127.0.0.1:1", vec![("host", "localhost"), ("x-forwarded-for", "192.0.2.1")]),
            ("127.0.0.1:1", vec![("host", "localhost:8000"), ("origin", "https://evil.example")]),
        ] {
            assert_eq!(call(&guard, peer, &headers), Err(Denied::NotLocal), "{peer} {headers:?}");
        }
    }

    #[test]
    fn with_a_key_it_is_asked_of_everybody() {
        let guard = Guard::Key("secret".to_owned());
        assert_eq!(call(&guard, "192.0.2.1:1", &[("x-api-key", "secret")]), Ok(()));
        assert_eq!(call(&guard, "192.0.2.1:1", &[("authorization", "apikey secret")]), Ok(()));
        for headers in [vec![], vec![("x-api-key", "secre")], vec![("authorization", "bearer secret")]] {
            assert_eq!(call(&guard, "127.0.0.1:1", &headers), Err(Denied::Key), "{headers:?}");
        }
    }
}
