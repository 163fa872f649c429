//! Incremental parser for HTTP/1.1 responses, with chunked bodies, bodies with a length, and bodies that end with the
//! connection.
//!
//! Pure: owns no socket and does not store the body. For poll loops and blocking sockets; see [`crate::http`] for the
//! asynchronous client.

use httparse::{EMPTY_HEADER, Header, Status};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Key of the WebSocket handshake. A constant suffices: there is no cache between client and server.
pub const WEBSOCKET_KEY: &str = "ZWFyc2hvdC1sb2FkdGVzdA==";

/// Largest head of a response, and largest line of the chunk framing.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most headers of a response.
const HEADERS_MAX: usize = 64;

/// Why the bytes are not a valid response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The head is invalid.
    #[error("the response is not HTTP: {0}")]
    Head(httparse::Error),
    /// The head, or a line between chunks, exceeds the maximum.
    #[error("the head of the response or a chunk line exceeds {HEAD_BYTES_MAX} bytes")]
    TooLong,
    /// A content length or chunk size is invalid.
    #[error("invalid content length or chunk size")]
    Length,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HttpState {
    Head,
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    Counted(u64),
    UntilClose,
    Done,
}

/// Parser of one response.
#[derive(Debug)]
pub struct ResponseParser {
    state: HttpState,
    /// An incomplete head or line.
    buffer: Vec<u8>,
    status: u16,
    accepts_websocket: bool,
}

impl Default for ResponseParser {
    fn default() -> Self {
        Self { state: HttpState::Head, buffer: Vec::new(), status: 0, accepts_websocket: false }
    }
}

impl ResponseParser {
    /// The status, once the head is complete.
    pub fn status(&self) -> Option<u16> {
        (self.state != HttpState::Head).then_some(self.status)
    }

    /// Whether the head accepts the WebSocket handshake with [`WEBSOCKET_KEY`].
    pub fn accepts_websocket(&self) -> bool {
        self.accepts_websocket
    }

    /// Whether the response is complete, without waiting for the connection to close.
    pub fn is_done(&self) -> bool {
        self.state == HttpState::Done
    }

    /// Parses the next bytes, passes body bytes to `body`, and returns the bytes after the response.
    ///
    /// # Errors
    /// The bytes are not a valid response.
    pub fn feed<'a>(
        &mut self,
        mut input: &'a [u8],
        mut body: impl FnMut(&[u8]),
    ) -> Result<&'a [u8], HttpError> {
        while !input.is_empty() && self.state != HttpState::Done {
            input = match self.state {
                HttpState::Head => self.read_head(input)?,
                HttpState::Chunk(left) => {
                    self.read_body(input, left, HttpState::Chunk, HttpState::ChunkEnd, &mut body)
                }
                HttpState::Counted(left) => {
                    self.read_body(input, left, HttpState::Counted, HttpState::Done, &mut body)
                }
                HttpState::UntilClose => {
                    body(input);
                    &[]
                }
                HttpState::ChunkSize | HttpState::ChunkEnd | HttpState::Trailer | HttpState::Done => {
                    self.read_line(input)?
                }
            };
        }
        Ok(input)
    }

    fn read_head<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], HttpError> {
        let before = self.buffer.len();
        let room = HEAD_BYTES_MAX - before;
        self.buffer.extend_from_slice(&input[..input.len().min(room)]);
        let mut headers = [EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&self.buffer) {
            Ok(Status::Complete(length)) => {
                self.status = response.code.unwrap_or_default();
                let accepted = derive_accept_key(WEBSOCKET_KEY.as_bytes());
                self.accepts_websocket =
                    header(response.headers, "sec-websocket-accept") == Some(accepted.as_bytes());
                self.state = body_state(self.status, response.headers)?;
                self.buffer = Vec::new();
                Ok(&input[length - before..])
            }
            Ok(Status::Partial) if input.len() >= room => Err(HttpError::TooLong),
            Ok(Status::Partial) => Ok(&[]),
            Err(error) => Err(HttpError::Head(error)),
        }
    }

    /// Passes on body bytes, up to the end of the chunk or body.
    fn read_body<'a>(
        &mut self,
        input: &'a [u8],
        left: u64,
        remaining: fn(u64) -> HttpState,
        after: HttpState,
        body: &mut impl FnMut(&[u8]),
    ) -> &'a [u8] {
        let count = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
        let (now, rest) = input.split_at(count);
        body(now);
        let left = left - count as u64;
        self.state = if left == 0 { after } else { remaining(left) };
        rest
    }

    /// Collects a line of the chunk framing, and advances the state when it is complete.
    fn read_line<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], HttpError> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let (now, rest) = input.split_at(end.map_or(input.len(), |end| end + 1));
        if self.buffer.len() + now.len() > HEAD_BYTES_MAX {
            return Err(HttpError::TooLong);
        }
        self.buffer.extend_from_slice(now);
        if end.is_some() {
            self.state = self.after_line()?;
            self.buffer.clear();
        }
        Ok(rest)
    }

    fn after_line(&self) -> Result<HttpState, HttpError> {
        Ok(match self.state {
            HttpState::ChunkSize => match httparse::parse_chunk_size(&self.buffer) {
                Ok(Status::Complete((_, 0))) => HttpState::Trailer,
                Ok(Status::Complete((_, size))) => HttpState::Chunk(size),
                Ok(Status::Partial) | Err(_) => return Err(HttpError::Length),
            },
            HttpState::ChunkEnd => HttpState::ChunkSize,
            HttpState::Trailer if self.buffer.trim_ascii().is_empty() => HttpState::Done,
            other => other,
        })
    }
}

