//! Which browsers may open a stream or call the API: those whose page comes from an allowed origin.
//!
//! CORS does not protect WebSockets, so the `Origin` header is looked at in the handshake. Whoever sends none is not a
//! browser, and is not stopped by this.

use axum::http::{HeaderMap, header};

/// The origins that are allowed besides the gateway's own host.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    allowed: Vec<String>,
    /// A name that somebody else points to this machine is not a host of ours.
    local: bool,
}

impl Origins {
    /// These origins, such as `https://app.example.org`; `*` allows every one. A gateway that listens on loopback only
    /// (`local`) takes no page for its own whose host is a name other than `localhost`.
    pub fn new(allowed: Vec<String>, local: bool) -> Self {
        Self { allowed, local }
    }

    /// Whether a request with these headers may come in.
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        self.owns(origin, headers) || self.lists(origin)
    }

    /// The origin to name in the answer, when the request came from another host that is allowed.
    pub fn named(&self, headers: &HeaderMap) -> Option<String> {
        let origin = headers.get(header::ORIGIN)?.to_str().ok()?;
        (!self.owns(origin, headers) && self.lists(origin)).then(|| origin.to_owned())
    }

    fn owns(&self, origin: &str, headers: &HeaderMap) -> bool {
        is_own(origin, headers) && (!self.local || host(headers).is_some_and(is_local_name))
    }

    fn lists(&self, origin: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
    }
}

/// Whether the page comes from the host that it now asks. React Native names the gateway itself.
pub fn is_own(origin: &str, headers: &HeaderMap) -> bool {
    let Some((scheme, page)) = origin.split_once("://") else { return false };
    let port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let bare = |authority: &str| authority.strip_suffix(port).unwrap_or(authority).to_ascii_lowercase();
    host(headers).is_some_and(|host| bare(host) == bare(page))
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST)?.to_str().ok()
}

/// Whether a host is spelled as `localhost` or as an address: nobody else can point such a name here.
pub fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
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
        let origins = Origins::new(vec!["https://app.example.org".to_owned()], true);
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
        let all = Origins::new(vec!["*".to_owned()], true);
        assert!(all.allow(&headers("x", Some("https://evil.example"))));
    }

    #[test]
    fn a_name_that_somebody_points_here_is_not_our_own() {
        let rebound = headers("evil.example:8000", Some("http://evil.example:8000"));
        assert!(!Origins::new(Vec::new(), true).allow(&rebound));
        assert!(Origins::new(Vec::new(), false).allow(&rebound));
        let emulator = headers("10.0.2.2:8000", Some("http://10.0.2.2:8000"));
        assert!(Origins::new(Vec::new(), true).allow(&emulator));
    }

    #[test]
    fn the_port_of_the_scheme_may_be_left_out() {
        assert!(is_own("https://h:443", &headers("h", None)));
        assert!(is_own("http://h", &headers("h:80", None)));
        assert!(!is_own("https://h:80", &headers("h", None)));
    }
}
