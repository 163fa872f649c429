//! Trusted proxies, and the addresses of the clients behind them.
//!
//! Reads `X-Forwarded-For` only. A proxy usually sets one forwarding header and passes the others on, so a second one
//! (`Forwarded`, `X-Real-IP`) would let a client choose its address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use super::ClientNetwork;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The networks of the proxies whose `X-Forwarded-For` is read (`trusted_proxies`).
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Box<[IpNet]>);

impl TrustedProxies {
    /// Trusts these networks. IPv4 networks must not be written as IPv4-mapped IPv6 networks.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks.into())
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The address of the client that sent a request with these headers from this peer: the peer if it is not trusted,
    /// otherwise the right-most address in `X-Forwarded-For` that is not trusted. If all are trusted, it is the left-most
    /// one. Nothing to the left of an entry that is not an address is read.
    pub fn client_address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut address = peer.to_canonical();
        if !self.is_trusted(address) {
            return address;
        }
        let fields = headers.get_all(X_FORWARDED_FOR).iter().rev();
        let entries = fields.flat_map(|field| field.as_bytes().rsplit(|byte| *byte == b','));
        for entry in entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()) {
            let Some(forwarded) = parse_entry(entry) else { break };
            address = forwarded;
            if !self.is_trusted(address) {
                break;
            }
        }
        address
    }

    /// The network to which limits per address apply for a client with this address. `None` for an address that may
    /// belong to a proxy with any number of clients: a trusted one; without trusted proxies, any address of this host or
    /// of a private network.
    pub fn counted_network(&self, address: IpAddr) -> Option<ClientNetwork> {
        let address = address.to_canonical();
        let may_be_proxy = if self.0.is_empty() { !is_public(address) } else { self.is_trusted(address) };
        (!may_be_proxy).then(|| ClientNetwork::of(address))
    }
}

