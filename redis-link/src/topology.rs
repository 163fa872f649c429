//! Slot assignment of a cluster, as one node reports it.
//!
//! Owns the parsing of `CLUSTER SLOTS`, which every version supports, and of redirections. Pure. Must never keep an
//! empty host: it stands for the node that replied.

use redis::Value;

use super::node::NodeAddress;
use super::slot::SLOT_COUNT;

/// A range of slots and the nodes that serve it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// The first slot.
    pub first: u16,
    /// The last slot.
    pub last: u16,
    /// The primary; `None` if its address is unknown.
    pub primary: Option<NodeAddress>,
    /// The replicas with a known address.
    pub replicas: Vec<NodeAddress>,
}

impl SlotRange {
    /// Parses a reply to `CLUSTER SLOTS`; `None` if it is invalid. A node without a host is on the host of `queried`.
    pub fn parse_reply(reply: &Value, queried: Option<&NodeAddress>) -> Option<Vec<Self>> {
        let Value::Array(ranges) = reply else { return None };
        ranges.iter().map(|range| Self::parse(range, queried)).collect()
    }

    fn parse(range: &Value, queried: Option<&NodeAddress>) -> Option<Self> {
        let Value::Array(fields) = range else { return None };
        let [Value::Int(first), Value::Int(last), nodes @ ..] = &fields[..] else { return None };
        let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
        let mut nodes = nodes.iter().map(|node| address(node, queried));
        let primary = nodes.next().flatten();
        Some(Self { first, last: last.min(SLOT_COUNT - 1), primary, replicas: nodes.flatten().collect() })
    }

    /// The number of slots.
    pub fn slots(&self) -> u64 {
        (u64::from(self.last) + 1).saturating_sub(u64::from(self.first))
    }
}

/// The owner of each slot of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Every known node, primaries and replicas.
    nodes: Vec<NodeAddress>,
    /// For each slot, the index of its primary in `nodes`.
    owners: Vec<Option<u16>>,
}

impl Topology {
    /// Parses a reply to `CLUSTER SLOTS`; `None` if it is invalid or names no node. A node without a host is on the host
    /// of `queried`.
    pub fn parse_reply(reply: &Value, queried: Option<&NodeAddress>) -> Option<Self> {
        let mut topology = Self::default();
        for range in SlotRange::parse_reply(reply, queried)? {
            if let Some(primary) = &range.primary {
                let index = topology.index(primary);
                (range.first..=range.last).for_each(|slot| topology.set_owner_index(slot, index));
            }
            for replica in &range.replicas {
                topology.index(replica);
            }
        }
        (!topology.nodes.is_empty()).then_some(topology)
    }

    /// The primary of a slot, if known.
    pub fn owner(&self, slot: u16) -> Option<&NodeAddress> {
        let index = (*self.owners.get(usize::from(slot))?)?;
        self.nodes.get(usize::from(index))
    }

    /// Every known node.
    pub fn nodes(&self) -> &[NodeAddress] {
        &self.nodes
    }

    /// Whether a node owns a slot.
    pub fn is_primary(&self, node: &NodeAddress) -> bool {
        let index = self.nodes.iter().position(|known| known == node).and_then(|at| u16::try_from(at).ok());
        index.is_some_and(|index| self.owners.contains(&Some(index)))
    }

    /// The number of slots without a known primary.
    pub fn unserved_slots(&self) -> usize {
        usize::from(SLOT_COUNT) - self.owners.iter().flatten().count()
    }

    /// Stores the new owner of a slot.
    pub fn set_owner(&mut self, slot: u16, node: &NodeAddress) {
        let index = self.index(node);
        self.set_owner_index(slot, index);
    }

    fn set_owner_index(&mut self, slot: u16, index: Option<u16>) {
        self.owners.resize(usize::from(SLOT_COUNT), None);
        if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
            *owner = index;
        }
    }

    fn index(&mut self, address: &NodeAddress) -> Option<u16> {
        let known = self.nodes.iter().position(|node| node == address);
        let index = known.unwrap_or_else(|| {
            self.nodes.push(address.clone());
            self.nodes.len() - 1
        });
        u16::try_from(index).ok()
    }
}

/// A node in a range: host, port, and further fields.
fn address(node: &Value, queried: Option<&NodeAddress>) -> Option<NodeAddress> {
    let Value::Array(fields) = node else { return None };
    let [host, Value::Int(port), ..] = &fields[..] else { return None };
    let host = match host {
        Value::BulkString(host) if !host.is_empty() => String::from_utf8(host.clone()).ok()?,
        Value::SimpleString(host) if !host.is_empty() => host.clone(),
        Value::BulkString(_) | Value::SimpleString(_) | Value::Nil => queried?.host.clone(),
        _ => return None,
    };
    // `?`: hostnames are preferred, and the node has none yet.
    let port = u16::try_from(*port).ok().filter(|port| *port != 0 && host != "?")?;
    Some(NodeAddress { host, port })
}

