//! Which browsers may open a stream or call the API: those whose page comes from an allowed origin.
//!
//! CORS does not protect WebSockets, so the `Origin` header is looked at in the handshake. Whoever sends none is not a
//! browser, and is not stopped by this.

use axum::http::{HeaderMap, header};

/// The origins that are allowed besides the gateway's own host.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    allowed: Vec<String>,
}

impl Origins {
    /// These origins, such as `https://app.example.org`; `*` allows every one.
    pub fn new(allowed: Vec<String>) -> Self {
        Self { allowed }
    }

    /// Whether a request with these headers may come in.
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        is_own(origin, headers) || self.lists(origin)
    }

    /// The origin to name in the answer, when the request came from another host that is allowed.
    pub fn named(&self, headers: &HeaderMap) -> Option<String> {
        let origin = headers.get(header::ORIGIN)?.to_str().ok()?;
        (!is_own(origin, headers) && self.lists(origin)).then(|| origin.to_owned())
    }

    fn lists(&self, origin: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
    }
}

/// Whether the page comes from the host that it now asks. React Native names the gateway itself.
pub fn is_own(origin: &str, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let page = origin.split_once("://").map(|(_, authority)| authority);
    page.is_some() && host.is_some_and(|host| page.is_some_and(|page| page.eq_ignore_ascii_case(host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn own_pages_and_listed_ones_may_come() {
        let origins = Origins::new(vec!["https://app.example.org".to_owned()]);
        let table = [
            (None, true),
            (Some("http://localhost:8000"), true),
            (Some("https://app.example.org"), true),
            (Some("http://localhost:3000"), false),
            (Some("https://evil.example"), false),
            (Some("null"), false),
        ];
        for (origin, allowed) in table {
            assert_eq!(origins.allow(&headers("localhost:8000", origin)), allowed, "{origin:?}");
        }
        assert!(Origins::new(vec!["*".to_owned()]).allow(&headers("x", Some("https://evil.example"))));
    }
}