/// The address in an entry of `X-Forwarded-For`, which may have a port, and brackets around an IPv6 address.
fn parse_entry(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    let address = text.parse().ok();
    let address = address.or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()));
    Some(address.or_else(|| bracketed().map(IpAddr::V6))?.to_canonical())
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    // RFC 6598: shared by the subscribers of a carrier.
    let is_shared = address.octets()[0] == 100 && address.octets()[1] & 0xc0 == 64;
    !(address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_unspecified()
        || is_shared)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    !(address.is_loopback()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        || address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn trusting(networks: &[&str]) -> TrustedProxies {
        TrustedProxies::new(networks.iter().map(|network| network.parse().unwrap()).collect())
    }

    fn headers(fields: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_str(field).unwrap());
        }
        headers
    }

    #[test]
    fn returns_the_rightmost_untrusted_address() {
        let proxies = trusting(&["10.0.0.0/8", "2001:db8::/32"]);
        let table: &[(&str, &[&str], &str)] = &[
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.7"], "203.0.113.7"),
            ("::ffff:10.0.0.1", &["203.0.113.7"], "203.0.113.7"),
            ("2001:db8::1", &["203.0.113.7"], "203.0.113.7"),
            ("10.0.0.1", &["1.1.1.1, 203.0.113.7"], "203.0.113.7"),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.7,10.0.0.3", "10.0.0.2"], "203.0.113.7"),
            ("10.0.0.1", &["1.1.1.1, ::ffff:203.0.113.7, ::ffff:10.0.0.2"], "203.0.113.7"),
            ("10.0.0.1", &["203.0.113.7:5123 ,\t10.0.0.2:443"], "203.0.113.7"),
            ("10.0.0.1", &["[2001:dba::7]:443"], "2001:dba::7"),
            ("10.0.0.1", &["[2001:dba::7]"], "2001:dba::7"),
            ("10.0.0.1", &["2001:dba::7, 2001:db8::2"], "2001:dba::7"),
            ("10.0.0.1", &["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
            ("10.0.0.1", &["", " , 203.0.113.7, ", ","], "203.0.113.7"),
            ("10.0.0.1", &["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["1.1.1.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.7.1"], "10.0.0.1"),
            ("11.0.0.1", &["203.0.113.7"], "11.0.0.1"),
            ("127.0.0.1", &["203.0.113.7"], "127.0.0.1"),
        ];
        for (peer, fields, expected) in table {
            let address = proxies.client_address(peer.parse().unwrap(), &headers(fields));
            assert_eq!(address, expected.parse::<IpAddr>().unwrap(), "{peer}, {fields:?}");
        }
    }

    #[test]
    fn counts_no_address_that_clients_may_share() {
        let default = TrustedProxies::default();
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.20.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.1.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(default.counted_network(address.parse().unwrap()), None, "{address}");
        }
        for address in ["203.0.113.7", "::ffff:203.0.113.7", "100.128.0.1", "2001:db8:1:2:3:4:5:6"] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(default.counted_network(address), Some(ClientNetwork::of(address)), "{address}");
        }
    }

    #[test]
    fn counts_all_addresses_except_trusted_ones_if_proxies_are_known() {
        let proxies = trusting(&["10.0.0.0/8", "203.0.113.0/24"]);
        for (address, is_counted) in [
            ("10.1.2.3", false),
            ("::ffff:10.1.2.3", false),
            ("203.0.113.7", false),
            ("127.0.0.1", true),
            ("192.168.1.1", true),
            ("fd00::1", true),
            ("198.51.100.1", true),
        ] {
            assert_eq!(proxies.counted_network(address.parse().unwrap()).is_some(), is_counted, "{address}");
        }
    }

    /// Small ranges, so that trusted, untrusted and repeated addresses are all likely.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (9..12u8, 0..3u8).prop_map(|(network, host)| IpAddr::from([network, 0, 0, host])),
            (9..12u8, 0..3u8).prop_map(|(network, host)| {
                IpAddr::V6(Ipv4Addr::new(network, 0, 0, host).to_ipv6_mapped())
            }),
            (0xdb8..0xdba_u16, 0..3u16)
                .prop_map(|(network, host)| IpAddr::from([0x2001, network, 0, 0, 0, 0, 0, host])),
        ]
    }

    fn written(address: IpAddr, form: u8) -> String {
        match (form, address) {
            (0, _) => address.to_string(),
            (1, _) => SocketAddr::new(address, 443).to_string(),
            (_, IpAddr::V6(address)) => format!(" [{address}]\t"),
            (_, IpAddr::V4(address)) => format!("\t{address} "),
        }
    }

    proptest! {
        /// Splitting a list over fields changes nothing, and neither does what a client has sent to the first proxy.
        #[test]
        fn a_client_cannot_choose_its_address(
            peer in address(),
            hops in prop::collection::vec((address(), 0..3u8, any::<bool>()), 0..6),
            sent in "[ -~]{0,40}",
        ) {
            let proxies = trusting(&["10.0.0.0/8", "2001:db8::/32"]);
            let is_trusted = |address: &IpAddr| proxies.is_trusted(address.to_canonical());
            // The model: every proxy appends the address of its own peer, so the list ends with the true path.
            let path: Vec<IpAddr> = hops.iter().map(|hop| hop.0).chain([peer]).collect();
            let expected = path.iter().rev().find(|address| !is_trusted(address));
            let mut fields = vec![sent];
            for (address, form, begins_field) in &hops {
                let entry = written(*address, *form);
                match fields.last_mut() {
                    Some(last) if !begins_field => *last = format!("{last},{entry}"),
                    _ => fields.push(entry),
                }
            }
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            let found = proxies.client_address(peer, &headers(&fields));
            if let Some(expected) = expected {
                prop_assert_eq!(found, expected.to_canonical());
                prop_assert_eq!(proxies.counted_network(found), Some(ClientNetwork::of(*expected)));
            }
        }

        /// An untrusted peer determines the address alone, and any bytes are accepted.
        #[test]
        fn ignores_the_header_of_an_untrusted_peer(
            host: [u8; 4],
            fields in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..4),
        ) {
            let mut headers = HeaderMap::new();
            for value in fields.iter().filter_map(|field| HeaderValue::from_bytes(field).ok()) {
                headers.append(X_FORWARDED_FOR, value);
            }
            let peer = IpAddr::from(host);
            prop_assert_eq!(TrustedProxies::default().client_address(peer, &headers), peer);
            // From a trusted peer, the result is the peer or an address in the header.
            let found = trusting(&["0.0.0.0/0"]).client_address(peer, &headers);
            let is_sent = || headers.get_all(X_FORWARDED_FOR).iter().any(|field| {
                field.as_bytes().split(|byte| *byte == b',').any(|entry| parse_entry(entry.trim_ascii()) == Some(found))
            });
            prop_assert!(found == peer || is_sent());
        }
    }
}
