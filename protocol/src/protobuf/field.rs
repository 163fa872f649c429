//! Encoding and decoding of each field type. A field's length is checked against the frame before its content is copied.

use std::borrow::Cow;

use bytes::Bytes;
use prost::encoding::{self, DecodeContext, WireType};

use super::{content, delimited_len, malformed, open};
use crate::{DecodeError, Payload};

/// A field of a message; zero values are omitted.
pub(crate) trait ProtobufField {
    fn field_len(&self, number: u32) -> usize;

    fn write_field(&self, number: u32, out: &mut Vec<u8>);

    /// Decodes the content. Repeated fields are appended to; other fields are replaced.
    fn merge(&mut self, wire: WireType, buf: &mut &[u8]) -> Result<(), DecodeError>;
}

macro_rules! scalar {
    ($($type:ty, $module:ident);* $(;)?) => {$(
        impl ProtobufField for $type {
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

impl ProtobufField for Cow<'static, str> {
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
impl ProtobufField for Option<Bytes> {
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

impl ProtobufField for Payload {
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
