//! Requests for event streams: parses channels and cursor, and checks that the client can reconnect with the largest
//! cursor.

use std::collections::HashSet;
use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue, Method, Request, Version, header};
use earshot_protocol::{ChannelName, Cursor, ErrorCode};
use percent_encoding::percent_decode_str;

use super::StreamContext;
use crate::auth::access::Operation;
use crate::auth::ticket::split_event_id;
use crate::auth::{
    Authorizer, ChannelRequest, ClientMeta, Denial, Identity, LAST_EVENT_ID, LAST_EVENT_ID_PARAMETERS,
    last_event_id, log_denial,
};
use crate::hooks::{ChannelAnswers, HookReply};
use crate::node::Node;
use crate::node::namespace::ResolvedChannel;
use crate::shard::{NewConnectionKind, Resume};

/// A request for an event stream, not yet authorized.
#[derive(Debug, PartialEq, Eq)]
pub struct SseRequest {
    /// The channels, not validated.
    pub channels: Vec<String>,
    /// Events are named after their channels.
    pub named: bool,
    /// Heartbeats are `ping` events instead of comments.
    pub ping: bool,
    /// The cursor, not decoded.
    pub cursor: Option<String>,
    /// The length of the request head without cursors, in bytes.
    pub request_header_bytes: usize,
}

/// Why a request for an event stream is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SseRejection {
    /// The error code, which determines the HTTP status.
    pub code: ErrorCode,
    message: String,
    /// The denied permission, with its channel.
    denial: Option<(Denial, Option<ChannelName>)>,
}

/// Event names of the gateway, which channels of a stream with several channels must not have.
const RESERVED_EVENTS: [&str; 6] = ["error", "gap", "message", "open", "ping", "subscribed"];

const PING_PARAMETER: (&str, &str) = ("ping", "true");

/// The headers of the response, except for CORS.
pub const RESPONSE_HEADERS: [(HeaderName, HeaderValue); 3] = [
    (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, no-transform")),
    // nginx must not buffer the stream.
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
];

/// Parses a request; `None` if it is not a `GET` of an event stream.
pub fn parse<B>(request: &Request<B>) -> Option<SseRequest> {
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
            // A name that is not UTF-8 is replaced by an invalid one, which is rejected later.
            (vec![name.map_or_else(|_| "\u{fffd}\u{0}".to_owned(), |name| name.into_owned())], false)
        }
    };
    let id = last_event_id(request.headers(), Some(query));
    // The code of a ticket follows the cursor.
    let cursor = id.map(|id| split_event_id(&id).0.to_owned()).filter(|cursor| !cursor.is_empty());
    let ping = pairs().any(|(key, value)| (&*key, &*value) == PING_PARAMETER);
    Some(SseRequest { channels, named, ping, cursor, request_header_bytes: request_header_bytes(request) })
}

/// Returns the length of a request head without cursors: the text of HTTP/1.1, the header list size of HTTP/2 (RFC 9113,
/// 6.5.2).
fn request_header_bytes<B>(request: &Request<B>) -> usize {
    let (line, field) = if request.version() == Version::HTTP_2 { (4 * 42, 32) } else { (14, 4) };
    let is_cursor =
        |pair: &str| LAST_EVENT_ID_PARAMETERS.contains(&pair.split('=').next().unwrap_or_default());
    let pairs = request.uri().query().into_iter().flat_map(|query| query.split('&'));
    // Each pair follows a `?` or `&`.
    let query: usize = pairs.filter(|pair| !is_cursor(pair)).map(|pair| pair.len() + 1).sum();
    let fields = request.headers().iter().filter(|(name, _)| *name != LAST_EVENT_ID);
    let fields: usize = fields.map(|(name, value)| name.as_str().len() + value.len() + field).sum();
    line + request.method().as_str().len() + request.uri().path().len() + query + fields
}

impl SseRequest {
    /// Opens the stream of a client with this login; `answers` are those of the hook for
    /// [`SseRequest::hooked_channels`]. While logins cannot be checked or the hook gives no answer, the stream ends at once
    /// with an error event, after which an `EventSource` reconnects: it would not after an HTTP error.
    ///
    /// # Errors
    /// When the login is rejected, and as [`SseRequest::authorize`].
    pub fn open(
        &self,
        streams: &StreamContext,
        login: Result<Arc<Identity>, Denial>,
        answers: &ChannelAnswers,
    ) -> Result<NewConnectionKind, SseRejection> {
        let opened = login.map_err(SseRejection::from);
        let opened = opened.and_then(|identity| self.authorize(streams, &identity, answers));
        match opened {
            Err(SseRejection {
                denial:
                    Some((
                        denial @ (Denial::LoginUnavailable | Denial::HookUnavailable | Denial::TooManyLogins),
                        _,
                    )),
                ..
            }) => Ok(NewConnectionKind::Sse {
                channels: Vec::new(),
                identity: Arc::clone(streams.authenticator.guest()),
                named: self.named,
                ping: self.ping,
                resume: Resume::New,
                rejection: Some(denial.into()),
            }),
            opened => opened,
        }
    }

