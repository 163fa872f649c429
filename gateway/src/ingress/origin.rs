//! Which browsers may open a stream or call the API: those whose page comes from an allowed origin, and that ask for a
//! host of this gateway.
//!
//! CORS does not protect WebSockets, so the `Origin` header is checked in the handshake. A client that sends none is no
//! page of a foreign origin, unless it says so (`Sec-Fetch-Site`).

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, header};

/// The origins that are allowed besides the gateway's own host.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    allowed: Vec<String>,
    /// Pages of every local origin may come.
    local: bool,
}

impl Origins {
    /// These origins, such as `https://app.example.org`; `*` allows every one.
    pub fn new(allowed: Vec<String>) -> Self {
        Self { allowed, local: false }
    }

    /// The same, and every origin on this machine: `http://localhost:3000`.
    pub fn development(allowed: Vec<String>) -> Self {
        Self { allowed, local: true }
    }

    /// Whether a request with these headers may come in.
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else {
            // Browsers leave `Origin` out where a page embeds the request (an image, a script, a frame).
            return !is_cross_site(headers) || self.allows_all();
        };
        let Ok(origin) = origin.to_str() else { return false };
        is_own(origin, headers) || self.lists(origin) || self.allows_all()
    }

    /// How a request from a page of another origin is allowed, if it is. A listed origin may be the gateway's own.
    pub fn cross_origin<'h>(&self, headers: &'h HeaderMap) -> Option<CrossOrigin<'h>> {
        let value = headers.get(header::ORIGIN)?;
        let origin = value.to_str().ok()?;
        // To its browser, a listed page of the same host but another scheme is of another origin. The gateway does not
        // know its own scheme behind a proxy, so an origin that is listed by name is never its own.
        if is_own(origin, headers) && !self.names(origin) {
            None
        } else if self.lists(origin) {
            Some(CrossOrigin::Listed(value))
        } else {
            self.allows_all().then_some(CrossOrigin::Any)
        }
    }

    fn lists(&self, origin: &str) -> bool {
        self.names(origin) || (self.local && is_local_origin(origin))
    }

    fn names(&self, origin: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
    }

    fn allows_all(&self) -> bool {
        self.allowed.iter().any(|allowed| allowed == "*")
    }
}

/// Which hosts a request may name.
///
/// A page whose name was pointed at this machine (DNS rebinding) is of the same origin as the gateway to its browser,
/// and sends no `Origin`; the host that it asks for is all that tells it.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    names: Vec<String>,
    all: bool,
    on_every_listener: bool,
}

impl Hosts {
    /// These hosts besides local ones, on every listener; `*`: all. Without any: the hosts of these origins, on
    /// loopback listeners only. The origin `*` names no host.
    pub fn new(hosts: &[String], origins: &[String]) -> Self {
        let names: Vec<String> = match hosts {
            [] => {
                let origins = origins.iter().filter(|origin| *origin != "*");
                origins.map(|origin| host_of(origin).to_ascii_lowercase()).collect()
            }
            hosts => hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
        };
        let all = names.iter().any(|name| name == "*");
        Self { names, all, on_every_listener: !hosts.is_empty() }
    }

    /// Whether a request that came by a listener, on loopback or not, may name this host. Addresses and `localhost`
    /// always may, since no name server decides what they mean; so may a request without a host, which no browser
    /// sends.
    pub fn admit(&self, host: Option<&HeaderValue>, loopback: bool) -> bool {
        if self.all || !(loopback || self.on_every_listener) {
            return true;
        }
        let Some(host) = host else { return true };
        let Ok(host) = host.to_str() else { return false };
        let name = name_of(host);
        is_localhost(name)
            || name.parse::<IpAddr>().is_ok()
            || self.names.iter().any(|listed| listed.eq_ignore_ascii_case(name))
    }
}

/// The name or address in an origin; all of it where there is none.
fn host_of(origin: &str) -> &str {
    name_of(origin.split_once("://").map_or(origin, |(_, host)| host))
}

fn is_cross_site(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
}

