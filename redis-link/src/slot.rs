//! Hash slots of Redis Cluster, also used to distribute channels over several servers.
//!
//! A slot is the CRC16 of the hash tag, or of the whole name, modulo 16,384. Pure. Must never change: publishers
//! compute the same value.

/// The number of slots.
pub const SLOT_COUNT: u16 = 16_384;

/// The slot of a key or a shard channel. Only the text between the first `{` and the next `}` is hashed, unless it is
/// empty.
pub fn slot(key: impl AsRef<[u8]>) -> u16 {
    let key = key.as_ref();
    crc16(tag(key).unwrap_or(key)) % SLOT_COUNT
}

fn tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let rest = &key[open + 1..];
    let close = rest.iter().position(|byte| *byte == b'}')?;
    (close > 0).then(|| &rest[..close])
}

/// The hash tag of a name, which alone determines its slot; `None`: the whole name does.
pub fn hash_tag(name: &str) -> Option<&str> {
    let (_, rest) = name.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

/// CRC-16/XMODEM, the variant of Redis Cluster.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let index = usize::from((crc >> 8) ^ u16::from(*byte));
        (crc << 8) ^ TABLE[index]
    })
}

static TABLE: [u16; 256] = table();

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computes_the_slots_of_redis() {
        // The replies of `CLUSTER KEYSLOT`.
        for (name, expected) in [
            ("", 0),
            ("123456789", 0x31c3),
            ("foo", 12_182),
            ("bar", 5061),
            ("foo{bar}baz", 5061),
            ("{foo}bar{bar}", 12_182),
            ("web-signals", slot("{web-signals}:x")),
        ] {
            assert_eq!(slot(name), expected, "{name}");
        }
    }

    #[test]
    fn finds_the_hash_tag_that_redis_uses() {
        for (name, tag) in [
            ("{nest}:session", Some("nest")),
            ("a{b}c{d}", Some("b")),
            ("a{}{b}", None),
            ("a}{b", None),
            ("a{b", None),
            ("{{a}}", Some("{a")),
            ("plain", None),
        ] {
            assert_eq!(hash_tag(name), tag, "{name}");
        }
    }
}
