//! The CORS headers of event streams. They allow a page of another origin to open a stream and to read errors.

use axum::http::{HeaderMap, HeaderValue, header};

use crate::auth::origin::{CorsOrigin, OriginPolicy};

/// Request headers that clients of event streams (`EventSource` polyfills, `fetch`) send beyond the safelisted ones.
const ALLOWED_HEADERS: &str = "Authorization, Last-Event-ID, Cache-Control, Accept, Content-Type";

/// How long a browser may cache a preflight response, in seconds: the maximum of Chromium.
const MAX_AGE: &str = "7200";

/// Returns the headers that allow a page of another origin to read the response; empty for any other request.
///
/// Only listed origins may send cookies: with `*`, any page could use the cookies of its visitor.
pub fn headers(origins: &OriginPolicy, request: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let origin = match origins.cors_origin(request) {
        None => return headers,
        Some(CorsOrigin::Any) => HeaderValue::from_static("*"),
        Some(CorsOrigin::Listed(origin)) => {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            origin.clone()
        }
    };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    headers
}

/// Returns the headers of the response to a preflight request.
pub fn preflight_headers(origins: &OriginPolicy, request: &HeaderMap) -> HeaderMap {
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
