//! The WebSocket handshake: validates the request and negotiates the encoding.
//!
//! Errors of the handshake itself are HTTP errors. Rejections that a client must be able to distinguish follow the
//! handshake as a close code: React Native reports any failed upgrade as 1006.

use axum::http::{HeaderMap, Request, header};
use bytes::Bytes;
use earshot_protocol::{Disconnect, Encoding};
use tokio_tungstenite::tungstenite::handshake::server::create_response;

use super::credentials;
use super::origin::OriginPolicy;
use crate::shard::token;

const JSON: &str = "centrifuge-json";
const PROTOBUF: &str = "centrifuge-protobuf";

/// The result of a handshake.
#[derive(Debug)]
pub enum Handshake {
    /// The connection is upgraded.
    Accepted {
        /// The response head, ready to be written.
        response: Bytes,
        /// The encoding of the connection.
        encoding: Encoding,
        /// The connection must be closed with this code after the handshake.
        refusal: Option<Disconnect>,
    },
    /// The request is not a valid handshake.
    Rejected {
        /// The HTTP status: 400 or 426.
        status: u16,
        /// The reason, for the client.
        reason: String,
    },
}

/// Whether this is the path of a WebSocket endpoint.
pub fn is_websocket_path(path: &str) -> bool {
    matches!(path, "/ws" | "/connection/websocket")
}

/// Validates a WebSocket handshake and selects the encoding.
pub fn negotiate(request: &Request<()>, origins: &OriginPolicy) -> Handshake {
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
    let response = match create_response(request) {
        Ok(response) => response,
        Err(error) => return rejected(400, &error.to_string()),
    };
    let offered = offered_subprotocols(request.headers());
    let encoding = encoding(request.uri().query(), &offered);
    let chosen = offered.into_iter().find(|name| *name == JSON || *name == PROTOBUF);
    let response = response_head(response.headers(), chosen);
    let refusal = close_code(request, origins);
    Handshake::Accepted { response, encoding, refusal }
}

fn close_code(request: &Request<()>, origins: &OriginPolicy) -> Option<Disconnect> {
    if !origins.is_allowed(request.headers()) {
        return Some(Disconnect::PermissionDenied);
    }
    credentials::has_token(request).then(|| {
        token::log_refused("in the handshake of a WebSocket");
        Disconnect::InvalidToken
    })
}

/// Renders the response head.
fn response_head(headers: &HeaderMap, protocol: Option<&str>) -> Bytes {
    let mut head = Vec::with_capacity(192);
    head.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    let mut line = |name: &str, value: &[u8]| {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    };
    for (name, value) in headers {
        line(name.as_str(), value.as_bytes());
    }
    if let Some(protocol) = protocol {
        line(header::SEC_WEBSOCKET_PROTOCOL.as_str(), protocol.as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}

fn rejected(status: u16, reason: &str) -> Handshake {
    Handshake::Rejected { status, reason: reason.to_owned() }
}

/// The subprotocols that the client offers, in its order. An empty header is accepted: older clients send one.
fn offered_subprotocols(headers: &HeaderMap) -> Vec<&str> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect()
}

fn encoding(query: Option<&str>, offered: &[&str]) -> Encoding {
    match offered.iter().find(|name| **name == JSON || **name == PROTOBUF) {
        Some(&PROTOBUF) => return Encoding::Protobuf,
        Some(_) => return Encoding::Json,
        None => {}
    }
    let asked = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .any(|(key, value)| (key == "format" || key == "cf_protocol") && value == "protobuf");
    if asked { Encoding::Protobuf } else { Encoding::Json }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/scaling.md describes a load balancer that hashes a query parameter.
    #[test]
    fn ignores_unknown_query_parameters() {
        let accepted = |uri: &str| {
            assert!(is_websocket_path(uri.split('?').next().unwrap()));
            let request = Request::get(uri)
                .header(header::HOST, "localhost")
                .header(header::CONNECTION, "Upgrade")
                .header(header::UPGRADE, "websocket")
                .header(header::SEC_WEBSOCKET_VERSION, "13")
                .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==");
            match negotiate(&request.body(()).unwrap(), &OriginPolicy::default()) {
                Handshake::Accepted { response, encoding, refusal: None } => (response, encoding),
                other => panic!("{uri}: {other:?}"),
            }
        };
        assert_eq!(accepted("/ws?room=7"), accepted("/ws"));
        assert_eq!(accepted("/ws?room=7&cf_protocol=protobuf"), accepted("/ws?cf_protocol=protobuf"));
        assert_eq!(accepted("/connection/websocket?format=protobuf").1, Encoding::Protobuf);
        assert_eq!(accepted("/connection/websocket?format=json").1, Encoding::Json);
    }
}
