//! The pub/sub encoding of a publication in a log.
//!
//! Owns the format: `\\0es2 <epoch> <offset> <length of the attributes>\
//! <attributes><payload>`, numbers in decimal, the epoch in base 36. Every node that receives it knows the position.
//! It begins with a zero byte, unlike any text, so that a plain `PUBLISH` on the same channel is not mistaken for one.
//! Must never copy the payload.

use bytes::{BufMut, Bytes, BytesMut};
use earshot_protocol::{Epoch, StreamPosition};

use crate::broker::Attributes;

/// The prefix. The digit is the version of the format.
const PREFIX: &[u8] = b"\0es2 ";
/// The longest header, with its line feed: the prefix, thirteen digits of epoch, twenty of each number, two spaces.
const HEADER_BYTES_MAX: usize = PREFIX.len() + 13 + 1 + 20 + 1 + 20 + 1;

/// A publication with its position.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedMessage {
    /// The position.
    pub position: StreamPosition,
    /// Tags and publisher.
    pub attributes: Attributes,
    /// The payload, unchanged.
    pub payload: Bytes,
}

impl LoggedMessage {
    /// Parses a message; `None` when it has another format. The payload is a slice of it.
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let rest = bytes.strip_prefix(PREFIX)?;
        let head = &rest[..rest.len().min(HEADER_BYTES_MAX - PREFIX.len())];
        let end = memchr::memchr(b'\n', head)?;
        let (position, attributes_bytes) = parse_header(std::str::from_utf8(&head[..end]).ok()?)?;
        let body = bytes.slice(PREFIX.len() + end + 1..);
        let attributes = Attributes::from_json(body.get(..attributes_bytes)?);
        Some(Self { position, attributes, payload: body.slice(attributes_bytes..) })
    }

    /// The bytes of the message, as the script in Redis makes them.
    pub fn encode(&self) -> Bytes {
        let StreamPosition { epoch, offset } = self.position;
        let attributes = self.attributes.to_json();
        let numbers = format!("{epoch} {offset} {}\n", attributes.len());
        let mut encoded = BytesMut::with_capacity(HEADER_BYTES_MAX + attributes.len() + self.payload.len());
        for part in [PREFIX, numbers.as_bytes(), &attributes, &self.payload] {
            encoded.put_slice(part);
        }
        encoded.freeze()
    }
}

/// Parses the position and the length of the attributes.
fn parse_header(head: &str) -> Option<(StreamPosition, usize)> {
    let mut fields = head.split(' ');
    let epoch: Epoch = fields.next()?.parse().ok()?;
    let offset = number(fields.next()?)?;
    let attributes_bytes = usize::try_from(number(fields.next()?)?).ok()?;
    let whole = fields.next().is_none() && offset > 0;
    whole.then_some((StreamPosition { epoch, offset }, attributes_bytes))
}

/// Parses a number. Rejects the sign that the standard library accepts.
fn number(text: &str) -> Option<u64> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &'static [u8]) -> Option<LoggedMessage> {
        LoggedMessage::decode(&Bytes::from_static(bytes))
    }

    fn position(epoch: u64, offset: u64) -> StreamPosition {
        StreamPosition { epoch: Epoch::from_u64(epoch), offset }
    }

    #[test]
    fn encodes_the_documented_bytes() {
        let attributes = Attributes::new(vec![("kind".to_owned(), "o\"ffer".to_owned())], None);
        let payload = Bytes::from_static(b"\xff\0\n");
        let envelope = LoggedMessage { position: position(35, 7), attributes, payload };
        assert_eq!(&envelope.encode()[..], b"\0es2 z 7 27\n{\"tags\":{\"kind\":\"o\\\"ffer\"}}\xff\0\n");
        let bare = LoggedMessage { attributes: Attributes::default(), ..envelope };
        assert_eq!(&bare.encode()[..], b"\0es2 z 7 0\n\xff\0\n");
    }

    #[test]
    fn the_payload_is_a_slice() {
        let bytes = Bytes::from_static(b"\0es2 a 1 2\n{}payload");
        let payload = LoggedMessage::decode(&bytes).unwrap().payload;
        assert_eq!(payload.as_ptr(), bytes[13..].as_ptr());
        assert_eq!(&payload[..], b"payload");
    }

    #[test]
    fn rejects_other_formats() {
        for bytes in [
            &b""[..],
            b"{\"type\":\"offer\"}",
            b"es2 a 1 0\n",
            b"\0es1 a 1 0\n",
            b"\0es2 a 1 0",
            b"\0es2 a 1\n",
            b"\0es2 a 1 0 0\n",
            b"\0es2 A 1 0\n",
            b"\0es2  1 0\n",
            b"\0es2 a 0 0\n",
            b"\0es2 a +1 0\n",
            b"\0es2 a -1 0\n",
            b"\0es2 a 1 +0\n",
            b"\0es2 a 1 3\n{}",
            b"\0es2 a 18446744073709551616 0\n",
            b"\0es2 a 1 18446744073709551615\n",
            b"\0es2 \xff 1 0\n",
            b"\0es2 a 1 0                                                            \n",
        ] {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn decodes_the_longest_header() {
        let position = position(u64::MAX, u64::MAX);
        let envelope = LoggedMessage { position, attributes: Attributes::default(), payload: Bytes::new() };
        assert_eq!(LoggedMessage::decode(&envelope.encode()), Some(envelope));
    }

    #[test]
    fn drops_invalid_attributes_only() {
        for bytes in [&b"\0es2 a 1 1\n{x"[..], b"\0es2 a 1 10\n{\"tags\":1}x", b"\0es2 a 1 2\n[]x"] {
            let envelope = decode(bytes).unwrap();
            assert_eq!(envelope.attributes, Attributes::default(), "{bytes:?}");
            assert_eq!(envelope.payload, &b"x"[..], "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(
            epoch: u64,
            offset in 1..=u64::MAX,
            tags in vec((any::<String>(), any::<String>()), 0..4),
            payload in vec(any::<u8>(), 0..200),
        ) {
            let attributes = Attributes::new(tags, None);
            let envelope = LoggedMessage { position: position(epoch, offset), attributes, payload: payload.into() };
            prop_assert_eq!(LoggedMessage::decode(&envelope.encode()), Some(envelope));
        }

        #[test]
        fn no_bytes_panic(bytes in vec(any::<u8>(), 0..100)) {
            let _ = LoggedMessage::decode(&bytes.clone().into());
            let _ = LoggedMessage::decode(&[PREFIX, &bytes].concat().into());
        }

        #[test]
        fn no_header_panics(head in "[0-9a-z +-]{0,80}\n?[\\PC]{0,20}") {
            let _ = LoggedMessage::decode(&[PREFIX, head.as_bytes()].concat().into());
        }
    }
}
