//! Requests to HTTP servers that the configuration names: key sets and hooks.
//!
//! One connection carries one request at a time (HTTP/1.1). Must never follow a redirect, read more than the caller
//! permits, or connect to a URL that a client sent. The callers limit the time.
//!
//! - [`HttpUrl`]: the checked URL of a server.
//! - [`HttpConnection`]: a connection; [`HttpResponse`]: a whole response.

mod connection;
mod error;
mod url;

pub use connection::{HttpConnection, HttpResponse};
pub use error::{HttpError, HttpUrlError};
pub use url::HttpUrl;
