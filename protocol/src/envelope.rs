//! Owns what commands, replies and pushes have in common: a head, and exactly one of several bodies.
//! Must never depend on an encoding.

use crate::{Command, DecodeError, Push, PushBody, Reply, ReplyBody, Request};

/// A message as it was read, not yet judged.
pub(crate) struct Envelope<H, B> {
    pub(crate) head: H,
    pub(crate) body: Option<B>,
    pub(crate) several: bool,
    /// Whether there was a field of which nothing is known.
    pub(crate) unknown: bool,
}

impl<H: Default, B> Envelope<H, B> {
    pub(crate) fn new() -> Self {
        Self { head: H::default(), body: None, several: false, unknown: false }
    }

    pub(crate) fn insert(&mut self, body: B) {
        self.several |= self.body.replace(body).is_some();
    }

    /// Whether it says nothing at all, as pings and pongs do.
    fn is_blank(&self) -> bool
    where
        H: PartialEq,
    {
        self.head == H::default() && self.body.is_none() && !self.unknown
    }
}

impl TryFrom<Envelope<u32, Request>> for Command {
    type Error = DecodeError;

    fn try_from(envelope: Envelope<u32, Request>) -> Result<Self, DecodeError> {
        if envelope.several {
            return Err(DecodeError::SeveralCommands);
        }
        if envelope.is_blank() {
            return Ok(Self { id: 0, request: Request::Pong });
        }
        let request = envelope.body.ok_or(DecodeError::UnknownCommand)?;
        Ok(Self { id: envelope.head, request })
    }
}

impl TryFrom<Envelope<u32, ReplyBody>> for Reply {
    type Error = DecodeError;

    fn try_from(envelope: Envelope<u32, ReplyBody>) -> Result<Self, DecodeError> {
        if envelope.several {
            return Err(DecodeError::SeveralReplies);
        }
        if envelope.is_blank() {
            return Ok(Self { id: 0, body: ReplyBody::Ping });
        }
        let body = envelope.body.ok_or(DecodeError::UnknownReply)?;
        Ok(Self { id: envelope.head, body })
    }
}

impl TryFrom<Envelope<String, PushBody>> for Push {
    type Error = DecodeError;

    fn try_from(envelope: Envelope<String, PushBody>) -> Result<Self, DecodeError> {
        if envelope.several {
            return Err(DecodeError::SeveralReplies);
        }
        let body = envelope.body.ok_or(DecodeError::UnknownReply)?;
        Ok(Self { channel: envelope.head, body })
    }
}
