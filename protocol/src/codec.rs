//! The two encodings, and frames that contain several messages. Independent of the transport; keeps no state between
//! frames.

use std::iter::FusedIterator;

use memchr::memchr;

use crate::{Command, DecodeError, Publication, Reply, json, protobuf};

/// The encoding of a connection's messages. Fixed for the life of the connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// One JSON object per message, separated by line breaks.
    Json,
    /// Protobuf messages, each preceded by its length as a varint.
    Protobuf,
}

impl Encoding {
    /// Decodes the commands of a frame, in order.
    #[must_use]
    pub fn decode_commands(self, frame: &[u8]) -> Commands<'_> {
        Commands(Messages::new(self, frame))
    }

    /// Decodes the replies of a frame, in order.
    #[must_use]
    pub fn decode_replies(self, frame: &[u8]) -> Replies<'_> {
        Replies(Messages::new(self, frame))
    }

    /// Appends one command.
    pub fn encode_command(self, command: &Command, out: &mut Vec<u8>) {
        match self {
            Self::Json => json::write_command(command, out),
            Self::Protobuf => protobuf::write_command(command, out),
        }
    }

    /// Appends one reply.
    pub fn encode_reply(self, reply: &Reply, out: &mut Vec<u8>) {
        match self {
            Self::Json => json::write_reply(reply, out),
            Self::Protobuf => protobuf::write_reply(reply, out),
        }
    }

    /// Appends the push of one publication: the same bytes as [`Self::encode_reply`], without building a [`Reply`].
    pub fn encode_publication(self, channel: &str, publication: &Publication, out: &mut Vec<u8>) {
        match self {
            Self::Json => json::write_push(channel, publication, out),
            Self::Protobuf => protobuf::write_push(channel, publication, out),
        }
    }

    /// Appends the separator between two messages of one frame.
    pub fn write_separator(self, out: &mut Vec<u8>) {
        match self {
            Self::Json => out.push(b'\n'),
            Self::Protobuf => {}
        }
    }
}

/// Iterator over the commands of a frame. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Commands<'a>(Messages<'a>);

impl Iterator for Commands<'_> {
    type Item = Result<Command, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next(json::read_command, protobuf::read_command)
    }
}

impl FusedIterator for Commands<'_> {}

/// Iterator over the replies of a frame. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Replies<'a>(Messages<'a>);

impl Iterator for Replies<'_> {
    type Item = Result<Reply, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next(json::read_reply, protobuf::read_reply)
    }
}

impl FusedIterator for Replies<'_> {}

/// Splits a frame into its messages.
#[derive(Clone, Debug)]
struct Messages<'a> {
    encoding: Encoding,
    /// `None` after the last one, and after an error.
    rest: Option<&'a [u8]>,
}

impl<'a> Messages<'a> {
    fn new(encoding: Encoding, frame: &'a [u8]) -> Self {
        let frame = match encoding {
            // Some SDKs end the last line with a line break.
            Encoding::Json => frame.trim_ascii_end(),
            Encoding::Protobuf => frame,
        };
        Self { encoding, rest: Some(frame) }
    }

    fn next<T>(
        &mut self,
        read_json: fn(&[u8]) -> Result<T, DecodeError>,
        read_protobuf: fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Option<Result<T, DecodeError>> {
        let rest = self.rest.take()?;
        if rest.is_empty() {
            return Some(Err(DecodeError::Empty));
        }
        let message = match self.encoding {
            Encoding::Json => read_json(self.split_line(rest)),
            Encoding::Protobuf => self.split_delimited(rest).and_then(read_protobuf),
        };
        if message.is_err() {
            self.rest = None;
        }
        Some(message)
    }

    fn split_line(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let Some(end) = memchr(b'\n', rest) else {
            return rest;
        };
        self.rest = Some(&rest[end + 1..]);
        &rest[..end]
    }

    fn split_delimited(&mut self, mut rest: &'a [u8]) -> Result<&'a [u8], DecodeError> {
        let message = protobuf::split_message(&mut rest)?;
        self.rest = Some(rest).filter(|rest| !rest.is_empty());
        Ok(message)
    }
}
