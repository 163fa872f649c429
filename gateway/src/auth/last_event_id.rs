//! The id of the last event that a client has received, which an `EventSource` sends when it reconnects.

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderName};

/// The header that an `EventSource` sends.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Query parameters for clients that cannot set the header. The header takes precedence.
pub const LAST_EVENT_ID_PARAMETERS: [&str; 2] = ["last_event_id", "lastEventId"];

/// The id in a request; `None` if it is absent or empty.
pub fn last_event_id<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Option<Cow<'a, str>> {
    let header = headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok());
    let id = header.map(Cow::Borrowed).or_else(|| {
        form_urlencoded::parse(query?.as_bytes())
            .find(|(key, _)| LAST_EVENT_ID_PARAMETERS.contains(&&**key))
            .map(|(_, value)| value)
    });
    id.filter(|id| !id.is_empty())
}
