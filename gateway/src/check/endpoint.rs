//! Where a server is: host, port, and whether TLS is spoken there.
//!
//! Must never hold more than that: user and password stay out.

use std::net::IpAddr;

/// A host and a port, and whether TLS is spoken there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// A name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

impl Endpoint {
    /// Reads `http://host[:port]` or `https://…`; `None` when it is something else.
    pub(super) fn read(url: &str) -> Option<Self> {
        let (scheme, authority) = url.split_once("://")?;
        let (tls, default) = match scheme {
            "http" => (false, 80),
            "https" => (true, 443),
            _ => return None,
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
            _ => (authority, default),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then(|| Self { host: host.to_owned(), port, tls })
    }

    /// The address, when the host is none that has to be resolved.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_read() {
        let endpoint = |host: &str, port, tls| Some(Endpoint { host: host.to_owned(), port, tls });
        assert_eq!(Endpoint::read("http://h.example:1"), endpoint("h.example", 1, false));
        assert_eq!(Endpoint::read("https://h.example"), endpoint("h.example", 443, true));
        assert_eq!(Endpoint::read("http://[::1]:7"), endpoint("::1", 7, false));
        assert_eq!(Endpoint::read("http://[::1]"), endpoint("::1", 80, false));
        for none in ["unix:///tmp/redis.sock", "redis://h:1", "http://", "http://h:x", "h"] {
            assert_eq!(Endpoint::read(none), None, "{none}");
        }
    }
}
