//! Encoding of objects, and of objects with exactly one of several members. The fields of each message are in `schema`.

use std::{fmt, marker::PhantomData};

use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::{
    field::{JsonField, Name, ignore_value, read_value},
    text,
};
use crate::{Push, raw_message::RawMessage};

/// Encodes an object.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Object<'a> {
    pub(super) fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_empty: true }
    }

    pub(super) fn close(self) {
        self.out.push(b'}');
    }

    /// Appends a field unless it is zero.
    pub(crate) fn field(&mut self, name: &str, value: &impl JsonField) {
        if !value.is_zero() {
            self.member(name, value);
        }
    }

    /// Appends a field.
    pub(crate) fn member(&mut self, name: &str, value: &impl JsonField) {
        value.write(self.key(name));
    }

    /// Appends a name; the caller appends the value.
    pub(super) fn key(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        text::string(name, self.out);
        self.out.push(b':');
        self.out
    }
}

/// The possible bodies of a message.
pub(crate) trait JsonOneOf: Sized {
    /// Appends the body as a member of the object.
    fn write_member(&self, object: &mut Object<'_>);

    /// Decodes the body with this name. Returns `None` and consumes nothing if the name is unknown.
    fn read_member<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Option<Self>, A::Error>;
}

pub(super) fn write(head_name: &str, head: &impl JsonField, body: &impl JsonOneOf, out: &mut Vec<u8>) {
    let mut object = Object::open(out);
    object.field(head_name, head);
    body.write_member(&mut object);
    object.close();
}

pub(super) fn read<'de, H, B, D>(
    head_name: &'static str,
    deserializer: D,
) -> Result<RawMessage<H, B>, D::Error>
where
    H: JsonField + Default,
    B: JsonOneOf,
    D: Deserializer<'de>,
{
    deserializer.deserialize_map(RawMessageVisitor { head_name, message: PhantomData })
}

struct RawMessageVisitor<H, B> {
    head_name: &'static str,
    message: PhantomData<RawMessage<H, B>>,
}

impl<'de, H: JsonField + Default, B: JsonOneOf> Visitor<'de> for RawMessageVisitor<H, B> {
    type Value = RawMessage<H, B>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut message = RawMessage::new();
        while let Some(Name(name)) = map.next_key()? {
            if name == self.head_name {
                message.head = read_value(&mut map)?;
            } else if let Some(body) = B::read_member(&name, &mut map)? {
                message.insert(body);
            } else {
                message.has_unknown = true;
                ignore_value(&mut map)?;
            }
        }
        Ok(message)
    }
}

impl JsonField for Push {
    fn is_zero(&self) -> bool {
        false
    }

    fn write(&self, out: &mut Vec<u8>) {
        write("channel", &self.channel, &self.body, out);
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read("channel", deserializer)?.try_into().map_err(D::Error::custom)
    }
}
