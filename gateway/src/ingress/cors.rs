//! The CORS headers of event streams: what lets a page of another origin open one and read its answers.
//!
//! One place renders them: for the heads that shards write, for what hyper carries, and for refusals.

use axum::http::{HeaderMap, HeaderValue, header};

use super::origin::{CrossOrigin, Origins};

/// What clients of streams send beside what is always allowed: `EventSource` polyfills and `fetch`.
const ALLOWED_HEADERS: &str = "Authorization, Last-Event-ID, Cache-Control, Accept, Content-Type";

/// How long a browser may remember the answer to a preflight, in seconds: the most that Chromium does.
const MAX_AGE: &str = "7200";

/// The headers with which a page of another allowed origin may read an answer; none for any other request.
///
/// Cookies are for listed origins alone: with `*`, any page could use those of its visitor.
pub fn headers(origins: &Origins, request: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let origin = match origins.cross_origin(request) {
        None => return headers,
        Some(CrossOrigin::Any) => HeaderValue::from_static("*"),
        Some(CrossOrigin::Listed(origin)) => {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            origin.clone()
        }
    };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    headers
}

/// The same for the question that a browser asks before a request with headers such as `Last-Event-ID`.
pub fn preflight_headers(origins: &Origins, request: &HeaderMap) -> HeaderMap {
    let mut headers = headers(origins, request);
    if !headers.is_empty() {
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
            (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    headers
}
