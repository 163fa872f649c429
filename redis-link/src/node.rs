//! The address of one node of a cluster.
//!
//! Owns its parsing, and the configuration for a connection to it: credentials, TLS and timeouts are those of the
//! cluster. Must never resolve a name.

use std::fmt;

use super::address::{Address, ServerEndpoint};
use super::{ConnectConfig, LinkError};

/// Host and port of a cluster node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeAddress {
    /// A name, an IPv4 address or an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl NodeAddress {
    /// Parses `host:port`, `[::1]:port` or, as clusters write it, `::1:port`.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte);
        (!host.is_empty() && host.bytes().all(plain)).then(|| Self { host: host.to_owned(), port })
    }

    /// The node in the URL; `None` for a Unix socket or an invalid URL.
    pub fn from_config(config: &ConnectConfig) -> Option<Self> {
        match Address::parse(&config.url).ok()?.endpoint {
            ServerEndpoint::Tcp { host, port } => Some(Self { host, port: Address::port_or_default(port) }),
            ServerEndpoint::Unix(_) => None,
        }
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl ConnectConfig {
    /// The same configuration for another node of the cluster.
    #[must_use]
    pub fn for_node(&self, node: &NodeAddress) -> Self {
        let mut config = self.clone();
        if let Ok(address) = Address::parse(&self.url) {
            let endpoint = ServerEndpoint::Tcp { host: node.host.clone(), port: Some(node.port) };
            config.url = Address { endpoint, ..address }.url();
        }
        config
    }
}

impl LinkError {
    /// The same error, with the node that it is about.
    #[must_use]
    pub fn with_node(self, node: &NodeAddress) -> Self {
        match self {
            Self::Unreachable(cause) => Self::Unreachable(format!("{node}: {cause}")),
            Self::NotReceiving(cause) => Self::NotReceiving(format!("{node}: {cause}")),
            Self::Rejected(cause) => Self::Rejected(format!("{node}: {cause}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> ConnectConfig {
        ConnectConfig { url: url.to_owned(), ..ConnectConfig::default() }
    }

    fn node(host: &str, port: u16) -> NodeAddress {
        NodeAddress { host: host.to_owned(), port }
    }

    #[test]
    fn a_configuration_is_changed_to_another_node() {
        for (url, first, changed) in [
            ("redis://seed", node("seed", 6379), "redis://10.0.0.7:7001/0"),
            ("rediss://u:p%40@[::1]:7000/", node("::1", 7000), "rediss://u:p%40@10.0.0.7:7001/0"),
        ] {
            assert_eq!(NodeAddress::from_config(&config(url)), Some(first), "{url}");
            assert_eq!(config(url).for_node(&node("10.0.0.7", 7001)).url, changed);
        }
        assert_eq!(config("redis://h:1").for_node(&node("fe80::1", 2)).url, "redis://[fe80::1]:2/0");
        assert_eq!(NodeAddress::from_config(&config("unix:///tmp/redis.sock")), None);
    }

    #[test]
    fn parses_addresses_as_clusters_write_them() {
        for (text, address) in [
            ("127.0.0.1:7000", Some(node("127.0.0.1", 7000))),
            ("redis-0.example:7000", Some(node("redis-0.example", 7000))),
            ("[::1]:7000", Some(node("::1", 7000))),
            ("::1:7000", Some(node("::1", 7000))),
            (":7000", None),
            ("host", None),
            ("host:0", None),
            ("ho/st:1", None),
        ] {
            assert_eq!(NodeAddress::parse(text), address, "{text}");
        }
    }
}
