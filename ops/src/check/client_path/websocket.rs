//! Checks WebSocket: upgrade, connect command, and round-trip time.

use std::time::Duration;

use earshot_client::websocket::CentrifugeSocket;
use earshot_protocol::{ConnectRequest, Encoding, ReplyBody, Request};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Error;

use super::super::network::{micros, millis};
use super::super::report::Finding;
use super::http_client::{HttpClient, IoStream};

/// A socket on which the gateway has replied.
pub(super) type CheckedSocket = CentrifugeSocket<Box<dyn IoStream>>;

/// Opens a socket and checks the response.
pub(super) async fn inspect(
    client: &HttpClient,
    origin: Option<&str>,
) -> (Vec<Finding>, Option<CheckedSocket>) {
    let opened = tokio::time::timeout(client.limit, Box::pin(open(client, origin))).await;
    let mut socket = match opened {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return (vec![not_upgraded(&error)], None),
        Err(_) => {
            let finding = Finding::failed(
                "websocket",
                format!("no reply to the upgrade request within {:?}", client.limit),
            )
            .cause("a proxy waits for a body, or buffers the response")
            .fix(PASS_ON);
            return (vec![finding], None);
        }
    };
    let (finding, is_good) = connect(&mut socket, client.limit).await;
    (vec![finding], is_good.then_some(socket))
}

const PASS_ON: &str = "nginx: `proxy_http_version 1.1`, `proxy_set_header Upgrade $http_upgrade`, `proxy_set_header Connection` with \"upgrade\"; other proxies: allow WebSockets";

async fn open(client: &HttpClient, origin: Option<&str>) -> Result<CheckedSocket, Error> {
    let url = client.socket_url("/connection/websocket");
    let (io, _) = client.open(&[b"http/1.1"]).await?;
    CentrifugeSocket::open(io, &url, origin, Encoding::Json).await
}

fn not_upgraded(error: &Error) -> Finding {
    let Error::Http(answer) = error else {
        return Finding::failed("websocket", format!("the upgrade failed: {error}"))
            .cause("the connection was closed, or the server does not support HTTP/1.1")
            .fix(PASS_ON);
    };
    let status = answer.status().as_u16();
    let finding =
        Finding::failed("websocket", format!("the response to the upgrade is {status} instead of 101"));
    match status {
        426 | 400 => finding
            .cause(
                "the proxy does not forward the upgrade: it uses HTTP/1.0, or removes Upgrade and Connection",
            )
            .fix(PASS_ON),
        404 => finding
            .cause("/connection/websocket is not forwarded to the gateway")
            .fix("forward this path, or all paths of the host"),
        401 | 403 => finding.cause("the proxy blocks WebSockets, or requires authentication").fix(PASS_ON),
        502..=504 => finding.cause("the proxy cannot connect to a gateway").fix("check the proxy's log"),
        _ => finding.cause("a proxy responds instead of the gateway").fix(PASS_ON),
    }
}

/// Sends connect and ping commands like an SDK.
async fn connect(socket: &mut CheckedSocket, limit: Duration) -> (Finding, bool) {
    let connected = socket.call(Request::Connect(ConnectRequest::default()), limit).await;
    match connected {
        Ok(ReplyBody::Connect(_)) => {}
        Ok(reply) => {
            let finding = Finding::failed(
                "websocket",
                format!("the gateway rejected the connect command: {}", error_text(&reply)),
            );
            return (
                finding.cause("the configuration of the gateway does not allow it").fix("see the error"),
                false,
            );
        }
        Err(why) if why.contains("3507") => {
            let finding = Finding::failed("websocket", "the page's origin is rejected (3507)")
                .cause("it is not in allowed_origins, or the proxy changes the Host header")
                .fix("see `origin` above");
            return (finding, false);
        }
        Err(why) => {
            let finding = Finding::failed("websocket", format!("upgraded, but no frames arrive: {why}"))
                .cause("a proxy accepts the upgrade, but does not forward frames")
                .fix(PASS_ON);
            return (finding, false);
        }
    }
    let sent_at = Instant::now();
    match socket.call(Request::Ping, limit).await {
        Ok(_) => {
            let took = sent_at.elapsed();
            let finding = Finding::ok(
                "websocket",
                format!("upgraded (101) and connected; a round trip takes {}", millis(took)),
            );
            (finding.with("round_trip_microseconds", micros(took)), true)
        }
        Err(why) => (
            Finding::failed("websocket", format!("connected, but no reply to a ping: {why}"))
                .cause("the connection was closed"),
            false,
        ),
    }
}

/// The error of a reply, with its code.
pub(super) fn error_text(reply: &ReplyBody) -> String {
    match reply {
        ReplyBody::Error(error) => format!("{} {}", error.code, error.message),
        _ => "unexpected reply".to_owned(),
    }
}

/// Answers pings until the connection ends. Returns why.
pub(super) async fn keep_alive(socket: &mut CheckedSocket) -> String {
    loop {
        if let Err(why) = socket.flush().await {
            return why;
        }
        if let Err(why) = socket.receive().await {
            return why;
        }
    }
}
