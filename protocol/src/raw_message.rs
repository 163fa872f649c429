//! The common structure of commands, replies and pushes: a head and exactly one body. Independent of the encoding.

use crate::{Command, DecodeError, Push, PushBody, Reply, ReplyBody, Request};

/// A decoded message before validation.
pub(crate) struct RawMessage<H, B> {
    pub(crate) head: H,
    pub(crate) body: Option<B>,
    pub(crate) has_duplicate_body: bool,
    /// Whether the message has an unknown field.
    pub(crate) has_unknown: bool,
}

impl<H: Default, B> RawMessage<H, B> {
    pub(crate) fn new() -> Self {
        Self { head: H::default(), body: None, has_duplicate_body: false, has_unknown: false }
    }

    pub(crate) fn insert(&mut self, body: B) {
        self.has_duplicate_body |= self.body.replace(body).is_some();
    }

    /// Whether the message has no field, like pings and pongs.
    fn is_empty(&self) -> bool
    where
        H: PartialEq,
    {
        self.head == H::default() && self.body.is_none() && !self.has_unknown
    }
}

impl TryFrom<RawMessage<u32, Request>> for Command {
    type Error = DecodeError;

    fn try_from(message: RawMessage<u32, Request>) -> Result<Self, DecodeError> {
        if message.has_duplicate_body {
            return Err(DecodeError::DuplicateMethod);
        }
        if message.is_empty() {
            return Ok(Self { id: 0, request: Request::Pong });
        }
        let request = message.body.ok_or(DecodeError::UnknownCommand)?;
        Ok(Self { id: message.head, request })
    }
}

impl TryFrom<RawMessage<u32, ReplyBody>> for Reply {
    type Error = DecodeError;

    fn try_from(message: RawMessage<u32, ReplyBody>) -> Result<Self, DecodeError> {
        if message.has_duplicate_body {
            return Err(DecodeError::DuplicateBody);
        }
        if message.is_empty() {
            return Ok(Self { id: 0, body: ReplyBody::Ping });
        }
        let body = message.body.ok_or(DecodeError::UnknownReply)?;
        Ok(Self { id: message.head, body })
    }
}

impl TryFrom<RawMessage<String, PushBody>> for Push {
    type Error = DecodeError;

    fn try_from(message: RawMessage<String, PushBody>) -> Result<Self, DecodeError> {
        if message.has_duplicate_body {
            return Err(DecodeError::DuplicateBody);
        }
        let body = message.body.ok_or(DecodeError::UnknownReply)?;
        Ok(Self { channel: message.head, body })
    }
}
