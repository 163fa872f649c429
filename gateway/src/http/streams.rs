//! Streams on connections that hyper carries: over HTTP/2, over HTTP/1.0, or on a connection that was used before.
//! Refusals of streams are made here for all of them.
//!
//! Owns the way from a request to a shard and back as a body. Must never decide what may be heard.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper_util::rt::TokioIo;

use super::{Context, refuse};
use crate::admission::Permit;
use crate::ingress::carry::{HeldPermit, Peer, Rewound};
use crate::ingress::handshake::{self, Handshake};
use crate::ingress::{cors, sse, take_upgraded};
use crate::shard::sse::HEADERS;
use crate::shard::{ArrivalKind, Refusal, token};

/// `GET /sse…`, and the preflight of browsers.
pub async fn sse(State(context): State<Arc<Context>>, request: Request) -> Response {
    let origins = &context.gate.origins;
    if request.method() == Method::OPTIONS {
        if !origins.allow(request.headers()) {
            return refuse(403, Refusal::Origin.to_string());
        }
        let allow = [(header::ALLOW, "GET, OPTIONS")];
        let cors = cors::preflight_headers(origins, request.headers());
        return (StatusCode::NO_CONTENT, allow, cors).into_response();
    }
    let cors = cors::headers(origins, request.headers());
    let Some(wish) = sse::wish(&request) else {
        let allow = [(header::ALLOW, "GET, OPTIONS")];
        return (allow, cors, refuse(405, "method not allowed: use GET".to_owned())).into_response();
    };
    let granted = match wish.grant(&context.gate, request.headers()) {
        Ok(granted) => granted,
        Err(refusal) => {
            if matches!(refusal, Refusal::Token) {
                token::log_refused("in a request for an event stream");
            }
            // A page that uses `fetch` can read the reason.
            return (cors, refuse(status(&refusal), refusal.to_string())).into_response();
        }
    };
    let peer = request.extensions().get::<Peer>().map(|peer| peer.address.ip());
    // Over HTTP/1 the stream takes the permit of its connection, which serves nothing after it.
    let permit = request.extensions().get::<HeldPermit>().and_then(HeldPermit::take);
    let is_last = permit.is_some();
    let admitted = match permit {
        Some(permit) => Some(context.gate.admit(permit, granted.kind)),
        None => context.gate.admit_inner(granted.kind),
    };
    let body = match admitted {
        Some((permit, kind)) => Body::from_stream(context.gate.shards.take_stream(kind, permit, peer).await),
        // It ends at once and is asked for again: a status of 503 would stop an EventSource for good.
        None => Body::empty(),
    };
    let mut response = Response::new(body);
    for (name, value) in HEADERS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response.headers_mut().extend(granted.cors);
    if is_last {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn status(refusal: &Refusal) -> u16 {
    match refusal {
        Refusal::BadRequest(_) => 400,
        Refusal::Token => 401,
        Refusal::Origin | Refusal::Forbidden(_) => 403,
        Refusal::Unknown(_) => 404,
    }
}

/// `GET /ws` and `GET /connection/websocket`.
pub async fn websocket(State(context): State<Arc<Context>>, mut request: Request) -> Response {
    let mut head = axum::http::Request::new(());
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    match handshake::judge(&head, &context.gate.origins) {
        Handshake::Granted { response, encoding, refusal } => {
            let permit = request.extensions_mut().remove::<HeldPermit>();
            let upgrade = hyper::upgrade::on(&mut request);
            let later = Arc::clone(&context);
            context.drain.spawn_work(async move {
                let upgraded = upgrade.await;
                let permit = permit.and_then(|permit| permit.take());
                if let (Ok(upgraded), Some(permit)) = (upgraded, permit) {
                    let admitted = later.gate.admit(permit, ArrivalKind::WebSocket { encoding, refusal });
                    upgraded_to_shard(&later, upgraded, admitted).await;
                }
            });
            switching(&response)
        }
        Handshake::Refused { status, reason } => {
            let mut response = refuse(status, reason);
            if status == 426 {
                let headers = response.headers_mut();
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                // HTTP/2 has no headers of a connection.
                if request.version() <= Version::HTTP_11 {
                    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                }
            }
            response
        }
    }
}

/// The answer to a handshake, as hyper wants to hear it.
fn switching(response: &[u8]) -> Response {
    let mut headers = [httparse::EMPTY_HEADER; 8];
    let mut parsed = httparse::Response::new(&mut headers);
    if parsed.parse(response).is_err() {
        return refuse(400, "handshake failed".to_owned());
    }
    let mut answer = StatusCode::SWITCHING_PROTOCOLS.into_response();
    for header in parsed.headers.iter() {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(header.name.as_bytes()), HeaderValue::from_bytes(header.value))
        {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

async fn upgraded_to_shard(
    context: &Context,
    upgraded: hyper::upgrade::Upgraded,
    admitted: (Permit, ArrivalKind),
) {
    let Ok(parts) = upgraded.downcast::<TokioIo<Rewound>>() else { return };
    let (socket, mut early) = parts.io.into_inner().into_parts();
    if !parts.read_buf.is_empty() {
        // What hyper read was in front of what it had not come to yet.
        early = Bytes::from([&parts.read_buf[..], &early[..]].concat());
    }
    if let Ok(socket) = socket.into_std() {
        take_upgraded(&context.gate, socket, admitted, early).await;
    }
}