/// Why a page of another host is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossOrigin<'h> {
    /// Its origin is listed.
    Listed(&'h HeaderValue),
    /// Every origin is.
    Any,
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

/// The name or address in `host:port`.
fn name_of(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.trim_start_matches('[').trim_end_matches(']')
}

/// Whether a name means this machine without a look into DNS: `localhost` and what is below it.
fn is_localhost(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

fn is_local_origin(origin: &str) -> bool {
    if !origin.contains("://") {
        return false;
    }
    let name = host_of(origin);
    is_localhost(name) || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
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
        let all = Origins::new(vec!["*".to_owned()]);
        assert!(all.allow(&headers("x", Some("https://evil.example"))));
    }

    #[test]
    fn in_development_mode_every_local_origin_may_come() {
        let origins = Origins::development(Vec::new());
        let table = [
            ("http://localhost:3000", true),
            ("https://app.localhost:5173", true),
            ("http://127.0.0.2:1", true),
            ("http://[::1]:3000", true),
            ("capacitor://localhost", true),
            ("http://192.168.1.5:3000", false),
            ("http://localhost.evil.example", false),
            ("http://evil.example:3000", false),
            ("null", false),
        ];
        for (origin, allowed) in table {
            let headers = headers("localhost:8000", Some(origin));
            assert_eq!(origins.allow(&headers), allowed, "{origin}");
            assert_eq!(origins.cross_origin(&headers).is_some(), allowed, "{origin}");
        }
    }

    #[test]
    fn a_page_of_another_site_that_sends_no_origin_is_told_by_its_site() {
        let site = |site: &str| {
            let mut headers = headers("localhost:8000", None);
            headers.insert("sec-fetch-site", site.parse().unwrap());
            headers
        };
        for allowed in ["same-origin", "same-site", "none"] {
            assert!(Origins::new(Vec::new()).allow(&site(allowed)), "{allowed}");
        }
        assert!(!Origins::new(vec!["https://a.example".to_owned()]).allow(&site("cross-site")));
        assert!(Origins::new(vec!["*".to_owned()]).allow(&site("cross-site")));
    }

    #[test]
    fn a_host_is_local_or_listed() {
        let admit = |hosts: &[&str], origins: &[&str], host: &str, loopback| {
            let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
            Hosts::new(&texts(hosts), &texts(origins)).admit(Some(&host.parse().unwrap()), loopback)
        };
        for local in
            ["localhost:8000", "LOCALHOST", "a.localhost", "127.0.0.1", "[::1]:8000", "10.0.2.2:8000"]
        {
            assert!(admit(&[], &[], local, true), "{local}");
        }
        for foreign in
            ["evil.example:8000", "localhost.evil.example", "", "127.0.0.1.evil.example", "chat.example"]
        {
            assert!(!admit(&[], &[], foreign, true), "{foreign}");
            assert!(admit(&[], &[], foreign, false), "{foreign}");
            assert!(!admit(&["b.example"], &["https://chat.example"], foreign, false), "{foreign}");
        }
        assert!(admit(&[], &["https://chat.example:8443"], "Chat.Example", true));
        assert!(admit(&["B.example"], &[], "b.example:443", true));
        assert!(admit(&["*"], &[], "evil.example", true));
        assert!(!admit(&[], &["*"], "evil.example", true) && admit(&[], &["*"], "localhost", true));
        assert!(admit(&[], &["*", "https://chat.example"], "chat.example", true));
        assert!(Hosts::default().admit(None, true));
    }

    #[test]
    fn a_listed_origin_of_the_same_host_is_a_cross_origin() {
        let listed = Origins::new(vec!["http://app.example".to_owned()]);
        let page = headers("app.example", Some("http://app.example"));
        assert!(matches!(listed.cross_origin(&page), Some(CrossOrigin::Listed(_))));
        for own in [Origins::new(Vec::new()), Origins::new(vec!["*".to_owned()])] {
            assert_eq!(own.cross_origin(&page), None);
        }
    }

    #[test]
    fn the_port_of_the_scheme_may_be_left_out() {
        assert!(is_own("https://h:443", &headers("h", None)));
        assert!(is_own("http://h", &headers("h:80", None)));
        assert!(!is_own("https://h:80", &headers("h", None)));
    }
}