    /// The channels for which the hook decides whether this client may subscribe.
    pub fn hooked_channels(&self, streams: &StreamContext, identity: &Identity) -> Vec<ChannelName> {
        let mut seen = HashSet::new();
        let names = self.channels.iter().filter(|name| seen.insert(name.as_str()));
        let names = names.take(streams.limits.channels_per_connection);
        let is_undecided = |name: &ChannelName| {
            let rejection =
                self.authorize_channel(name.as_str(), &streams.node, identity, &ChannelAnswers::default());
            matches!(rejection, Err(SseRejection { denial: Some((Denial::HookNotAsked, _)), .. }))
        };
        names.filter_map(|name| ChannelName::parse(name).ok()).filter(is_undecided).collect()
    }

    /// Authorizes the request of a client that may connect. Returns the new connection, for a shard.
    ///
    /// # Errors
    /// When a channel is invalid, unknown or denied, or when the client could not reconnect with its cursor.
    fn authorize(
        &self,
        streams: &StreamContext,
        identity: &Arc<Identity>,
        answers: &ChannelAnswers,
    ) -> Result<NewConnectionKind, SseRejection> {
        let channels_max = streams.limits.channels_per_connection;
        let channels = self.authorize_channels(&streams.node, identity, answers, channels_max)?;
        let suffix_bytes = identity.event_id_suffix().len();
        self.check_resumable(channels.len(), suffix_bytes, streams.request_header_bytes)?;
        let resume = match self.cursor.as_ref().map(|text| Cursor::parse(text)) {
            None => Resume::New,
            Some(Ok(cursor)) => Resume::From(cursor),
            Some(Err(_)) => Resume::Unreadable,
        };
        let identity = Arc::clone(identity);
        Ok(NewConnectionKind::Sse {
            channels,
            identity,
            named: self.named,
            ping: self.ping,
            resume,
            rejection: None,
        })
    }

    /// Validates the channels and checks that the client may subscribe to each. Repeated channels are removed.
    fn authorize_channels(
        &self,
        node: &Node,
        identity: &Identity,
        answers: &ChannelAnswers,
        channels_max: usize,
    ) -> Result<Vec<ResolvedChannel>, SseRejection> {
        if self.channels.is_empty() {
            return Err(SseRejection::bad_request("no channel given: /sse/{channel} or /sse?channel=…"));
        }
        let mut seen = HashSet::new();
        let distinct: Vec<&String> = self.channels.iter().filter(|name| seen.insert(name.as_str())).collect();
        if distinct.len() > channels_max {
            return Err(SseRejection::bad_request(format!(
                "{} channels in one stream: limits.channels_per_connection is {channels_max}: open several streams or \
                 raise it",
                distinct.len(),
            )));
        }
        distinct.into_iter().map(|name| self.authorize_channel(name, node, identity, answers)).collect()
    }

    fn authorize_channel(
        &self,
        name: &str,
        node: &Node,
        identity: &Identity,
        answers: &ChannelAnswers,
    ) -> Result<ResolvedChannel, SseRejection> {
        let channel = ChannelName::parse(name).map_err(|error| SseRejection {
            message: format!("channel {name:?}: {error}"),
            code: error.into(),
            denial: None,
        })?;
        if self.named && RESERVED_EVENTS.contains(&channel.as_str()) {
            return Err(SseRejection::bad_request(format!(
                "channel {channel}: this name is an event of the stream itself; use /sse/{channel}"
            )));
        }
        let denied = |denial: Denial| SseRejection {
            message: format!("channel {channel}: {denial}"),
            code: denial.into(),
            denial: Some((denial, Some(channel.clone()))),
        };
        let resolved = node.resolve(channel.clone()).ok_or_else(|| denied(Denial::UnknownChannel))?;
        let request = ChannelRequest {
            identity,
            operation: Operation::Subscribe,
            channel: channel.as_str(),
            rules: &resolved.rules.namespace.access,
            is_subscribed: false,
            has_token: false,
            hook: answers.answer(&channel),
        };
        Authorizer::channel(&request).map_err(|denial| {
            let mut rejection = denied(denial);
            if let (Denial::Hook, Some(HookReply::Failed(failure))) = (denial, answers.reply(&channel)) {
                rejection.message = format!("channel {channel}: {} (code {})", failure.message, failure.code);
            }
            rejection
        })?;
        Ok(resolved)
    }

