//! The WebSocket handshake: validates the request and negotiates the encoding.
//!
//! Errors of the handshake itself are HTTP errors. Rejections that a client must be able to distinguish follow the
//! handshake as a close code: React Native reports any failed upgrade as 1006.

use axum::http::{HeaderMap, HeaderValue, Request, header};
use earshot_protocol::Encoding;
use tokio_tungstenite::tungstenite::handshake::server::create_response;

/// The supported subprotocols with their encodings.
const SUBPROTOCOLS: [(&str, Encoding); 2] =
    [("centrifuge-json", Encoding::Json), ("centrifuge-protobuf", Encoding::Protobuf)];

/// The result of a handshake.
#[derive(Debug)]
pub enum Handshake {
    /// The connection is upgraded.
    Accepted {
        /// The headers of the response.
        headers: HeaderMap,
        /// The encoding of the connection.
        encoding: Encoding,
    },
    /// The request is not a valid handshake.
    Rejected {
        /// The HTTP status: 400 or 426.
        status: u16,
        /// The reason, for the client.
        reason: String,
    },
}

/// Validates a WebSocket handshake and selects the encoding.
pub fn negotiate(request: &Request<()>) -> Handshake {
    let has = |name, wanted: &str| {
        let values = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case(wanted))
    };
    if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
        return rejected(
            426,
            "this is a WebSocket endpoint, and the request lacks `Connection: Upgrade` or `Upgrade: websocket`: proxies \
             must forward these headers",
        );
    }
    match request.headers().get(header::SEC_WEBSOCKET_VERSION) {
        Some(version) if version == "13" => {}
        _ => return rejected(426, "only version 13 of the WebSocket protocol is supported"),
    }
    let mut headers = match create_response(request) {
        Ok(response) => response.into_parts().0.headers,
        Err(error) => return rejected(400, &error.to_string()),
    };
    let (subprotocol, encoding) = select_encoding(request);
    if let Some(subprotocol) = subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    Handshake::Accepted { headers, encoding }
}

fn rejected(status: u16, reason: &str) -> Handshake {
    Handshake::Rejected { status, reason: reason.to_owned() }
}

/// Selects the first supported subprotocol that the client offers; without one, the query selects the encoding. An empty
/// header is accepted: older clients send one.
fn select_encoding(request: &Request<()>) -> (Option<&'static str>, Encoding) {
    let values = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let offered = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let subprotocol = offered
        .map(str::trim)
        .find_map(|name| SUBPROTOCOLS.into_iter().find(|(supported, _)| *supported == name));
    if let Some((subprotocol, encoding)) = subprotocol {
        return (Some(subprotocol), encoding);
    }
    let query = request.uri().query().unwrap_or_default();
    let is_protobuf = form_urlencoded::parse(query.as_bytes())
        .any(|(key, value)| (key == "format" || key == "cf_protocol") && value == "protobuf");
    (None, if is_protobuf { Encoding::Protobuf } else { Encoding::Json })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(uri: &str, subprotocols: &[String]) -> Request<()> {
        let request = Request::get(uri)
            .header(header::HOST, "localhost")
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==");
        let add = |request: axum::http::request::Builder, value: &String| {
            request.header(header::SEC_WEBSOCKET_PROTOCOL, value)
        };
        subprotocols.iter().fold(request, add).body(()).unwrap()
    }

    proptest! {
        #[test]
        fn selects_the_first_supported_subprotocol(
            lines in prop::collection::vec(
                prop::collection::vec(
                    prop_oneof!["centrifuge-json", "centrifuge-protobuf", "[a-z]{0,4}"], 0..4),
                0..3,
            ),
        ) {
            let headers: Vec<String> = lines.iter().map(|names| names.join(" , ")).collect();
            let Handshake::Accepted { headers, encoding } =
                negotiate(&request("/ws", &headers)) else { panic!("rejected") };
            let expected = lines.iter().flatten().find(|name| name.starts_with("centrifuge-"));
            let selected = headers.get(header::SEC_WEBSOCKET_PROTOCOL).map(|value| value.to_str().unwrap());
            prop_assert_eq!(selected, expected.map(String::as_str));
            let is_protobuf = expected.is_some_and(|name| name == "centrifuge-protobuf");
            prop_assert_eq!(encoding == Encoding::Protobuf, is_protobuf);
        }
    }

    /// Unknown parameters are ignored: docs/scaling.md describes a load balancer that hashes one.
    #[test]
    fn ignores_unknown_query_parameters() {
        let accepted = |uri: &str| match negotiate(&request(uri, &[])) {
            Handshake::Accepted { headers, encoding } => (headers, encoding),
            other @ Handshake::Rejected { .. } => panic!("{uri}: {other:?}"),
        };
        assert_eq!(accepted("/ws?room=7"), accepted("/ws"));
        assert_eq!(accepted("/ws?room=7&cf_protocol=protobuf"), accepted("/ws?cf_protocol=protobuf"));
        assert_eq!(accepted("/connection/websocket?format=protobuf").1, Encoding::Protobuf);
        assert_eq!(accepted("/connection/websocket?format=json").1, Encoding::Json);
    }
}
