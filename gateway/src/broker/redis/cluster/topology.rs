//! The owners of the slots of a cluster, as one node reported them.
//!
//! Owns parsing `CLUSTER SLOT_COUNT`, which every version supports. Pure. Must never keep an empty host: it stands for the
//! node that was asked.

use redis::Value;

use earshot_redis_link::NodeAddress;
use earshot_redis_link::slot::SLOT_COUNT;

/// The map of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::broker::redis) struct Topology {
    /// Every known node, primaries and replicas.
    nodes: Vec<NodeAddress>,
    /// For each slot, the index of its primary in `nodes`.
    owners: Vec<Option<u16>>,
}

impl Topology {
    /// Parses a reply to `CLUSTER SLOT_COUNT`; `None` when it is invalid, or names no slot.
    pub(super) fn read(answer: &Value, asked: &NodeAddress) -> Option<Self> {
        let Value::Array(ranges) = answer else { return None };
        let mut topology = Self::default();
        for range in ranges {
            let Value::Array(fields) = range else { return None };
            let [Value::Int(first), Value::Int(last), nodes @ ..] = &fields[..] else { return None };
            let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
            for (place, node) in nodes.iter().enumerate() {
                let Some(address) = address(node, asked) else { continue };
                let index = topology.index(&address);
                if place == 0 {
                    (first..=last.min(SLOT_COUNT - 1)).for_each(|slot| topology.own(slot, index));
                }
            }
        }
        (!topology.nodes.is_empty()).then_some(topology)
    }

    /// The primary of a slot, if known.
    pub(in crate::broker::redis) fn owner(&self, slot: u16) -> Option<&NodeAddress> {
        let index = (*self.owners.get(usize::from(slot))?)?;
        self.nodes.get(usize::from(index))
    }

    /// Every known node.
    pub(super) fn nodes(&self) -> &[NodeAddress] {
        &self.nodes
    }

    /// Whether a node owns a slot.
    pub(in crate::broker::redis) fn is_primary(&self, node: &NodeAddress) -> bool {
        let index = self.nodes.iter().position(|known| known == node).and_then(|at| u16::try_from(at).ok());
        index.is_some_and(|index| self.owners.contains(&Some(index)))
    }

    /// Stores the new owner of a slot.
    pub(super) fn moved(&mut self, slot: u16, node: &NodeAddress) {
        let index = self.index(node);
        self.own(slot, index);
    }

    fn own(&mut self, slot: u16, index: Option<u16>) {
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
fn address(node: &Value, asked: &NodeAddress) -> Option<NodeAddress> {
    let Value::Array(fields) = node else { return None };
    let [host, Value::Int(port), ..] = &fields[..] else { return None };
    let host = match host {
        Value::BulkString(host) if !host.is_empty() => String::from_utf8(host.clone()).ok()?,
        Value::BulkString(_) | Value::Nil => asked.host.clone(),
        _ => return None,
    };
    // A node without a host name yet.
    let port = u16::try_from(*port).ok().filter(|port| *port != 0 && host != "?")?;
    Some(NodeAddress { host, port })
}

/// The target of a redirection (`MOVED`, `ASK`: `3999 127.0.0.1:6381`). An empty host stands for the node that
/// replied.
pub(in crate::broker::redis) fn redirection(
    details: &str,
    said_by: &NodeAddress,
) -> Option<(u16, NodeAddress)> {
    let (slot, address) = details.trim().split_once(' ')?;
    let address = match address.strip_prefix(':') {
        Some(port) if !port.contains(':') => format!("{}:{port}", said_by.host),
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

    #[test]
    fn each_slot_has_its_primary() {
        let answer = Value::Array(vec![
            range(0, 5, vec![entry(Some("a"), 1), entry(Some("b"), 2)]),
            range(7, 16_383, vec![entry(Some("b"), 2), entry(Some("c"), 3), entry(Some("?"), 4)]),
        ]);
        let topology = Topology::read(&answer, &node("seed", 9)).unwrap();
        assert_eq!(topology.owner(5), Some(&node("a", 1)));
        assert_eq!(topology.owner(6), None);
        assert_eq!(topology.owner(16_383), Some(&node("b", 2)));
        assert_eq!(topology.nodes(), [node("a", 1), node("b", 2), node("c", 3)]);
        assert!(topology.is_primary(&node("b", 2)) && !topology.is_primary(&node("c", 3)));
    }

    #[test]
    fn a_node_without_a_name_is_the_one_that_was_asked() {
        for host in [None, Some("")] {
            let answer = Value::Array(vec![range(0, 1, vec![entry(host, 7000)])]);
            let topology = Topology::read(&answer, &node("seed", 9)).unwrap();
            assert_eq!(topology.owner(0), Some(&node("seed", 7000)));
        }
        assert_eq!(redirection("3 :7001", &node("seed", 9)), Some((3, node("seed", 7001))));
        assert_eq!(redirection("3 10.0.0.1:7001", &node("seed", 9)), Some((3, node("10.0.0.1", 7001))));
        assert_eq!(redirection("3 ::1:7001", &node("seed", 9)), Some((3, node("::1", 7001))));
        assert_eq!(redirection("", &node("seed", 9)), None);
    }

    #[test]
    fn nothing_is_no_topology() {
        for answer in [Value::Nil, Value::Array(Vec::new()), Value::Array(vec![Value::Int(1)])] {
            assert_eq!(Topology::read(&answer, &node("seed", 9)), None, "{answer:?}");
        }
    }

    #[test]
    fn what_has_moved_is_where_it_was_said_to_be() {
        let answer = Value::Array(vec![range(0, 1, vec![entry(Some("a"), 1)])]);
        let mut topology = Topology::read(&answer, &node("seed", 9)).unwrap();
        topology.moved(1, &node("new", 2));
        assert_eq!((topology.owner(0), topology.owner(1)), (Some(&node("a", 1)), Some(&node("new", 2))));
    }
}
