//! Keys, how they are read, and what they hold.
//!
//! Owns the types that callers see. Pure.

use std::hash::BuildHasher;

use bytes::Bytes;

/// How a key is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// A string, with `GET`.
    String,
    /// A hash, with `HGETALL`.
    Hash,
    /// Any type, with `EXISTS`: the value is not read.
    Exists,
}

/// The content of an existing key.
#[derive(Clone, PartialEq, Eq)]
pub enum KeyValue {
    /// The value of a string.
    Bytes(Bytes),
    /// Fields and values of a hash, in the order of the server, which may change.
    Hash(Vec<(Bytes, Bytes)>),
    /// The key exists.
    Present,
    /// The key exists, but has another type than the one it is read by.
    OtherType,
}

/// Values are session data: only their size is shown.
impl std::fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::Hash(fields) => write!(f, "Hash({} fields)", fields.len()),
            Self::Present => f.write_str("Present"),
            Self::OtherType => f.write_str("OtherType"),
        }
    }
}

impl KeyValue {
    /// A fingerprint: with high probability, different values have different numbers. It does not depend on the order
    /// of fields.
    pub(super) fn fingerprint(&self, hasher: &impl BuildHasher) -> u64 {
        match self {
            Self::Bytes(bytes) => hasher.hash_one(bytes),
            Self::Hash(fields) => {
                fields.iter().map(|field| hasher.hash_one(field)).fold(0, u64::wrapping_add)
            }
            Self::Present | Self::OtherType => hasher.hash_one(1u8),
        }
    }
}

/// Receives the changes of watched keys. Called in the control plane; must not block.
pub trait KeyEvents: Send + Sync {
    /// A watched key has another value than at the last read. `None`: it does not exist on a primary. May still be called
    /// once after the last guard of the key was dropped.
    fn on_change(&self, key: &[u8], value: Option<&KeyValue>);
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;

    #[test]
    fn the_order_of_fields_does_not_change_the_fingerprint() {
        let field = |name: &'static str, value: &'static str| (Bytes::from(name), Bytes::from(value));
        let hasher = RandomState::new();
        let fingerprint = |fields: &[(Bytes, Bytes)]| KeyValue::Hash(fields.to_vec()).fingerprint(&hasher);
        let (a, b) = (field("a", "1"), field("b", "2"));
        assert_eq!(fingerprint(&[a.clone(), b.clone()]), fingerprint(&[b.clone(), a.clone()]));
        assert_ne!(fingerprint(&[a.clone(), b]), fingerprint(&[a, field("b", "3")]));
        assert_ne!(fingerprint(&[field("a", "b")]), fingerprint(&[field("b", "a")]));
    }

    #[test]
    fn debug_shows_no_value() {
        let value = KeyValue::Bytes(Bytes::from_static(b"secret"));
        assert_eq!(format!("{value:?}"), "Bytes(6 bytes)");
    }
}
