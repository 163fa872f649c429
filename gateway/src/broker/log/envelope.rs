//! The envelope of a numbered publication.
//!
//! Owns the bytes: `\0es2 <epoch> <offset> <length of the attributes>\n<attributes><payload>`, numbers in decimal, the
//! epoch in base 36. Every node that hears it knows the position without asking. It begins with a zero byte, which no text
//! does, so that a plain `PUBLISH` on the same channel is not taken for one. Must never copy the payload.

use bytes::{BufMut, Bytes, BytesMut};
use earshot_protocol::{Epoch, StreamPosition};

use crate::broker::Attributes;

/// How an envelope begins. The digit is the version of all that follows.
const MARK: &[u8] = b"\0es2 ";
/// The longest head, its line feed included: the mark, thirteen digits of epoch, twenty of each number, two spaces.
const HEAD_MOST: usize = MARK.len() + 13 + 1 + 20 + 1 + 20 + 1;

/// A publication with its place, as it travels over pub/sub.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedMessage {
    /// Its place.
    pub position: StreamPosition,
    /// What travels with it.
    pub attributes: Attributes,
    /// The payload, untouched.
    pub payload: Bytes,
}

impl LoggedMessage {
    /// Reads what was heard; `None` when it is no envelope. The payload is a slice of it.
    pub fn decode(heard: &Bytes) -> Option<Self> {
        let rest = heard.strip_prefix(MARK)?;
        let head = &rest[..rest.len().min(HEAD_MOST - MARK.len())];
        let end = memchr::memchr(b'\n', head)?;
        let (position, attributes_bytes) = read_head(std::str::from_utf8(&head[..end]).ok()?)?;
        let body = heard.slice(MARK.len() + end + 1..);
        let attributes = Attributes::from_json(body.get(..attributes_bytes)?);
        Some(Self { position, attributes, payload: body.slice(attributes_bytes..) })
    }

    /// The bytes of an envelope, as the script in Redis makes them.
    pub fn encode(&self) -> Bytes {
        let StreamPosition { epoch, offset } = self.position;
        let attributes = self.attributes.to_json();
        let numbers = format!("{epoch} {offset} {}\n", attributes.len());
        let mut sealed = BytesMut::with_capacity(HEAD_MOST + attributes.len() + self.payload.len());
        for part in [MARK, numbers.as_bytes(), &attributes, &self.payload] {
            sealed.put_slice(part);
        }
        sealed.freeze()
    }
}

/// The position and the length of the attributes.
fn read_head(head: &str) -> Option<(StreamPosition, usize)> {
    let mut fields = head.split(' ');
    let epoch: Epoch = fields.next()?.parse().ok()?;
    let offset = number(fields.next()?)?;
    let attributes_bytes = usize::try_from(number(fields.next()?)?).ok()?;
    let whole = fields.next().is_none() && offset > 0;
    whole.then_some((StreamPosition { epoch, offset }, attributes_bytes))
}

/// A number without the sign that the standard library would let pass.
fn number(text: &str) -> Option<u64> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn open(heard: &'static [u8]) -> Option<LoggedMessage> {
        LoggedMessage::decode(&Bytes::from_static(heard))
    }

    fn position(epoch: u64, offset: u64) -> StreamPosition {
        StreamPosition { epoch: Epoch::from_u64(epoch), offset }
    }

    #[test]
    fn the_bytes_are_these() {
        let attributes = Attributes::new(vec![("kind".to_owned(), "o\"ffer".to_owned())], None);
        let payload = Bytes::from_static(b"\xff\0\n");
        let envelope = LoggedMessage { position: position(35, 7), attributes, payload };
        assert_eq!(&envelope.encode()[..], b"\0es2 z 7 27\n{\"tags\":{\"kind\":\"o\\\"ffer\"}}\xff\0\n");
        let bare = LoggedMessage { attributes: Attributes::default(), ..envelope };
        assert_eq!(&bare.encode()[..], b"\0es2 z 7 0\n\xff\0\n");
    }

    #[test]
    fn the_payload_is_a_slice() {
        let heard = Bytes::from_static(b"\0es2 a 1 2\n{}payload");
        let payload = LoggedMessage::decode(&heard).unwrap().payload;
        assert_eq!(payload.as_ptr(), heard[13..].as_ptr());
        assert_eq!(&payload[..], b"payload");
    }

    #[test]
    fn what_is_not_an_envelope_is_none() {
        for heard in [
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
            assert_eq!(open(heard), None, "{heard:?}");
        }
    }

    #[test]
    fn the_longest_head_is_read() {
        let position = position(u64::MAX, u64::MAX);
        let envelope = LoggedMessage { position, attributes: Attributes::default(), payload: Bytes::new() };
        assert_eq!(LoggedMessage::decode(&envelope.encode()), Some(envelope));
    }

    #[test]
    fn attributes_that_cannot_be_read_cost_the_attributes_alone() {
        for heard in [&b"\0es2 a 1 1\n{x"[..], b"\0es2 a 1 10\n{\"tags\":1}x", b"\0es2 a 1 2\n[]x"] {
            let envelope = open(heard).unwrap();
            assert_eq!(envelope.attributes, Attributes::default(), "{heard:?}");
            assert_eq!(envelope.payload, &b"x"[..], "{heard:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_opened(
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
            let _ = LoggedMessage::decode(&[MARK, &bytes].concat().into());
        }

        #[test]
        fn no_head_panics(head in "[0-9a-z +-]{0,80}\n?[\\PC]{0,20}") {
            let _ = LoggedMessage::decode(&[MARK, head.as_bytes()].concat().into());
        }
    }
}
