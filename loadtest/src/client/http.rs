//! Incremental parser for HTTP/1.1 responses with chunked bodies, bodies with a length, and bodies that end with the
//! connection. Pure: owns no socket and does not store the body.

use std::mem;

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Key of the WebSocket handshake. A constant suffices: there is no cache between client and server.
pub(crate) const WEBSOCKET_KEY: &str = "ZWFyc2hvdC1sb2FkdGVzdA==";

/// Largest line of a head or of the chunk framing.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Why the bytes are not a valid response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HttpError {
    /// The first line is not an HTTP/1.x status line.
    #[error("the response is not HTTP")]
    StatusLine,
    /// A line exceeds the maximum.
    #[error("a line of the response exceeds {LINE_BYTES_MAX} bytes")]
    LongLine,
    /// A content length or chunk size is invalid.
    #[error("invalid content length or chunk size")]
    Length,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    StatusLine,
    Headers,
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
pub(crate) struct Response {
    state: State,
    line: Vec<u8>,
    status: u16,
    body: State,
    accepted: bool,
}

impl Default for Response {
    fn default() -> Self {
        Self {
            state: State::StatusLine,
            line: Vec::new(),
            status: 0,
            body: State::UntilClose,
            accepted: false,
        }
    }
}

impl Response {
    /// Status, once the head is complete.
    pub(crate) fn status(&self) -> Option<u16> {
        (!matches!(self.state, State::StatusLine | State::Headers)).then_some(self.status)
    }

    /// Whether the head accepts the WebSocket handshake with [`WEBSOCKET_KEY`].
    pub(crate) fn accepts_websocket(&self) -> bool {
        self.accepted
    }

    /// Whether the response is complete without the connection being closed.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Processes the next bytes, passes body bytes to `body`, and returns the bytes after the response.
    pub(crate) fn feed<'a>(
        &mut self,
        mut input: &'a [u8],
        mut body: impl FnMut(&[u8]),
    ) -> Result<&'a [u8], HttpError> {
        while !input.is_empty() && self.state != State::Done {
            input = match self.state {
                State::Chunk(left) => self.read_body(input, left, State::Chunk, State::ChunkEnd, &mut body),
                State::Counted(left) => self.read_body(input, left, State::Counted, State::Done, &mut body),
                State::UntilClose => {
                    body(input);
                    &[]
                }
                _ => self.read_line(input)?,
            };
        }
        Ok(input)
    }

    /// Passes on body bytes, up to the end of the chunk or body.
    fn read_body<'a>(
        &mut self,
        input: &'a [u8],
        left: u64,
        next_state: fn(u64) -> State,
        after: State,
        body: &mut impl FnMut(&[u8]),
    ) -> &'a [u8] {
        let count = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
        let (now, rest) = input.split_at(count);
        body(now);
        let left = left - count as u64;
        self.state = if left == 0 { after } else { next_state(left) };
        rest
    }

    /// Collects a line and advances the state when it is complete.
    fn read_line<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], HttpError> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let (now, rest) = input.split_at(end.map_or(input.len(), |end| end + 1));
        if self.line.len() + now.len() > LINE_BYTES_MAX {
            return Err(HttpError::LongLine);
        }
        self.line.extend_from_slice(now);
        if end.is_some() {
            let mut line = mem::take(&mut self.line);
            self.state = self.after_line(line.trim_ascii_end())?;
            line.clear();
            self.line = line;
        }
        Ok(rest)
    }

    fn after_line(&mut self, line: &[u8]) -> Result<State, HttpError> {
        match self.state {
            State::StatusLine => {
                self.status = status(line).ok_or(HttpError::StatusLine)?;
                Ok(State::Headers)
            }
            State::Headers if line.is_empty() => Ok(self.body_state()),
            State::Headers => self.header(line),
            State::ChunkSize => match chunk_size(line).ok_or(HttpError::Length)? {
                0 => Ok(State::Trailer),
                size => Ok(State::Chunk(size)),
            },
            State::ChunkEnd => Ok(State::ChunkSize),
            State::Trailer if line.is_empty() => Ok(State::Done),
            other => Ok(other),
        }
    }

    fn header(&mut self, line: &[u8]) -> Result<State, HttpError> {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"transfer-encoding") && value.eq_ignore_ascii_case(b"chunked") {
            self.body = State::ChunkSize;
        } else if name.eq_ignore_ascii_case(b"content-length") && self.body != State::ChunkSize {
            self.body = State::Counted(number(value, 10).ok_or(HttpError::Length)?);
        } else if name.eq_ignore_ascii_case(b"sec-websocket-accept") {
            self.accepted = value == derive_accept_key(WEBSOCKET_KEY.as_bytes()).as_bytes();
        }
        Ok(State::Headers)
    }

    /// State after the head: responses with status 1xx, 204 or 304 have no body.
    fn body_state(&self) -> State {
        let bodiless = matches!(self.status, 100..=199 | 204 | 304);
        if bodiless || self.body == State::Counted(0) { State::Done } else { self.body }
    }
}

fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let code = rest.get(2..5)?;
    u16::try_from(number(code, 10)?).ok()
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?;
    number(digits.trim_ascii(), 16)
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n4\r\nWiki\r\n6;x=y\r\npedia \r\nC\r\nin\r\nchunks.\n\r\n0\r\nTrailer: x\r\n\r\n";
    const COUNTED: &[u8] = b"HTTP/1.1 201 Created\r\ncontent-length: 11\r\nx-other: 1\r\n\r\nhello world";

    /// Status, body, whether it is complete, remaining bytes.
    type Reading = (Option<u16>, Vec<u8>, bool, Vec<u8>);

    fn read(pieces: &[&[u8]]) -> Result<Reading, HttpError> {
        let (mut response, mut body, mut rest) = (Response::default(), Vec::new(), Vec::new());
        for piece in pieces {
            rest.extend_from_slice(response.feed(piece, |bytes| body.extend_from_slice(bytes))?);
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
    fn response_without_body_ends_with_its_head() {
        assert_eq!(read(&[b"HTTP/1.1 204 No Content\r\n\r\n"]), Ok((Some(204), vec![], true, vec![])));
        let empty = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(read(&[empty]), Ok((Some(404), vec![], true, vec![])));
    }

    #[test]
    fn invalid_responses_are_rejected() {
        assert_eq!(read(&[b"SSH-2.0-OpenSSH\r\n"]), Err(HttpError::StatusLine));
        assert_eq!(read(&[b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]), Err(HttpError::Length));
        assert_eq!(read(&[&vec![b'x'; LINE_BYTES_MAX + 1]]), Err(HttpError::LongLine));
    }

    proptest! {
        #[test]
        fn any_split_reads_the_same(cuts in prop::collection::vec(0..CHUNKED.len(), 0..8)) {
            let mut cuts = cuts;
            cuts.extend([0, CHUNKED.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &CHUNKED[cut[0]..cut[1]]).collect();
            prop_assert_eq!(read(&pieces), read(&[CHUNKED]));
        }

        #[test]
        fn no_input_panics(input: Vec<u8>) {
            let _ = read(&[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &input]);
            let _ = read(&[&input]);
        }
    }
}
