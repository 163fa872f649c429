//! Host, port and TLS of a server.
//!
//! Must never hold more than that, in particular no user or password.

use std::net::IpAddr;

/// Host and port, and whether TLS is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TcpEndpoint {
    /// Host name or address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

impl TcpEndpoint {
    /// Parses `http://host[:port]` or `https://…`; `None` for anything else.
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

    /// The address, unless the host needs resolution.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_parsed() {
        let endpoint = |host: &str, port, tls| Some(TcpEndpoint { host: host.to_owned(), port, tls });
        assert_eq!(TcpEndpoint::read("http://h.example:1"), endpoint("h.example", 1, false));
        assert_eq!(TcpEndpoint::read("https://h.example"), endpoint("h.example", 443, true));
        assert_eq!(TcpEndpoint::read("http://[::1]:7"), endpoint("::1", 7, false));
        assert_eq!(TcpEndpoint::read("http://[::1]"), endpoint("::1", 80, false));
        for none in ["unix:///tmp/redis.sock", "redis://h:1", "http://", "http://h:x", "h"] {
            assert_eq!(TcpEndpoint::read(none), None, "{none}");
        }
    }
}
