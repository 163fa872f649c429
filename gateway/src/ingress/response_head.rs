//! Renders response heads of HTTP/1.1 for connections that are passed to a shard.

use axum::http::HeaderMap;
use bytes::Bytes;

/// Returns the text of a response head with this status line and these headers.
pub(super) fn render(status_line: &str, headers: &HeaderMap) -> Bytes {
    let mut head = Vec::with_capacity(256);
    head.extend_from_slice(status_line.as_bytes());
    head.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_rendered_head_parses_to_the_same_headers(
            lines in prop::collection::vec(("[a-z-]{1,12}", "[!-~]{0,20}"), 0..10),
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in &lines {
                headers.append(
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                );
            }
            let head = render("HTTP/1.1 200 OK", &headers);
            let mut fields = [httparse::EMPTY_HEADER; 16];
            let mut response = httparse::Response::new(&mut fields);
            prop_assert_eq!(response.parse(&head).unwrap(), httparse::Status::Complete(head.len()));
            let mut parsed = HeaderMap::new();
            for field in response.headers.iter() {
                parsed.append(
                    HeaderName::from_bytes(field.name.as_bytes()).unwrap(),
                    HeaderValue::from_bytes(field.value).unwrap(),
                );
            }
            prop_assert_eq!(parsed, headers);
        }
    }
}
