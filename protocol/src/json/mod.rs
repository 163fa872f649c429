//! The JSON encoding: zero values are omitted, payloads are embedded as raw JSON. A message contains no line break,
//! which would end it. Errors never repeat what a client sent: it may be a secret.

mod client_info;
mod compound;
mod field;
mod object;
mod publication;
mod text;

pub(crate) use compound::JsonMessage;
pub(crate) use field::{ignore_value, read_value};
pub(crate) use object::{JsonOneOf, Object};
pub(crate) use publication::write_push;

use serde_json::error::Category;

use crate::{Command, DecodeError, Reply, raw_message::RawMessage};

pub(crate) fn write_command(command: &Command, out: &mut Vec<u8>) {
    // A pong with an id would be an unknown command.
    let id = if matches!(command.request, crate::Request::Pong) { 0 } else { command.id };
    object::write("id", &id, &command.request, out);
}

pub(crate) fn write_reply(reply: &Reply, out: &mut Vec<u8>) {
    let id = if matches!(reply.body, crate::ReplyBody::Ping) { 0 } else { reply.id };
    object::write("id", &id, &reply.body, out);
}

pub(crate) fn read_command(line: &[u8]) -> Result<Command, DecodeError> {
    read(line)?.try_into()
}

pub(crate) fn read_reply(line: &[u8]) -> Result<Reply, DecodeError> {
    read(line)?.try_into()
}

fn read<B: JsonOneOf>(line: &[u8]) -> Result<RawMessage<u32, B>, DecodeError> {
    let text =
        simdutf8::basic::from_utf8(line).map_err(|_| DecodeError::Malformed("not UTF-8".to_owned()))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let message = object::read("id", &mut deserializer).map_err(|error| malformed(&error))?;
    deserializer.end().map_err(|error| malformed(&error))?;
    Ok(message)
}

fn malformed(error: &serde_json::Error) -> DecodeError {
    let what = match error.classify() {
        Category::Syntax | Category::Io => "not JSON",
        Category::Eof => "cut off",
        Category::Data => "unexpected type or value",
    };
    DecodeError::Malformed(format!("{what}, at byte {} of the message", error.column()))
}
