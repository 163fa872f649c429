//! Reads MessagePack.

use super::error::SessionError;
use super::value::{Arena, Bytes, DEPTH_MAX, Decoded, Item, ItemId};

const MALFORMED: SessionError = SessionError::Malformed("MessagePack");

/// Reads one value.
///
/// # Errors
/// The bytes are not MessagePack, are followed by others, are nested too deep, or have too many elements.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded<'_>, SessionError> {
    let mut reader = MsgpackReader { bytes: Bytes::new(bytes), arena: Arena::default() };
    let root = reader.value(0)?;
    if reader.bytes.rest().is_empty() { Ok(Decoded { arena: reader.arena, root }) } else { Err(MALFORMED) }
}

struct MsgpackReader<'v> {
    bytes: Bytes<'v>,
    arena: Arena<'v>,
}

impl<'v> MsgpackReader<'v> {
    fn value(&mut self, depth: usize) -> Result<ItemId, SessionError> {
        if depth > DEPTH_MAX {
            return Err(SessionError::TooDeep(DEPTH_MAX));
        }
        let first = self.bytes.byte().ok_or(MALFORMED)?;
        let item = match first {
            0x00..=0x7f => Item::integer(first),
            0x80..=0x8f => self.map(usize::from(first & 0x0f), depth)?,
            0x90..=0x9f => self.list(usize::from(first & 0x0f), depth)?,
            0xa0..=0xbf => self.text(usize::from(first & 0x1f))?,
            0xc0 => Item::Null,
            0xc2 => Item::Bool(false),
            0xc3 => Item::Bool(true),
            0xc4..=0xc6 => {
                let length = self.length(1 << (first - 0xc4))?;
                self.opaque(length)?
            }
            // An extension has one more byte, its type.
            0xc7..=0xc9 => {
                let length = self.length(1 << (first - 0xc7))?;
                self.opaque(length.saturating_add(1))?
            }
            0xca => Item::float(f32::from_be_bytes(self.array()?).into()),
            0xcb => Item::float(f64::from_be_bytes(self.array()?)),
            0xcc..=0xcf => Item::integer(self.number(1 << (first - 0xcc))?),
            0xd0 => Item::integer(i8::from_be_bytes(self.array()?)),
            0xd1 => Item::integer(i16::from_be_bytes(self.array()?)),
            0xd2 => Item::integer(i32::from_be_bytes(self.array()?)),
            0xd3 => Item::integer(i64::from_be_bytes(self.array()?)),
            0xd4..=0xd8 => self.opaque((1 << (first - 0xd4)) + 1)?,
            0xd9..=0xdb => {
                let length = self.length(1 << (first - 0xd9))?;
                self.text(length)?
            }
            0xdc | 0xdd => {
                let length = self.length(2 << (first - 0xdc))?;
                self.list(length, depth)?
            }
            0xde | 0xdf => {
                let length = self.length(2 << (first - 0xde))?;
                self.map(length, depth)?
            }
            0xe0..=0xff => Item::integer(first.cast_signed()),
            0xc1 => return Err(MALFORMED),
        };
        self.arena.add(item)
    }

