//! The head of the first request of a connection: reads it within a size limit, parses it, and maps errors to a status.
//! Bodies are read by hyper.

use std::mem::MaybeUninit;

use axum::http::{HeaderName, HeaderValue, Method, Request, Uri, Version};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The maximum number of header fields.
const HEADERS_MAX: usize = 100;

/// The minimum free space of the buffer for the next read.
const FREE_BYTES_MIN: usize = 1024;

/// The connection preface of HTTP/2 with prior knowledge (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A complete request head.
#[derive(Debug)]
pub struct RequestHead {
    length: usize,
    request: Request<()>,
}

/// Why a request head is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestHeadError {
    /// The client closed the connection.
    #[error("the client closed the connection")]
    Closed,
    /// The head is not valid HTTP.
    #[error("malformed request")]
    Malformed,
    /// The HTTP version is not supported.
    #[error("unsupported HTTP version")]
    Version,
    /// The head is larger than `limits.request_header_bytes`, or has too many header fields.
    #[error("request head too large")]
    TooLarge,
    /// The head was incomplete after `limits.request_header_timeout`.
    #[error("timeout: the request head is incomplete")]
    Timeout,
}

impl RequestHeadError {
    /// The HTTP status of the error response.
    pub fn status(self) -> u16 {
        match self {
            Self::Closed | Self::Malformed => 400,
            Self::Timeout => 408,
            Self::TooLarge => 431,
            Self::Version => 505,
        }
    }
}

impl RequestHead {
    /// Parses the head at the start of `bytes`; `None` if it is incomplete.
    ///
    /// # Errors
    /// See [`RequestHeadError`].
    pub fn parse(bytes: &[u8], limit: usize) -> Result<Option<Self>, RequestHeadError> {
        match parse(bytes)? {
            Some((length, _)) if length > limit => Err(RequestHeadError::TooLarge),
            Some((length, request)) => Ok(Some(Self { length, request })),
            None if bytes.len() > limit => Err(RequestHeadError::TooLarge),
            None => Ok(None),
        }
    }

    /// The request without its body. For HTTP/2 only the version is meaningful.
    pub fn request(&self) -> &Request<()> {
        &self.request
    }

    /// Returns the bytes after the head; `bytes` are those that it was parsed from.
    pub fn rest<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        &bytes[self.length..]
    }
}

/// Reads from the socket until the head is complete; `bytes` have been read before. Returns the head and all bytes.
///
/// # Errors
/// See [`RequestHeadError`].
pub async fn read(
    socket: &mut (impl AsyncRead + Unpin),
    mut bytes: BytesMut,
    limit: usize,
) -> Result<(RequestHead, Bytes), RequestHeadError> {
    loop {
        if let Some(head) = RequestHead::parse(&bytes, limit)? {
            return Ok((head, bytes.freeze()));
        }
        bytes.reserve(FREE_BYTES_MIN);
        let read = socket.read_buf(&mut bytes).await.map_err(|_| RequestHeadError::Closed)?;
        if read == 0 {
            return Err(if bytes.is_empty() {
                RequestHeadError::Closed
            } else {
                RequestHeadError::Malformed
            });
        }
    }
}

/// Returns the length of the head and the request; `None` if the head is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<(usize, Request<()>)>, RequestHeadError> {
    if bytes.starts_with(HTTP2_PREFACE) {
        let request = Request::builder().version(Version::HTTP_2).body(());
        return request.map(|request| Some((0, request))).map_err(|_| RequestHeadError::Malformed);
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return Ok(None);
    }
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut []);
    match head.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(length)) => {
            request(&head).map(|request| Some((length, request))).ok_or(RequestHeadError::Malformed)
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(RequestHeadError::TooLarge),
        Err(httparse::Error::Version) => Err(RequestHeadError::Version),
        Err(_) => Err(RequestHeadError::Malformed),
    }
}

fn request(head: &httparse::Request<'_, '_>) -> Option<Request<()>> {
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(head.method?.as_bytes()).ok()?;
    *request.uri_mut() = head.path?.parse::<Uri>().ok()?;
    *request.version_mut() = if head.version? == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
    for header in head.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(header.value).ok()?;
        request.headers_mut().append(name, value);
    }
    // RFC 9112, 3.2: exactly one Host.
    let hosts = request.headers().get_all(axum::http::header::HOST).iter().count();
    (hosts == 1 || (hosts == 0 && request.version() == Version::HTTP_10)).then_some(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_truncated_head_is_incomplete(at in 0usize..62) {
            let head = b"GET /sse/demo HTTP/1.1\r\nHost: localhost\r\nAccept: text/x\r\n\r\n";
            let at = at.min(head.len() - 1);
            prop_assert!(matches!(parse(&head[..at]), Ok(None)));
        }
    }

    #[test]
    fn rejects_invalid_heads() {
        let table: [(&[u8], RequestHeadError); 6] = [
            (b"GET / HTTP/1.1\r\n\r\n", RequestHeadError::Malformed),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", RequestHeadError::Malformed),
            (b"GET / HTTP/3.0\r\n\r\n", RequestHeadError::Version),
            (b"GET\r\n\r\n", RequestHeadError::Malformed),
            (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", RequestHeadError::Malformed),
            (b"\x16\x03\x01\x02\x00", RequestHeadError::Malformed),
        ];
        for (bytes, error) in table {
            assert_eq!(parse(bytes).map(|_| ()).unwrap_err(), error, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
