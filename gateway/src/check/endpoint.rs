//! Where a server is, out of its shown URL.
//!
//! Owns the reading of `scheme://host:port`. Must never be given more than that: user and password stay out.

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
    /// Reads `scheme://host[:port]`; `None` when it is something else, such as a Unix socket.
    pub(super) fn read(url: &str, secure: &str, plain: &str, ports: (u16, u16)) -> Option<Self> {
        let (scheme, authority) = url.split_once("://")?;
        let tls = scheme == secure;
        if !tls && scheme != plain {
            return None;
        }
        let default = if tls { ports.1 } else { ports.0 };
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

    /// Whether only this machine can be meant.
    pub(super) fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost") || self.ip().is_some_and(|ip| ip.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_read() {
        let read = |url| Endpoint::read(url, "rediss", "redis", (6379, 6380));
        let endpoint = |host: &str, port, tls| Some(Endpoint { host: host.to_owned(), port, tls });
        assert_eq!(read("redis://h.example:1"), endpoint("h.example", 1, false));
        assert_eq!(read("rediss://h.example"), endpoint("h.example", 6380, true));
        assert_eq!(read("redis://[::1]:7"), endpoint("::1", 7, false));
        assert_eq!(read("redis://::1:7"), endpoint("::1", 7, false));
        for none in ["unix:///tmp/redis.sock", "http://h:1", "redis://", "redis://h:x", "h"] {
            assert_eq!(read(none), None, "{none}");
        }
        assert!(read("redis://[::1]:7").unwrap().is_loopback());
        assert!(!read("redis://10.0.0.1:7").unwrap().is_loopback());
    }
}
