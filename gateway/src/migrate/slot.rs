//! Slots of a cluster, and which node has which.
//!
//! Owns the hash of keys and the reading of `CLUSTER SLOTS`. Pure: must never ask a server.

use redis::Value;

/// How many slots a cluster has.
pub(super) const SLOTS: usize = 16_384;

/// The slot of a key: of its hash tag, if it has one.
pub(super) fn slot(key: &[u8]) -> usize {
    usize::from(crc16(tag(key).unwrap_or(key))) % SLOTS
}

/// What stands between the first `{` and the `}` that follows, unless that is nothing.
fn tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let tail = &key[open + 1..];
    let close = tail.iter().position(|byte| *byte == b'}')?;
    (close > 0).then(|| &tail[..close])
}

/// CRC-16/XMODEM, as clusters define it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

/// The primaries of a cluster with their slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topology {
    /// `host:port` of each primary that has slots; the host is empty where it is the one that was asked.
    pub(super) primaries: Vec<String>,
    /// The primary of each slot, by its place.
    pub(super) of_slot: Vec<Option<usize>>,
}

impl Topology {
    /// Reads the answer to `CLUSTER SLOTS`.
    pub(super) fn read(answer: &Value) -> Option<Self> {
        let mut topology = Self { primaries: Vec::new(), of_slot: vec![None; SLOTS] };
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

    fn place(&mut self, address: String) -> usize {
        self.primaries.iter().position(|known| *known == address).unwrap_or_else(|| {
            self.primaries.push(address);
            self.primaries.len() - 1
        })
    }

    /// How many slots nobody has.
    pub(super) fn unserved(&self) -> usize {
        self.of_slot.iter().filter(|place| place.is_none()).count()
    }
}

fn address(node: &[Value]) -> Option<String> {
    let host = match node.first()? {
        Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
        Value::SimpleString(host) => host.clone(),
        Value::Nil => String::new(),
        _ => return None,
    };
    let Value::Int(port) = node.get(1)? else { return None };
    let bracketed = host.contains(':');
    Some(if bracketed { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_slots_that_redis_gives_them() {
        // As CLUSTER KEYSLOT answers.
        for (key, expected) in [
            ("foo", 12_182),
            ("{foo}bar", 12_182),
            ("bar", 5061),
            ("{}foo", 9500),
            ("123456789", 12_739),
            ("", 0),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn a_topology_is_read() {
        let node = |port| Value::Array(vec![Value::BulkString(b"10.0.0.1".to_vec()), Value::Int(port)]);
        let range = |from, to, port| Value::Array(vec![Value::Int(from), Value::Int(to), node(port)]);
        let answer = Value::Array(vec![range(0, 5, 1), range(6, 9, 2), range(10, 16_382, 1)]);
        let topology = Topology::read(&answer).unwrap();
        assert_eq!(topology.primaries, ["10.0.0.1:1", "10.0.0.1:2"]);
        assert_eq!(
            (topology.of_slot[5], topology.of_slot[6], topology.of_slot[10]),
            (Some(0), Some(1), Some(0))
        );
        assert_eq!(topology.unserved(), 1);
        assert_eq!(Topology::read(&Value::Nil), None);
    }
}
