//! Reads values that PHP's `serialize` wrote.
//!
//! No object is built: objects and references are opaque, and the reader passes over them.

use std::borrow::Cow;

use super::error::SessionError;
use super::value::{Arena, Bytes, DEPTH_MAX, Decoded, Item, ItemId};

const MALFORMED: SessionError = SessionError::Malformed("serialized PHP");
/// Maximum number of digits of a 64-bit integer.
const INTEGER_DIGITS_MAX: usize = 20;

/// Reads one value.
///
/// # Errors
/// The bytes are not a serialized value, are followed by others, are nested too deep, or have too many elements.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded<'_>, SessionError> {
    let mut reader = PhpReader { bytes: Bytes::new(bytes), arena: Arena::default() };
    let root = reader.value(0)?;
    if reader.bytes.rest().is_empty() { Ok(Decoded { arena: reader.arena, root }) } else { Err(MALFORMED) }
}

/// Reads a serialized text, without any other value around it.
///
/// # Errors
/// The bytes are not a serialized text.
pub(super) fn decode_text(bytes: &[u8]) -> Result<&[u8], SessionError> {
    let mut reader = PhpReader { bytes: Bytes::new(bytes), arena: Arena::default() };
    reader.expect(b"s:")?;
    let text = reader.quoted()?;
    reader.expect(b";")?;
    if reader.bytes.rest().is_empty() { Ok(text) } else { Err(MALFORMED) }
}

struct PhpReader<'v> {
    bytes: Bytes<'v>,
    arena: Arena<'v>,
}

impl<'v> PhpReader<'v> {
    fn value(&mut self, depth: usize) -> Result<ItemId, SessionError> {
        if depth > DEPTH_MAX {
            return Err(SessionError::TooDeep(DEPTH_MAX));
        }
        let tag = self.bytes.byte().ok_or(MALFORMED)?;
        let item = match tag {
            b'N' => {
                self.expect(b";")?;
                Item::Null
            }
            b'b' => match self.scalar()? {
                b"0" => Item::Bool(false),
                b"1" => Item::Bool(true),
                _ => return Err(MALFORMED),
            },
            b'i' => integer(self.scalar()?).ok_or(MALFORMED)?,
            b'd' => float(self.scalar()?).ok_or(MALFORMED)?,
            b's' => {
                self.expect(b":")?;
                let text = Item::text(self.quoted()?);
                self.expect(b";")?;
                text
            }
            b'a' => {
                self.expect(b":")?;
                let entries = self.entries(depth)?;
                self.list_or_map(entries)
            }
            // An object: its class and properties.
            b'O' => {
                self.expect(b":")?;
                self.quoted()?;
                self.expect(b":")?;
                self.entries(depth)?;
                Item::Opaque
            }
            // An object that serializes itself: its class and as many bytes as the number says.
            b'C' => {
                self.expect(b":")?;
                self.quoted()?;
                self.expect(b":")?;
                let length = self.length()?;
                self.expect(b"{")?;
                self.bytes.take(length).ok_or(MALFORMED)?;
                self.expect(b"}")?;
                Item::Opaque
            }
            // A case of an enumeration.
            b'E' => {
                self.expect(b":")?;
                self.quoted()?;
                self.expect(b";")?;
                Item::Opaque
            }
            // References to earlier values.
            b'r' | b'R' => {
                self.scalar()?;
                Item::Opaque
            }
            _ => return Err(MALFORMED),
        };
        self.arena.add(item)
    }

    /// Reads `count:{key value …}`. A declared count reserves no memory.
    fn entries(&mut self, depth: usize) -> Result<Vec<(ItemId, ItemId)>, SessionError> {
        let count = self.length()?;
        self.expect(b"{")?;
        let entries = (0..count).map(|_| Ok((self.value(depth + 1)?, self.value(depth + 1)?)));
        let entries = entries.collect::<Result<_, SessionError>>()?;
        self.expect(b"}")?;
        Ok(entries)
    }

    /// An array whose keys are 0, 1, 2 … is a list.
    fn list_or_map(&self, entries: Vec<(ItemId, ItemId)>) -> Item<'v> {
        let is_list = entries.iter().enumerate().all(
            |(index, (key, _))| matches!(self.arena.get(*key), Item::Number(key) if *key == index.to_string()),
        );
        if is_list {
            Item::List(entries.into_iter().map(|(_, value)| value).collect())
        } else {
            Item::Map(entries)
        }
    }

    /// Takes `length:"bytes"`.
    fn quoted(&mut self) -> Result<&'v [u8], SessionError> {
        let length = self.length()?;
        self.expect(b"\"")?;
        let text = self.bytes.take(length).ok_or(MALFORMED)?;
        self.expect(b"\"")?;
        Ok(text)
    }

    /// Takes decimal digits and `:`.
    fn length(&mut self) -> Result<usize, SessionError> {
        let digits = self.until(b':')?;
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let length = str::from_utf8(digits).ok().filter(|_| is_number).and_then(|digits| digits.parse().ok());
        length.ok_or(MALFORMED)
    }

    /// Takes `:text;`.
    fn scalar(&mut self) -> Result<&'v [u8], SessionError> {
        self.expect(b":")?;
        self.until(b';')
    }

    fn until(&mut self, end: u8) -> Result<&'v [u8], SessionError> {
        self.bytes.until(end).ok_or(MALFORMED)
    }

    fn expect(&mut self, expected: &[u8]) -> Result<(), SessionError> {
        self.bytes.expect(expected).ok_or(MALFORMED)
    }
}

