//! What a request for an event stream asks for.
//!
//! Owns the two forms of address, the three places of a cursor, and whether a client could come back with the largest
//! one. Must never answer.

use axum::http::{HeaderMap, Method, Request, Version};
use earshot_protocol::Cursor;
use percent_encoding::percent_decode_str;

use super::{Gate, cors, credentials};
use crate::shard::{ArrivalKind, Refusal, Resume, admit};

/// A request for an event stream, not judged yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Wish {
    /// The channels as the client wrote them.
    pub channels: Vec<String>,
    /// Events are named after their channels.
    pub named: bool,
    /// The cursor as the client sent it.
    pub cursor: Option<String>,
    /// The length of the request's head without cursors, in bytes.
    pub head_bytes: usize,
    /// A token is presented.
    pub has_token: bool,
}

/// A request for an event stream that is granted.
#[derive(Debug)]
pub struct Granted {
    /// What the shard is to do.
    pub kind: ArrivalKind,
    /// The CORS headers of the answer.
    pub cors: HeaderMap,
}

const HEADER: &str = "last-event-id";
const QUERY_KEYS: [&str; 2] = ["last_event_id", "lastEventId"];

/// Reads a request; `None` when it is not one for a stream.
pub fn wish<B>(request: &Request<B>) -> Option<Wish> {
    if request.method() != Method::GET {
        return None;
    }
    let query = request.uri().query().unwrap_or_default();
    let pairs = || form_urlencoded::parse(query.as_bytes());
    let (channels, named) = match request.uri().path().strip_prefix("/sse")? {
        "" => {
            let channels =
                pairs().filter(|(key, _)| key == "channel").map(|(_, value)| value.into_owned()).collect();
            (channels, true)
        }
        path => {
            let name = percent_decode_str(path.strip_prefix('/')?).decode_utf8();
            // What is not UTF-8 cannot be a name; the refusal shows what was sent.
            (vec![name.map_or_else(|_| "\u{fffd}\u{0}".to_owned(), |name| name.into_owned())], false)
        }
    };
    let header = request.headers().get(HEADER).and_then(|value| value.to_str().ok());
    let cursor = header.map(str::to_owned).or_else(|| {
        pairs().find(|(key, _)| QUERY_KEYS.contains(&&**key)).map(|(_, value)| value.into_owned())
    });
    let cursor = cursor.filter(|cursor| !cursor.is_empty());
    let has_token = credentials::are_presented(request);
    Some(Wish { channels, named, cursor, head_bytes: head_bytes(request), has_token })
}

/// The length of a request's head without cursors: the text of HTTP/1.1, the list size of HTTP/2 (RFC 9113, 6.5.2).
fn head_bytes<B>(request: &Request<B>) -> usize {
    let (line, field) = if request.version() == Version::HTTP_2 { (4 * 42, 32) } else { (14, 4) };
    let is_cursor = |pair: &str| QUERY_KEYS.contains(&pair.split('=').next().unwrap_or_default());
    let pairs = request.uri().query().into_iter().flat_map(|query| query.split('&'));
    // Each has a `?` or `&` in front.
    let query: usize = pairs.filter(|pair| !is_cursor(pair)).map(|pair| pair.len() + 1).sum();
    let fields = request.headers().iter().filter(|(name, _)| *name != HEADER);
    let fields: usize = fields.map(|(name, value)| name.as_str().len() + value.len() + field).sum();
    line + request.method().as_str().len() + request.uri().path().len() + query + fields
}

impl Wish {
    /// Judges the request.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn grant(&self, gate: &Gate, headers: &HeaderMap) -> Result<Granted, Refusal> {
        if !gate.origins.allow(headers) {
            return Err(Refusal::Origin);
        }
        if self.has_token {
            return Err(Refusal::Token);
        }
        let channels = admit(&gate.node, &self.channels, self.named, &gate.limits)?;
        self.leaves_room(channels.len(), gate.head_bytes)?;
        let resume = match self.cursor.as_ref().map(|text| Cursor::parse(text)) {
            None => Resume::Fresh,
            Some(Ok(cursor)) => Resume::From(cursor),
            Some(Err(_)) => Resume::Unreadable,
        };
        let kind = ArrivalKind::Sse { channels, named: self.named, resume, refusal: None };
        Ok(Granted { kind, cors: cors::headers(&gate.origins, headers) })
    }

    /// Whether the client could come back with the largest cursor of so many channels. It may do so twice in one
    /// request: a page puts the cursor into the query, and its `EventSource` adds the header when it reconnects.
    fn leaves_room(&self, channels: usize, limit: usize) -> Result<(), Refusal> {
        let cursor = Cursor::max_bytes(channels);
        let places = "Last-Event-ID: \r\n".len() + "&last_event_id=".len();
        let needed = self.head_bytes.saturating_add(places).saturating_add(cursor.saturating_mul(2));
        if needed <= limit {
            return Ok(());
        }
        Err(Refusal::BadRequest(format!(
            "a stream of {channels} channels could not be resumed: with a Last-Event-ID of up to {cursor} bytes, in \
             the header and in the query, its request has up to {needed} bytes, and limits.head_bytes is {limit}: \
             request fewer channels or raise limits.head_bytes"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str) -> Option<Wish> {
        wish(&Request::get(uri).body(()).unwrap())
    }

    #[test]
    fn both_forms_of_address_are_read() {
        let wish = |channels: &[&str], named, cursor: Option<&str>, target: &str| {
            let channels = channels.iter().map(ToString::to_string).collect();
            let head_bytes = format!("GET {target} HTTP/1.1\r\n\r\n").len();
            Some((channels, named, cursor.map(str::to_owned), head_bytes))
        };
        let read = |uri: &str| {
            let Wish { channels, named, cursor, head_bytes, .. } = read(uri)?;
            Some((channels, named, cursor, head_bytes))
        };
        assert_eq!(read("/sse/demo"), wish(&["demo"], false, None, "/sse/demo"));
        assert_eq!(read("/sse/a%2Fb%20c"), wish(&["a/b c"], false, None, "/sse/a%2Fb%20c"));
        let several = "/sse?channel=a&channel=b%3A1";
        assert_eq!(read(several), wish(&["a", "b:1"], true, None, several));
        assert_eq!(read("/sse/a?lastEventId=xy"), wish(&["a"], false, Some("xy"), "/sse/a"));
        assert_eq!(read("/sse/a?last_event_id="), wish(&["a"], false, None, "/sse/a"));
        assert_eq!(read("/sse?channel=a&last_event_id=xy"), wish(&["a"], true, Some("xy"), "/sse?channel=a"));
        assert_eq!(read("/sse"), wish(&[], true, None, "/sse"));
        assert_eq!(read("/sse/"), wish(&[""], false, None, "/sse/"));
        assert_eq!(read("/sses"), None);
        assert_eq!(read("/other"), None);
    }
}
