//! The head of a connection's first request.
//!
//! Owns its bound in bytes and which mistake is answered with which status. Must never read a body.

use std::mem::MaybeUninit;

use axum::http::{HeaderName, HeaderValue, Method, Request, Uri, Version};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Header lines in one head.
const HEADERS_MAX: usize = 100;

/// Room for the next read.
const FREE_MIN: usize = 1024;

/// What HTTP/2 begins with, when it is spoken without having been agreed upon (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A head at the beginning of some bytes.
#[derive(Debug)]
pub struct Head {
    length: usize,
    request: Request<()>,
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The client went away.
    #[error("the connection was closed")]
    Closed,
    /// The head is not HTTP.
    #[error("the request is malformed")]
    Malformed,
    /// It speaks a version of HTTP that is not spoken here.
    #[error("this version of HTTP is not supported")]
    Version,
    /// It is larger than `limits.head_bytes`, or has too many headers.
    #[error("the request's head is too large")]
    TooLarge,
    /// It was not whole within `limits.head_timeout`.
    #[error("the request did not come in time")]
    TooSlow,
}

impl HeadError {
    /// The status that the client sees.
    pub fn status(self) -> u16 {
        match self {
            Self::Closed | Self::Malformed => 400,
            Self::TooSlow => 408,
            Self::TooLarge => 431,
            Self::Version => 505,
        }
    }
}

impl Head {
    /// The head that bytes begin with; `None` while it is incomplete.
    ///
    /// # Errors
    /// See [`HeadError`].
    pub fn parse(bytes: &[u8], limit: usize) -> Result<Option<Self>, HeadError> {
        match parse(bytes)? {
            Some((length, _)) if length > limit => Err(HeadError::TooLarge),
            Some((length, request)) => Ok(Some(Self { length, request })),
            None if bytes.len() > limit => Err(HeadError::TooLarge),
            None => Ok(None),
        }
    }

    /// The request without its body. For HTTP/2 only the version means anything.
    pub fn request(&self) -> &Request<()> {
        &self.request
    }

    /// What came behind the head in the bytes that it was read from.
    pub fn rest<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        &bytes[self.length..]
    }
}

/// Reads until the head is whole, of which `bytes` have come already; says what was read in all.
///
/// # Errors
/// See [`HeadError`].
pub async fn read(
    socket: &mut (impl AsyncRead + Unpin),
    mut bytes: BytesMut,
    limit: usize,
) -> Result<(Head, Bytes), HeadError> {
    loop {
        if let Some(head) = Head::parse(&bytes, limit)? {
            return Ok((head, bytes.freeze()));
        }
        bytes.reserve(FREE_MIN);
        let read = socket.read_buf(&mut bytes).await.map_err(|_| HeadError::Closed)?;
        if read == 0 {
            return Err(if bytes.is_empty() { HeadError::Closed } else { HeadError::Malformed });
        }
    }
}

/// The length of the head and what it says; `None` while it is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<(usize, Request<()>)>, HeadError> {
    if bytes.starts_with(HTTP2_PREFACE) {
        let request = Request::builder().version(Version::HTTP_2).body(());
        return request.map(|request| Some((0, request))).map_err(|_| HeadError::Malformed);
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return Ok(None);
    }
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut []);
    match head.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(length)) => {
            request(&head).map(|request| Some((length, request))).ok_or(HeadError::Malformed)
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(HeadError::TooLarge),
        Err(httparse::Error::Version) => Err(HeadError::Version),
        Err(_) => Err(HeadError::Malformed),
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
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_cut_of_a_head_is_incomplete(at in 0usize..62) {
            let head = b"GET /sse/demo HTTP/1.1\r\nHost: localhost\r\nAccept: text/x\r\n\r\n";
            let at = at.min(head.len() - 1);
            prop_assert!(matches!(parse(&head[..at]), Ok(None)));
        }
    }

    #[test]
    fn every_mistake_has_its_status() {
        let table: [(&[u8], HeadError); 6] = [
            (b"GET / HTTP/1.1\r\n\r\n", HeadError::Malformed),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", HeadError::Malformed),
            (b"GET / HTTP/3.0\r\n\r\n", HeadError::Version),
            (b"GET\r\n\r\n", HeadError::Malformed),
            (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", HeadError::Malformed),
            (b"\x16\x03\x01\x02\x00", HeadError::Malformed),
        ];
        for (bytes, error) in table {
            assert_eq!(parse(bytes).map(|_| ()).unwrap_err(), error, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
