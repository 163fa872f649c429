//! The WebSocket handshake: what a client asks for and what it is answered.
//!
//! Owns the choice of the encoding and the refusals that are made in HTTP. Refusals that a client must be able to tell
//! apart are made after the handshake, by a close code: React Native sees a refused upgrade as 1006 only.

use axum::http::{HeaderMap, Request, header};
use bytes::Bytes;
use earshot_protocol::{Disconnect, Encoding};
use tokio_tungstenite::tungstenite::handshake::server::create_response;

use super::credentials;
use super::origin::Origins;
use crate::shard::token;

const JSON: &str = "centrifuge-json";
const PROTOBUF: &str = "centrifuge-protobuf";

/// What comes of a handshake.
#[derive(Debug)]
pub enum Handshake {
    /// It is granted.
    Granted {
        /// The answer, ready to be written.
        response: Bytes,
        /// The encoding of the connection.
        encoding: Encoding,
        /// The connection is to be closed at once with this code.
        refusal: Option<Disconnect>,
    },
    /// It is not one, or a wrong one.
    Refused {
        /// 400 or 426.
        status: u16,
        /// Why.
        reason: String,
    },
}

/// Whether WebSockets are spoken at this path.
pub fn is_path(path: &str) -> bool {
    matches!(path, "/ws" | "/connection/websocket")
}

/// Judges a request to open a WebSocket.
pub fn judge(request: &Request<()>, origins: &Origins) -> Handshake {
    let has = |name, wanted: &str| {
        let values = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case(wanted))
    };
    if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
        return refused(
            426,
            "this is a WebSocket endpoint, and the request has no `Connection: Upgrade` and `Upgrade: websocket`: a \
             proxy must pass these headers on",
        );
    }
    match request.headers().get(header::SEC_WEBSOCKET_VERSION) {
        Some(version) if version == "13" => {}
        _ => return refused(426, "only version 13 of the WebSocket protocol is spoken here"),
    }
    let response = match create_response(request) {
        Ok(response) => response,
        Err(error) => return refused(400, &error.to_string()),
    };
    let offered = offered(request.headers());
    let encoding = encoding(request.uri().query(), &offered);
    let chosen = offered.into_iter().find(|name| *name == JSON || *name == PROTOBUF);
    let response = answer(response.headers(), chosen);
    let refusal = refusal(request, origins);
    Handshake::Granted { response, encoding, refusal }
}

fn refusal(request: &Request<()>, origins: &Origins) -> Option<Disconnect> {
    if !origins.allow(request.headers()) {
        return Some(Disconnect::PermissionDenied);
    }
    credentials::are_presented(request).then(|| {
        token::log_refused("in the handshake of a WebSocket");
        Disconnect::InvalidToken
    })
}

/// The answer as it stands on the wire.
fn answer(headers: &HeaderMap, protocol: Option<&str>) -> Bytes {
    let mut answer = Vec::with_capacity(192);
    answer.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    let mut line = |name: &str, value: &[u8]| {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            answer.extend_from_slice(part);
        }
    };
    for (name, value) in headers {
        line(name.as_str(), value.as_bytes());
    }
    if let Some(protocol) = protocol {
        line(header::SEC_WEBSOCKET_PROTOCOL.as_str(), protocol.as_bytes());
    }
    answer.extend_from_slice(b"\r\n");
    answer.into()
}

fn refused(status: u16, reason: &str) -> Handshake {
    Handshake::Refused { status, reason: reason.to_owned() }
}

/// The sub-protocols in the client's order. An empty header is legal to us: older clients send one.
fn offered(headers: &HeaderMap) -> Vec<&str> {
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

    /// docs/scaling.md has a balancer hash it.
    #[test]
    fn a_query_parameter_of_ones_own_changes_nothing() {
        let granted = |uri: &str| {
            assert!(is_path(uri.split('?').next().unwrap()));
            let request = Request::get(uri)
                .header(header::HOST, "localhost")
                .header(header::CONNECTION, "Upgrade")
                .header(header::UPGRADE, "websocket")
                .header(header::SEC_WEBSOCKET_VERSION, "13")
                .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==");
            match judge(&request.body(()).unwrap(), &Origins::default()) {
                Handshake::Granted { response, encoding, refusal: None } => (response, encoding),
                other => panic!("{uri}: {other:?}"),
            }
        };
        assert_eq!(granted("/ws?room=7"), granted("/ws"));
        assert_eq!(granted("/ws?room=7&cf_protocol=protobuf"), granted("/ws?cf_protocol=protobuf"));
        assert_eq!(granted("/connection/websocket?format=protobuf").1, Encoding::Protobuf);
        assert_eq!(granted("/connection/websocket?format=json").1, Encoding::Json);
    }
}
