//! Which addresses have created channels, and how many of those have no subscriber left.
//!
//! Owns which addresses are counted: those behind which there is one client, as far as one can tell. Must never know a
//! connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

/// The first 64 bits of an IPv6 address: most clients have all addresses of such a network.
const IPV6_NETWORK: u128 = !0 << 64;

/// The addresses that have created channels.
#[derive(Debug, Default)]
pub(super) struct Creators(DashMap<IpAddr, Arc<Creator>>);

/// An address that has created channels.
#[derive(Debug)]
pub(super) struct Creator {
    address: IpAddr,
    idle: AtomicUsize,
}

impl Creators {
    /// The creator that an address stands for. `None`: it is not counted.
    pub(super) fn get(&self, address: IpAddr) -> Option<Arc<Creator>> {
        let address = attributed(address)?;
        let creator = || Arc::new(Creator { address, idle: AtomicUsize::new(0) });
        Some(Arc::clone(&self.0.entry(address).or_insert_with(creator)))
    }

    /// A channel of this creator is gone; so is the creator, when it was the last one.
    pub(super) fn release(&self, creator: Arc<Creator>) {
        let address = creator.address;
        drop(creator);
        self.0.remove_if(&address, |_, creator| Arc::strong_count(creator) == 1);
    }

    /// Gives memory back that many addresses needed.
    pub(super) fn shrink(&self) {
        self.0.shrink_to_fit();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Creator {
    /// One of its channels has no subscriber any more.
    pub(super) fn add_idle(&self) {
        self.idle.fetch_add(1, Ordering::Relaxed);
    }

    /// One of its idle channels has a subscriber again, or is gone.
    pub(super) fn remove_idle(&self) {
        self.idle.fetch_sub(1, Ordering::Relaxed);
    }

    /// Its channels without a subscriber.
    pub(super) fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }
}

/// The address that a channel is attributed to. `None`: addresses of this machine and of private networks, behind which
/// there may be a proxy with any number of clients.
fn attributed(address: IpAddr) -> Option<IpAddr> {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address).then_some(IpAddr::V4(address)),
        IpAddr::V6(address) => is_public_v6(address).then(|| {
            let network = Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK);
            IpAddr::V6(network)
        }),
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
    use super::*;

    #[test]
    fn addresses_that_many_clients_may_share_are_not_counted() {
        let table = [
            ("127.0.0.1", None),
            ("10.1.2.3", None),
            ("172.20.0.1", None),
            ("192.168.1.1", None),
            ("100.64.0.1", None),
            ("169.254.1.1", None),
            ("::1", None),
            ("fd00::1", None),
            ("fe80::1", None),
            ("::ffff:10.0.0.1", None),
            ("203.0.113.7", Some("203.0.113.7")),
            ("::ffff:203.0.113.7", Some("203.0.113.7")),
            ("100.128.0.1", Some("100.128.0.1")),
            ("2001:db8:1:2:3:4:5:6", Some("2001:db8:1:2::")),
        ];
        for (address, attributed_to) in table {
            let expected = attributed_to.map(|address| address.parse::<IpAddr>().unwrap());
            assert_eq!(attributed(address.parse().unwrap()), expected, "{address}");
        }
    }
}
