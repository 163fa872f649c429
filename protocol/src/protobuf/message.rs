//! Messages as sequences of fields, and messages with exactly one of several bodies. The fields of each message are in
//! `schema`.

use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};

use super::{CHANNEL, content, delimited_len, field::ProtobufField, malformed, open};
use crate::{DecodeError, Push, raw_message::RawMessage};

/// The key of a field: its number and wire type.
#[derive(Copy, Clone)]
pub(crate) struct Key {
    pub(crate) number: u32,
    pub(crate) wire: WireType,
}

impl Key {
    fn read(buf: &mut &[u8]) -> Result<Self, DecodeError> {
        let (number, wire) = decode_key(buf).map_err(|error| malformed(&error))?;
        Ok(Self { number, wire })
    }

    /// Skips the field's content.
    pub(crate) fn skip(self, buf: &mut &[u8]) -> Result<(), DecodeError> {
        skip_field(self.wire, self.number, buf, DecodeContext::default()).map_err(|error| malformed(&error))
    }
}

/// A message with known fields; see `schema`.
pub(crate) trait ProtobufMessage: Default {
    fn fields_len(&self) -> usize;

    fn write_fields(&self, out: &mut Vec<u8>);

    /// Decodes the field's content; skips it if the field is unknown.
    fn merge_field(&mut self, key: Key, buf: &mut &[u8]) -> Result<(), DecodeError>;
}

/// The content of a length-delimited field.
pub(crate) trait Body: Sized {
    fn content_len(&self) -> usize;

    fn write_content(&self, out: &mut Vec<u8>);

    fn read_content(content: &[u8]) -> Result<Self, DecodeError>;
}

/// The possible bodies of a message.
pub(crate) trait ProtobufOneOf: Sized {
    fn member_len(&self) -> usize;

    fn write_member(&self, out: &mut Vec<u8>);

    /// Decodes the body with this field number. Returns `None` and consumes nothing if the number is unknown.
    fn read_member(key: Key, buf: &mut &[u8]) -> Result<Option<Self>, DecodeError>;
}

pub(crate) fn body_len(number: u32, body: &impl Body) -> usize {
    delimited_len(number, body.content_len())
}

pub(crate) fn write_body(number: u32, body: &impl Body, out: &mut Vec<u8>) {
    open(number, body.content_len(), out);
    body.write_content(out);
}

pub(crate) fn read_body<B: Body>(key: Key, buf: &mut &[u8]) -> Result<B, DecodeError> {
    B::read_content(content(key.wire, buf)?)
}

/// Calls `read` for each field of a message.
pub(super) fn fields(
    mut content: &[u8],
    mut read: impl FnMut(Key, &mut &[u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    while !content.is_empty() {
        read(Key::read(&mut content)?, &mut content)?;
    }
    Ok(())
}

impl<T: ProtobufMessage> Body for T {
    fn content_len(&self) -> usize {
        self.fields_len()
    }

    fn write_content(&self, out: &mut Vec<u8>) {
        self.write_fields(out);
    }

    fn read_content(content: &[u8]) -> Result<Self, DecodeError> {
        let mut message = T::default();
        fields(content, |key, buf| message.merge_field(key, buf))?;
        Ok(message)
    }
}

impl Body for Push {
    fn content_len(&self) -> usize {
        message_len(CHANNEL, &self.channel, &self.body)
    }

    fn write_content(&self, out: &mut Vec<u8>) {
        write_message(CHANNEL, &self.channel, &self.body, out);
    }

    fn read_content(content: &[u8]) -> Result<Self, DecodeError> {
        read_message(CHANNEL, content)?.try_into()
    }
}

pub(super) fn message_len(head_number: u32, head: &impl ProtobufField, body: &impl ProtobufOneOf) -> usize {
    head.field_len(head_number) + body.member_len()
}

pub(super) fn write_message(
    head_number: u32,
    head: &impl ProtobufField,
    body: &impl ProtobufOneOf,
    out: &mut Vec<u8>,
) {
    head.write_field(head_number, out);
    body.write_member(out);
}

pub(super) fn read_message<H, B>(head_number: u32, content: &[u8]) -> Result<RawMessage<H, B>, DecodeError>
where
    H: ProtobufField + Default,
    B: ProtobufOneOf,
{
    let mut message = RawMessage::<H, B>::new();
    fields(content, |key, buf| {
        if key.number == head_number {
            message.head.merge(key.wire, buf)?;
        } else if let Some(body) = B::read_member(key, buf)? {
            message.insert(body);
        } else {
            message.has_unknown = true;
            key.skip(buf)?;
        }
        Ok(())
    })?;
    Ok(message)
}
