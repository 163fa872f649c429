//! One server of a cluster, as the cluster names it.
//!
//! Owns the address and how the settings of an instance are turned towards it: sign-in, TLS and times stay those of
//! the instance. Must never resolve a name.

use std::fmt;

use super::address::{Address, Place};
use super::{Failure, InstanceSettings};

/// Where a node of a cluster listens: a name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeAddress {
    /// A name, an IPv4 address or an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl NodeAddress {
    /// Reads `host:port`, `[::1]:port` or, as clusters write it, `::1:port`.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte);
        (!host.is_empty() && host.bytes().all(plain)).then(|| Self { host: host.to_owned(), port })
    }

    /// The node that the URL of an instance names.
    pub fn of(settings: &InstanceSettings) -> Option<Self> {
        match Address::parse(&settings.url).ok()?.place {
            Place::Tcp { host, port } => Some(Self { host, port: Address::port(port) }),
            Place::Unix(_) => None,
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

impl InstanceSettings {
    /// The same, at another node of the same cluster.
    #[must_use]
    pub fn at(&self, node: &NodeAddress) -> Self {
        let mut settings = self.clone();
        if let Ok(address) = Address::parse(&self.url) {
            let place = Place::Tcp { host: node.host.clone(), port: Some(node.port) };
            settings.url = Address { place, ..address }.url();
        }
        settings
    }
}

impl Failure {
    /// The same, told of one node of several.
    #[must_use]
    pub fn at(self, node: &NodeAddress) -> Self {
        match self {
            Self::Unreachable(cause) => Self::Unreachable(format!("{node}: {cause}")),
            Self::Deaf(cause) => Self::Deaf(format!("{node}: {cause}")),
            Self::Refused(cause) => Self::Refused(format!("{node}: {cause}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> InstanceSettings {
        InstanceSettings { url: url.to_owned(), ..InstanceSettings::default() }
    }

    fn node(host: &str, port: u16) -> NodeAddress {
        NodeAddress { host: host.to_owned(), port }
    }

    #[test]
    fn an_instance_is_turned_towards_another_node() {
        for (url, first, turned) in [
            ("redis://seed", node("seed", 6379), "redis://10.0.0.7:7001/0"),
            ("rediss://u:p%40@[::1]:7000/", node("::1", 7000), "rediss://u:p%40@10.0.0.7:7001/0"),
        ] {
            assert_eq!(NodeAddress::of(&settings(url)), Some(first), "{url}");
            assert_eq!(settings(url).at(&node("10.0.0.7", 7001)).url, turned);
        }
        assert_eq!(settings("redis://h:1").at(&node("fe80::1", 2)).url, "redis://[fe80::1]:2/0");
        assert_eq!(NodeAddress::of(&settings("unix:///tmp/redis.sock")), None);
    }

    #[test]
    fn addresses_are_read_as_clusters_write_them() {
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
