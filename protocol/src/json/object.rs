//! Owns the writing of objects, and the objects that hold one of several members.
//! Must never know the fields of a particular message; see `schema`.

use std::{fmt, marker::PhantomData};

use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::{
    field::{Field, Name, ignore_value, read_value},
    text,
};
use crate::{Push, envelope::Envelope};

/// An object that is being written.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    pub(super) fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    pub(super) fn close(self) {
        self.out.push(b'}');
    }

    /// Writes a field unless it is zero.
    pub(crate) fn field(&mut self, name: &str, value: &impl Field) {
        if !value.is_zero() {
            self.member(name, value);
        }
    }

    /// Writes a field.
    pub(crate) fn member(&mut self, name: &str, value: &impl Field) {
        value.write(self.key(name));
    }

    /// Writes a name; the value is the caller's to write.
    pub(super) fn key(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        text::string(name, self.out);
        self.out.push(b':');
        self.out
    }
}

/// The bodies that a message chooses from.
pub(crate) trait OneOf: Sized {
    /// Writes the body under its name.
    fn write_member(&self, object: &mut Object<'_>);

    /// Reads the body of this name; `None`, and nothing read, if there is no such body.
    fn read_member<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Option<Self>, A::Error>;
}

pub(super) fn write(head_name: &str, head: &impl Field, body: &impl OneOf, out: &mut Vec<u8>) {
    let mut object = Object::open(out);
    object.field(head_name, head);
    body.write_member(&mut object);
    object.close();
}

pub(super) fn read<'de, H, B, D>(head_name: &'static str, deserializer: D) -> Result<Envelope<H, B>, D::Error>
where
    H: Field + Default,
    B: OneOf,
    D: Deserializer<'de>,
{
    deserializer.deserialize_map(EnvelopeVisitor { head_name, envelope: PhantomData })
}

struct EnvelopeVisitor<H, B> {
    head_name: &'static str,
    envelope: PhantomData<Envelope<H, B>>,
}

impl<'de, H: Field + Default, B: OneOf> Visitor<'de> for EnvelopeVisitor<H, B> {
    type Value = Envelope<H, B>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope::new();
        while let Some(Name(name)) = map.next_key()? {
            if name == self.head_name {
                envelope.head = read_value(&mut map)?;
            } else if let Some(body) = B::read_member(&name, &mut map)? {
                envelope.insert(body);
            } else {
                envelope.unknown = true;
                ignore_value(&mut map)?;
            }
        }
        Ok(envelope)
    }
}

impl Field for Push {
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
