//! Request bodies of the API, with limits: the size of a body, the time to receive it, and the total size of all bodies
//! in memory.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use bytes::BytesMut;
use futures::TryStreamExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The limits of API request bodies.
#[derive(Debug)]
pub struct BodyLimits {
    bytes: usize,
    timeout: Duration,
    buffer_bytes: usize,
    /// One permit for each free byte of `buffer_bytes`.
    free: Semaphore,
}

/// A complete body. Its bytes count towards the total limit until it is dropped.
#[derive(Debug)]
pub(super) struct ApiBody<'l> {
    bytes: BytesMut,
    _held: SemaphorePermit<'l>,
}

/// Why a body is rejected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the request body is larger than {0} bytes (limits.api_body_bytes)")]
    TooLarge(usize),
    #[error("the request body did not arrive in time")]
    Timeout,
    #[error("the connection failed before the request body was complete")]
    Incomplete,
    #[error(
        "the bodies of concurrent API requests exceed {0} bytes (limits.api_buffer_bytes): try again later or raise the \
         limit"
    )]
    Busy(usize),
}

impl BodyLimits {
    /// Limits one body to `bytes` within `timeout`, and all bodies to `buffer_bytes`.
    pub fn new(bytes: usize, timeout: Duration, buffer_bytes: usize) -> Self {
        let buffer_bytes = buffer_bytes.min(Semaphore::MAX_PERMITS);
        Self { bytes, timeout, buffer_bytes, free: Semaphore::new(buffer_bytes) }
    }

    /// Reads a complete body. Fails instead of waiting if concurrent requests use the whole buffer.
    pub(super) async fn read(&self, body: Body) -> Result<ApiBody<'_>, BodyError> {
        tokio::time::timeout(self.timeout, self.collect(body)).await.unwrap_or(Err(BodyError::Timeout))
    }

    async fn collect(&self, body: Body) -> Result<ApiBody<'_>, BodyError> {
        let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if declared > self.bytes {
            return Err(BodyError::TooLarge(self.bytes));
        }
        let mut bytes = BytesMut::with_capacity(declared);
        let mut held = self.hold(0)?;
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.try_next().await.map_err(|_| BodyError::Incomplete)? {
            if bytes.len() + chunk.len() > self.bytes {
                return Err(BodyError::TooLarge(self.bytes));
            }
            held.merge(self.hold(chunk.len())?);
            // A copy: a small chunk may keep a large buffer of the connection in memory.
            bytes.extend_from_slice(&chunk);
        }
        Ok(ApiBody { bytes, _held: held })
    }

    fn hold(&self, bytes: usize) -> Result<SemaphorePermit<'_>, BodyError> {
        let permits = u32::try_from(bytes).ok().and_then(|bytes| self.free.try_acquire_many(bytes).ok());
        permits.ok_or(BodyError::Busy(self.buffer_bytes))
    }
}

impl ApiBody<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
