//! Why a hook gives no valid answer.

use std::time::Duration;

use crate::http_client::HttpError;

/// Why a hook gives no valid answer. The text is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HookError {
    /// The circuit breaker is open.
    #[error("the hook is not asked after several failures (hooks.breaker_pause)")]
    BreakerOpen,
    /// Too many requests are in flight.
    #[error("no connection was free within {0:?} (hooks.connections)")]
    Busy(Duration),
    /// No response in time.
    #[error("no response within {0:?} (hooks.timeout)")]
    Timeout(Duration),
    /// The request failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The response status is not 200.
    #[error("the response has the status {0}: expected 200, and redirects are not followed")]
    Status(u16),
    /// The response is not an answer.
    #[error("the response is not an answer of a hook: {0}")]
    Answer(String),
    /// No URL is configured.
    #[error("no URL is configured")]
    NotConfigured,
}

impl HookError {
    /// Whether another attempt may succeed, because the backend did not process the request or is about to restart.
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            Self::Http(error) => !matches!(error, HttpError::TooLarge { .. }),
            Self::Status(status) => matches!(status, 502..=504),
            Self::BreakerOpen | Self::Busy(_) | Self::Timeout(_) | Self::Answer(_) | Self::NotConfigured => {
                false
            }
        }
    }

    /// Whether the backend failed; otherwise the request was not sent.
    pub(super) fn is_failure(&self) -> bool {
        !matches!(self, Self::BreakerOpen | Self::Busy(_) | Self::NotConfigured)
    }

    /// The label in metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::BreakerOpen => "breaker-open",
            Self::Busy(_) => "busy",
            Self::Timeout(_) => "timeout",
            Self::Http(HttpError::Connect { .. }) => "connect-failed",
            Self::Http(_) => "invalid-response",
            Self::Status(_) => "status",
            Self::Answer(_) => "invalid-answer",
            Self::NotConfigured => "not-configured",
        }
    }
}
