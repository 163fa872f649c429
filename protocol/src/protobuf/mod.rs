//! The Protobuf encoding: each message is preceded by its length. Payloads are unchanged. A length is checked against
//! the frame before memory is allocated for it.

mod compound;
mod field;
mod message;

pub(crate) use field::ProtobufField;
pub(crate) use message::{Key, ProtobufMessage, ProtobufOneOf, body_len, read_body, write_body};

use message::{Body, message_len, read_message, write_message};
use prost::encoding::{WireType, check_wire_type, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::{Command, DecodeError, Publication, Reply, ReplyBody, Request};

const ID: u32 = 1;
/// `push` in a reply.
const PUSH: u32 = 4;
/// `channel` in a push.
const CHANNEL: u32 = 2;
/// `pub` in a push.
const PUBLICATION: u32 = 4;

pub(crate) fn write_command(command: &Command, out: &mut Vec<u8>) {
    // A pong with an id would be an unknown command.
    let id = if matches!(command.request, Request::Pong) { 0 } else { command.id };
    encode_varint(message_len(ID, &id, &command.request) as u64, out);
    write_message(ID, &id, &command.request, out);
}

pub(crate) fn write_reply(reply: &Reply, out: &mut Vec<u8>) {
    let id = if matches!(reply.body, ReplyBody::Ping) { 0 } else { reply.id };
    encode_varint(message_len(ID, &id, &reply.body) as u64, out);
    write_message(ID, &id, &reply.body, out);
}

/// Appends the push of a publication: the same bytes as a reply that contains the push.
pub(crate) fn write_push(channel: &str, publication: &Publication, out: &mut Vec<u8>) {
    let publication_len = publication.content_len();
    let push_len = field::text_len(CHANNEL, channel) + delimited_len(PUBLICATION, publication_len);
    let reply_len = delimited_len(PUSH, push_len);
    out.reserve(encoded_len_varint(reply_len as u64) + reply_len);
    encode_varint(reply_len as u64, out);
    open(PUSH, push_len, out);
    field::write_text(CHANNEL, channel, out);
    open(PUBLICATION, publication_len, out);
    publication.write_content(out);
}

pub(crate) fn read_command(body: &[u8]) -> Result<Command, DecodeError> {
    read_message(ID, body)?.try_into()
}

pub(crate) fn read_reply(body: &[u8]) -> Result<Reply, DecodeError> {
    read_message(ID, body)?.try_into()
}

/// Splits off a length and the bytes that it counts.
pub(crate) fn split_message<'a>(buf: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let len = prost::encoding::decode_varint(buf).map_err(|error| malformed(&error))?;
    let len = usize::try_from(len).map_err(|_| cut_off())?;
    buf.split_off(..len).ok_or_else(cut_off)
}

/// Splits off the content of a length-delimited field.
fn content<'a>(wire: WireType, buf: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    check_wire_type(WireType::LengthDelimited, wire).map_err(|error| malformed(&error))?;
    split_message(buf)
}

/// Returns the encoded length of a field with content of length `len`.
fn delimited_len(number: u32, len: usize) -> usize {
    key_len(number) + encoded_len_varint(len as u64) + len
}

/// Appends the key and the length of a field.
fn open(number: u32, len: usize, out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

fn malformed(error: &prost::DecodeError) -> DecodeError {
    DecodeError::Malformed(error.to_string())
}

fn cut_off() -> DecodeError {
    DecodeError::Malformed("cut off".to_owned())
}
