//! What a request for an event stream asks for.
//!
//! Owns the two forms of address and the three places of a cursor. Must never answer.

use axum::http::{HeaderMap, Method, Request};
use earshot_protocol::Cursor;
use percent_encoding::percent_decode_str;

use super::Gate;
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
}

/// A request for an event stream that is granted.
#[derive(Debug)]
pub struct Granted {
    /// What the shard is to do.
    pub kind: ArrivalKind,
    /// The origin to name in the answer.
    pub allow_origin: Option<String>,
}

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
    let header = request.headers().get("last-event-id").and_then(|value| value.to_str().ok());
    let cursor = header.map(str::to_owned).or_else(|| {
        pairs()
            .find(|(key, _)| key == "last_event_id" || key == "lastEventId")
            .map(|(_, value)| value.into_owned())
    });
    Some(Wish { channels, named, cursor: cursor.filter(|cursor| !cursor.is_empty()) })
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
        let channels = admit(&gate.node, &self.channels, self.named, &gate.limits)?;
        let resume = match self.cursor.as_ref().map(|text| Cursor::parse(text)) {
            None => Resume::Fresh,
            Some(Ok(cursor)) => Resume::From(cursor),
            Some(Err(_)) => Resume::Unreadable,
        };
        let kind = ArrivalKind::Sse { channels, named: self.named, resume, refusal: None };
        Ok(Granted { kind, allow_origin: gate.origins.named(headers) })
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
        let wish = |channels: &[&str], named, cursor: Option<&str>| {
            let channels = channels.iter().map(ToString::to_string).collect();
            Some(Wish { channels, named, cursor: cursor.map(str::to_owned) })
        };
        assert_eq!(read("/sse/demo"), wish(&["demo"], false, None));
        assert_eq!(read("/sse/a%2Fb%20c"), wish(&["a/b c"], false, None));
        assert_eq!(read("/sse?channel=a&channel=b%3A1"), wish(&["a", "b:1"], true, None));
        assert_eq!(read("/sse/a?lastEventId=xy"), wish(&["a"], false, Some("xy")));
        assert_eq!(read("/sse/a?last_event_id="), wish(&["a"], false, None));
        assert_eq!(read("/sse"), wish(&[], true, None));
        assert_eq!(read("/sse/"), wish(&[""], false, None));
        assert_eq!(read("/sses"), None);
        assert_eq!(read("/other"), None);
    }
}
