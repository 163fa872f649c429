//! WebSocket: whether the upgrade gets through, whether the gateway lets the page in, how long a round trip takes.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::super::network::{micros, millis};
use super::super::report::Finding;
use super::way::{Way, Wire};

/// A socket on which the gateway has answered.
pub(super) struct Socket {
    stream: WebSocketStream<Box<dyn Wire>>,
    next_id: u32,
    /// Pings of the gateway so far.
    pub(super) pings: usize,
}

/// What came.
#[derive(Debug)]
pub(super) enum Said {
    /// Replies and pushes.
    Messages(Vec<Value>),
    /// The close, with its code, or why there is none.
    End(String),
}

/// Opens a socket, and judges how it goes.
pub(super) async fn inspect(way: &Way, origin: Option<&str>) -> (Vec<Finding>, Option<Socket>) {
    let opened = tokio::time::timeout(way.limit, Box::pin(open(way, origin))).await;
    let stream = match opened {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return (vec![not_upgraded(&error)], None),
        Err(_) => {
            let finding =
                Finding::failed("websocket", format!("no answer to the upgrade within {:?}", way.limit))
                    .because("a proxy waits for a body, or holds the answer back")
                    .advise(PASS_ON);
            return (vec![finding], None);
        }
    };
    let mut socket = Socket { stream, next_id: 1, pings: 0 };
    let (finding, is_good) = greet(&mut socket, way.limit).await;
    (vec![finding], is_good.then_some(socket))
}

const PASS_ON: &str = "nginx: `proxy_http_version 1.1`, `proxy_set_header Upgrade $http_upgrade`, `proxy_set_header Connection` with \"upgrade\"; elsewhere: allow WebSockets";

async fn open(way: &Way, origin: Option<&str>) -> Result<WebSocketStream<Box<dyn Wire>>, Error> {
    let mut request = way.socket_url("/connection/websocket").into_client_request()?;
    if let Some(origin) = origin.and_then(|origin| origin.parse().ok()) {
        request.headers_mut().insert("origin", origin);
    }
    let (wire, _) = way.open(&[b"http/1.1"]).await?;
    Ok(tokio_tungstenite::client_async(request, wire).await?.0)
}

fn not_upgraded(error: &Error) -> Finding {
    let Error::Http(answer) = error else {
        return Finding::failed("websocket", format!("the upgrade fails: {error}"))
            .because("the connection is cut, or what answers is no HTTP/1.1")
            .advise(PASS_ON);
    };
    let status = answer.status().as_u16();
    let finding =
        Finding::failed("websocket", format!("the upgrade is answered with {status} in the place of 101"));
    match status {
        426 | 400 => finding
            .because("the proxy does not pass the upgrade on: it speaks HTTP/1.0 to the gateway, or drops Upgrade and Connection")
            .advise(PASS_ON),
        404 => finding
            .because("/connection/websocket is not passed on to the gateway")
            .advise("pass it on, or the whole host"),
        401 | 403 => finding.because("the proxy refuses WebSockets, or asks who comes").advise(PASS_ON),
        502..=504 => finding.because("the proxy reaches no gateway").advise("look at the proxy's log"),
        _ => finding.because("something on the way answers in the gateway's place").advise(PASS_ON),
    }
}

/// Connects and pings, as an SDK does.
async fn greet(socket: &mut Socket, limit: Duration) -> (Finding, bool) {
    let connected = socket.ask("connect", serde_json::json!({}), limit).await;
    match connected {
        Ok(reply) if reply["connect"].is_object() => {}
        Ok(reply) => {
            let finding =
                Finding::failed("websocket", format!("the gateway refuses to connect: {}", reply["error"]));
            return (finding.because("the gateway's own rules").advise("see the error"), false);
        }
        Err(why) if why.contains("3507") => {
            let finding = Finding::failed("websocket", "the page's origin is refused (3507)")
                .because(
                    "it is not in allowed_origins, or the proxy passes on another Host than was asked for",
                )
                .advise("see `origin` above");
            return (finding, false);
        }
        Err(why) => {
            let finding =
                Finding::failed("websocket", format!("upgraded, but then nothing gets through: {why}"))
                    .because("a proxy that upgrades, but does not carry frames")
                    .advise(PASS_ON);
            return (finding, false);
        }
    }
    let asked = Instant::now();
    match socket.ask("ping", serde_json::json!({}), limit).await {
        Ok(_) => {
            let took = asked.elapsed();
            let finding = Finding::ok(
                "websocket",
                format!("upgraded (101) and connected; a round trip takes {}", millis(took)),
            );
            (finding.with("round_trip_microseconds", micros(took)), true)
        }
        Err(why) => (
            Finding::failed("websocket", format!("connected, but a ping is not answered: {why}"))
                .because("the connection was cut"),
            false,
        ),
    }
}

impl Socket {
    /// Sends a command and waits for its reply.
    pub(super) async fn ask(&mut self, command: &str, body: Value, limit: Duration) -> Result<Value, String> {
        let id = self.next_id;
        self.next_id += 1;
        let text = serde_json::json!({ "id": id, command: body }).to_string();
        self.stream.send(Message::text(text)).await.map_err(|error| error.to_string())?;
        let answered = async {
            loop {
                match self.next().await {
                    Said::Messages(messages) => {
                        if let Some(reply) = messages.into_iter().find(|message| message["id"] == id) {
                            return Ok(reply);
                        }
                    }
                    Said::End(why) => return Err(why),
                }
            }
        };
        tokio::time::timeout(limit, answered)
            .await
            .unwrap_or_else(|_| Err(format!("no reply within {limit:?}")))
    }

    /// What comes next; pings are answered.
    pub(super) async fn next(&mut self) -> Said {
        match self.stream.next().await {
            Some(Ok(Message::Text(text))) => {
                let messages: Vec<Value> =
                    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
                if messages.iter().any(|message| message.as_object().is_some_and(serde_json::Map::is_empty)) {
                    self.pings += 1;
                    // That it cannot be answered any more is seen at the next read.
                    let _ = self.stream.send(Message::text("{}")).await;
                }
                Said::Messages(messages)
            }
            Some(Ok(Message::Close(Some(frame)))) => {
                Said::End(format!("closed with {} {}", u16::from(frame.code), frame.reason))
            }
            Some(Ok(Message::Close(None))) => Said::End("closed without a code".to_owned()),
            Some(Ok(_)) => Said::Messages(Vec::new()),
            Some(Err(error)) => Said::End(error.to_string()),
            None => Said::End("the connection ended".to_owned()),
        }
    }
}
