//! The client addresses that created channels, and their idle channels.
//!
//! Owns which addresses are counted: those that are likely to be one client. Must never know a connection.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use earshot_protocol::ChannelName;

/// The first 64 bits of an IPv6 address: most clients own a network of this size.
const IPV6_NETWORK: u128 = !0 << 64;

/// The addresses that have created channels.
#[derive(Debug, Default)]
pub(super) struct Creators(DashMap<IpAddr, Arc<Creator>>);

/// An address that has created channels.
#[derive(Debug)]
pub(super) struct Creator {
    address: IpAddr,
    idle: Mutex<IdleChannels>,
}

/// The channels of one creator without a subscriber, oldest first.
#[derive(Debug, Default)]
struct IdleChannels {
    last: u64,
    by_age: BTreeMap<NonZeroU64, ChannelName>,
}

/// The attribution of a channel to its creator, which counts the channel while it is idle.
#[derive(Debug)]
pub(super) struct Attribution {
    creator: Arc<Creator>,
    /// The key among the creator's idle channels, while the channel is idle.
    idle: Option<NonZeroU64>,
}

impl Creators {
    /// Attributes a new channel to an address. Returns `None` when the address is not counted.
    pub(super) fn attribute(&self, address: IpAddr) -> Option<Attribution> {
        let address = attribution_address(address)?;
        let creator = || Arc::new(Creator { address, idle: Mutex::default() });
        let creator = Arc::clone(&self.0.entry(address).or_insert_with(creator));
        Some(Attribution { creator, idle: None })
    }

    /// Ends an attribution. The creator is removed with its last attribution.
    pub(super) fn release(&self, mut attribution: Attribution) {
        attribution.end_idle();
        let address = attribution.creator.address;
        drop(attribution);
        self.0.remove_if(&address, |_, creator| Arc::strong_count(creator) == 1);
    }

    /// Releases memory; a capacity of `kept` remains.
    pub(super) fn shrink(&self, kept: usize) {
        if self.0.capacity() > kept.max(8 * self.0.len()) {
            self.0.shrink_to_fit();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The maximum number of idle channels of one creator.
    #[cfg(test)]
    pub(super) fn idle_max(&self) -> usize {
        self.0.iter().map(|creator| creator.idle().by_age.len()).max().unwrap_or(0)
    }
}

impl Creator {
    fn idle(&self) -> MutexGuard<'_, IdleChannels> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attribution {
    /// Notes that the channel has no subscriber.
    pub(super) fn begin_idle(&mut self, name: &ChannelName) {
        if self.idle.is_none() {
            let mut idle = self.creator.idle();
            idle.last += 1;
            self.idle = NonZeroU64::new(idle.last);
            idle.by_age.extend(self.idle.map(|key| (key, name.clone())));
        }
    }

    /// Notes that the channel has a subscriber again, or is removed.
    pub(super) fn end_idle(&mut self) {
        if let Some(key) = self.idle.take() {
            self.creator.idle().by_age.remove(&key);
        }
    }

    /// Whether a client of this address is not the creator. An unknown address counts as the creator's.
    pub(super) fn is_other(&self, address: Option<IpAddr>) -> bool {
        address.is_some_and(|address| attribution_address(address) != Some(self.creator.address))
    }

    /// The oldest idle channels of the creator beyond `max`.
    pub(super) fn excess(&self, max: usize) -> Vec<ChannelName> {
        let idle = self.creator.idle();
        let excess = idle.by_age.len().saturating_sub(max);
        idle.by_age.values().take(excess).cloned().collect()
    }

    /// Whether the channel is counted as idle.
    pub(super) fn is_idle(&self) -> bool {
        self.idle.is_some()
    }
}

/// The address that a channel is attributed to when a client of this address creates it. Returns `None` for addresses
/// of this host and of private networks, which may belong to a proxy with any number of clients.
pub(crate) fn attribution_address(address: IpAddr) -> Option<IpAddr> {
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
    fn does_not_count_addresses_that_clients_share() {
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
            assert_eq!(attribution_address(address.parse().unwrap()), expected, "{address}");
        }
    }
}