/// Parses the target of a redirection (`MOVED`, `ASK`: `3999 127.0.0.1:6381`). An empty host stands for the node that
/// replied.
pub fn parse_redirection(details: &str, replied_by: &NodeAddress) -> Option<(u16, NodeAddress)> {
    let (slot, address) = details.trim().split_once(' ')?;
    let address = match address.strip_prefix(':') {
        Some(port) if !port.contains(':') => format!("{}:{port}", replied_by.host),
        _ => address.to_owned(),
    };
    Some((slot.parse().ok()?, NodeAddress::parse(&address)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> NodeAddress {
        NodeAddress { host: host.to_owned(), port }
    }

    fn entry(host: Option<&str>, port: i64) -> Value {
        let host = host.map_or(Value::Nil, |host| Value::BulkString(host.into()));
        Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())])
    }

    fn range(first: i64, last: i64, nodes: Vec<Value>) -> Value {
        let mut fields = vec![Value::Int(first), Value::Int(last)];
        fields.extend(nodes);
        Value::Array(fields)
    }

    fn parse(reply: &Value) -> Option<Topology> {
        Topology::parse_reply(reply, Some(&node("seed", 9)))
    }

    #[test]
    fn each_slot_has_its_primary() {
        let reply = Value::Array(vec![
            range(0, 5, vec![entry(Some("a"), 1), entry(Some("b"), 2)]),
            range(7, 16_383, vec![entry(Some("b"), 2), entry(Some("c"), 3), entry(Some("?"), 4)]),
        ]);
        let topology = parse(&reply).unwrap();
        assert_eq!(topology.owner(5), Some(&node("a", 1)));
        assert_eq!((topology.owner(6), topology.unserved_slots()), (None, 1));
        assert_eq!(topology.owner(16_383), Some(&node("b", 2)));
        assert_eq!(topology.nodes(), [node("a", 1), node("b", 2), node("c", 3)]);
        assert!(topology.is_primary(&node("b", 2)) && !topology.is_primary(&node("c", 3)));
        let ranges = SlotRange::parse_reply(&reply, None).unwrap();
        assert_eq!((ranges[0].slots(), ranges[1].slots()), (6, 16_377));
        assert_eq!(ranges[1].replicas, [node("c", 3)]);
    }

    #[test]
    fn a_primary_without_an_address_leaves_its_slots_unserved() {
        let reply = Value::Array(vec![range(0, 9, vec![entry(Some("?"), 1), entry(Some("b"), 2)])]);
        let topology = parse(&reply).unwrap();
        assert_eq!((topology.owner(0), topology.unserved_slots()), (None, usize::from(SLOT_COUNT)));
        assert!(!topology.is_primary(&node("b", 2)), "a replica");
    }

    #[test]
    fn a_node_without_a_host_is_on_the_queried_host() {
        for host in [None, Some("")] {
            let reply = Value::Array(vec![range(0, 1, vec![entry(host, 7000)])]);
            assert_eq!(parse(&reply).unwrap().owner(0), Some(&node("seed", 7000)));
            assert_eq!(Topology::parse_reply(&reply, None), None);
        }
        let redirection = |details| parse_redirection(details, &node("seed", 9));
        assert_eq!(redirection("3 :7001"), Some((3, node("seed", 7001))));
        assert_eq!(redirection("3 10.0.0.1:7001"), Some((3, node("10.0.0.1", 7001))));
        assert_eq!(redirection("3 ::1:7001"), Some((3, node("::1", 7001))));
        assert_eq!(redirection(""), None);
    }

    #[test]
    fn invalid_replies_are_rejected() {
        for reply in [Value::Nil, Value::Array(Vec::new()), Value::Array(vec![Value::Int(1)])] {
            assert_eq!(parse(&reply), None, "{reply:?}");
        }
    }

    #[test]
    fn a_moved_slot_has_its_new_owner() {
        let reply = Value::Array(vec![range(0, 1, vec![entry(Some("a"), 1)])]);
        let mut topology = parse(&reply).unwrap();
        topology.set_owner(1, &node("new", 2));
        assert_eq!((topology.owner(0), topology.owner(1)), (Some(&node("a", 1)), Some(&node("new", 2))));
    }
}
