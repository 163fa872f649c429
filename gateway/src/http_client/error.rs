//! Why a request fails, and why a URL is invalid.

/// Why a request has no response. The text is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The server cannot be reached.
    #[error("cannot connect to {host}: {reason}")]
    Connect {
        /// Host and port.
        host: String,
        /// Why.
        reason: String,
    },
    /// The response is invalid or ends early.
    #[error("the response is invalid: {0}")]
    Response(String),
    /// The response is too large.
    #[error("the response has more than {max} bytes")]
    TooLarge {
        /// The maximum size.
        max: usize,
    },
}

/// Why a URL is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpUrlError {
    /// The text is not a URL of a server.
    #[error(
        "{0:?} is not an http(s) URL with a host: expected https://host/path, without a user and a fragment"
    )]
    Invalid(String),
    /// The URL is not encrypted.
    #[error(
        "{0:?} is not https: an attacker on the network path could forge the responses; only loopback may use http"
    )]
    Insecure(String),
}
