//! Which origins and hosts a request may name.
//!
//! CORS does not protect WebSockets, so the handshake checks the `Origin` header. Requests without `Origin` are treated
//! as non-browser requests and accepted, unless `Sec-Fetch-Site` marks them as cross-site.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, header};

/// The origins that are allowed, in addition to pages of the gateway's own host.
#[derive(Clone, Debug, Default)]
pub struct OriginPolicy {
    allowed: Vec<String>,
    /// Allows all origins on this machine.
    allows_local: bool,
}

impl OriginPolicy {
    /// Allows these origins, such as `https://app.example.org`; `*` allows all.
    pub fn new(allowed: Vec<String>) -> Self {
        Self { allowed, allows_local: false }
    }

    /// Allows these origins and all origins on this machine, such as `http://localhost:3000`.
    pub fn development(allowed: Vec<String>) -> Self {
        Self { allowed, allows_local: true }
    }

    /// Whether a request with these headers is allowed.
    pub fn is_allowed(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else {
            // Browsers omit `Origin` in requests for embedded content (images, scripts, frames).
            return !is_cross_site(headers) || self.allows_any();
        };
        let Ok(origin) = origin.to_str() else { return false };
        is_same_origin(origin, headers) || self.is_listed(origin) || self.allows_any()
    }

    /// Whether the cookies of a request are trusted: not if its origin is allowed only by `*`.
    pub fn trusts_cookies(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else { return !is_cross_site(headers) };
        origin.to_str().is_ok_and(|origin| is_same_origin(origin, headers) || self.is_listed(origin))
    }

    /// The origin to allow in CORS headers; `None` for same-origin requests and for origins that are not allowed.
    pub fn cors_origin<'h>(&self, headers: &'h HeaderMap) -> Option<CorsOrigin<'h>> {
        let value = headers.get(header::ORIGIN)?;
        let origin = value.to_str().ok()?;
        // For a browser, the same host with another scheme is another origin. Behind a proxy the gateway does not know
        // its own scheme, so an origin that is listed by name never counts as the same origin.
        if is_same_origin(origin, headers) && !self.is_listed_by_name(origin) {
            None
        } else if self.is_listed(origin) {
            Some(CorsOrigin::Listed(value))
        } else {
            self.allows_any().then_some(CorsOrigin::Any)
        }
    }

    fn is_listed(&self, origin: &str) -> bool {
        self.is_listed_by_name(origin) || (self.allows_local && is_local_origin(origin))
    }

    fn is_listed_by_name(&self, origin: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
    }

    fn allows_any(&self) -> bool {
        self.allowed.iter().any(|allowed| allowed == "*")
    }
}

/// The hosts that a request may name.
///
/// Protects against DNS rebinding: to the browser, a page whose host name resolves to this machine has the same origin
/// as the gateway, so only the `Host` header reveals it.
#[derive(Clone, Debug, Default)]
pub struct HostPolicy {
    names: Vec<String>,
    all: bool,
    applies_to_all_listeners: bool,
}

impl HostPolicy {
    /// Allows these hosts and local ones, on every listener; `*` allows all. If `allowed_hosts` is empty, the hosts of `origins`
    /// are allowed, and only loopback listeners check them. The origin `*` does not allow any host.
    pub fn new(hosts: &[String], origins: &[String]) -> Self {
        let names: Vec<String> = match hosts {
            [] => {
                let origins = origins.iter().filter(|origin| *origin != "*");
                origins.map(|origin| host_of(origin).to_ascii_lowercase()).collect()
            }
            hosts => hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
        };
        let all = names.iter().any(|name| name == "*");
        Self { names, all, applies_to_all_listeners: !hosts.is_empty() }
    }

    /// Whether a request may name this host; `loopback`: its listener is bound to a loopback address. IP addresses and
    /// `localhost` are always allowed, since DNS does not resolve them. Requests without a host are allowed: browsers
    /// always send one.
    pub fn is_allowed(&self, host: Option<&HeaderValue>, loopback: bool) -> bool {
        if self.all || !(loopback || self.applies_to_all_listeners) {
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

/// The host name or address of an origin.
fn host_of(origin: &str) -> &str {
    name_of(origin.split_once("://").map_or(origin, |(_, host)| host))
}

fn is_cross_site(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
}

/// The value of `Access-Control-Allow-Origin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorsOrigin<'h> {
    /// The origin of the request, which is listed.
    Listed(&'h HeaderValue),
    /// Every origin (`*`).
    Any,
}

/// Whether the origin has the same host and port as the request. React Native sends the gateway's own origin.
pub fn is_same_origin(origin: &str, headers: &HeaderMap) -> bool {
    let Some((scheme, page)) = origin.split_once("://") else { return false };
    let port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let bare = |authority: &str| authority.strip_suffix(port).unwrap_or(authority).to_ascii_lowercase();
    host(headers).is_some_and(|host| bare(host) == bare(page))
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST)?.to_str().ok()
}

/// The host name or address of `host:port`.
fn name_of(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.trim_start_matches('[').trim_end_matches(']')
}

/// Whether a name is `localhost` or below `.localhost`, which needs no DNS.
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_origin_with_cors_headers_is_allowed(
            origin in "(https?://)?[a-z.:0-9\\[\\]*]{0,12}",
            listed in prop::collection::vec("(https?://)?[a-z.:0-9*]{0,4}", 0..3),
            host in "[a-z.:0-9\\[\\]]{0,12}",
            development: bool,
        ) {
            let policy = if development { OriginPolicy::development(listed.clone()) } else { OriginPolicy::new(listed.clone()) };
            let headers = headers(&host, Some(&origin));
            prop_assert!(policy.cors_origin(&headers).is_none() || policy.is_allowed(&headers));
            prop_assert!(!listed.contains(&origin) || policy.is_allowed(&headers));
        }

        #[test]
        fn a_listed_host_is_allowed_with_any_port(name in "[a-z.]{1,12}", port: u16, loopback: bool) {
            let policy = HostPolicy::new(std::slice::from_ref(&name), &[]);
            let host = HeaderValue::from_str(&format!("{name}:{port}")).unwrap();
            prop_assert!(policy.is_allowed(Some(&host), loopback));
        }
    }

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn allows_same_origin_and_listed_origins() {
        let origins = OriginPolicy::new(vec!["https://app.example.org".to_owned()]);
        let table = [
            (None, true),
            (Some("http://localhost:8000"), true),
            (Some("https://app.example.org"), true),
            (Some("http://localhost:3000"), false),
            (Some("https://evil.example"), false),
            (Some("null"), false),
        ];
        for (origin, allowed) in table {
            assert_eq!(origins.is_allowed(&headers("localhost:8000", origin)), allowed, "{origin:?}");
        }
        let all = OriginPolicy::new(vec!["*".to_owned()]);
        assert!(all.is_allowed(&headers("x", Some("https://evil.example"))));
    }

