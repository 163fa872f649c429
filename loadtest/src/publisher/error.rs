//! Errors and limits that all connections of publishers share.

use std::time::Duration;

use earshot_client::http1::HttpError;

/// Timeout for connecting and for each reply.
pub(super) const IO_TIMEOUT: Duration = Duration::from_secs(5);

/// Why messages could not be published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublisherError {
    /// Redis is unreachable or returned an error.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// The API of the target is unreachable.
    #[error("HTTP API: {0}")]
    Io(#[from] std::io::Error),
    /// The response is not HTTP.
    #[error("HTTP API: {0}")]
    Http(#[from] HttpError),
    /// The API rejected the request.
    #[error("HTTP API: status {status}: {answer}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Start of the response body.
        answer: String,
    },
}
