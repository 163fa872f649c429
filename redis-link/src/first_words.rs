//! What a server says before it ends a connection: that it is full, or in protected mode.
//!
//! Owns the first bytes that come, until the sign-in is over. The client crate waits for all answers to a sign-in, and
//! forgets the one that came when the connection ends before the others. Must never hold more than a line.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;

/// The longest line that is kept.
const MOST: usize = 256;

/// What was said, for whoever asks when the sign-in has failed.
#[derive(Clone, Debug, Default)]
pub(super) struct FirstWords(Arc<Mutex<Vec<u8>>>);

impl FirstWords {
    /// The first line, when it is an error.
    pub(super) fn error(&self) -> Option<String> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = heard.strip_prefix(b"-")?.split(|byte| *byte == b'\r').next()?;
        Some(String::from_utf8_lossy(line).into_owned())
    }

    fn add(&self, bytes: &[u8]) -> bool {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MOST - heard.len();
        heard.extend_from_slice(&bytes[..bytes.len().min(room)]);
        heard.len() < MOST
    }
}

/// A stream whose first bytes are kept.
pub(super) struct Overheard {
    stream: Stream,
    words: Option<FirstWords>,
}

impl Overheard {
    pub(super) fn new(stream: Stream, words: FirstWords) -> Self {
        Self { stream, words: Some(words) }
    }
}

impl AsyncRead for Overheard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.stream.as_mut().poll_read(context, buffer);
        if let Some(words) = &self.words
            && !words.add(&buffer.filled()[before..])
        {
            self.words = None;
        }
        read
    }
}

impl AsyncWrite for Overheard {
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