    /// Checks that the client can reconnect with the largest cursor of this number of channels, and what follows it in the
    /// event ids. A request may contain two of them: a page puts one into the query, and its `EventSource` adds the header
    /// when it reconnects.
    fn check_resumable(&self, channels: usize, suffix: usize, limit: usize) -> Result<(), SseRejection> {
        let cursor = Cursor::max_bytes(channels).saturating_add(suffix);
        let places = "Last-Event-ID: \r\n".len() + "&last_event_id=".len();
        let needed =
            self.request_header_bytes.saturating_add(places).saturating_add(cursor.saturating_mul(2));
        if needed <= limit {
            return Ok(());
        }
        Err(SseRejection::bad_request(format!(
            "a stream of {channels} channels could not be resumed: with a Last-Event-ID of up to {cursor} bytes in the \
             header and in the query, the request head has up to {needed} bytes, and limits.request_header_bytes is {limit}: \
             request fewer channels or raise limits.request_header_bytes"
        )))
    }
}

impl SseRejection {
    /// Logs the denied permission, if that is the reason.
    pub fn log(&self, client: &ClientMeta) {
        if let Some((denial, channel)) = &self.denial {
            log_denial(*denial, Some(client), channel.as_ref());
        }
    }

    fn bad_request(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::BadRequest, message: message.into(), denial: None }
    }
}

impl From<Denial> for SseRejection {
    fn from(denial: Denial) -> Self {
        Self { code: denial.into(), message: denial.to_string(), denial: Some((denial, None)) }
    }
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_target_is_parsed_or_ignored(path in "/(sse)?[!-~]{0,20}", query in "[!-~]{0,40}") {
            if let Ok(uri) = format!("{path}?{query}").parse::<axum::http::Uri>() {
                let _ = parse(&Request::get(uri).body(()).unwrap());
            }
        }

        #[test]
        fn channel_names_round_trip(names in prop::collection::vec("\\PC{1,20}", 1..4), cursor in "[A-Za-z0-9_-]{1,20}") {
            let path = utf8_percent_encode(&names[0], NON_ALPHANUMERIC);
            let single = read(&format!("/sse/{path}?last_event_id={cursor}")).unwrap();
            prop_assert_eq!((&single.channels[..], single.named), (&names[..1], false));
            prop_assert_eq!(single.cursor.as_ref(), Some(&cursor));
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(names.iter().map(|name| ("channel", name)));
            let several = read(&format!("/sse?{}", query.finish())).unwrap();
            prop_assert_eq!((several.channels, several.named, several.cursor), (names, true, None));
        }
    }

    fn read(uri: &str) -> Option<SseRequest> {
        parse(&Request::get(uri).body(()).unwrap())
    }

    #[test]
    fn requests_ping_events_by_the_value_true_only() {
        let ping = |uri: &str| read(uri).map(|request| request.ping);
        assert_eq!(ping("/sse/a?ping=true"), Some(true));
        assert_eq!(ping("/sse?channel=a&ping=true&last_event_id=xy"), Some(true));
        assert_eq!(ping("/sse/a"), Some(false));
        assert_eq!(ping("/sse/a?ping=1"), Some(false));
        assert_eq!(ping("/sse/ping"), Some(false));
    }

    #[test]
    fn parses_path_and_query_forms() {
        let expected = |channels: &[&str], named, cursor: Option<&str>, target: &str| {
            let channels = channels.iter().map(ToString::to_string).collect();
            let request_header_bytes = format!("GET {target} HTTP/1.1\r\n\r\n").len();
            Some((channels, named, cursor.map(str::to_owned), request_header_bytes))
        };
        let read = |uri: &str| {
            let SseRequest { channels, named, cursor, request_header_bytes, .. } = read(uri)?;
            Some((channels, named, cursor, request_header_bytes))
        };
        assert_eq!(read("/sse/demo"), expected(&["demo"], false, None, "/sse/demo"));
        assert_eq!(read("/sse/a%2Fb%20c"), expected(&["a/b c"], false, None, "/sse/a%2Fb%20c"));
        let several = "/sse?channel=a&channel=b%3A1";
        assert_eq!(read(several), expected(&["a", "b:1"], true, None, several));
        assert_eq!(read("/sse/a?lastEventId=xy"), expected(&["a"], false, Some("xy"), "/sse/a"));
        assert_eq!(read("/sse/a?last_event_id="), expected(&["a"], false, None, "/sse/a"));
        assert_eq!(
            read("/sse?channel=a&last_event_id=xy"),
            expected(&["a"], true, Some("xy"), "/sse?channel=a")
        );
        assert_eq!(read("/sse"), expected(&[], true, None, "/sse"));
        assert_eq!(read("/sse/"), expected(&[""], false, None, "/sse/"));
        assert_eq!(read("/sses"), None);
        assert_eq!(read("/other"), None);
    }
}
