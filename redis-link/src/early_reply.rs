//! The error that a server sends before it closes a new connection: `maxclients` reached, protected mode.
//!
//! Owns the first bytes received until authentication is over. The `redis` crate waits for all replies of its
//! handshake, and drops an error reply when the connection closes before the others arrive.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;

/// The longest line that is kept.
const LINE_BYTES_MAX: usize = 256;

/// The first bytes that a [`Tap`] has read.
#[derive(Clone, Debug, Default)]
pub(super) struct EarlyReply(Arc<Mutex<Vec<u8>>>);

impl EarlyReply {
    /// The first line, if it is an error.
    pub(super) fn error(&self) -> Option<String> {
        let received = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = received.strip_prefix(b"-")?.split(|byte| *byte == b'\r').next()?;
        Some(String::from_utf8_lossy(line).into_owned())
    }

    /// Adds bytes up to the limit. Returns whether there is room for more.
    fn add(&self, bytes: &[u8]) -> bool {
        let mut received = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = LINE_BYTES_MAX - received.len();
        received.extend_from_slice(&bytes[..bytes.len().min(room)]);
        received.len() < LINE_BYTES_MAX
    }
}

/// A stream that copies the first bytes it reads.
pub(super) struct Tap {
    stream: Stream,
    reply: Option<EarlyReply>,
}

impl Tap {
    pub(super) fn new(stream: Stream, reply: EarlyReply) -> Self {
        Self { stream, reply: Some(reply) }
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.stream.as_mut().poll_read(context, buffer);
        if let Some(reply) = &self.reply
            && !reply.add(&buffer.filled()[before..])
        {
            self.reply = None;
        }
        read
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(context)
    }
}
