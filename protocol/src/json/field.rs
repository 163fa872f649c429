//! Encoding and decoding of each field type. `null` is accepted for every field: SDKs send it for unset fields.

use std::{borrow::Cow, fmt, marker::PhantomData};

use bytes::Bytes;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::text;
use crate::{Payload, PayloadKind};

/// A value of a field.
pub(crate) trait JsonField: Sized {
    /// Whether the field is omitted.
    fn is_zero(&self) -> bool;

    fn write(&self, out: &mut Vec<u8>);

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

/// Decodes the value that follows a name.
pub(crate) fn read_value<'de, T: JsonField, A: MapAccess<'de>>(map: &mut A) -> Result<T, A::Error> {
    map.next_value_seed(Seed(PhantomData))
}

/// Skips the value that follows a name.
pub(crate) fn ignore_value<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>().map(|_| ())
}

pub(super) struct Seed<T>(pub(super) PhantomData<T>);

impl<'de, T: JsonField> DeserializeSeed<'de> for Seed<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::read(deserializer)
    }
}

/// A field name, borrowed from the frame if it contains no escapes.
pub(super) struct Name<'de>(pub(super) Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(NameVisitor).map(Name)
    }
}

struct NameVisitor;

impl<'de> Visitor<'de> for NameVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

macro_rules! scalar {
    ($($type:ty, $write:expr);* $(;)?) => {$(
        impl JsonField for $type {
            fn is_zero(&self) -> bool {
                *self == Self::default()
            }

            fn write(&self, out: &mut Vec<u8>) {
                let write: fn(&Self, &mut Vec<u8>) = $write;
                write(self, out);
            }

            fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Option::<Self>::deserialize(deserializer).map(Option::unwrap_or_default)
            }
        }
    )*};
}

scalar! {
    bool, |value, out| out.extend_from_slice(if *value { b"true" } else { b"false" });
    i32, |value, out| text::integer(*value, out);
    i64, |value, out| text::integer(*value, out);
    u32, |value, out| text::integer(*value, out);
    u64, |value, out| text::integer(*value, out);
    String, |value, out| text::string(value, out);
    Cow<'static, str>, |value, out| text::string(value, out);
}

fn raw<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'de str, D::Error> {
    <&RawValue>::deserialize(deserializer).map(RawValue::get)
}

/// Raw JSON. `null` is a value.
impl JsonField for Bytes {
    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn write(&self, out: &mut Vec<u8>) {
        text::raw(self, PayloadKind::of(self), out);
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        raw(deserializer).map(|json| Self::copy_from_slice(json.as_bytes()))
    }
}

/// Raw JSON. `null` is `None`.
impl JsonField for Option<Bytes> {
    fn is_zero(&self) -> bool {
        self.as_ref().is_none_or(Bytes::is_empty)
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.as_ref().unwrap_or(&Bytes::new()).write(out);
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Bytes::read(deserializer).map(|json| Some(json).filter(|json| json != "null"))
    }
}

/// An empty payload is encoded, unlike other zero values: a publication always has data.
impl JsonField for Payload {
    fn is_zero(&self) -> bool {
        false
    }

    fn write(&self, out: &mut Vec<u8>) {
        text::raw(self.bytes(), self.kind(), out);
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Bytes::read(deserializer).map(Self::json)
    }
}
