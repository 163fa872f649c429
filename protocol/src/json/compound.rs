//! Compound fields: messages, arrays and maps. The number of map entries in a command is bounded; see
//! [`MapValue::MAX`].

use std::{fmt, marker::PhantomData};

use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{
    field::{JsonField, Name, Seed, read_value},
    object::Object,
};
use crate::map_value::MapValue;

/// An object with known fields; see `schema`.
pub(crate) trait JsonMessage: Default {
    fn write_fields(&self, object: &mut Object<'_>);

    /// Decodes the value of the field `name`; skips it if the field is unknown.
    fn read_field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error>;
}

impl<T: JsonMessage> JsonField for T {
    fn is_zero(&self) -> bool {
        false
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut object = Object::open(out);
        self.write_fields(&mut object);
        object.close();
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<T>::read(deserializer).map(Option::unwrap_or_default)
    }
}

impl<T: JsonMessage> JsonField for Option<T> {
    fn is_zero(&self) -> bool {
        self.is_none()
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Some(message) => message.write(out),
            None => out.extend_from_slice(b"null"),
        }
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(MessageVisitor(PhantomData))
    }
}

impl<T: JsonMessage> JsonField for Vec<T> {
    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (index, message) in self.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            message.write(out);
        }
        out.push(b']');
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(ArrayVisitor(PhantomData))
    }
}

impl<T: JsonField + MapValue> JsonField for Vec<(String, T)> {
    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut object = Object::open(out);
        for (key, value) in self {
            object.member(key, value);
        }
        object.close();
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(MapVisitor(PhantomData))
    }
}

/// The methods with which a visitor of a nullable value handles `null`.
macro_rules! nullable {
    ($what:literal, $read:ident) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str($what)
        }

        fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.$read(self)
        }
    };
}

struct MessageVisitor<T>(PhantomData<T>);

impl<'de, T: JsonMessage> Visitor<'de> for MessageVisitor<T> {
    type Value = Option<T>;

    nullable!("an object", deserialize_map);

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut message = T::default();
        while let Some(Name(name)) = map.next_key()? {
            message.read_field(&name, &mut map)?;
        }
        Ok(Some(message))
    }
}

struct ArrayVisitor<T>(PhantomData<T>);

impl<'de, T: JsonMessage> Visitor<'de> for ArrayVisitor<T> {
    type Value = Vec<T>;

    nullable!("an array", deserialize_seq);

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut messages = Vec::new();
        while let Some(message) = array.next_element_seed(Seed(PhantomData))? {
            messages.push(message);
        }
        Ok(messages)
    }
}

struct MapVisitor<T>(PhantomData<T>);

impl<'de, T: JsonField + MapValue> Visitor<'de> for MapVisitor<T> {
    type Value = Vec<(String, T)>;

    nullable!("an object", deserialize_map);

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(Name(key)) = map.next_key()? {
            if entries.len() == T::MAX {
                return Err(A::Error::custom("too many entries"));
            }
            entries.push((key.into_owned(), read_value(&mut map)?));
        }
        Ok(entries)
    }
}
