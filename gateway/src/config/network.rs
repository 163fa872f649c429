//! Networks: an address, or an address with the length of its prefix.
//!
//! Owns their syntax.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// The length of the prefix of IPv4-mapped IPv6 addresses.
const IPV4_MAPPED_PREFIX: u8 = 96;

/// Parses `10.0.0.0/8`, `2001:db8::/32` or an address. An IPv4-mapped IPv6 network becomes an IPv4 network.
///
/// # Errors
/// If it is invalid, or has bits after the prefix.
pub(super) fn parse(text: &str) -> Result<IpNet, String> {
    let shown = text.escape_debug();
    let network: IpNet = match text.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => text.parse().map_err(|_| {
            format!("expected an address or a network such as \"10.0.0.0/8\" or \"2001:db8::/32\", found \"{shown}\"")
        })?,
    };
    if network.trunc() != network {
        let (address, network) = (network.addr(), network.trunc());
        return Err(format!("\"{shown}\" has bits after the prefix: write \"{network}\" or \"{address}\""));
    }
    Ok(without_mapping(network))
}

fn without_mapping(network: IpNet) -> IpNet {
    match (network.addr().to_canonical(), network.prefix_len().checked_sub(IPV4_MAPPED_PREFIX)) {
        (IpAddr::V4(address), Some(prefix)) if network.addr().is_ipv6() => {
            Ipv4Net::new(address, prefix).map_or(network, IpNet::V4)
        }
        _ => network,
    }
}

/// A warning for a network that contains every address.
pub(super) fn warning(network: &IpNet) -> Option<String> {
    (network.prefix_len() == 0).then(|| {
        format!("trusted_proxies: {network} trusts every client: each can choose its address with `X-Forwarded-For`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_addresses_and_networks() {
        for (text, expected) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.7", "10.0.0.7/32"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.7", "10.0.0.7/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn errors_contain_the_expected_form() {
        for text in ["", "proxy.internal", "10.0.0.0/33", "10.0.0/8", "10.0.0.1:80", " 10.0.0.1", "private"] {
            let expected = format!(
                "expected an address or a network such as \"10.0.0.0/8\" or \"2001:db8::/32\", found \"{text}\""
            );
            assert_eq!(parse(text).unwrap_err(), expected);
        }
        let expected = "\"10.0.0.1/8\" has bits after the prefix: write \"10.0.0.0/8\" or \"10.0.0.1\"";
        assert_eq!(parse("10.0.0.1/8").unwrap_err(), expected);
    }

    #[test]
    fn warns_about_networks_that_contain_every_address() {
        for (text, warns) in [("0.0.0.0/0", true), ("::/0", true), ("10.0.0.0/8", false)] {
            assert_eq!(warning(&parse(text).unwrap()).is_some(), warns, "{text}");
        }
    }
}
