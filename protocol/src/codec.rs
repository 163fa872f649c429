//! Owns the two encodings of the wire and how messages share a frame.
//! Must never know a transport, nor keep state between frames.

use std::iter::FusedIterator;

use memchr::memchr;

use crate::{Command, Publication, Reply, json, protobuf};

/// How a connection writes its messages. It never changes in mid-connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// One JSON object per message, line breaks between them.
    Json,
    /// Protobuf messages, each behind its length as a varint.
    Protobuf,
}

/// Why a frame cannot be read.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// The frame holds no message.
    #[error("the frame is empty")]
    Empty,
    /// The frame is not in the encoding. The text tells where, and never repeats what the client sent.
    #[error("malformed frame: {0}")]
    Malformed(String),
    /// A command without a method that is known.
    #[error("a command names no known method")]
    UnknownCommand,
    /// A command with more than one method.
    #[error("a command names more than one method")]
    SeveralCommands,
    /// A reply or push without a body that is known.
    #[error("a reply has no known body")]
    UnknownReply,
    /// A reply or push with more than one body.
    #[error("a reply has more than one body")]
    SeveralReplies,
}

impl Encoding {
    /// Reads the commands of a frame, in order.
    #[must_use]
    pub fn decode_commands(self, frame: &[u8]) -> Commands<'_> {
        Commands(Messages::new(self, frame))
    }

    /// Reads the replies of a frame, in order.
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

    /// Appends the push of one publication: the bytes of [`Self::encode_reply`], without a [`Reply`]
    /// having to be made.
    pub fn encode_publication(self, channel: &str, publication: &Publication, out: &mut Vec<u8>) {
        match self {
            Self::Json => json::write_push(channel, publication, out),
            Self::Protobuf => protobuf::write_push(channel, publication, out),
        }
    }

    /// Appends what stands between two messages of one frame.
    pub fn join(self, out: &mut Vec<u8>) {
        match self {
            Self::Json => out.push(b'\n'),
            Self::Protobuf => {}
        }
    }
}

/// The commands of a frame. Nothing follows an error.
#[derive(Clone, Debug)]
pub struct Commands<'a>(Messages<'a>);

impl Iterator for Commands<'_> {
    type Item = Result<Command, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next(json::read_command, protobuf::read_command)
    }
}

impl FusedIterator for Commands<'_> {}

/// The replies of a frame. Nothing follows an error.
#[derive(Clone, Debug)]
pub struct Replies<'a>(Messages<'a>);

impl Iterator for Replies<'_> {
    type Item = Result<Reply, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next(json::read_reply, protobuf::read_reply)
    }
}

impl FusedIterator for Replies<'_> {}

/// The messages of a frame, cut apart.
#[derive(Clone, Debug)]
struct Messages<'a> {
    encoding: Encoding,
    /// `None` after the last one, and after an error.
    rest: Option<&'a [u8]>,
}

impl<'a> Messages<'a> {
    fn new(encoding: Encoding, frame: &'a [u8]) -> Self {
        let frame = match encoding {
            // SDKs end the last line, too, or do not.
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