    /// Reads elements one by one: a declared length reserves no memory.
    fn list(&mut self, length: usize, depth: usize) -> Result<Item<'v>, SessionError> {
        let elements = (0..length).map(|_| self.value(depth + 1));
        elements.collect::<Result<_, _>>().map(Item::List)
    }

    fn map(&mut self, length: usize, depth: usize) -> Result<Item<'v>, SessionError> {
        let entries = (0..length).map(|_| Ok((self.value(depth + 1)?, self.value(depth + 1)?)));
        entries.collect::<Result<_, _>>().map(Item::Map)
    }

    fn text(&mut self, length: usize) -> Result<Item<'v>, SessionError> {
        self.bytes.take(length).map(Item::text).ok_or(MALFORMED)
    }

    fn opaque(&mut self, length: usize) -> Result<Item<'v>, SessionError> {
        self.bytes.take(length).map(|_| Item::Opaque).ok_or(MALFORMED)
    }

    fn length(&mut self, bytes: usize) -> Result<usize, SessionError> {
        usize::try_from(self.number(bytes)?).map_err(|_| MALFORMED)
    }

    /// Takes a big-endian number.
    fn number(&mut self, bytes: usize) -> Result<u64, SessionError> {
        let taken = self.bytes.take(bytes).ok_or(MALFORMED)?;
        Ok(taken.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SessionError> {
        self.bytes.array().ok_or(MALFORMED)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::pointer::Pointer;
    use super::super::fixtures::{self, DJANGO_REDIS_MSGPACK, FLASK_MSGPACK};
    use super::super::value::{ITEMS_MAX, Resolved};
    use super::*;

    fn resolve(bytes: &[u8], pointer: &str) -> Option<Resolved> {
        decode(bytes).unwrap().resolve(&Pointer::parse(pointer).unwrap())
    }

    #[test]
    fn reads_sessions_of_libraries() {
        let text = |text: &str| Some(Resolved::Text(text.to_owned()));
        let django = fixtures::bytes(DJANGO_REDIS_MSGPACK);
        assert_eq!(resolve(&django, "/_auth_user_id"), text("1"));
        assert_eq!(resolve(&django, "/cart/0/n"), text("ü😀"));
        let flask = fixtures::bytes(FLASK_MSGPACK);
        assert_eq!(resolve(&flask, "/user_id"), Some(Resolved::Number("42".to_owned())));
        assert_eq!(resolve(&flask, "/_permanent"), Some(Resolved::Bool(true)));
        assert_eq!(resolve(&flask, "/roles"), Some(Resolved::List(vec!["a".to_owned(), "b".to_owned()])));
    }

    /// Examples of the MessagePack specification, one for each type.
    #[test]
    fn reads_all_types() {
        for (bytes, expected) in [
            (&b"\x7f"[..], "127"),
            (b"\xe0", "-32"),
            (b"\xcc\xff", "255"),
            (b"\xcd\xff\xff", "65535"),
            (b"\xce\xff\xff\xff\xff", "4294967295"),
            (b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "18446744073709551615"),
            (b"\xd0\x80", "-128"),
            (b"\xd1\x80\x00", "-32768"),
            (b"\xd2\x80\x00\x00\x00", "-2147483648"),
            (b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", "-9223372036854775808"),
            (b"\xca\x3f\xc0\x00\x00", "1.5"),
            (b"\xcb\xbf\xf8\x00\x00\x00\x00\x00\x00", "-1.5"),
            (b"\xc2", "false"),
            (b"\xa1x", "x"),
            (b"\xd9\x01x", "x"),
            (b"\xda\x00\x01x", "x"),
            (b"\xdb\x00\x00\x00\x01x", "x"),
        ] {
            for array in [&b"\x91"[..], b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01"] {
                let found = resolve(&[array, bytes].concat(), "/0").unwrap();
                assert_eq!(found.into_scalar().as_deref(), Some(expected), "{bytes:?}");
            }
            for map in [&b"\x81"[..], b"\xde\x00\x01", b"\xdf\x00\x00\x00\x01"] {
                let found = resolve(&[map, b"\xa1a", bytes].concat(), "/a").unwrap();
                assert_eq!(found.into_scalar().as_deref(), Some(expected), "{bytes:?}");
            }
        }
        for bytes in [
            &b"\xc0"[..],
            b"\xc4\x01x",
            b"\xc5\x00\x01x",
            b"\xc6\x00\x00\x00\x01x",
            b"\xc7\x01\x05x",
            b"\xc8\x00\x01\x05x",
            b"\xc9\x00\x00\x00\x01\x05x",
            b"\xd4\x05x",
            b"\xd5\x05xx",
            b"\xd6\x05xxxx",
            b"\xd7\x05xxxxxxxx",
            b"\xd8\x05xxxxxxxxxxxxxxxx",
            b"\xa1\xff",
            b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
        ] {
            assert_eq!(resolve(&[b"\x91", bytes].concat(), "/0"), Some(Resolved::Other), "{bytes:?}");
        }
    }

    #[test]
    fn the_last_of_equal_keys_counts() {
        assert_eq!(resolve(b"\x82\xa1a\x01\xa1a\x02", "/a"), Some(Resolved::Number("2".to_owned())));
    }

    #[test]
    fn rejects_malformed_values() {
        for bytes in [
            &b""[..],
            b"\xc1",
            b"\x81\xa1a",
            b"\xa5abc",
            b"\xdd\xff\xff\xff\xff\x01",
            b"\xdb\xff\xff\xff\xff",
            b"\x01\x01",
        ] {
            assert_eq!(decode(bytes).err(), Some(MALFORMED), "{bytes:?}");
        }
        let deep = [&[0x91; DEPTH_MAX + 1][..], b"\xc0"].concat();
        assert_eq!(decode(&deep).err(), Some(SessionError::TooDeep(DEPTH_MAX)));
        assert!(decode(&deep[1..]).is_ok());
        let many = [&b"\xdd\x00\x02\x00\x00"[..], &[0xc0; 0x20000]].concat();
        assert_eq!(decode(&many).err(), Some(SessionError::TooManyItems(ITEMS_MAX)));
    }

    proptest! {
        #[test]
        fn accepts_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn truncated_sessions_are_rejected(length in 0usize..207) {
            prop_assert!(decode(&fixtures::bytes(DJANGO_REDIS_MSGPACK)[..length]).is_err());
        }
    }
}