/// How the body is delimited. Responses with status 1xx, 204 or 304 have no body.
fn body_state(status: u16, headers: &[Header<'_>]) -> Result<HttpState, HttpError> {
    if matches!(status, 100..=199 | 204 | 304) {
        return Ok(HttpState::Done);
    }
    if header(headers, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case(b"chunked")) {
        return Ok(HttpState::ChunkSize);
    }
    let Some(length) = header(headers, "content-length") else { return Ok(HttpState::UntilClose) };
    let length = std::str::from_utf8(length).ok().and_then(|length| length.parse().ok());
    Ok(match length.ok_or(HttpError::Length)? {
        0 => HttpState::Done,
        length => HttpState::Counted(length),
    })
}

fn header<'h>(headers: &[Header<'h>], name: &str) -> Option<&'h [u8]> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n4\r\nWiki\r\n6;x=y\r\npedia \r\nC\r\nin\r\nchunks.\n\r\n0\r\nTrailer: x\r\n\r\n";
    const COUNTED: &[u8] = b"HTTP/1.1 201 Created\r\ncontent-length: 11\r\nx-other: 1\r\n\r\nhello world";

    /// Status, body, whether it is complete, remaining bytes.
    type Reading = (Option<u16>, Vec<u8>, bool, Vec<u8>);

    fn read(parts: &[&[u8]]) -> Result<Reading, HttpError> {
        let (mut response, mut body, mut rest) = (ResponseParser::default(), Vec::new(), Vec::new());
        for part in parts {
            rest.extend_from_slice(response.feed(part, |bytes| body.extend_from_slice(bytes))?);
        }
        Ok((response.status(), body, response.is_done(), rest))
    }

    #[test]
    fn a_chunked_body_is_joined() {
        let expected = b"Wikipedia in\r\nchunks.\n".to_vec();
        assert_eq!(read(&[CHUNKED]), Ok((Some(200), expected, true, vec![])));
    }

    #[test]
    fn pipelined_responses_are_separated() {
        let both = [COUNTED, CHUNKED].concat();
        assert_eq!(read(&[&both]), Ok((Some(201), b"hello world".to_vec(), true, CHUNKED.to_vec())));
    }

    #[test]
    fn a_body_without_length_ends_with_the_connection() {
        let response = b"HTTP/1.0 200 OK\r\n\r\nabc";
        assert_eq!(read(&[response, b"def"]), Ok((Some(200), b"abcdef".to_vec(), false, vec![])));
    }

    #[test]
    fn a_response_without_body_ends_with_its_head() {
        assert_eq!(read(&[b"HTTP/1.1 204 No Content\r\n\r\n"]), Ok((Some(204), vec![], true, vec![])));
        let empty = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(read(&[empty]), Ok((Some(404), vec![], true, vec![])));
    }

    #[test]
    fn the_handshake_is_accepted_only_with_its_key() {
        let accept = |value: &str| {
            let head = format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {value}\r\n\r\nx");
            let mut response = ResponseParser::default();
            let rest = response.feed(head.as_bytes(), |_| ()).unwrap().to_vec();
            (response.status(), response.accepts_websocket(), rest)
        };
        assert_eq!(accept(&derive_accept_key(WEBSOCKET_KEY.as_bytes())), (Some(101), true, b"x".to_vec()));
        assert_eq!(accept("other"), (Some(101), false, b"x".to_vec()));
    }

    #[test]
    fn invalid_responses_are_rejected() {
        assert!(matches!(read(&[b"SSH-2.0-OpenSSH\r\n"]), Err(HttpError::Head(_))));
        assert_eq!(read(&[b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]), Err(HttpError::Length));
        let head = [b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &vec![b'x'; HEAD_BYTES_MAX]].concat();
        assert_eq!(read(&[&head]), Err(HttpError::TooLong));
    }

    proptest! {
        #[test]
        fn any_split_parses_the_same(cuts in prop::collection::vec(0..CHUNKED.len(), 0..8)) {
            let mut cuts = cuts;
            cuts.extend([0, CHUNKED.len()]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|cut| &CHUNKED[cut[0]..cut[1]]).collect();
            prop_assert_eq!(read(&parts), read(&[CHUNKED]));
        }

        #[test]
        fn no_input_panics(input: Vec<u8>) {
            let _ = read(&[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &input]);
            let _ = read(&[&input]);
        }
    }
}
