//! Slot assignment of a cluster.
//!
//! Owns the parsing of `CLUSTER SLOTS`. Pure: must never query a server.

use redis::Value;

use earshot_redis_link::slot::SLOT_COUNT;

/// Primaries of a cluster with their slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topology {
    /// Host and port of each primary with slots; the host is `None` if it is that of the queried node.
    pub(super) primaries: Vec<(Option<String>, u16)>,
    /// Index of the primary of each slot.
    pub(super) of_slot: Vec<Option<usize>>,
}

impl Topology {
    /// Parses the reply to `CLUSTER SLOTS`.
    pub(super) fn read(answer: &Value) -> Option<Self> {
        let mut topology = Self { primaries: Vec::new(), of_slot: vec![None; usize::from(SLOT_COUNT)] };
        let Value::Array(ranges) = answer else { return None };
        for range in ranges {
            let Value::Array(parts) = range else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = parts.as_slice() else {
                return None;
            };
            let place = topology.place(address(primary)?);
            let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
            topology.of_slot.get_mut(first..=last)?.fill(Some(place));
        }
        Some(topology)
    }

    fn place(&mut self, address: (Option<String>, u16)) -> usize {
        self.primaries.iter().position(|known| *known == address).unwrap_or_else(|| {
            self.primaries.push(address);
            self.primaries.len() - 1
        })
    }

    /// Number of slots without a primary.
    pub(super) fn unserved(&self) -> usize {
        self.of_slot.iter().filter(|place| place.is_none()).count()
    }
}

fn address(node: &[Value]) -> Option<(Option<String>, u16)> {
    let host = match node.first()? {
        Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
        Value::SimpleString(host) => host.clone(),
        Value::Nil => String::new(),
        _ => return None,
    };
    let Value::Int(port) = node.get(1)? else { return None };
    // `?` means that the node has no hostname.
    Some((Some(host).filter(|host| !matches!(host.as_str(), "" | "?")), u16::try_from(*port).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topology_is_parsed() {
        let node = |port| Value::Array(vec![Value::BulkString(b"10.0.0.1".to_vec()), Value::Int(port)]);
        let range = |from, to, port| Value::Array(vec![Value::Int(from), Value::Int(to), node(port)]);
        let answer = Value::Array(vec![range(0, 5, 1), range(6, 9, 2), range(10, 16_382, 1)]);
        let topology = Topology::read(&answer).unwrap();
        let host = || Some("10.0.0.1".to_owned());
        assert_eq!(topology.primaries, [(host(), 1), (host(), 2)]);
        assert_eq!(
            (topology.of_slot[5], topology.of_slot[6], topology.of_slot[10]),
            (Some(0), Some(1), Some(0))
        );
        assert_eq!(topology.unserved(), 1);
        assert_eq!(Topology::read(&Value::Nil), None);
    }
}