fn integer(digits: &[u8]) -> Option<Item<'_>> {
    let text = str::from_utf8(digits).ok().filter(|text| text.len() <= INTEGER_DIGITS_MAX)?;
    text.parse::<i64>().ok().map(|_| Item::Number(Cow::Borrowed(text)))
}

fn float<'v>(digits: &[u8]) -> Option<Item<'v>> {
    str::from_utf8(digits).ok()?.parse().ok().map(Item::float)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::pointer::Pointer;
    use super::super::fixtures::{self, LARAVEL_PLAIN};
    use super::super::value::{ITEMS_MAX, Resolved};
    use super::*;

    fn resolve(bytes: &[u8], pointer: &str) -> Option<Resolved> {
        decode(bytes).unwrap().resolve(&Pointer::parse(pointer).unwrap())
    }

    #[test]
    fn reads_sessions_of_laravel() {
        let value = fixtures::bytes(LARAVEL_PLAIN);
        let session = decode_text(&value).unwrap();
        let text = |text: &str| Some(Resolved::Text(text.to_owned()));
        let number = |text: &str| Some(Resolved::Number(text.to_owned()));
        for (pointer, expected) in [
            ("/login_web_59ba36addc2b2f9401580f014c7f58ea4e30989d", number("42")),
            ("/name", text("ü😀\"; x")),
            ("/roles", Some(Resolved::List(vec!["editor".to_owned(), "staff".to_owned()]))),
            ("/t", Some(Resolved::Bool(true))),
            ("/n", Some(Resolved::Other)),
            ("/f", number("1.5")),
            ("/big", number("-9223372036854775807")),
            ("/deep/a/b", text("c")),
            ("/deep/a/5", text("five")),
            ("/_previous/url", text("http://localhost/home")),
            ("/_flash/old", Some(Resolved::List(Vec::new()))),
            // An object, a case of an enumeration, references.
            ("/errors", Some(Resolved::Other)),
            ("/errors/a", None),
            ("/suit", Some(Resolved::Other)),
            ("/ref/1", Some(Resolved::Other)),
            ("/missing", None),
        ] {
            assert_eq!(resolve(session, pointer), expected, "{pointer}");
        }
        for length in 0..session.len() {
            assert!(decode(&session[..length]).is_err(), "{length} bytes");
        }
    }

    /// A class with the interface `Serializable`, whose bytes look like other values.
    #[test]
    fn passes_over_objects_that_serialize_themselves() {
        let value = br#"a:2:{s:1:"o";C:3:"Foo":20:{a:1:{i:0;s:3:"}x;";}}s:1:"u";i:7;}"#;
        assert_eq!(resolve(value, "/u"), Some(Resolved::Number("7".to_owned())));
        assert_eq!(resolve(value, "/o"), Some(Resolved::Other));
    }

    #[test]
    fn rejects_malformed_values() {
        for bytes in [
            &b""[..],
            b"N",
            b"b:2;",
            b"i:1x;",
            b"i:99999999999999999999;",
            b"d:x;",
            b"s:2:\"a\";",
            b"s:1:\"ab\";",
            b"s:+1:\"a\";",
            b"s:99999999999999999999:\"a\";",
            b"a:1:{i:0;}",
            b"a:0:{}x",
            b"a:4294967295:{i:0;i:0;",
            b"O:1:\"A\":1:{s:1:\"a\";i:1;",
            b"C:1:\"A\":5:{ab}",
            b"x:1;",
        ] {
            assert_eq!(decode(bytes).err(), Some(MALFORMED), "{}", String::from_utf8_lossy(bytes));
        }
        let deep = "a:1:{i:0;".repeat(DEPTH_MAX + 1);
        assert_eq!(decode(deep.as_bytes()).err(), Some(SessionError::TooDeep(DEPTH_MAX)));
        let many = format!("a:100000:{{{}}}", "N;N;".repeat(100_000));
        assert_eq!(decode(many.as_bytes()).err(), Some(SessionError::TooManyItems(ITEMS_MAX)));
    }

    proptest! {
        #[test]
        fn accepts_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..60), text in "[abdiNsOCrR:;{}\"0-9]{0,40}") {
            let _ = (decode(&bytes), decode(text.as_bytes()), decode_text(&bytes));
        }

        #[test]
        fn texts_are_read_back(text in "\\PC{0,30}", number: i64) {
            let value = format!("a:2:{{s:1:\"t\";s:{}:\"{text}\";i:-3;i:{number};}}", text.len());
            prop_assert_eq!(resolve(value.as_bytes(), "/t"), Some(Resolved::Text(text)));
            prop_assert_eq!(resolve(value.as_bytes(), "/-3"), Some(Resolved::Number(number.to_string())));
        }
    }
}
