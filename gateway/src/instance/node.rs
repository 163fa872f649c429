//! One server of a cluster, as the cluster names it.
//!
//! Owns the address and how the settings of an instance are turned towards it: sign-in, TLS and times stay those of
//! the instance. Must never resolve a name.

use std::fmt;

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
        let (start, end) = authority(&settings.url)?;
        let text = &settings.url[start..end];
        Self::parse(text).filter(|_| !text.ends_with(']')).or_else(|| Self::parse(&format!("{text}:6379")))
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
        if let Some((start, end)) = authority(&self.url) {
            settings.url.replace_range(start..end, &node.to_string());
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
            Self::Refused(cause) => Self::Refused(format!("{node}: {cause}")),
        }
    }
}

/// Where in a URL host and port stand.
fn authority(url: &str) -> Option<(usize, usize)> {
    let rest = url.find("://")? + 3;
    let slash = url[rest..].find('/').map_or(url.len(), |at| rest + at);
    // A token may hold what otherwise ends the authority.
    let start = url[rest..slash].rfind('@').map_or(rest, |at| rest + at + 1);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    Some((start, end))
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
            ("redis://seed", node("seed", 6379), "redis://10.0.0.7:7001"),
            ("redis://seed:7000/0", node("seed", 7000), "redis://10.0.0.7:7001/0"),
            ("rediss://u:p%40@[::1]:7000/", node("::1", 7000), "rediss://u:p%40@10.0.0.7:7001/"),
            ("rediss://[::1]", node("::1", 6379), "rediss://10.0.0.7:7001"),
            (
                "rediss://:a#b?c@h:1?ssl_cert_reqs=required",
                node("h", 1),
                "rediss://:a#b?c@10.0.0.7:7001?ssl_cert_reqs=required",
            ),
        ] {
            assert_eq!(NodeAddress::of(&settings(url)), Some(first), "{url}");
            assert_eq!(settings(url).at(&node("10.0.0.7", 7001)).url, turned);
        }
        assert_eq!(settings("redis://h:1").at(&node("fe80::1", 2)).url, "redis://[fe80::1]:2");
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
