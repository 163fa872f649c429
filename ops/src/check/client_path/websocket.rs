//! Checks WebSocket: upgrade, connect command, and round-trip time.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::super::network::{micros, millis};
use super::super::report::Finding;
use super::http_client::{HttpClient, IoStream};

/// A socket on which the gateway has replied.
pub(super) struct Socket {
    stream: WebSocketStream<Box<dyn IoStream>>,
    next_id: u32,
    /// Number of pings from the gateway so far.
    pub(super) pings: usize,
}

/// Received from the server.
#[derive(Debug)]
pub(super) enum Incoming {
    /// Replies and pushes.
    Messages(Vec<Value>),
    /// Closed, with the code or the error.
    End(String),
}

/// Opens a socket and checks the response.
pub(super) async fn inspect(client: &HttpClient, origin: Option<&str>) -> (Vec<Finding>, Option<Socket>) {
    let opened = tokio::time::timeout(client.limit, Box::pin(open(client, origin))).await;
    let stream = match opened {
        Ok(Ok(stream)) => stream,
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
    let mut socket = Socket { stream, next_id: 1, pings: 0 };
    let (finding, is_good) = connect(&mut socket, client.limit).await;
    (vec![finding], is_good.then_some(socket))
}

const PASS_ON: &str = "nginx: `proxy_http_version 1.1`, `proxy_set_header Upgrade $http_upgrade`, `proxy_set_header Connection` with \"upgrade\"; other proxies: allow WebSockets";

async fn open(
    client: &HttpClient,
    origin: Option<&str>,
) -> Result<WebSocketStream<Box<dyn IoStream>>, Error> {
    let mut request = client.socket_url("/connection/websocket").into_client_request()?;
    if let Some(origin) = origin.and_then(|origin| origin.parse().ok()) {
        request.headers_mut().insert("origin", origin);
    }
    let (io, _) = client.open(&[b"http/1.1"]).await?;
    Ok(tokio_tungstenite::client_async(request, io).await?.0)
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
            .fix("forward it, or the whole host"),
        401 | 403 => finding.cause("the proxy blocks WebSockets, or requires authentication").fix(PASS_ON),
        502..=504 => finding.cause("the proxy cannot connect to a gateway").fix("look at the proxy's log"),
        _ => finding.cause("a proxy responds instead of the gateway").fix(PASS_ON),
    }
}

/// Sends connect and ping commands like an SDK.
async fn connect(socket: &mut Socket, limit: Duration) -> (Finding, bool) {
    let connected = socket.request("connect", serde_json::json!({}), limit).await;
    match connected {
        Ok(reply) if reply["connect"].is_object() => {}
        Ok(reply) => {
            let finding = Finding::failed(
                "websocket",
                format!("the gateway rejected the connect command: {}", reply["error"]),
            );
            return (finding.cause("a rule of the gateway").fix("see the error"), false);
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
    let asked = Instant::now();
    match socket.request("ping", serde_json::json!({}), limit).await {
        Ok(_) => {
            let took = asked.elapsed();
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

impl Socket {
    /// Sends a command and waits for its reply.
    pub(super) async fn request(
        &mut self,
        command: &str,
        body: Value,
        limit: Duration,
    ) -> Result<Value, String> {
        let id = self.next_id;
        self.next_id += 1;
        let text = serde_json::json!({ "id": id, command: body }).to_string();
        self.stream.send(Message::text(text)).await.map_err(|error| error.to_string())?;
        let answered = async {
            loop {
                match self.next().await {
                    Incoming::Messages(messages) => {
                        if let Some(reply) = messages.into_iter().find(|message| message["id"] == id) {
                            return Ok(reply);
                        }
                    }
                    Incoming::End(why) => return Err(why),
                }
            }
        };
        tokio::time::timeout(limit, answered)
            .await
            .unwrap_or_else(|_| Err(format!("no reply within {limit:?}")))
    }

    /// Next received item; pings are answered.
    pub(super) async fn next(&mut self) -> Incoming {
        match self.stream.next().await {
            Some(Ok(Message::Text(text))) => {
                let messages: Vec<Value> =
                    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
                if messages.iter().any(|message| message.as_object().is_some_and(serde_json::Map::is_empty)) {
                    self.pings += 1;
                    // A failure to reply shows at the next read.
                    let _ = self.stream.send(Message::text("{}")).await;
                }
                Incoming::Messages(messages)
            }
            Some(Ok(Message::Close(Some(frame)))) => {
                Incoming::End(format!("closed with {} {}", u16::from(frame.code), frame.reason))
            }
            Some(Ok(Message::Close(None))) => Incoming::End("closed without a code".to_owned()),
            Some(Ok(_)) => Incoming::Messages(Vec::new()),
            Some(Err(error)) => Incoming::End(error.to_string()),
            None => Incoming::End("the connection ended".to_owned()),
        }
    }
}