    #[test]
    fn development_mode_allows_local_origins() {
        let origins = OriginPolicy::development(Vec::new());
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
            assert_eq!(origins.is_allowed(&headers), allowed, "{origin}");
            assert_eq!(origins.cors_origin(&headers).is_some(), allowed, "{origin}");
        }
    }

    #[test]
    fn cookies_of_other_sites_do_not_count() {
        let all = OriginPolicy::new(vec!["*".to_owned(), "https://app.example".to_owned()]);
        let mut cross_site = headers("gateway.example", None);
        assert!(all.trusts_cookies(&cross_site));
        cross_site.insert("sec-fetch-site", "cross-site".parse().unwrap());
        assert!(all.is_allowed(&cross_site) && !all.trusts_cookies(&cross_site));
        for (origin, trusted) in [
            ("https://gateway.example", true),
            ("https://app.example", true),
            ("https://evil.example", false),
            ("null", false),
        ] {
            let headers = headers("gateway.example", Some(origin));
            assert!(all.is_allowed(&headers));
            assert_eq!(all.trusts_cookies(&headers), trusted, "{origin}");
        }
    }

    #[test]
    fn rejects_cross_site_requests_without_an_origin() {
        let site = |site: &str| {
            let mut headers = headers("localhost:8000", None);
            headers.insert("sec-fetch-site", site.parse().unwrap());
            headers
        };
        for allowed in ["same-origin", "same-site", "none"] {
            assert!(OriginPolicy::new(Vec::new()).is_allowed(&site(allowed)), "{allowed}");
        }
        assert!(!OriginPolicy::new(vec!["https://a.example".to_owned()]).is_allowed(&site("cross-site")));
        assert!(OriginPolicy::new(vec!["*".to_owned()]).is_allowed(&site("cross-site")));
    }

    #[test]
    fn allows_local_and_listed_hosts() {
        let is_allowed = |hosts: &[&str], origins: &[&str], host: &str, loopback| {
            let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
            HostPolicy::new(&texts(hosts), &texts(origins)).is_allowed(Some(&host.parse().unwrap()), loopback)
        };
        for local in
            ["localhost:8000", "LOCALHOST", "a.localhost", "127.0.0.1", "[::1]:8000", "10.0.2.2:8000"]
        {
            assert!(is_allowed(&[], &[], local, true), "{local}");
        }
        for foreign in
            ["evil.example:8000", "localhost.evil.example", "", "127.0.0.1.evil.example", "chat.example"]
        {
            assert!(!is_allowed(&[], &[], foreign, true), "{foreign}");
            assert!(is_allowed(&[], &[], foreign, false), "{foreign}");
            assert!(!is_allowed(&["b.example"], &["https://chat.example"], foreign, false), "{foreign}");
        }
        assert!(is_allowed(&[], &["https://chat.example:8443"], "Chat.Example", true));
        assert!(is_allowed(&["B.example"], &[], "b.example:443", true));
        assert!(is_allowed(&["*"], &[], "evil.example", true));
        assert!(!is_allowed(&[], &["*"], "evil.example", true) && is_allowed(&[], &["*"], "localhost", true));
        assert!(is_allowed(&[], &["*", "https://chat.example"], "chat.example", true));
        assert!(HostPolicy::default().is_allowed(None, true));
    }

    #[test]
    fn a_listed_origin_of_the_same_host_gets_cors_headers() {
        let listed = OriginPolicy::new(vec!["http://app.example".to_owned()]);
        let page = headers("app.example", Some("http://app.example"));
        assert!(matches!(listed.cors_origin(&page), Some(CorsOrigin::Listed(_))));
        for own in [OriginPolicy::new(Vec::new()), OriginPolicy::new(vec!["*".to_owned()])] {
            assert_eq!(own.cors_origin(&page), None);
        }
    }

    #[test]
    fn the_default_port_is_optional() {
        assert!(is_same_origin("https://h:443", &headers("h", None)));
        assert!(is_same_origin("http://h", &headers("h:80", None)));
        assert!(!is_same_origin("https://h:80", &headers("h", None)));
    }
}
