//! The JSON of a publication; binary data sets a tag. This is the broadcast path: it must cost about one copy of the
//! payload.

use serde::de::MapAccess;

use super::{
    compound::JsonMessage,
    field::{JsonField, ignore_value, read_value},
    object::Object,
    text,
};
use crate::{PayloadKind, Publication};

/// Appends the push of a publication: the same bytes as a reply that contains the push.
pub(crate) fn write_push(channel: &str, publication: &Publication, out: &mut Vec<u8>) {
    out.reserve(64 + channel.len() + publication.data.len());
    out.extend_from_slice(b"{\"push\":{");
    if !channel.is_empty() {
        out.extend_from_slice(b"\"channel\":");
        text::string(channel, out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"pub\":");
    publication.write(out);
    out.extend_from_slice(b"}}");
}

impl JsonMessage for Publication {
    fn write_fields(&self, object: &mut Object<'_>) {
        object.member("data", &self.data);
        object.field("info", &self.info);
        object.field("offset", &self.offset);
        match self.data.kind() {
            PayloadKind::Binary => write_binary_tags(&self.tags, object.key("tags")),
            PayloadKind::Json | PayloadKind::Text => object.field("tags", &self.tags),
        }
        object.field("time", &self.time);
    }

    fn read_field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "data" => self.data = read_value(map)?,
            "info" => self.info = read_value(map)?,
            "offset" => self.offset = read_value(map)?,
            "tags" => self.tags = read_value(map)?,
            "time" => self.time = read_value(map)?,
            _ => ignore_value(map)?,
        }
        Ok(())
    }
}

/// Replaces an `encoding` tag of the publisher: that tag does not describe the base64 added here.
fn write_binary_tags(tags: &[(String, String)], out: &mut Vec<u8>) {
    let mut object = Object::open(out);
    text::string("base64", object.key("encoding"));
    for (key, value) in tags.iter().filter(|(key, _)| key != "encoding") {
        object.member(key, value);
    }
    object.close();
}
