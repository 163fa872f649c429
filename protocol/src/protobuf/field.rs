//! Encoding and decoding of each field type. A field's length is checked against the frame before its content is copied.

use std::borrow::Cow;

use bytes::Bytes;
use prost::encoding::{self, DecodeContext, WireType};

use super::{
    delimited_len, malformed,
    message::{Body, Message, content, fields, write_body},
    open,
};
use crate::{DecodeError, Payload, schema::MapValue};

/// A field of a message; zero values are omitted.
pub(crate) trait Field {
    fn field_len(&self, number: u32) -> usize;

    fn write_field(&self, number: u32, out: &mut Vec<u8>);

    /// Decodes the content. Repeated fields are appended to; other fields are replaced.
    fn merge(&mut self, wire: WireType, buf: &mut &[u8]) -> Result<(), DecodeError>;
}

macro_rules! scalar {
    ($($type:ty, $module:ident);* $(;)?) => {$(
        impl Field for $type {
            fn field_len(&self, number: u32) -> usize {
                if *self == Self::default() { 0 } else { encoding::$module::encoded_len(number, self) }
            }

            fn write_field(&self, number: u32, out: &mut Vec<u8>) {
                if *self != Self::default() {
                    encoding::$module::encode(number, self, out);
                }
            }

            fn merge(&mut self, wire: WireType, buf: &mut &[u8]) -> Result<(), DecodeError> {
                encoding::$module::merge(wire, self, buf, DecodeContext::default())
                    .map_err(|error| malformed(&error))
            }
        }
    )*};
}

scalar! {
    bool, bool;
    i32, int32;
    i64, int64;
    u32, uint32;
    u64, uint64;
    Bytes, bytes;
    String, string;
}

pub(super) fn text_len(number: u32, text: &str) -> usize {
    if text.is_empty() { 0 } else { delimited_len(number, text.len()) }
}

pub(super) fn write_text(number: u32, text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() {
        open(number, text.len(), out);
        out.extend_from_slice(text.as_bytes());
    }
}

impl Field for Cow<'static, str> {
    fn field_len(&self, number: u32) -> usize {
        text_len(number, self)
    }

    fn write_field(&self, number: u32, out: &mut Vec<u8>) {
        write_text(number, self, out);
    }

    fn merge(&mut self, wire: WireType, buf: &mut &[u8]) -> Result<(), DecodeError> {
        self.to_mut().merge(wire, buf)
    }
}

/// `None` and empty bytes have the same encoding.
impl Field for Option<Bytes> {
    fn field_len(&self, number: u32) -> usize {
        self.as_ref().map_or(0, |bytes| bytes.field_len(number))
    }

    fn write_field(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(bytes) = self {
            bytes.write_field(number, out);
        }
    }

    fn merge(&mut self, wire: WireType, buf: &mut &[u8]) -> Result<(), DecodeError> {
        let mut bytes = Bytes::new();
        bytes.merge(wire, buf)?;
        *self = Some(bytes).filter(|bytes| !bytes.is_empty());
        Ok(())
    }
}

impl Field for Payload {
    fn field_len(&self, number: u32) -> usize {
        self.bytes().field_len(number)
    }

    fn write_field(&self, number: u32, out: &mut Vec<u8>) {
        self.bytes().write_field(number, out);
    }

    fn merge(&mut self, wire: WireType, buf: &mut &[u8]) -> Result<(), DecodeError> {
        *self = Self::new(Bytes::copy_from_slice(content(wire, buf)?));
        Ok(())
    }
}

impl<T: Message> Field for T {
    fn field_len(&self, number: u32) -> usize {
        delimited_len(number, self.fields_len())
    }

    fn write_field(&self, number: u32, out: &mut Vec<u8>) {
        write_body(number, self, out);
    }

    fn merge(&mut self, wire: WireType, buf: &mut &[u8]) -> Result<(), DecodeError> {
        fields(content(wire, buf)?, |key, buf| self.merge_field(key, buf))
    }
}

impl<T: Message> Field for Option<T> {
    fn field_len(&self, number: u32) -> usize {
        self.as_ref().map_or(0, |message| message.field_len(number))
    }

    fn write_field(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(message) = self {
            message.write_field(number, out);
        }
    }

    fn merge(&mut self, wire: WireType, buf: &mut &[u8]) -> Result<(), DecodeError> {
        self.get_or_insert_default().merge(wire, buf)
    }
}

impl<T: Message> Field for Vec<T> {
    fn field_len(&self, number: u32) -> usize {
        self.iter().map(|message| message.field_len(number)).sum()
    }

    fn write_field(&self, number: u32, out: &mut Vec<u8>) {
        self.iter().for_each(|message| message.write_field(number, out));
    }

    fn merge(&mut self, wire: WireType, buf: &mut &[u8]) -> Result<(), DecodeError> {
        self.push(T::read_content(content(wire, buf)?)?);
        Ok(())
    }
}

const MAP_KEY: u32 = 1;
const MAP_VALUE: u32 = 2;

/// Each entry is encoded as a message.
impl<T: Field + Default + MapValue> Field for Vec<(String, T)> {
    fn field_len(&self, number: u32) -> usize {
        self.iter().map(|entry| delimited_len(number, entry_len(entry))).sum()
    }

    fn write_field(&self, number: u32, out: &mut Vec<u8>) {
        for entry in self {
            open(number, entry_len(entry), out);
            entry.0.write_field(MAP_KEY, out);
            entry.1.write_field(MAP_VALUE, out);
        }
    }

    fn merge(&mut self, wire: WireType, buf: &mut &[u8]) -> Result<(), DecodeError> {
        if self.len() == T::MAX {
            return Err(DecodeError::Malformed("too many entries".to_owned()));
        }
        let (mut name, mut value) = (String::new(), T::default());
        fields(content(wire, buf)?, |key, buf| match key.number {
            MAP_KEY => name.merge(key.wire, buf),
            MAP_VALUE => value.merge(key.wire, buf),
            _ => key.skip(buf),
        })?;
        self.push((name, value));
        Ok(())
    }
}

fn entry_len<T: Field>((key, value): &(String, T)) -> usize {
    key.field_len(MAP_KEY) + value.field_len(MAP_VALUE)
}
