//! Owns messages as sequences of fields, and messages that hold one of several bodies.
//! Must never know the fields of a particular message; see `schema`.

use prost::encoding::{DecodeContext, WireType, check_wire_type, decode_key, skip_field};

use super::{CHANNEL, Field, delimited_len, malformed, open, split_message};
use crate::{DecodeError, Push, envelope::Envelope};

/// What stands before each field.
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

/// A message whose fields are known; see `schema`.
pub(crate) trait Message: Default {
    fn fields_len(&self) -> usize;

    fn write_fields(&self, out: &mut Vec<u8>);

    /// Reads the field's content, or skips it.
    fn merge_field(&mut self, key: Key, buf: &mut &[u8]) -> Result<(), DecodeError>;
}

/// The content of a field that has a length.
pub(crate) trait Body: Sized {
    fn content_len(&self) -> usize;

    fn write_content(&self, out: &mut Vec<u8>);

    fn read_content(content: &[u8]) -> Result<Self, DecodeError>;
}

/// The bodies that a message chooses from.
pub(crate) trait OneOf: Sized {
    fn member_len(&self) -> usize;

    fn write_member(&self, out: &mut Vec<u8>);

    /// Reads the body of this number; `None`, and nothing read, if there is no such body.
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

/// Takes the content of a field that must have a length.
pub(super) fn content<'a>(wire: WireType, buf: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    check_wire_type(WireType::LengthDelimited, wire).map_err(|error| malformed(&error))?;
    split_message(buf)
}

/// Walks through the fields of a message.
pub(super) fn fields(
    mut content: &[u8],
    mut read: impl FnMut(Key, &mut &[u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    while !content.is_empty() {
        read(Key::read(&mut content)?, &mut content)?;
    }
    Ok(())
}

impl<T: Message> Body for T {
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
        envelope_len(CHANNEL, &self.channel, &self.body)
    }

    fn write_content(&self, out: &mut Vec<u8>) {
        write_envelope(CHANNEL, &self.channel, &self.body, out);
    }

    fn read_content(content: &[u8]) -> Result<Self, DecodeError> {
        read_envelope(CHANNEL, content)?.try_into()
    }
}

pub(super) fn envelope_len(head_number: u32, head: &impl Field, body: &impl OneOf) -> usize {
    head.field_len(head_number) + body.member_len()
}

pub(super) fn write_envelope(head_number: u32, head: &impl Field, body: &impl OneOf, out: &mut Vec<u8>) {
    head.write_field(head_number, out);
    body.write_member(out);
}

pub(super) fn read_envelope<H, B>(head_number: u32, content: &[u8]) -> Result<Envelope<H, B>, DecodeError>
where
    H: Field + Default,
    B: OneOf,
{
    let mut envelope = Envelope::<H, B>::new();
    fields(content, |key, buf| {
        if key.number == head_number {
            envelope.head.merge(key.wire, buf)?;
        } else if let Some(body) = B::read_member(key, buf)? {
            envelope.insert(body);
        } else {
            envelope.unknown = true;
            key.skip(buf)?;
        }
        Ok(())
    })?;
    Ok(envelope)
}
