//! Streams on connections that hyper serves: over HTTP/2, over HTTP/1.0, and on reused connections. Also the error
//! responses for all rejected requests for streams.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper_util::rt::TokioIo;

use super::{AppState, plain_error};
use crate::admission::Permit;
use crate::auth::ClientNetwork;
use crate::ingress::handshake::{self, Handshake};
use crate::ingress::http_server::{Peer, Rewind, SharedLogin, SharedPermit};
use crate::ingress::sse_request::SseRejection;
use crate::ingress::{StreamLogin, accept_upgraded, cors, sse_request};
use crate::shard::NewConnectionKind;

/// Handles `GET /sse…` and preflight requests.
pub async fn sse(
    State(state): State<Arc<AppState>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let authorizer = &state.streams.authorizer;
    let origins = authorizer.origins();
    let client = state.streams.client_meta(&request, peer);
    let allowed = authorizer.connect(&client);
    if request.method() == Method::OPTIONS {
        if let Err(denial) = allowed {
            let error = SseRejection::from(denial);
            error.log(&client);
            return rejection(&error);
        }
        let allow = [(header::ALLOW, "GET, OPTIONS")];
        let cors = cors::preflight_headers(origins, request.headers());
        return (StatusCode::NO_CONTENT, allow, cors).into_response();
    }
    let cors = cors::headers(origins, request.headers());
    let Some(sse) = sse_request::parse(&request) else {
        let allow = [(header::ALLOW, "GET, OPTIONS")];
        return (allow, cors, plain_error(405, "method not allowed: use GET".to_owned())).into_response();
    };
    let determined = request.extensions().get::<SharedLogin>().and_then(SharedLogin::take);
    let StreamLogin { login, answers } = match determined {
        Some(determined) => determined,
        None => {
            let login = match allowed {
                Ok(()) => state.streams.authenticator.authenticate(Some(&client), "").await,
                Err(denial) => Err(denial),
            };
            state.streams.ask_hook(&sse, login, &client).await
        }
    };
    let kind = match sse.open(&state.streams, login, &answers) {
        Ok(kind) => kind,
        Err(error) => {
            error.log(&client);
            // A page that uses `fetch` can read the error.
            return (cors, rejection(&error)).into_response();
        }
    };
    // Over HTTP/1 the stream takes the permit of its connection, which serves no further requests.
    let permit = request.extensions().get::<SharedPermit>().and_then(SharedPermit::take);
    let is_last = permit.is_some();
    let admitted = match permit {
        Some(permit) => Some(state.streams.admit(permit, kind, client.network())),
        None => state.streams.admit_multiplexed(kind, client.network()),
    };
    let body = match admitted {
        Some((permit, kind)) => {
            Body::from_stream(state.streams.shards.accept_stream(kind, permit, client.network()).await)
        }
        // An empty stream, after which an EventSource reconnects: after a 503 it would not.
        None => Body::empty(),
    };
    let mut response = Response::new(body);
    response.headers_mut().extend(sse_request::RESPONSE_HEADERS);
    response.headers_mut().extend(cors);
    if is_last {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn rejection(error: &SseRejection) -> Response {
    plain_error(error.code.http_status(), error.to_string())
}

/// Handles `GET /ws` and `GET /connection/websocket`.
pub async fn websocket(
    State(state): State<Arc<AppState>>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
) -> Response {
    let mut head = axum::http::Request::new(());
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    match handshake::negotiate(&head) {
        Handshake::Accepted { headers, encoding } => {
            let client = state.streams.client_meta(&head, peer);
            let network = client.network();
            let kind = state.streams.websocket(client, encoding);
            let permit = request.extensions_mut().remove::<SharedPermit>();
            let upgrade = hyper::upgrade::on(&mut request);
            let app = Arc::clone(&state);
            state.drain.spawn_connection(async move {
                let upgraded = upgrade.await;
                let permit = permit.and_then(|permit| permit.take());
                if let (Ok(upgraded), Some(permit)) = (upgraded, permit) {
                    let admitted = app.streams.admit(permit, kind, network);
                    hand_to_shard(&app, upgraded, admitted, network).await;
                }
            });
            (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
        }
        Handshake::Rejected { status, reason } => {
            let mut response = plain_error(status, reason);
            if status == 426 {
                let headers = response.headers_mut();
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                // HTTP/2 forbids these headers.
                if request.version() <= Version::HTTP_11 {
                    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                }
            }
            response
        }
    }
}

async fn hand_to_shard(
    state: &AppState,
    upgraded: hyper::upgrade::Upgraded,
    admitted: (Permit, NewConnectionKind),
    network: Option<ClientNetwork>,
) {
    let Ok(parts) = upgraded.downcast::<TokioIo<Rewind>>() else { return };
    let (socket, mut early) = parts.io.into_inner().into_parts();
    if !parts.read_buf.is_empty() {
        // hyper's buffer comes first: it precedes the bytes that hyper has not read.
        early = Bytes::from([&parts.read_buf[..], &early[..]].concat());
    }
    if let Ok(socket) = socket.into_std() {
        accept_upgraded(&state.streams, socket, admitted, network, early).await;
    }
}
