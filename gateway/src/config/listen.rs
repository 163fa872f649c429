//! Listening addresses.
//!
//! Owns their syntax. Must never open a socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::reader::Located;

/// Resolves a host name. A parameter, so that tests need no network.
pub(super) type Resolve = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// One listening address of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// As in the configuration: `localhost:8000`.
    pub text: String,
    /// The addresses to listen on, each with a socket of its own (an IPv6 one for IPv6 only); never empty.
    pub addrs: Vec<SocketAddr>,
}

impl Listen {
    /// The default address.
    pub const DEFAULT: &str = "localhost:8000";

    /// Whether all of its addresses are loopback addresses.
    pub fn is_loopback(&self) -> bool {
        self.addrs.iter().all(|addr| addr.ip().is_loopback())
    }

    /// Parses `host:port`, `:port` (all addresses), `1.2.3.4:port` or `[::1]:port`.
    ///
    /// # Errors
    /// If it is invalid, or the host cannot be resolved.
    pub(super) fn parse(text: &str, resolve: Resolve) -> Result<Self, String> {
        let addrs = addresses(text, resolve)?;
        if addrs.is_empty() {
            return Err(format!("\"{}\" resolves to no address", text.escape_debug()));
        }
        Ok(Self { text: text.into(), addrs })
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self { text: Self::DEFAULT.into(), addrs: both(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, 8000) }
    }
}

/// Addresses that occur more than once. Port 0 is another port each time.
pub(super) fn repeated<'a, 'd>(
    listen: &'a [Located<'d, Listen>],
) -> Vec<(&'a Located<'d, Listen>, SocketAddr)> {
    let mut seen = Vec::new();
    let mut repeated = Vec::new();
    for found in listen {
        for addr in found.value.addrs.iter().filter(|addr| addr.port() != 0) {
            if seen.contains(addr) {
                repeated.push((found, *addr));
            }
            seen.push(*addr);
        }
    }
    repeated
}

fn addresses(text: &str, resolve: Resolve) -> Result<Vec<SocketAddr>, String> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Ok(vec![addr]);
    }
    let shown = text.escape_debug();
    if text.parse::<u16>().is_ok() {
        return Err(format!("expected host:port, found \"{shown}\"; did you mean \":{shown}\"?"));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("\"{shown}\" has no port; write an IPv6 address as \"[::1]:8000\""));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("expected host:port, found \"{shown}\""));
    };
    let port =
        port.parse().map_err(|_| format!("\"{shown}\" has no port from 0 to 65535 after the last colon"))?;
    match host {
        "" => Ok(both(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED, port)),
        // Resolved here, because many resolvers return only one address family.
        "localhost" => Ok(both(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, port)),
        host if !is_host_name(host) => {
            Err(format!("\"{shown}\" has no valid host name before the last colon; expected host:port"))
        }
        host => resolve(host, port).map_err(|error| format!("cannot resolve \"{shown}\": {error}")),
    }
}

fn is_host_name(host: &str) -> bool {
    host.len() <= 253 && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

fn both(v4: Ipv4Addr, v6: Ipv6Addr, port: u16) -> Vec<SocketAddr> {
    [IpAddr::from(v4), IpAddr::from(v6)].map(|ip| SocketAddr::new(ip, port)).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<String>, String> {
        let resolve: Resolve = |host, port| match host {
            "gateway.internal" => Ok(vec![SocketAddr::from(([10, 0, 0, 7], port))]),
            "empty.internal" => Ok(Vec::new()),
            _ => Err(io::Error::other("no such host")),
        };
        Listen::parse(text, resolve).map(|listen| listen.addrs.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn parses_every_form_of_an_address() {
        for (text, addrs) in [
            ("localhost:8000", vec!["127.0.0.1:8000", "[::1]:8000"]),
            (":80", vec!["0.0.0.0:80", "[::]:80"]),
            ("0.0.0.0:80", vec!["0.0.0.0:80"]),
            ("[::]:80", vec!["[::]:80"]),
            ("127.0.0.1:0", vec!["127.0.0.1:0"]),
            ("gateway.internal:80", vec!["10.0.0.7:80"]),
        ] {
            assert_eq!(parse(text).unwrap(), addrs, "{text}");
        }
        assert_eq!(
            Listen::default().addrs,
            Listen::parse(Listen::DEFAULT, |_, _| unreachable!()).unwrap().addrs
        );
    }

    #[test]
    fn errors_contain_the_expected_form() {
        for (text, what) in [
            ("", "expected host:port, found \"\""),
            ("localhost", "expected host:port, found \"localhost\""),
            ("8000", "expected host:port, found \"8000\"; did you mean \":8000\"?"),
            ("::1", "\"::1\" has no port; write an IPv6 address as \"[::1]:8000\""),
            ("localhost:http", "\"localhost:http\" has no port from 0 to 65535 after the last colon"),
            ("localhost:65536", "\"localhost:65536\" has no port from 0 to 65535 after the last colon"),
            (
                "http://a:80",
                "\"http://a:80\" has no valid host name before the last colon; expected host:port",
            ),
            ("nowhere:80", "cannot resolve \"nowhere:80\": no such host"),
            ("empty.internal:80", "\"empty.internal:80\" resolves to no address"),
        ] {
            assert_eq!(parse(text).unwrap_err(), what, "{text}");
        }
    }
}
