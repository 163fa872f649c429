//! Compound fields: messages, repeated messages and maps. The number of map entries in a command is bounded; see
//! [`MapValue::MAX`].

use prost::encoding::WireType;

use super::{
    content, delimited_len,
    field::ProtobufField,
    message::{Body, ProtobufMessage, fields, write_body},
    open,
};
use crate::{DecodeError, map_value::MapValue};

impl<T: ProtobufMessage> ProtobufField for T {
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

impl<T: ProtobufMessage> ProtobufField for Option<T> {
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

impl<T: ProtobufMessage> ProtobufField for Vec<T> {
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
impl<T: ProtobufField + Default + MapValue> ProtobufField for Vec<(String, T)> {
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

fn entry_len<T: ProtobufField>((key, value): &(String, T)) -> usize {
    key.field_len(MAP_KEY) + value.field_len(MAP_VALUE)
}
