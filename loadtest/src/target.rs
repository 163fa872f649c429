//! The gateway under test: its address, resolved once. Never opens a connection.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// Why a `--target` is not one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// Another scheme, or none.
    #[error("a target begins with http:// (TLS is not measured here)")]
    Scheme,
    /// Something after the port.
    #[error("a target is http://host:port, without a path")]
    Path,
    /// The name does not resolve, or the port is no port.
    #[error("cannot resolve {authority:?}: {source}")]
    Resolve {
        /// What was asked for.
        authority: String,
        /// What the resolver said.
        source: std::io::Error,
    },
    /// The name resolves to nothing.
    #[error("{0:?} has no address")]
    NoAddress(String),
}

/// Where the gateway is.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    authority: String,
    address: SocketAddr,
}

impl Target {
    /// `host:port` as it was given, for the `Host` header and for URLs.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The first address that the name resolves to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix("http://").ok_or(TargetError::Scheme)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('/') {
            return Err(TargetError::Path);
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let mut addresses = authority
            .to_socket_addrs()
            .map_err(|source| TargetError::Resolve { authority: authority.clone(), source })?;
        let address = addresses.next().ok_or_else(|| TargetError::NoAddress(authority.clone()))?;
        Ok(Self { authority, address })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> String {
        text.parse::<Target>().map_or_else(|error| error.to_string(), |target| target.address().to_string())
    }

    #[test]
    fn targets_are_read() {
        assert_eq!(address("http://127.0.0.1:8000"), "127.0.0.1:8000");
        assert_eq!(address("http://127.0.0.1:8000/"), "127.0.0.1:8000");
        assert_eq!(address("http://127.0.0.1"), "127.0.0.1:80");
        assert_eq!(address("http://[::1]:9"), "[::1]:9");
        assert_eq!(address("http://[::1]"), "[::1]:80");
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(address("127.0.0.1:8000"), "a target begins with http:// (TLS is not measured here)");
        assert_eq!(address("https://x"), "a target begins with http:// (TLS is not measured here)");
        assert_eq!(address("http://127.0.0.1:8000/ws"), "a target is http://host:port, without a path");
        assert!(address("http://127.0.0.1:99999").starts_with("cannot resolve"));
    }
}
